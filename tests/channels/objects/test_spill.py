"""A full /dev/shm is no reason to lose an object: it goes into a file, or waits for room."""

from __future__ import annotations

import errno
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmkit import Full, Queue, ShutDown
from shmkit.channels.objects import overflow as module
from shmkit.channels.objects import regions, spill
from shmkit.memory.allocation import room_left
from shmkit.tools.testing import run_until
from tests.processes import TIMEOUT, in_child, run_python, wait_until

LARGE = bytes(range(256)) * 1000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Kinds of memory without room: "own", which is a queue's own, and "spill"."""
    kinds = {"own"}

    def left(fd: int) -> int | None:
        path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        kind = "spill" if spill._PREFIX in path else "own"
        return 0 if kind in kinds else room_left(fd)

    monkeypatch.setattr(regions, "room_left", left)
    return kinds


@pytest.fixture(params=["anon", "shm"])
def queue(
    request: pytest.FixtureRequest, make_where: Callable[[str], Any], folder: Path
) -> Iterator[Queue[Any]]:
    made: Queue[Any] = Queue(where=make_where(request.param), capacity=4096)
    yield made
    made.unlink()
    made.close()
    assert list(folder.iterdir()) == []


def runs(queue: Queue[Any]) -> list[tuple[int, int]]:
    """What is in the queue's spill files."""
    places = queue._ring._overflow._spills.values()
    return [run for _, place in places for run in place.runs()]


def test_an_object_goes_into_a_file(queue: Queue[Any], folder: Path, full: set[str]) -> None:
    queue.put("small")
    assert list(folder.iterdir()) == []
    queue.put(LARGE)
    queue.put([bytearray(LARGE)])
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(runs(queue)) == 2
    full.clear()
    queue.put(LARGE + b"in memory again")
    assert len(runs(queue)) == 2
    assert [queue.get(timeout=0) for _ in range(4)] == [
        "small",
        LARGE,
        [bytearray(LARGE)],
        LARGE + b"in memory again",
    ]
    assert runs(queue) == []


def test_a_receiver_with_another_directory_finds_it(
    queue: Queue[Any], full: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.put(LARGE)

    def child() -> bool:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
        return bool(queue.get(timeout=TIMEOUT) == LARGE)

    assert in_child(child)
    queue._ring.sweep()
    assert runs(queue) == []


def put(queue: Queue[Any]) -> None:
    queue.put(LARGE)


def get(queue: Queue[Any]) -> None:
    queue.get(timeout=TIMEOUT)


@pytest.mark.parametrize("step", ["overflow.take", "overflow.write", "object.write", "put.tail"])
def test_a_killed_sender_leaves_what_a_sweep_empties(
    queue: Queue[Any], full: set[str], step: str
) -> None:
    queue.put("before")
    with run_until(step, put, queue, nth=1 if "object" in step else 2, method="fork") as victim:
        assert victim.reached or step == "put.tail"
    assert queue.get(timeout=TIMEOUT) == "before"
    queue.put(LARGE)  # writes over it, and sweeps
    assert queue.get(timeout=TIMEOUT) == LARGE
    queue._ring.sweep()
    while not queue.empty():
        assert queue.get(timeout=TIMEOUT) == LARGE
    assert runs(queue) == []


@pytest.mark.parametrize("step", ["overflow.copy", "object.release", "overflow.remove"])
def test_a_killed_receiver_loses_nothing(queue: Queue[Any], full: set[str], step: str) -> None:
    queue.put(LARGE)
    with run_until(step, get, queue, method="fork") as victim:
        assert victim.reached
    if step != "overflow.remove":
        assert queue.get(timeout=TIMEOUT) == LARGE
    queue._ring.sweep()
    assert queue.empty()
    assert runs(queue) == []


# ------------------------------------------------------------------ no room anywhere


def test_without_any_room_it_waits_for_a_receiver(queue: Queue[Any], full: set[str]) -> None:
    full.clear()
    queue.put(LARGE)
    full |= {"own", "spill"}
    with pytest.raises(Full, match=r"no room for an object of \d+ bytes"):
        queue.put(LARGE, timeout=0)
    with pytest.raises(Full, match=r"no room for an object of \d+ bytes"):
        queue.put(LARGE, timeout=0.01)
    thread = threading.Thread(target=queue.put, args=(LARGE + b"2",))
    thread.start()
    wait_until(lambda: queue.statistics().sleeps[1])
    assert queue.qsize() == 1
    full.clear()
    assert queue.get(timeout=TIMEOUT) == LARGE
    thread.join(TIMEOUT)
    assert queue.get(timeout=TIMEOUT) == LARGE + b"2"


def test_a_shutdown_ends_the_wait_for_room(queue: Queue[Any], full: set[str]) -> None:
    full.clear()
    queue.put(LARGE)
    full |= {"own", "spill"}
    ended: list[type[BaseException]] = []

    def wait() -> None:
        try:
            queue.put(LARGE)
        except ShutDown as error:
            ended.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: queue.statistics().sleeps[1])
    queue.shutdown()
    thread.join(TIMEOUT)
    assert ended == [ShutDown]


def test_without_any_room_to_come_it_is_enospc(where: Any, folder: Path, full: set[str]) -> None:
    full.add("spill")
    queue: Queue[Any] = Queue(where=where, capacity=4096)
    queue.put("small")
    with pytest.raises(OSError, match=r"no room for an object of \d+ .*file:PATH") as caught:
        queue.put(LARGE)
    assert caught.value.errno == errno.ENOSPC
    assert type(caught.value) is OSError
    assert list(queue._ring._overflow._own.runs()) == []
    assert queue.get(timeout=0) == "small"
    queue.unlink()
    queue.close()


def test_objects_of_a_queue_on_a_file_stay_in_it(
    tmp_path: Path, folder: Path, full: set[str]
) -> None:
    with Queue(where=tmp_path / "q", capacity=4096) as queue:
        with pytest.raises(OSError, match="no room") as caught:
            queue.put(LARGE)
        assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in folder.iterdir()] == ["q"]


def test_a_directory_that_is_not_writable_is_no_room(
    queue: Queue[Any], full: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue._ring._overflow._spill_path = "/nowhere/file"
    with pytest.raises(OSError, match="nor in /nowhere/file: No such file") as caught:
        queue.put(LARGE)
    assert caught.value.errno == errno.ENOSPC


# ------------------------------------------------------------------ not there now, or not ours


def test_a_file_that_is_not_there_now_loses_nothing(
    queue: Queue[Any], folder: Path, full: set[str]
) -> None:
    """The object was dropped with the error."""
    queue.put(LARGE)
    queue._ring._overflow.close()
    (path,) = folder.iterdir()
    path.rename(folder / "away")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            queue.get(timeout=0)
    assert queue.qsize() == 1
    (folder / "away").rename(path)
    assert queue.get(timeout=0) == LARGE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_process_that_may_not_open_it_leaves_it_in(
    queue: Queue[Any], folder: Path, full: set[str]
) -> None:
    queue.put(LARGE)

    def child() -> str:
        os.setuid(1234)
        try:
            queue.get(timeout=TIMEOUT)
        except PermissionError:
            return "refused"
        return "got it"

    assert in_child(child) == "refused"
    assert queue.get(timeout=TIMEOUT) == LARGE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_process_that_gave_up_its_user_gets_what_is_in_the_queues_own_memory(
    where: Any,
) -> None:
    queue: Queue[Any] = Queue(where=where, capacity=4096)
    queue.put(LARGE)
    queue.put(LARGE)

    def child() -> bool:
        os.setuid(1234)
        return bool(queue.get(timeout=TIMEOUT) == LARGE)

    assert in_child(child)
    assert queue.get(timeout=TIMEOUT) == LARGE
    queue.unlink()
    queue.close()


def make_link(path: Path) -> None:
    path.symlink_to("/nowhere")


def make_anothers(path: Path) -> None:
    path.write_bytes(bytes(4096))
    os.chown(path, 1234, -1)


MAKES = [make_link, Path.mkdir, os.mkfifo]
if os.geteuid() == 0:
    MAKES.append(make_anothers)


@pytest.mark.parametrize("make", MAKES)
def test_what_is_planted_in_its_place_is_neither_opened_nor_removed(
    queue: Queue[Any], folder: Path, full: set[str], make: Callable[[Path], None]
) -> None:
    path = Path(queue._ring._overflow._spill_path)
    make(path)
    other = folder / f"{spill._PREFIX}{'0' * 32}"
    make(other)
    try:
        with pytest.raises(OSError, match="no room") as caught:
            queue.put(LARGE)
        assert caught.value.errno == errno.ENOSPC
        assert spill.sweep_spills(str(folder)) == 0
        assert queue._ring.sweep() == 0
        queue.unlink()
        queue.close()
        assert sorted(folder.iterdir()) == sorted([path, other])
    finally:
        for planted in (path, other):
            planted.rmdir() if planted.is_dir() else planted.unlink()


# ------------------------------------------------------------------ nothing stays for good


def die_with_it(where: Any) -> None:
    queue: Queue[Any] = Queue(where=where, capacity=4096)
    queue.put(LARGE)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_the_killed_left_goes_with_the_next(
    queue: Queue[Any], folder: Path, full: set[str], fork: Callable[..., Any]
) -> None:
    fork(lambda _: die_with_it(None)).process.join(TIMEOUT)
    (left,) = folder.iterdir()
    # A queue that lives keeps its own.
    alive: Queue[Any] = Queue(capacity=4096)
    alive.put(LARGE)
    queue.put(LARGE)
    assert not left.exists()
    assert len(list(folder.iterdir())) == 2
    alive._ring._overflow.close()  # also if no process has it open
    assert spill.sweep_spills(str(folder)) == 0
    assert alive.get(timeout=0) == LARGE
    assert queue.get(timeout=0) == LARGE
    alive.close()


def test_one_of_another_namespace_of_processes_is_not_judged(
    folder: Path, full: set[str], fork: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(lambda _: die_with_it(None)).process.join(TIMEOUT)
    (left,) = folder.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(spill, "_processes", lambda: 4711)
        assert spill.sweep_spills(str(folder)) == 0
    assert left.exists()
    assert spill.sweep_spills(str(folder)) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "end", ["", "queue.close()", "queue.unlink()", "queue.close(); queue.unlink()"]
)
@pytest.mark.parametrize("kind", ["anon", "shm"])
def test_it_goes_with_its_program(kind: str, end: str, unique_name: str, tmp_path: Path) -> None:
    result = run_python(
        f"""
        import os
        from shmkit import Queue
        from shmkit.channels.objects import regions
        own = regions.room_left
        path = lambda fd: os.readlink(f"/proc/self/fd/{{fd}}")
        regions.room_left = lambda fd: own(fd) if "spill" in path(fd) else 0
        queue = Queue(where={unique_name if kind == "shm" else None!r}, capacity=4096)
        queue.put(bytes(100_000))
        print(len(os.listdir(os.environ["TMPDIR"])))
        {end}
        """,
        env={"TMPDIR": str(tmp_path)},
    )
    assert result.stdout == "1\n"
    assert list(tmp_path.iterdir()) == []


FULL_SHM = """
import ctypes, os, sys
import numpy as np
from shmkit import ProcessPoolExecutor, Queue

def make(n):
    return np.ones(n, "u1")

def total(array):
    return int(array.sum())

if __name__ == "__main__":
    libc = ctypes.CDLL(None)
    if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
        print("skipped")
        sys.exit()
    assert not libc.mount(b"shm", b"/dev/shm", b"tmpfs", 0, b"size=24m")
    large = 40 << 20
    for where in (None, "q"):
        queue = Queue(where=where, capacity=1 << 20)
        queue.put(np.ones(large, "u1"))
        assert total(queue.get()) == large
        queue.unlink()
        queue.close()
    with ProcessPoolExecutor(2) as pool:
        assert pool.submit(total, np.ones(large, "u1")).result() == large
        results = list(pool.map(make, [10 << 20] * 4))
        assert [total(result) for result in results] == [10 << 20] * 4
    try:
        Queue(where="larger", capacity=30 << 20)
    except OSError as error:
        print(error)
    assert os.listdir("/dev/shm") == []
    assert os.listdir(os.environ["TMPDIR"]) == []
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have a /dev/shm of its own")
def test_a_small_dev_shm_loses_no_object_no_call_and_no_result(tmp_path: Path) -> None:
    """As docker gives it: ENOSPC for an object or a call, and results lost after the work."""
    out = run_python(FULL_SHM, timeout=60, env={"TMPDIR": str(tmp_path)}).stdout
    if out.strip() == "skipped":
        pytest.skip("no mount namespaces here")
    assert "no room for shm:larger" in out
    assert "'file:PATH'" in out


def test_sending_is_undone_by_an_exception(queue: Queue[Any], full: set[str]) -> None:
    with pytest.raises(KeyError), queue._ring._overflow.sending(LARGE):
        assert len(runs(queue)) == 1
        raise KeyError
    assert runs(queue) == []
    assert module._SWEEP > 1
