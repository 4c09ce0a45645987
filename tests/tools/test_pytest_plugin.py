"""The pytest plugin, as a user has it: in runs of its own, with and without pytest-xdist."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is held")
RUNS = {"alone": ("-n0",), "xdist": ("-n2", "--dist=load")}


@pytest.fixture(params=RUNS)
def run(request, pytester):
    """Run pytest on a test file: its outcomes, and its output."""

    def run(source, *options):
        pytester.makepyfile(test_it=source)
        # Under pytest-xdist each process has a thread, and 3.12 warns of a fork there.
        quiet = ("-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning")
        options = (*RUNS[request.param], *quiet, *options)
        result = pytester.runpytest_subprocess(*options, timeout=40)
        return result.parseoutcomes(), result.stdout.str()

    return run


# -- leaks -------------------------------------------------------------------------------------

# What makes it, with the line that is to be named, and how the leak is told.
LEAKS = {
    "segment": (
        "SharedBuffer.create({name!r}, 10, keep=True).close()  # here",
        "segment /dev/shm/{name}",
    ),
    "of the standard library": (
        "SharedMemory({name!r}, create=True, size=10).close()  # here",
        "segment /dev/shm/{name}",
    ),
    "semaphore": (
        "kept.append(Semaphore(1, {name!r}, posix=True))  # here",
        "semaphore /dev/shm/sem.{name}",
    ),
    "descriptor": ("os.open('/dev/zero', os.O_RDONLY)  # here", r"descriptor \d+ -> /dev/zero"),
    "map": (
        "kept.append(SharedBuffer.create(None, 10))  # here",
        r"map /memfd:shmkit[^ ]* \(deleted\) \(inode \d+\)",
    ),
    "program": (
        "kept.append(subprocess.Popen(['sleep', '8']))  # here",
        r"child \d+ sleep 8",
    ),
    "spawned process": (
        "spawn(target=time.sleep, args=(8,), daemon=True).start()  # here",
        r"child \d+ [^,]*spawn_main.*",
    ),
    "forked process": (
        "if not os.fork():  # here\n        time.sleep(8)\n        os._exit(0)",
        r"child \d+ [^,]*pytest.*|child \d+ [^,]*-c.*",
    ),
}
LEAKING = """
import os, subprocess, time
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from shmkit import Semaphore, SharedBuffer

kept = []
spawn = get_context("spawn").Process

def make():
    {body}

def test_leaks():
    make()

def test_sound():
    pass
"""


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_named_with_its_test_and_its_line(run, kind, unique_name):
    body, says = LEAKS[kind]
    source = LEAKING.replace("{body}", body).replace("{name!r}", repr(str(unique_name)))
    line = next(i for i, text in enumerate(source.splitlines()[1:], 1) if "# here" in text)
    outcomes, output = run(source, "--shmkit-leaks=error")
    clean_up(output, unique_name)
    assert outcomes == {"passed": 2, "errors": 1}, output
    assert "test_it.py::test_leaks left behind:" in output
    says = says.replace("{name}", unique_name)
    assert re.search(rf"({says}), made at test_it.py:{line} in make", output), output


def clean_up(output, name):
    """End what the test left on purpose."""
    for path in Path("/dev/shm").glob(f"*{name}"):
        path.unlink()
    for pid in set(re.findall(r"child (\d+)", output)):
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def test_a_warning_or_nothing(run, unique_name):
    source = LEAKING.replace("{body}", "os.open('/dev/zero', os.O_RDONLY)")
    outcomes, output = run(source, "--shmkit-leaks=warn")
    assert outcomes == {"passed": 2, "warnings": 1}
    assert "ShmkitLeakWarning: test_it.py::test_leaks left behind:" in output
    assert run(source)[0] == {"passed": 2}


def test_a_word_that_is_no_mode(pytester):
    pytester.makeini("[pytest]\nshmkit_leaks = maybe")
    result = pytester.runpytest_subprocess("-n0")
    result.stderr.fnmatch_lines(["ERROR: shmkit_leaks = 'maybe': it is one of error, warn, off"])


def test_what_other_scopes_keep_is_no_leak_and_a_failed_test_fails_once(run):
    outcomes, output = run(
        """
        import pytest
        from shmkit import SharedBuffer

        @pytest.fixture(scope="module")
        def kept():
            with SharedBuffer.create(None, 10) as buffer:
                yield buffer

        @pytest.fixture
        def own():
            with SharedBuffer.create(None, 10) as buffer:
                yield buffer

        def test_one(kept, own):
            pass

        def test_two(request):
            request.getfixturevalue("kept")

        def test_fails(own):
            file = open("/dev/zero", "rb")
            raise ZeroDivisionError
        """,
        "--shmkit-leaks=error",
    )
    assert outcomes == {"passed": 2, "failed": 1}, output


# -- deadlines ---------------------------------------------------------------------------------


def test_a_test_that_hangs_fails_with_the_stacks_of_all_its_processes(run):
    outcomes, output = run(
        """
        import multiprocessing, os, threading, time
        import pytest

        def wait_for_ever():
            while True:
                try:
                    time.sleep(60)
                except Exception:
                    pass

        def work(name):
            exec(f"def {name}(): wait_for_ever()\\n{name}()", globals())

        @pytest.mark.shm_deadline(2)
        def test_hangs():
            processes = [
                multiprocessing.get_context(method).Process(target=work, args=(f"in_{method}",))
                for method in ("fork", "spawn")
            ]
            for process in processes:
                process.start()
            wait_for_ever()

        @pytest.mark.shm_deadline(20)
        def test_sound():
            pass
        """
    )
    assert outcomes == {"passed": 1, "failed": 1}, output
    assert re.search(r"not done after 2 s; killed children \[\d+, \d+\]", output)
    assert re.search(r"process \d+, this one:(.*\n)+.*in test_hangs", output), output
    assert re.search(r"process \d+, S .*\n(.*\n)+.* in in_fork", output), output
    assert "its stacks, if any, are in its stderr" in output
    assert re.search(r"Captured stderr call(.*\n)+.* in in_spawn", output), output


def test_a_deadlock_is_shown_with_both_holders(run):
    outcomes, output = run(
        """
        import os
        import pytest
        from shmkit import Event, Lock

        @pytest.mark.shm_deadline(3)
        def test_hangs():
            with Lock() as _:
                pass
            first, second, ready = Lock(), Lock(), Event()
            pid = os.fork()
            if not pid:
                second.acquire()
                ready.set()
                first.acquire()
            first.acquire()
            ready.wait()
            print("pids", os.getpid(), pid)
            second.acquire()
        """
    )
    assert outcomes == {"failed": 1}, output
    parent, child = re.search(r"pids (\d+) (\d+)", output).groups()
    for holder, waiter in ((parent, child), (child, parent)):
        assert re.search(
            rf"lock is held by process {holder}, wanted by process {waiter}", output
        ), output


def test_a_mark_without_seconds_is_told(run):
    outcomes, output = run("import pytest\n\n@pytest.mark.shm_deadline\ndef test_it():\n    pass\n")
    assert outcomes == {"failed": 1}
    assert "shm_deadline takes seconds: shm_deadline(5)" in output


# -- fixtures ----------------------------------------------------------------------------------


def test_names_buffers_and_rings(run):
    outcomes, output = run(
        """
        import os
        import subprocess, sys
        import pytest
        from shmkit import Ring, SharedBuffer

        GET = "import sys, shmkit; print(shmkit.Ring.attach(sys.argv[1]).get(timeout=10))"

        def test_ring(shm_ring, shm_name):
            assert shm_name in shm_ring.name
            shm_ring.put(b"hello")
            done = subprocess.run([sys.executable, "-c", GET, shm_ring.name], capture_output=True)
            assert done.stdout == b"b'hello'\\n"

        def test_buffer(shm_buffer, shm_name):
            assert shm_buffer.size == 1 << 16
            shm_buffer[:5] = b"hello"
            with SharedBuffer.attach(shm_buffer.name) as again:
                assert again[:5] == b"hello"

        @pytest.mark.parametrize("shm_ring", [{"capacity": 4096, "where": None}], indirect=True)
        def test_other_options(shm_ring):
            assert shm_ring.capacity == 4096
            assert str(shm_ring.url) == "anon:"

        def test_names_differ(shm_name, shm_buffer, shm_ring):
            assert len({shm_name, shm_buffer.name, shm_ring.name}) == 3
        """,
        "--shmkit-leaks=error",
    )
    assert outcomes == {"passed": 4}, output


def test_shared_once_builds_once_for_all_processes(pytester):
    pytester.makepyfile(
        test_it="""
        import os
        from pathlib import Path
        import numpy as np
        import pytest

        def build():
            with open("built", "a") as file:
                file.write("once ")
            return np.arange(1000)

        @pytest.mark.parametrize("number", range(4))
        def test_it(shared_once, number, testrun_uid):
            array = shared_once("numbers", build).array
            assert array.sum() == 499500
            assert not array.flags.writeable
            Path(f"saw-{os.environ['PYTEST_XDIST_WORKER']}").touch()
            # Until both processes have it: the last one out removes it.
            while len(list(Path().glob("saw-*"))) < 2:
                pass
        """
    )
    before = set(Path("/dev/shm").glob("*once-pytest*"))
    result = pytester.runpytest_subprocess("-n2", "--dist=each", "--shmkit-leaks=error")
    assert result.parseoutcomes() == {"passed": 8}
    assert (pytester.path / "built").read_text() == "once "
    assert set(Path("/dev/shm").glob("*once-pytest*")) <= before


def test_nothing_is_imported_while_it_is_not_used(pytester):
    pytester.makepyfile(
        test_it="""
        import sys

        def test_it():
            names = {name for name in sys.modules if name.startswith("shmkit")}
            assert names == {"shmkit", "shmkit.tools", "shmkit.tools.pytest_plugin"}
        """
    )
    result = pytester.runpytest_subprocess("-n0", "-p", "no:cacheprovider")
    assert result.parseoutcomes() == {"passed": 1}, result.stdout.str()
