"""No /proc, another's /proc, and pids that mean nothing: namespaces, as containers have them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shmkit import Ring
from shmkit.memory.process import this_process
from tests.namespaces import in_namespaces
from tests.processes import in_child, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

PRELUDE = """
import faulthandler, os, sys
from pathlib import Path
faulthandler.dump_traceback_later(25, exit=True)
from shmkit import *
folder = Path(sys.argv[1])

def use(where):
    with Ring.create(where("ring"), producers="many", consumers="many") as ring:
        ring.put(b"x")
        pid = os.fork()
        if pid == 0:
            ring.put(b"y")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert ring.get_many() == [b"x", b"y"]
        ring.unlink()
    with Queue(where=where("queue")) as queue:
        queue.put({"a": b"x" * 3_000_000})
        assert queue.get() == {"a": b"x" * 3_000_000}
        queue.unlink()
    lock, event = Lock.create(where("lock")), Event.create(where("event"))
    with lock:
        event.set()
    assert event.is_set()
    for one in lock, event:
        one.unlink()
        one.close()
    with SharedBuffer.create(where("buffer"), 10) as buffer:
        buffer[0] = 1
        buffer.unlink()

def named(what):
    return f"shm:{sys.argv[2]}-{what}"
"""

ANOTHERS_PROC = """
assert os.getpid() == 1
assert os.readlink("/proc/self") != "1"
for where in lambda what: None, named, lambda what: folder / what:
    use(where)
with once(sys.argv[2], lambda: b"built") as content:
    assert content[:] == b"built"
with ProcessPoolExecutor(1) as pool:
    assert pool.submit(len, b"x" * 3_000_000).result() == 3_000_000
"""

NO_PROC = """
assert not os.path.isdir("/proc/self")
for where in named, lambda what: folder / what:
    use(where)
for make in Ring.create, Broadcast.create, Latest.create, Queue, Lock, Event, Semaphore:
    try:
        make()
    except OSError as error:
        assert "anonymous memory needs /proc" in str(error), (make, error)
        assert not isinstance(error, FileNotFoundError)
    else:
        raise AssertionError(f"{make} worked")
with SharedBuffer.create(None, 10) as buffer:
    buffer[0] = 1
"""

# As pid 1 of a namespace, it starts a child as pid 1 of another one.
SAME_PID = """
import ctypes
from shmkit.errors import RoleTaken
CLONE_NEWPID = 0x20000000
assert os.getpid() == 1
lock, ring = Lock(sys.argv[2]), Ring.create()
with SharedBuffer.create(named("owned"), 10) as buffer, lock, ring:
    ring.put(b"x")
    assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWPID) == 0
    child = os.fork()
    if child == 0:
        assert os.getpid() == 1
        assert not lock.held
        assert not lock.acquire(timeout=0.05)
        assert not buffer.owner
        try:
            ring.put(b"y", timeout=0)
        except RoleTaken:
            lock.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert lock.held
    assert ring.statistics().participants.count(1) == 1  # the child has no place, or left it
    assert ring.get() == b"x"
lock.close()
"""


def run(options: list[str], setup: str, source: str, folder: Path, name: str) -> None:
    command = in_namespaces(*options, setup=setup)
    script = folder / "program.py"  # a file: a pool may start its workers from it
    script.write_text(
        PRELUDE
        + "\ndef main():\n"
        + "".join(f"    {line}\n" for line in source.splitlines())
        + "\nif __name__ == '__main__':\n    main()\n"
    )
    result = subprocess.run(
        [*command, sys.executable, "-W", "error", str(script), str(folder), name],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


@pytest.mark.parametrize(
    ("options", "setup", "source"),
    [
        (["--pid", "--fork"], "true", ANOTHERS_PROC),
        (["--mount"], "mount -t tmpfs tmpfs /proc", NO_PROC),
        (["--pid", "--fork"], "true", SAME_PID),
    ],
    ids=["another's proc", "no proc", "same pid"],
)
def test_it_works_in(
    options: list[str], setup: str, source: str, tmp_path: Path, unique_name: str
) -> None:
    run(options, setup, source, tmp_path, unique_name)


def test_a_process_has_another_number_than_its_ancestors() -> None:
    here = this_process()

    def deeper() -> tuple[int, object]:
        return this_process(), in_child(this_process)

    both: Any = in_child(deeper)
    child: int
    grandchild: int
    child, grandchild = both
    assert len({here, child, grandchild}) == 3
    assert len({here >> 32, child >> 32, grandchild >> 32}) == 3  # whatever their pids
    assert this_process() == here


TAKE_PART = """
import os, sys
from shmkit import PeerDied, Ring, ShutDown
assert os.getpid() == 1
role, who, where = sys.argv[1:4]
ring = Ring.attach(where, timeout=20)
if role == "put":
    for n in range(10**9 if who == "killed" else 400):
        ring.put(b"%s %d" % (who.encode(), n), timeout=20)
else:
    while True:
        try:
            os.write(1, ring.get(timeout=20) + b"\\n")
        except PeerDied:
            pass  # of the last producers one was killed; told once
        except ShutDown:
            break
"""


@pytest.mark.slow
def test_kills_among_containers_lose_nothing(tmp_path: Path) -> None:
    """Three putters and three getters, each in PID, user and IPC namespaces of its own."""
    command = in_namespaces(
        *["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--ipc"]
    )
    script = tmp_path / "part.py"
    script.write_text(TAKE_PART)
    where = f"file:{tmp_path / 'ring'}"
    started: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    def start(role: str, who: str) -> subprocess.Popen[bytes]:
        out = (tmp_path / f"{role}-{who}").open("wb")
        with out:
            started[role, who] = process = subprocess.Popen(
                [*command, sys.executable, str(script), role, who, where], stdout=out
            )
        return process

    ring = Ring.create(where, producers="many", consumers="many", capacity=4096)
    try:
        with ring:
            for who in "a", "b", "killed":
                start("get", who)
                start("put", who)
            frames = [tmp_path / f"get-{who}" for who in ("a", "b", "killed")]
            # Kill one putter and one getter in the middle, at whatever they do.
            wait_until(lambda: b"".join(p.read_bytes() for p in frames).count(b"killed") > 50)
            for role in "put", "get":
                started[role, "killed"].send_signal(signal.SIGKILL)
                started[role, "killed"].wait(20)
            for who in "a", "b":
                assert started["put", who].wait(40) == 0
            ring.shutdown()
            for who in "a", "b":
                assert started["get", who].wait(40) == 0
    finally:
        for process in started.values():
            process.kill()
            process.wait(20)
    came = [line.split() for path in frames for line in path.read_bytes().splitlines()]
    lost = 0
    for putter in b"a", b"b":
        numbers = sorted(int(n) for who_put, n in came if who_put == putter)
        assert len(set(numbers)) == len(numbers)
        lost += 400 - len(numbers)
    assert lost <= 1  # what the killed getter had taken, and not yet written down
    of_the_killed = sorted(int(n) for name, n in came if name == b"killed")
    assert len(of_the_killed) >= 1
    assert of_the_killed[-1] - len(of_the_killed) + 1 <= 1 - lost
