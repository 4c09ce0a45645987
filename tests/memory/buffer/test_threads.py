"""Threads on one handle: each test fixes what another thread does at one step."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shmkit import ClosedError, SharedBuffer
from shmkit.memory.buffer.handle import Handle
from shmkit.memory.mapping import Region
from tests.contracts.buffer import pattern

SIZE = 8192


@pytest.fixture
def meanwhile(monkeypatch) -> Callable[..., None]:
    """Call `act` once, just before a function is called."""

    def arrange(owner: Any, name: str, act: Callable[[], object], when: str = "") -> None:
        real, done = getattr(owner, name), []

        def call(*args: Any, **kwargs: Any) -> Any:
            if not done and str(args[0]).startswith(when):
                done.append(True)
                act()
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    return arrange


# ------------------------------------------------------------------ a second handle


def test_a_number_that_another_file_got(meanwhile, tmp_path: Path) -> None:
    """It is closed between two system calls, and its descriptor's number goes to another file."""
    victim = tmp_path / "victim"
    victim.write_bytes(pattern(SIZE))
    buffer = SharedBuffer.create(size=SIZE)
    opened: list[int] = []

    def reuse() -> None:
        buffer.close()
        opened.append(os.open(victim, os.O_RDWR))

    meanwhile(os, "open", reuse, "/proc/self/fd/")
    with pytest.raises(ClosedError):
        SharedBuffer.attach(buffer)
    assert victim.read_bytes() == pattern(SIZE)
    os.close(opened[0])


def test_a_number_that_a_pipe_got(meanwhile) -> None:
    buffer = SharedBuffer.create(size=SIZE)
    pipes: list[int] = []

    def reuse() -> None:
        buffer.close()
        pipes.extend(os.pipe())
        os.close(pipes.pop())

    meanwhile(os, "open", reuse, "/proc/self/fd/")
    with pytest.raises(ClosedError):
        buffer.descriptor("r")
    os.close(pipes[0])


def test_closed_before_its_descriptor_is_opened(meanwhile) -> None:
    buffer = SharedBuffer.create(size=SIZE)
    meanwhile(os, "open", buffer.close, "/proc/self/fd/")
    with pytest.raises(ClosedError):
        buffer.descriptor()


def test_closed_before_its_descriptor_is_looked_at(monkeypatch) -> None:
    with SharedBuffer.create(size=SIZE) as buffer:
        real = Handle.mapped

        def mapped(self: SharedBuffer) -> bool:
            answer = real.__get__(self)
            self.close()
            return bool(answer)

        monkeypatch.setattr(Handle, "mapped", property(mapped))
        with pytest.raises(ClosedError):
            buffer.descriptor()


# ------------------------------------------------------------------ resizing


def test_buf_while_it_is_resized(make_buffer, meanwhile) -> None:
    """Another thread got a view of the old map; the next call gives one of the new map."""
    buffer = make_buffer(SIZE)
    meanwhile(Handle, "_stand_on", lambda: buffer.buf)
    buffer.resize(2 * SIZE)
    assert len(buffer.buf) == buffer.size == 2 * SIZE


def test_resized_while_buf_is_made(make_buffer) -> None:
    """The resize comes after `.buf` has its bytes and before it stores them."""
    buffer = make_buffer(SIZE)
    views = []

    class Slow:
        """Bytes of which slicing takes long."""

        def __getitem__(self, key: slice) -> memoryview:
            view = memoryview(bytes(SIZE))[key]
            if not views:
                views.append(view)
                buffer.resize(2 * SIZE)
            return view

    buffer._whole = Slow()
    assert len(buffer.buf) == len(buffer.buf) == 2 * SIZE


@pytest.mark.parametrize("kind", ["anon", "shm", "file"])
@pytest.mark.parametrize("size", [SIZE // 2, SIZE, 2 * SIZE])
def test_closed_while_it_is_resized(make_where, kind: str, size: int, meanwhile) -> None:
    buffer = SharedBuffer.create(make_where(kind), SIZE)
    meanwhile(Handle, "_stand_on", buffer.close)
    with pytest.raises(ClosedError):
        buffer.resize(size)
    assert buffer.closed
    with pytest.raises(ClosedError):
        buffer[0]
    with pytest.raises(ClosedError):
        buffer.buf  # noqa: B018
    buffer.unlink()


def test_resized_while_it_is_closed(make_buffer) -> None:
    buffer = make_buffer(SIZE)

    class Slow(Region):
        """A region whose mark takes long to set."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "left" and value and not moved:
                moved.append(True)
                buffer._region, buffer._whole = new, new.whole

    moved: list[bool] = []
    old = buffer._region
    new = Region(None, 0, memoryview(bytes(SIZE)))
    buffer._region = Slow(old.memory, old.start, old.whole)
    buffer.close()
    assert moved
    assert buffer.closed
    assert new.left


# ------------------------------------------------------------------ flush and advise


class Map:
    """A map that is closed or replaced just before it is used."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.calls = 0

    def flush(self, *args: int) -> None:
        self.calls += 1
        self._act()
        raise ValueError("mmap closed or invalid")

    madvise = flush

    def close(self) -> None:
        pass


@pytest.mark.parametrize("call", [lambda b: b.flush(), lambda b: b.advise("random")])
@pytest.mark.parametrize("way", ["closed", "resized", "broken"])
def test_flush_and_advise(make_buffer, call: Callable[[Any], None], way: str) -> None:
    buffer = make_buffer(SIZE)
    act = {
        "closed": buffer.close,
        "resized": lambda: buffer.resize(2 * SIZE),
        "broken": lambda: None,
    }[way]
    memory = Map(act)
    buffer._region.memory = memory
    if way == "resized":
        call(buffer)
    else:
        with pytest.raises(ClosedError if way == "closed" else ValueError) as caught:
            call(buffer)
        assert isinstance(caught.value, ClosedError) is (way == "closed")
    assert memory.calls == 1


# ------------------------------------------------------------------ sending


def test_a_descriptor_of_other_memory_is_not_received(tmp_path: Path) -> None:
    """By the time a process has started, the number it got may be another file's."""
    from shmkit.memory.buffer.pickling import _from_descriptor

    other = tmp_path / "other"
    other.write_bytes(pattern(SIZE))
    fd = os.open(other, os.O_RDWR)

    class Passed:
        def detach(self) -> int:
            return fd

    with SharedBuffer.create(size=SIZE) as buffer:
        with pytest.raises(FileNotFoundError, match="closed by its sender") as caught:
            _from_descriptor(SharedBuffer, Passed(), ("rw", 0, SIZE), buffer._identity)
        assert caught.value.errno == errno.ENOENT
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
