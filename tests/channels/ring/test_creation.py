"""Making a ring and joining it: the first of many, the wait for one, and a creator's death."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from shmkit import IncompatibleSegment, Ring, SharedBuffer
from shmkit.segment.segment import Segment
from tests import leaks
from tests.processes import run_python, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /dev/shm")


@pytest.fixture(params=["shm", "file"])
def named(request: pytest.FixtureRequest, make_where: Any) -> str:
    """Each kind of memory that has a name, in turn."""
    return str(make_where(request.param))


def incarnation(ring: Ring) -> bytes:
    return bytes(ring.buffer[0x30:0x40])


# ------------------------------------------------------------------ who comes first


def test_attach_to_nothing_names_it(named: str) -> None:
    for timeout in (0, 0.05):
        with pytest.raises(FileNotFoundError, match=named.partition(":")[2].rpartition("/")[2]):
            Ring.attach(named, timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        Ring.attach(named, timeout=-1)


def test_attach_waits_for_the_creator(named: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(Ring.attach, named, timeout=20)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        with Ring.create(named, capacity=4096) as ring, waiting.result(20) as other:
            other.put(b"here")
            assert ring.get() == b"here"


def test_attach_never_sees_a_ring_half_made(named: str, fork: Any) -> None:
    """However the two meet: it waits, or works."""
    child = fork(make_and_break, named, 150)
    for number in range(150):
        with Ring.attach(named, timeout=20) as ring:
            assert ring.get(timeout=20) == b"number %d" % number
            ring.shutdown()
            assert child.receive() == number
    child.finish()


def make_and_break(link: Any, where: str, count: int) -> None:
    for number in range(count):
        with Ring.create(where, capacity=4096) as ring:
            ring.put(b"number %d" % number)
            wait_until(partial(was_shut_down, ring))
            ring.unlink()
        link.send(number)


def was_shut_down(ring: Ring) -> bool:
    return ring.statistics().state != "open"


def test_create_does_not_touch_what_exists(named: str) -> None:
    with Ring.create(named, capacity=4096) as ring:
        ring.put(b"mine")
        for _ in range(2):
            with pytest.raises(FileExistsError):
                Ring.create(named, capacity=1 << 16)
        with Ring.attach(named) as other:
            assert other.get() == b"mine"
            ring.put(b"still there")
            assert other.get() == b"still there"


def test_create_does_not_touch_what_is_no_ring(named: str) -> None:
    with SharedBuffer.create(named, 8192) as buffer:
        buffer[:5] = b"hello"
        for make in (Ring.create, Ring.attach, Ring.ensure):
            with pytest.raises((FileExistsError, IncompatibleSegment)):
                make(named)
        assert bytes(buffer[:6]) == b"hello\0"
        assert bytes(buffer[6:]) == bytes(8186)


def test_ensure_creates_or_joins(named: str) -> None:
    with (
        Ring.ensure(named, capacity=8192) as ring,
        Ring.ensure(named, capacity=4096, when_full="raise") as other,
    ):
        assert other.capacity == 8192  # what exists keeps its own
        assert incarnation(other) == incarnation(ring)
        ring.put(b"x")
        assert other.get() == b"x"
    if named.startswith("file"):
        with Ring.attach(named) as ring:
            assert ring.capacity == 8192


def test_exactly_one_of_many_creates(named: str, fork: Any) -> None:
    """Of processes that ensure at the same time, all get the same ring."""
    children = [fork(ensure_many, [f"{named}-{n}" for n in range(25)]) for _ in range(4)]
    assert [child.receive() for child in children] == ["ready"] * 4
    for child in children:
        child.link.send("go")
    found = [child.receive() for child in children]
    assert all(len(rings) == 25 for rings in found)
    assert found == [found[0]] * 4
    for child in children:
        child.link.send("enough")
        child.finish()
    for number in range(25) if named.startswith("file") else ():
        Path(f"{named.removeprefix('file:')}-{number}").unlink()


def ensure_many(link: Any, wheres: list[str]) -> None:
    link.send("ready")
    link.recv()
    rings = [Ring.ensure(where, capacity=4096) for where in wheres]
    link.send([incarnation(ring) for ring in rings])
    link.recv()
    for ring in rings:
        ring.close()


def test_a_ring_in_use_is_joined_by_another_incarnation_of_the_name(named: str) -> None:
    first = Ring.create(named, capacity=4096)
    first.unlink()
    with Ring.create(named, capacity=4096) as second, Ring.attach(named) as third:
        first.put(b"old")
        second.put(b"new")
        assert third.get() == b"new"
        assert first.get() == b"old"
        first.close()
        with Ring.attach(named) as fourth:
            assert incarnation(fourth) == incarnation(second)
        second.unlink()


# ------------------------------------------------------------------ its owner leaves


def leaves_once(owner: Ring, monkeypatch: Any) -> None:
    """Have the owner leave when a newcomer has opened the memory, and is not yet in."""
    bind = Segment._bind

    def leave(self: Segment) -> None:
        if not owner.closed:
            owner.unlink()
            owner.close()
        bind(self)

    monkeypatch.setattr(Segment, "_bind", leave)


def test_an_owner_that_leaves_while_another_attaches(named: str, monkeypatch: Any) -> None:
    """There is nothing to join any more."""
    leaves_once(Ring.create(named, capacity=4096), monkeypatch)
    with pytest.raises(FileNotFoundError):
        Ring.attach(named)


def test_an_owner_that_leaves_while_another_ensures(named: str, monkeypatch: Any) -> None:
    """The newcomer makes a ring, which others find."""
    leaves_once(Ring.create(named, capacity=4096), monkeypatch)
    with Ring.ensure(named, capacity=8192) as ring:
        assert ring.capacity == 8192
        ring.put(b"into what others find")
        with Ring.attach(named) as other:
            assert other.get(timeout=0) == b"into what others find"
        ring.unlink()


# ------------------------------------------------------------------ its creator is killed


@linux
def test_a_creator_killed_at_any_line_leaves_nothing_or_a_ring(named: str) -> None:
    result = run_python(kill_creators_everywhere, named, timeout=50)
    killed, there = map(int, result.stdout.split())
    assert killed > 100
    assert 0 < there < killed


def kill_creators_everywhere(where: str) -> None:
    resource_tracker.ensure_running()  # one for all, not one for each
    killed = there = 0
    for number in range(1, 10_000, 2):
        mine = f"{where}-{number}"
        pid = os.fork()
        if pid == 0:
            sys.settrace(kill_at(number))
            Ring.create(mine, capacity=4096)
            os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            there -= 1  # this one was made by a creator that got to its end
        else:
            killed += 1
        there += is_a_ring(mine)
        with Ring.ensure(mine, capacity=4096) as ring:
            ring.put(b"works")
            with Ring.attach(mine) as other:
                if other.get(timeout=0) != b"works":
                    raise AssertionError(mine)
            ring.unlink()
        if pid and number > 2 * killed:
            break
    print(killed, there)


def is_a_ring(where: str) -> bool:
    try:
        with Ring.attach(where) as ring:
            return ring.capacity == 4096
    except FileNotFoundError:
        return False


def kill_at(number: int) -> Any:
    """A trace function that kills this process at the so many-th line of the library it gets to."""
    seen: set[tuple[str, int]] = set()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if f"{os.sep}shmkit{os.sep}" not in frame.f_code.co_filename:
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


# ------------------------------------------------------------------ no room


@linux
@pytest.mark.parametrize("kind", ["anon", "shm", "file"])
def test_no_room_leaves_nothing(kind: str, make_where: Any, tmp_path: Path) -> None:
    where = make_where(kind)
    result = run_python(create_without_room, where)
    assert result.stdout.split() == ["ENOSPC", "True", "[]"]
    assert result.stderr == ""
    assert not list(tmp_path.iterdir())
    with Ring.ensure(where, capacity=4096) as ring:
        ring.put(b"x")
        assert ring.get() == b"x"


def create_without_room(where: str | None) -> None:
    resource_tracker.ensure_running()
    before = leaks.snapshot((where or "no name").removeprefix("shm:"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    for _ in range(3):
        try:
            Ring.create(where, capacity=1 << 24)
        except OSError as error:
            code, message = error.errno, str(error)
    left = leaks.since(before, (where or "no name").removeprefix("shm:"))
    print(errno.errorcode[code or 0], str((1 << 24) + 4096) in message, left)


def test_no_directory_is_told(tmp_path: Path) -> None:
    for make in (Ring.create, Ring.attach, Ring.ensure):
        with pytest.raises(FileNotFoundError):
            make(tmp_path / "missing" / "ring")
        with pytest.raises(OSError):  # noqa: PT011 - EISDIR or EEXIST
            make(tmp_path)


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    with Ring.create(tmp_path / "real", capacity=4096) as ring:
        ring.put(b"x")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        for make in (Ring.attach, Ring.create, Ring.ensure):
            with pytest.raises(OSError):  # noqa: PT011 - ELOOP or EEXIST
                make(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()


def test_a_pipe_is_no_ring(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = threading.Event()

    def attach() -> str:
        try:
            Ring.attach(tmp_path / "pipe")
        except (OSError, ValueError) as error:
            return type(error).__name__
        finally:
            done.set()
        return "attached"

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(attach)
        if not done.wait(5):
            os.close(os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK))
        assert done.is_set(), "attach waits for the other end of a pipe"
        assert waiting.result(5) != "attached"
