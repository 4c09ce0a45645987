"""Kill points, children that die at one, leaks and deadlines."""

from __future__ import annotations

import ast
import importlib.util
import mmap
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shmkit import Ring, SharedBuffer
from shmkit.sync import mutex
from shmkit.tools.testing import (
    assert_no_leaks,
    deadline,
    kill_points,
    run_until,
    start_until,
)
from shmkit.tools.testing.steps import _points
from tests.processes import wait_until

METHODS = ("fork", "spawn")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is held")


def fill(ring, frames=5):
    for number in range(frames):
        ring.put(b"%d" % number)


def fill_in_a_thread(ring):
    thread = threading.Thread(target=fill, args=(ring,))
    thread.start()
    thread.join()


def fail(ring):
    raise ZeroDivisionError


def wait_for_a_frame(ring):
    ring.get(timeout=20)


def own_step(path):
    at = Path(path)
    at.write_text("begun")
    at.write_text("done")  # step: test.done


# -- kill points -------------------------------------------------------------------------------


def test_kill_points_are_read_from_the_sources():
    points = kill_points()

    assert {"put.payload", "put.tail", "get.head", "mutex.post", "bell.post"} <= set(points)
    assert list(points) == sorted(set(points))
    assert all(name.startswith("mutex.") for name in kill_points(mutex))
    assert kill_points(mutex) == kill_points("shmkit.sync.mutex")
    assert "put.tail@WriteCursor.put" in kill_points("shmkit.core", paths=True)


def test_a_text_that_only_speaks_of_steps_has_none(tmp_path, monkeypatch):
    source = '"""A docstring.  # step: no.docstring"""\n# step: no.code\nx = "# step: no.string"\n'
    (tmp_path / "speaking_of_steps.py").write_text(source + "y = 1  # step: yes\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert kill_points("speaking_of_steps") == ("yes",)
    assert kill_points("speaking_of_steps", paths=True) == ("yes@",)


def test_a_module_without_a_source_has_no_kill_points():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        kill_points("no_such_module")
    with pytest.raises(ValueError, match="'itertools' has no source file"):
        kill_points("itertools")


def test_every_step_is_where_a_statement_begins():
    """A tracer sees the lines on which a statement begins, a `with` twice, a loop each time."""
    for point in _points(("shmkit",)):
        tree = ast.parse(Path(point.file).read_text())
        begun = {
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.stmt) and not isinstance(node, ast.With | ast.While)
        }
        assert point.line in begun, point


# -- killed at one -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_child_is_killed_exactly_before_the_step(method, nth):
    with (
        Ring.create() as ring,
        run_until("put.tail", fill, ring, nth=nth, method=method) as victim,
    ):
        assert victim.reached
        assert victim.exitcode == -signal.SIGKILL
        assert ring.qsize() == nth - 1


def test_a_step_on_one_path_only():
    """The first put takes the careful path, the second is the first on the fast one."""
    point = "put.tail@WriteCursor.put"
    with Ring.create() as ring, run_until(point, fill, ring) as victim:
        assert victim.reached
        assert ring.qsize() == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_child_is_stopped_and_goes_on(method):
    with (
        Ring.create() as ring,
        run_until("put.tail", fill, ring, nth=2, signal=signal.SIGSTOP, method=method) as victim,
    ):
        assert victim.reached
        assert victim.exitcode is None
        assert ring.qsize() == 1
        victim.resume()
        assert victim.wait() == 0
        assert ring.qsize() == 5
        with pytest.raises(ProcessLookupError, match="has ended with 0"):
            victim.resume()


def test_a_thread_of_the_child_trips_too():
    with Ring.create() as ring, run_until("put.tail", fill_in_a_thread, ring, nth=3) as victim:
        assert victim.reached
        assert ring.qsize() == 2


def test_a_target_that_ends_before_the_step():
    with Ring.create() as ring, run_until("put.tail", fill, ring, 2, nth=3) as victim:
        assert not victim.reached
        assert victim.exitcode == 0
        assert "not reached" in repr(victim)


def test_a_target_that_fails_before_the_step(capfd):
    with Ring.create() as ring, run_until("put.tail", fail, ring) as victim:
        assert not victim.reached
        assert victim.exitcode == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_child_that_does_not_get_there_is_killed():
    with (
        Ring.create() as ring,
        assert_no_leaks(names=r"^$"),
        pytest.raises(TimeoutError, match=r"did not come to 'get.head' in 0\.3 s"),
    ):
        run_until("get.head", wait_for_a_frame, ring, timeout=0.3)


def test_a_child_that_gets_there_with_our_help():
    with Ring.create() as ring, start_until("get.head", wait_for_a_frame, ring) as victim:
        ring.put(b"frame")
        assert victim.await_point()
        assert ring.get(timeout=5) == b"frame"


def test_steps_of_modules_that_are_not_ours(tmp_path):
    path = tmp_path / "state"
    with run_until("test.done", own_step, str(path), modules=(__name__,)) as victim:
        assert victim.reached
        assert path.read_text() == "begun"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"point": "put.tial"}, r"no kill point 'put\.tial': is it .*'put\.tail'"),
        ({"point": "put.tail@nowhere"}, "no kill point"),
        ({"nth": 0}, "nth=0"),
        ({"signal": signal.SIGTERM}, "SIGKILL or SIGSTOP"),
        ({"method": "forkserver"}, "one of 'fork', 'spawn'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(options, message):
    with assert_no_leaks(names=r"^$"), pytest.raises(ValueError, match=message):
        run_until(options.pop("point", "put.tail"), print, **options)


# -- leaks -------------------------------------------------------------------------------------


def test_nothing_leaks(unique_name):
    with assert_no_leaks(names=unique_name), SharedBuffer.create(unique_name, size=10):
        pass


def leave_name(name):
    Path("/dev/shm", name).touch()


def let_child_make(child):
    child.send("make it")
    child.receive()


def leave_descriptor(left):
    left.append(os.open("/dev/null", os.O_RDONLY))


def leave_child(left):
    child = subprocess.Popen(["sleep", "60"])
    left.append(child)
    wait_until(lambda: b"60" in Path(f"/proc/{child.pid}/cmdline").read_bytes())


def leave_and_fail(name):
    leave_name(name)
    raise ZeroDivisionError


def hang_with_a_child(left):
    leave_child(left)
    left[0].wait()


def end(child):
    child.kill()
    child.wait()


def test_a_name_that_is_left(unique_name):
    left = f"left behind:\n  segment /dev/shm/{unique_name}"
    with (
        pytest.raises(AssertionError, match=left),
        assert_no_leaks(names=unique_name, timeout=0),
    ):
        leave_name(unique_name)
    Path("/dev/shm", unique_name).unlink()


def test_a_name_that_a_child_uses(unique_name, start_child):
    child = start_child(
        "from shmkit import SharedBuffer\n"
        "link.recv()\n"
        "with SharedBuffer.create(args[0], size=10):\n"
        "    link.send(1)\n"
        "    link.recv()\n",
        unique_name,
    )
    with (
        pytest.raises(AssertionError, match=unique_name),
        assert_no_leaks(names=unique_name, timeout=0),
    ):
        let_child_make(child)
    child.send("remove it")
    child.finish()


def test_a_name_that_a_process_which_is_no_child_uses(unique_name):
    """Another program on this machine goes about its business meanwhile."""
    source = (
        "import os, sys\n"
        "if os.fork(): os._exit(0)\n"
        "open(sys.argv[1], 'w').close()\n"
        "held = open(sys.argv[1])\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
        "os.unlink(sys.argv[1])\n"
    )
    path = Path("/dev/shm", unique_name)
    with assert_no_leaks(names=unique_name):
        command = [sys.executable, "-c", source, str(path)]
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdout.readline()
        program.wait()
        assert path.exists()
        with assert_no_leaks(names=unique_name, timeout=0):
            pass
        program.stdin.close()
        program.stdout.read()
        program.stdout.close()
    assert not path.exists()


def test_a_descriptor_that_is_left():
    left: list[int] = []
    with (
        pytest.raises(AssertionError, match=r"descriptor \d+ -> /dev/null"),
        assert_no_leaks(names=r"^$", timeout=0),
    ):
        leave_descriptor(left)
    os.close(left[0])


def test_a_map_that_is_left():
    fd = os.memfd_create("shmkit-test")
    os.truncate(fd, 4096)
    with (
        pytest.raises(AssertionError, match=r"map /memfd:shmkit-test"),
        assert_no_leaks(names=r"^$", timeout=0),
    ):
        memory = mmap.mmap(fd, 4096)
        os.close(fd)
    memory.close()


def test_a_child_that_is_left():
    left: list[subprocess.Popen[bytes]] = []
    with (
        pytest.raises(AssertionError, match=r"child \d+ sleep 60"),
        assert_no_leaks(names=r"^$", timeout=0),
    ):
        leave_child(left)
    end(left[0])


def test_an_exception_goes_before_leaks(unique_name):
    with pytest.raises(ZeroDivisionError), assert_no_leaks(names=unique_name, timeout=0):
        leave_and_fail(unique_name)
    Path("/dev/shm", unique_name).unlink()


# -- deadlines ---------------------------------------------------------------------------------


def test_a_deadline_ends_a_wait_and_the_children():
    left: list[subprocess.Popen[bytes]] = []
    expired = r"not done after 0\.5 s; killed children \[\d+\]"
    with pytest.raises(TimeoutError, match=expired), deadline(0.5):
        hang_with_a_child(left)
    assert left[0].wait() == -signal.SIGABRT


def test_a_deadline_leaves_earlier_children_alone():
    child = subprocess.Popen(["sleep", "60"])
    with pytest.raises(TimeoutError, match="no children"), Ring.create() as ring, deadline(0.2):
        ring.get()
    assert child.poll() is None
    child.kill()
    child.wait()


def test_a_deadline_decorates_and_restores_what_was_there():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:

        @deadline(30)
        def work():
            return 42

        assert work() == 42
        assert not rung
        wait_until(lambda: rung)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def test_a_deadline_that_can_not_be():
    with pytest.raises(ValueError, match="seconds=0"), deadline(0):
        pass
    errors = []

    def elsewhere():
        try:
            with deadline(1):
                pass
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors == ["a deadline works by a signal: set it in the main thread"]


def test_nothing_of_it_is_loaded_with_the_library():
    assert importlib.util.find_spec("shmkit.tools.testing")
    source = "import sys, shmkit; print(any('testing' in name for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout == "False\n"
