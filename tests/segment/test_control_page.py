"""The page of a lock or an event: its name, what else may live there, and what it lets go of."""

from __future__ import annotations

import os
import pickle
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmkit import (
    Acquired,
    ClosedError,
    CorruptSegment,
    Event,
    IncompatibleSegment,
    Lock,
    Ring,
    SharedBuffer,
)
from shmkit.segment.membership import Membership
from shmkit.tools.testing import assert_no_leaks
from tests.processes import run_python
from tests.sync.peers import by_name, names_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /dev/shm")
SIZE = 20480
INCARNATION, STATE, PLACES = 0x030, 0x068, 0x800


@pytest.fixture(params=[Lock, Event])
def kind(request: pytest.FixtureRequest) -> Any:
    """Each in turn."""
    return request.param


@pytest.fixture
def foreign(unique_name: str) -> Iterator[SharedBuffer]:
    """Memory of somebody else, of the size of a page."""
    with SharedBuffer.create(unique_name, SIZE) as buffer:
        yield buffer


def use(thing: Lock | Event) -> None:
    """What works on one that is in order."""
    if isinstance(thing, Lock):
        assert thing.acquire(timeout=20)
        thing.release()
    else:
        thing.set()
        assert thing.wait(20)
        thing.clear()


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("name", ["", "a/b", "/a", "a\0b", ".", "..", "n" * 251, "é" * 126])
def test_a_bad_name_is_refused(kind: Any, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        kind(name)


def test_a_name_is_told(kind: Any, unique_name: str) -> None:
    named, unnamed = kind(unique_name), kind()
    assert named.name == unique_name
    assert unique_name in repr(named)
    assert unnamed.name == ""
    named.close()
    unnamed.close()
    assert named.name == unique_name
    assert unnamed.name == ""


def test_two_without_a_name_have_nothing_in_common() -> None:
    first, second = Lock(), Lock()
    assert first.acquire()
    assert second.acquire(False)
    first.close()
    second.close()


@linux
def test_the_file_is_for_its_user_alone(kind: Any, unique_name: str) -> None:
    thing = kind(unique_name)
    for path in [Path("/dev/shm", unique_name), *names_of(thing)]:
        assert path.stat().st_mode & 0o777 == 0o600
    thing.close()


# ------------------------------------------------------------------ what else has the name


def test_the_name_of_the_other_kind(unique_name: str) -> None:
    for kind, other in ((Lock, Event), (Event, Lock)):
        thing = kind(unique_name)
        with pytest.raises(IncompatibleSegment, match=unique_name) as caught:
            other(unique_name)
        assert unique_name in caught.value.where
        use(thing)
        thing.close()


def test_the_name_of_a_ring(kind: Any, unique_name: str) -> None:
    for capacity in (4096, 1 << 20):
        with Ring.create(unique_name, capacity=capacity) as ring:
            with pytest.raises(IncompatibleSegment, match=unique_name):
                kind(unique_name)
            ring.put(b"x")
            assert ring.get() == b"x"


@pytest.mark.parametrize("size", [1, 15, 4096, SIZE - 1])
def test_memory_that_is_too_small(kind: Any, unique_name: str, size: int) -> None:
    with SharedBuffer.create(unique_name, size) as buffer:
        with pytest.raises(IncompatibleSegment, match=unique_name):
            kind(unique_name)
        assert bytes(buffer.buf) == bytes(size)


@pytest.mark.parametrize("at", [0, 7, 15, 16, 0x2F, 0x60, 0x80, 0x100, PLACES, SIZE - 1])
def test_foreign_memory_is_left_alone(kind: Any, foreign: SharedBuffer, at: int) -> None:
    """Though it begins with zeros, as a page does at first."""
    foreign[at] = 7
    before = bytes(foreign.buf)
    for _ in range(2):
        with pytest.raises(IncompatibleSegment, match=foreign.name):
            kind(foreign.name)
    assert bytes(foreign.buf) == before
    SharedBuffer.attach(foreign.name).close()  # the name is there


def test_foreign_memory_of_another_size_is_left_alone(kind: Any, unique_name: str) -> None:
    with SharedBuffer.create(unique_name, SIZE + 1) as buffer:
        with pytest.raises(IncompatibleSegment, match=unique_name):
            kind(unique_name)
        assert bytes(buffer.buf) == bytes(SIZE + 1)
        SharedBuffer.attach(unique_name).close()


def test_of_another_version(kind: Any, unique_name: str) -> None:
    thing = kind(unique_name)
    with SharedBuffer.attach(unique_name) as buffer:
        buffer[8] = 99
        with pytest.raises(IncompatibleSegment, match=unique_name):
            kind(unique_name)
        buffer[8] = 1
    use(thing)
    thing.close()


# ------------------------------------------------------------------ damaged while it is in use


@linux
def test_named_semaphores_that_somebody_removed(
    kind: Any, unique_name: str, monkeypatch: Any
) -> None:
    """Newcomers are told; who is in goes on."""
    by_name(monkeypatch)
    thing = kind(unique_name)
    for path in names_of(thing)[1:]:
        path.unlink()
    with pytest.raises(FileNotFoundError, match="semaphore"):
        pickle.loads(pickle.dumps(thing))
    use(thing)
    thing.close()
    thing = kind(unique_name)  # alone, one begins anew
    use(thing)
    thing.close()


@linux
def test_semaphores_of_another_kind_are_refused(
    kind: Any, unique_name: str, monkeypatch: Any
) -> None:
    """Those of another C library are told in the same way."""
    thing = kind(unique_name)
    with SharedBuffer.attach(unique_name) as buffer:
        theirs = bytes(buffer.buf[0x70:0x78])
        assert theirs.startswith(b"glibc")
        buffer.buf[0x70:0x78] = b"other\0\0\x08"
        with pytest.raises(IncompatibleSegment, match="C library"):
            kind(unique_name)
        buffer.buf[0x70:0x78] = theirs
    by_name(monkeypatch)
    with pytest.raises(IncompatibleSegment, match="SHMKIT_SEMAPHORES"):
        kind(unique_name)
    use(thing)
    thing.close()


@pytest.mark.parametrize("part", [slice(0, 16), slice(INCARNATION, INCARNATION + 16)])
def test_a_beginning_that_somebody_erased(kind: Any, unique_name: str, part: slice) -> None:
    """A newcomer does not begin anew beside those who are in."""
    thing = kind(unique_name)
    with SharedBuffer.attach(unique_name) as buffer:
        before = bytes(buffer.buf[part])
        buffer.buf[part] = bytes(len(before))
        erased = bytes(buffer.buf)
        with pytest.raises((CorruptSegment, IncompatibleSegment), match=unique_name):
            kind(unique_name)
        assert bytes(buffer.buf) == erased
        use(thing)
        buffer.buf[part] = before
        other = kind(unique_name)
        other.close()
    thing.close()


def test_a_page_that_says_it_is_shut(kind: Any, unique_name: str) -> None:
    thing = kind(unique_name)
    with SharedBuffer.attach(unique_name) as buffer:
        buffer[STATE] = 2
        with pytest.raises(CorruptSegment, match=unique_name):
            kind(unique_name)
    thing.close()


# ------------------------------------------------------------------ closing


@linux
def test_a_closed_one_keeps_nothing(kind: Any, unique_name: str) -> None:
    for name in (None, unique_name):
        with assert_no_leaks(names=unique_name, timeout=0):
            thing = kind(name)
            use(thing)
            thing.close()
        assert "closed" in repr(thing)


@linux
def test_one_that_could_not_be_made_keeps_nothing(kind: Any, foreign: SharedBuffer) -> None:
    foreign[0] = 7
    with assert_no_leaks(names=foreign.name, timeout=0), pytest.raises(IncompatibleSegment):
        kind(foreign.name)


def test_too_many(kind: Any, unique_name: str) -> None:
    things = [kind(unique_name) for _ in range(120)]
    with pytest.raises(OSError, match="120"):
        kind(unique_name)
    things.pop().close()
    things.append(kind(unique_name))
    for thing in things:
        use(thing)
        thing.close()


@linux
def test_no_descriptor_is_left(kind: Any, unique_name: str) -> None:
    """In whatever step of its making they run out: nothing stays, and the next attempt works."""
    run_python(run_out_of_descriptors, kind, unique_name)
    assert not Path("/dev/shm", unique_name).exists()


def run_out_of_descriptors(kind: Any, name: str) -> None:
    kind().close()  # starts the resource tracker
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
    for where in (None, name):
        failed = 0
        for room in range(8):
            taken = []
            with pytest.raises(OSError, match="open files"):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            for _ in range(room):
                os.close(taken.pop())
            thing = None
            try:
                thing = kind(where)
            except OSError:
                failed += 1
            for fd in taken:
                os.close(fd)
            if thing is not None:
                use(thing)
                thing.close()
            assert where is None or not Path("/dev/shm", where).exists(), room
            open_ones = [path for fd in range(64) if (path := path_of(fd)).startswith("/dev/shm")]
            assert not open_ones, room
        assert 0 < failed < 8


def path_of(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except FileNotFoundError:
        return ""


def test_pickling_a_closed_one(kind: Any, unique_name: str) -> None:
    thing = kind(unique_name)
    late = pickle.dumps(thing)
    thing.close()
    with pytest.raises(ClosedError):
        pickle.dumps(thing)
    with pytest.raises(FileNotFoundError, match=unique_name):
        pickle.loads(late)


@linux
def test_a_name_that_goes_while_another_enters(unique_name: str, monkeypatch: Any) -> None:
    """The last user leaves, and takes the name along, when the next one is just at the door."""
    last, admit = Lock(unique_name), Membership.admit

    def hold_up(self: Membership, take_place: Callable[[], None]) -> None:
        monkeypatch.setattr(Membership, "admit", admit)
        last.close()
        admit(self, take_place)

    monkeypatch.setattr(Membership, "admit", hold_up)
    lock, other = Lock(unique_name), Lock(unique_name)
    assert lock.acquire() is Acquired.YES
    assert other.acquire(False) is Acquired.NO
    lock.release()
    lock.close()
    other.close()
    assert not Path("/dev/shm", unique_name).exists()
