"""The harness itself: what it is to catch, it catches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Child, run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is held")


def double(link, number):
    """What a child does in the tests below."""
    link.send(number * 2)


def show(*args):
    """What a child does in the tests below."""
    print(args)


def answer(queue):
    """What a process does in the tests below."""
    queue.put(os.getpid())


def test_a_source_text_finds_its_arguments() -> None:
    assert run_python("print(args[0] + 1)", 41).stdout == "42\n"


def test_a_function_is_called_with_its_arguments() -> None:
    assert run_python(show, 1, b"\0").stdout == "(1, b'\\x00')\n"


def test_a_failing_child_fails_with_its_traceback() -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_python("1 / 0")
    assert run_python("raise SystemExit(3)", check=False).exitcode == 3


def test_a_child_that_hangs_is_killed_at_its_deadline() -> None:
    with pytest.raises(AssertionError, match="still running after"):
        run_python("input() if args else __import__('signal').pause()", timeout=0.3)


def test_a_child_talks(start_child) -> None:
    child = start_child("link.send(link.recv() * 2)")
    child.send(b"\0ab")
    assert child.receive() == b"\0ab\0ab"
    child.finish()
    assert start_child(double, 4).receive() == 8


def test_a_child_that_ends_early_says_why(start_child) -> None:
    child = start_child("raise ValueError('told')")
    with pytest.raises(AssertionError, match="ValueError: told"):
        child.receive()


def test_a_killed_child_tells_its_signal() -> None:
    with Child("link.send(1); link.recv()") as child:
        child.receive()
        child.kill()
        assert child.exitcode == -signal.SIGKILL


def test_a_stopped_child_is_reaped() -> None:
    with Child("link.send(1); link.recv()") as child:
        child.receive()
        child.signal(signal.SIGSTOP)


def test_a_child_starts_processes_of_its_own(start_method) -> None:
    source = """
        import multiprocessing, os
        if __name__ == "__main__":
            context = multiprocessing.get_context(args[0])
            process = context.Process(target=print, args=("grandchild",))
            process.start()
            process.join()
    """
    assert run_python(source, start_method).stdout == "grandchild\n"


def test_a_process_of_each_start_method(context, start_process) -> None:
    queue = context.SimpleQueue()
    process = start_process(answer, queue)
    assert queue.get() == process.pid
    process.join(10)
    assert process.exitcode == 0
    queue.close()


def run_pytest(tmp_path, source, *options):
    """A run of its own: the exit status and the output of pytest on one file."""
    (tmp_path / "test_it.py").write_text(source)
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c"]
    command += [str(root / "pyproject.toml"), "-n0", "-q", "--shmkit-leaks=off"]
    command += [str(tmp_path), f"--rootdir={tmp_path}"]
    result = subprocess.run(
        [*command, *options],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return result.returncode, result.stdout


def test_a_name_that_a_run_leaves_is_shown_with_the_test_that_made_it(
    unique_name, tmp_path
) -> None:
    """This run goes on beside it: so who left it is in doubt, and the run does not fail."""
    name = Path("/dev/shm") / f"shmkit-{unique_name}"
    try:
        status, output = run_pytest(
            tmp_path, f"def test_it():\n    open({str(name)!r}, 'w').close()\n"
        )
    finally:
        name.unlink(missing_ok=True)
    assert f"name {name.name}, made during test_it.py::test_it" in output
    assert "names may be of others" in output
    assert status == 0


def test_a_run_alone_that_leaves_a_name_fails(unique_name, tmp_path) -> None:
    name = Path("/dev/shm") / f"shmkit-{unique_name}"
    alone = tmp_path / "alone.py"
    alone.write_text("from tests import leaks\nleaks.used_elsewhere = lambda: False\n")
    try:
        status, output = run_pytest(
            tmp_path, f"def test_it():\n    open({str(name)!r}, 'w').close()\n", "-p", "alone"
        )
    finally:
        name.unlink(missing_ok=True)
    assert f"name {name.name}, made during test_it.py::test_it" in output
    assert status == 1
