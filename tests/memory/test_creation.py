"""Getting hold of memory: waiting for it, racing for it, taking over what a dead one began."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

from shmkit import IncompatibleSegment, SharedBuffer
from shmkit.memory import creation as opening
from shmkit.memory.backends.named import NamedBackend
from shmkit.memory.buffer import buffer as buffer_module
from tests.processes import in_child, wait_until


@pytest.fixture
def name(make_where) -> Any:
    return make_where("shm")


def half_made(where: str) -> Any:
    """A segment whose creator has not got further than its name."""
    return posix_ipc.SharedMemory("/" + where.removeprefix("shm:"), posix_ipc.O_CREX).fd


def at_first_pause(monkeypatch, action: Any) -> None:
    """Have something happen while an attach waits."""
    actions = [action]

    def sleep(seconds: float) -> None:
        if actions:
            actions.pop()()
        time.sleep(seconds)

    monkeypatch.setattr(opening, "time", type("T", (), {"sleep": staticmethod(sleep)}))


# ------------------------------------------------------------------ waiting


@pytest.mark.parametrize("kind", ["shm", "file"])
@pytest.mark.parametrize("timeout", [20, None])
def test_attach_waits_for_the_name(make_where, monkeypatch, kind: str, timeout) -> None:
    where = make_where(kind)
    made: list[SharedBuffer] = []
    at_first_pause(monkeypatch, lambda: made.append(SharedBuffer.create(where, 3)))
    with SharedBuffer.attach(where, timeout=timeout) as buffer, made.pop() as creator:
        creator[:] = b"abc"
        assert buffer[:] == b"abc"
        creator.unlink()


def test_attach_waits_for_the_size(name: str, monkeypatch) -> None:
    fd = half_made(name)
    at_first_pause(monkeypatch, lambda: os.pwrite(fd, b"abc", 0))
    with SharedBuffer.attach(name, timeout=20) as buffer:
        assert buffer[:] == b"abc"
        buffer.unlink()
    os.close(fd)


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_attach_gives_up(make_where, kind: str) -> None:
    start = time.monotonic()
    with pytest.raises(FileNotFoundError):
        SharedBuffer.attach(make_where(kind), timeout=0.05)
    assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_half_made_segment_is_told(name: str, timeout: float) -> None:
    fd = half_made(name)
    with pytest.raises(IncompatibleSegment, match=r"no size yet.*ensure\(\)") as caught:
        SharedBuffer.attach(name, timeout=timeout)
    assert caught.value.where == name
    assert os.fstat(fd).st_size == 0
    assert os.fstat(fd).st_nlink == 1
    os.close(fd)
    posix_ipc.unlink_shared_memory("/" + name.removeprefix("shm:"))


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_impossible_timeout(name: str, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        SharedBuffer.attach(name, timeout=timeout)


def test_attach_never_resizes(name: str) -> None:
    with SharedBuffer.create(name, 10_001) as made:
        for access in ("r", "rw", "cow"):
            SharedBuffer.attach(name, access=access, length=5).close()
        fd = made.descriptor()
        assert os.fstat(fd).st_size == 10_001
        os.close(fd)


# ------------------------------------------------------------------ half-made


def test_ensure_takes_over(name: str) -> None:
    os.close(half_made(name))
    with SharedBuffer.ensure(name, 100) as buffer:
        assert buffer.created
        assert buffer[:] == bytes(100)
        SharedBuffer.attach(name).close()
    with pytest.raises(FileNotFoundError):  # whoever finished it owns it
        SharedBuffer.attach(name)


def test_ensure_takes_an_empty_file_over(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    with SharedBuffer.ensure(path, 100) as buffer:
        assert buffer.created
    assert path.read_bytes() == bytes(100)


def test_empty_file_survives_a_failed_ensure(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    with pytest.raises(OSError, match="no room"):
        SharedBuffer.ensure(path, 1 << 46)
    assert path.read_bytes() == b""


def test_half_made_segment_goes_with_a_failed_ensure(name: str) -> None:
    os.close(half_made(name))
    with pytest.raises(OSError, match="no room"):
        SharedBuffer.ensure(name, 1 << 46)
    with pytest.raises(FileNotFoundError):
        SharedBuffer.attach(name)


def die_while_reserving(where: str) -> None:
    vars(opening)["reserve"] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    SharedBuffer.create(where, 100, keep=True)


@pytest.mark.parametrize("start_method", ["fork"], indirect=True)
@pytest.mark.parametrize("kind", ["shm", "file"])
def test_creator_killed_half_way(make_where, start_process, kind: str) -> None:
    where = make_where(kind)
    process = start_process(die_while_reserving, where)
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(FileExistsError):
        SharedBuffer.create(where, 100)
    with SharedBuffer.ensure(where, 100) as buffer:
        assert buffer.created
        buffer.unlink()


def test_ensure_waits_for_a_creator_at_work(name: str) -> None:
    fd = half_made(name)
    fcntl.flock(fd, fcntl.LOCK_EX)
    result: list[SharedBuffer] = []
    thread = threading.Thread(target=lambda: result.append(SharedBuffer.ensure(name, 3)))
    thread.start()
    inode = f":{os.fstat(fd).st_ino} "
    wait_until(
        lambda: any(
            "->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()
        )
    )
    os.pwrite(fd, b"abc", 0)
    fcntl.flock(fd, fcntl.LOCK_UN)
    thread.join()
    with result.pop() as buffer:
        assert not buffer.created
        assert buffer[:] == b"abc"
        buffer.unlink()
    os.close(fd)


def overtaken(monkeypatch, overtake: Any) -> None:
    """Have something happen between the exclusive creation and the creator's lock."""
    create = NamedBackend.create
    calls = [overtake]

    def create_then(self: NamedBackend, name: str, mode: int) -> int:
        fd = create(self, name, mode)
        if calls:
            calls.pop()()
        return fd

    monkeypatch.setattr(NamedBackend, "create", create_then)


def test_creator_that_is_overtaken_was_second(name: str, monkeypatch) -> None:
    quicker: list[SharedBuffer] = []
    overtaken(monkeypatch, lambda: quicker.append(SharedBuffer.ensure(name, 50)))
    with pytest.raises(FileExistsError):
        SharedBuffer.create(name, 100)
    with quicker.pop() as buffer:
        assert buffer.created
        SharedBuffer.attach(name).close()


def test_creator_that_is_overtaken_by_one_that_goes(name: str, monkeypatch) -> None:
    def come_and_go() -> None:
        with SharedBuffer.ensure(name, 50):
            pass

    overtaken(monkeypatch, come_and_go)
    with SharedBuffer.create(name, 100) as buffer:
        assert buffer.created
        with SharedBuffer.attach(name) as again:
            assert len(again) == 100


def test_creator_whose_name_is_gone_makes_it_again(name: str, monkeypatch) -> None:
    """An ensure() that took the empty segment over found no room, and removed it."""
    overtaken(monkeypatch, lambda: posix_ipc.unlink_shared_memory("/" + name.removeprefix("shm:")))
    with SharedBuffer.create(name, 100) as buffer, SharedBuffer.attach(name) as again:
        again[0] = 1
        assert buffer[0] == 1


def test_ensure_of_a_name_that_comes_and_goes(name: str, monkeypatch) -> None:
    create = NamedBackend.create
    there = [True]

    def exists_once(self: NamedBackend, name: str, mode: int) -> int:
        if there:
            there.pop()
            raise FileExistsError
        return create(self, name, mode)

    monkeypatch.setattr(NamedBackend, "create", exists_once)
    with SharedBuffer.ensure(name, 100) as buffer:
        assert buffer.created


def test_failed_creator_removes_its_name_under_its_lock(name: str, monkeypatch) -> None:
    """Otherwise an ensure() could take over what is about to be removed."""
    locked: list[bool] = []
    unlink = NamedBackend.unlink

    def look(self: NamedBackend, name: str) -> None:
        fd = self.open(name, writable=True)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked.append(True)
        os.close(fd)
        unlink(self, name)

    monkeypatch.setattr(NamedBackend, "unlink", look)
    with pytest.raises(OSError, match="no room"):
        SharedBuffer.create(name, 1 << 46)
    assert locked == [True]


def ensure_many(names: list[str], number: int, arrived: SharedBuffer, link: Any) -> None:
    created = []
    for turn, name in enumerate(names, 1):
        arrived[number] = turn
        end = time.monotonic() + 20
        while min(arrived) < turn:  # no sleep: they have to meet at the same moment
            assert time.monotonic() < end
            os.sched_yield()
        with SharedBuffer.ensure(name, 100, keep=True) as buffer:
            created.append(buffer.created)
            assert len(buffer) == 100
    link.send(created)


@pytest.mark.parametrize("start_method", ["fork"], indirect=True)
@pytest.mark.parametrize("kind", ["shm", "file"])
def test_of_many_exactly_one_creates(make_where, start_process, kind: str) -> None:
    names = [make_where(kind) for _ in range(50)]
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, SharedBuffer.create(None, 3) as arrived:
        processes = [
            start_process(ensure_many, names, number, arrived, theirs) for number in range(3)
        ]
        for process in processes:
            process.join(30)
            assert process.exitcode == 0
        rows = [ours.recv() for _ in processes]
    assert [sum(column) for column in zip(*rows, strict=True)] == [1] * len(names)
    for name in names:
        with SharedBuffer.attach(name) as buffer:
            buffer.unlink()


# ------------------------------------------------------------------ failures leave nothing


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("kind", ["shm", "file", "anon"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), Interrupted()])
@pytest.mark.parametrize(
    ("module", "step"), [(opening, "reserve"), (buffer_module, "map_region")], ids=["room", "map"]
)
@pytest.mark.parametrize("make", [SharedBuffer.create, SharedBuffer.ensure])
def test_failed_creation_leaves_nothing(
    make_where, monkeypatch, kind: str, error, module, step: str, make
) -> None:
    """Neither a name nor a descriptor: the latter is looked for after every test."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    where = make_where(kind)
    monkeypatch.setattr(module, step, fail)
    with pytest.raises(type(error)):
        make(where, 10)
    monkeypatch.undo()
    if where is not None:
        with pytest.raises(FileNotFoundError):
            SharedBuffer.attach(where)


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_failed_attach_leaves_the_name(make_where, monkeypatch, kind: str) -> None:
    where = make_where(kind)
    with SharedBuffer.create(where, 10) as made:
        with pytest.raises(ValueError, match="10 bytes"):
            SharedBuffer.attach(where, offset=11)

        def fail(*_: Any) -> None:
            raise OSError(errno.ENOMEM, "no addresses")

        monkeypatch.setattr(buffer_module, "attach_region", fail)
        with pytest.raises(OSError, match="no addresses"):
            SharedBuffer.attach(where)
        monkeypatch.undo()
        SharedBuffer.attach(where).close()
        made.unlink()


# ------------------------------------------------------------------ killed with the lock in hand

FORKS = """
import os, signal, threading
from shmkit import SharedBuffer
reserving = threading.Event()
def fill(*_):
    reserving.set()
    threading.Event().wait()
os.posix_fallocate = fill
threading.Thread(target=lambda: SharedBuffer.create(args[0], 4096), daemon=True).start()
reserving.wait()
pid = os.fork()
if pid == 0:
    link.close()
    signal.pause()
link.send(pid)
signal.pause()
"""
ENSURES = """
from shmkit import SharedBuffer
with SharedBuffer.ensure(args[0], 4096) as buffer:
    link.send((buffer.created, len(buffer)))
    buffer.unlink()
"""


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_a_child_of_a_killed_creator_does_not_keep_the_lock(
    make_where, start_child, kind: str
) -> None:
    where = make_where(kind)
    creator = start_child(FORKS, where)
    child = creator.receive()
    try:
        creator.kill()
        heir = start_child(ENSURES, where)
        assert heir.receive() == (True, 4096)
        heir.finish()
    finally:
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{child}").exists() or is_zombie(child))


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_fork_in_a_locked_thread_keeps_its_descriptor(tmp_path: Path) -> None:
    """Only of threads that the child does not have."""
    fd = os.open(tmp_path / "x", os.O_CREAT | os.O_RDWR)
    try:
        with opening.locked(fd):
            assert in_child(lambda: os.fstat(fd).st_size) == 0
        assert not opening._locking
    finally:
        os.close(fd)
