"""The resource tracker does its work under `-W error`, too."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.processes import run_python, wait_until
from tests.tools.programs import Program

BESIDE_A_THREAD = """if True:
    import os, signal, threading, time
    from multiprocessing import resource_tracker
    from shmkit import SharedBuffer

    [name] = args
    SharedBuffer.create(f"shm:{name}-0", 1).unlink()  # the tracker runs
    tracker = resource_tracker._resource_tracker
    is_inside = threading.Event()

    def talk():
        with tracker._lock:
            is_inside.set()
            time.sleep(0.3)

    thread = threading.Thread(target=talk)
    thread.start()
    is_inside.wait()
    child = os.fork()
    if not child:
        signal.alarm(5)
        with SharedBuffer.create(f"shm:{name}-1", 1):
            pass
        os._exit(0)
    thread.join()
    with SharedBuffer.create(f"shm:{name}-2", 1):
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_beside_a_thread_that_talks_to_the_tracker(unique_name: str) -> None:
    """Else the child, which has the lock but not the thread, could never create a segment."""
    assert run_python(BESIDE_A_THREAD, str(unique_name)).stdout == "0\n"


KILLED = """if True:
    import os, signal, sys
    from multiprocessing import resource_tracker, shared_memory
    from shmkit.memory.tracker import ensure_tracker

    before = list(sys.warnoptions)
    ensure_tracker()
    assert sys.warnoptions == before
    stem = sys.argv[1]
    for number in range(8):
        resource_tracker.register(f"/{stem}-gone-{number}", "shared_memory")
        shared_memory.SharedMemory(f"{stem}-there-{number}", create=True, size=1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


OWNER = """if True:
    import os, signal, sys
    from shmkit import SharedBuffer

    made = [SharedBuffer.create(f"{sys.argv[1]}-{number}", 1) for number in range(8)]
    for buffer in made[::2]:
        os.unlink(f"/dev/shm/{buffer.name}")  # as another process would
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("source", [KILLED, OWNER])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /dev/shm")
def test_names_that_are_gone_do_not_keep_the_tracker_from_the_others(source: str) -> None:
    """A killed program's names are removed, whatever its `-W` options say of warnings."""
    stem = f"t-{os.getpid()}-{os.urandom(4).hex()}"

    def left() -> list[str]:
        return sorted(path.name for path in Path("/dev/shm").glob(f"{stem}-*"))

    with Program("-W", "error", "-c", source, stem) as program:
        wait_until(lambda: program.process.poll() is not None)
        ended = program.wait()  # for the tracker's end, too

        assert ended.status == -signal.SIGKILL
        assert left() == []
