"""Memory of another size: growing harms no process, and shrinking is refused where it could."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmkit import SharedBuffer
from shmkit.memory import mappers
from shmkit.memory.buffer import resizing
from tests.contracts.buffer import pattern
from tests.processes import in_child, wait_until

SIZE = 10_000


def memory_size(buffer: SharedBuffer) -> int:
    fd = buffer.descriptor()
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def test_any_sequence_of_sizes(where) -> None:
    model = bytearray(pattern(SIZE))
    with SharedBuffer.create(where, SIZE) as buffer:
        buffer[:] = model

        @settings(max_examples=40, deadline=None)
        @given(st.integers(1, 5 * 4096) | st.sampled_from([1, 4095, 4096, 4097, 8192]))
        def check(size: int) -> None:
            buffer.resize(size)
            if size > len(model):
                model.extend(bytes(size - len(model)))
            del model[size:]
            assert buffer[:] == model
            assert buffer.size == len(buffer) == memory_size(buffer) == size
            buffer[size // 2 :] = model[size // 2 :] = pattern(size - size // 2, size)

        check()
        with SharedBuffer.attach(buffer) as other:
            assert other[:] == model
        buffer.unlink()


def test_growing_keeps_old_views(make_buffer) -> None:
    buffer = make_buffer(pattern(SIZE))
    old = buffer.buf
    buffer.resize(5 * SIZE)
    assert old == pattern(SIZE)
    old[0] ^= 255
    assert buffer[0] == pattern(SIZE)[0] ^ 255
    assert buffer[SIZE:] == bytes(4 * SIZE)


def test_other_handles_catch_up(make_buffer) -> None:
    one = make_buffer(SIZE)
    with SharedBuffer.attach(one) as two:
        one.resize(2 * SIZE)
        assert len(two) == SIZE
        one[-1] = 7
        two.resize(2 * SIZE)
        assert two[-1] == 7


def test_file_has_the_new_size(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with SharedBuffer.create(path, 5) as buffer:
        buffer[:] = b"hello"
        buffer.resize(7)
        assert path.read_bytes() == b"hello\0\0"
        buffer.resize(4)
        assert path.read_bytes() == b"hell"


# ------------------------------------------------------------------ shrinking


def test_views_forbid_shrinking(make_buffer) -> None:
    content = pattern(SIZE)
    buffer = make_buffer(content)
    view = buffer.buf
    with pytest.raises(BufferError, match=r"cannot shrink.*memoryview \(\.buf\)"):
        buffer.resize(100)
    assert buffer[:] == view == content
    assert memory_size(buffer) == SIZE
    del view
    buffer.resize(100)
    assert buffer[:] == content[:100]


@pytest.mark.parametrize("other", ["rw", "r", "cow", "part"])
def test_other_handles_forbid_shrinking(make_buffer, other: str) -> None:
    content = pattern(SIZE)
    buffer = make_buffer(content)
    span = {"offset": 5000, "length": 10} if other == "part" else {"access": other}
    with SharedBuffer.attach(buffer, **span) as second:
        with pytest.raises(BufferError, match="another handle, or a view of one, in this process"):
            buffer.resize(100)
        assert buffer[:] == content
        assert second[:] == content[second.offset : second.offset + len(second)]
        view = second.buf
    with pytest.raises(BufferError, match="another handle"):
        buffer.resize(100)
    del view
    buffer.resize(100)


MAP = """
from shmkit import SharedBuffer
with args[0] as buffer:
    link.send("mapped")
    link.recv()
    link.send(bytes(buffer[-4:]))
"""


def test_other_processes_forbid_shrinking(make_buffer, start_child) -> None:
    content = pattern(SIZE)
    buffer = make_buffer(content)
    child = start_child(MAP, buffer)
    assert child.receive() == "mapped"
    with pytest.raises(BufferError, match=rf"mapped by process {child.pid},"):
        buffer.resize(1)
    child.send("go on")
    assert child.receive() == content[-4:]
    child.finish()
    buffer.resize(1)
    assert buffer[:] == content[:1]


def test_who_maps_is_not_known(make_buffer, monkeypatch) -> None:
    buffer = make_buffer(pattern(SIZE))
    monkeypatch.setattr(resizing, "mappers", lambda *_, **__: {})
    with pytest.raises(OSError, match="not known") as caught:
        buffer.resize(1)
    assert caught.value.errno == errno.ENOTSUP
    assert buffer[:] == pattern(SIZE)
    buffer.resize(2 * SIZE)


def test_hidden_maps(make_buffer, monkeypatch, backend: str) -> None:
    """A process that hides its maps counts only if it may open the memory."""
    read = mappers._maps_of

    def hide(pid: int) -> str:
        if pid != os.getpid():
            raise PermissionError
        return read(pid)

    buffer = make_buffer(pattern(SIZE))
    monkeypatch.setattr(mappers, "_maps_of", hide)
    buffer.resize(100)
    if backend != "anon":
        fd = buffer.descriptor()
        os.fchmod(fd, 0o644)
        os.close(fd)
        with pytest.raises(OSError, match="hides its maps"):
            buffer.resize(10)
        assert buffer[:] == pattern(SIZE)[:100]


@pytest.mark.parametrize("size", [SIZE - 1, SIZE, 2 * SIZE, 5 * SIZE - 1])
def test_shrinking_what_others_made_longer(make_buffer, size: int) -> None:
    """Afterwards the handle has all of the memory, even if that is more than before."""
    buffer = make_buffer(pattern(SIZE))
    with SharedBuffer.attach(buffer) as other:
        other.resize(5 * SIZE)
        other[SIZE:] = pattern(4 * SIZE)
    buffer.resize(size)
    assert buffer.size == len(buffer) == memory_size(buffer) == size
    assert buffer[:] == (pattern(SIZE) + pattern(4 * SIZE))[:size]


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize("span", [{"access": "r"}, {"access": "cow"}, {"offset": 1}, {"length": 9}])
def test_handles_that_cannot_resize(make_buffer, span) -> None:
    made = make_buffer(SIZE)
    with (
        SharedBuffer.attach(made, **span) as buffer,
        pytest.raises(ValueError, match="access='rw' on all of the memory"),
    ):
        buffer.resize(2 * SIZE)
    assert memory_size(made) == SIZE


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (1 << 60, ValueError), (1.5, TypeError)]
)
def test_impossible_sizes(make_buffer, size, error) -> None:
    buffer = make_buffer(SIZE)
    with pytest.raises(error):
        buffer.resize(size)
    assert len(buffer) == SIZE


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_unlinked_memory_cannot_be_resized(make_where, kind: str) -> None:
    with SharedBuffer.create(make_where(kind), SIZE) as buffer:
        buffer.unlink()
        with pytest.raises(FileNotFoundError):
            buffer.resize(2 * SIZE)
        assert buffer[:] == bytes(SIZE)


# ------------------------------------------------------------------ two at once

FAIL = """
import errno, os
from shmkit import SharedBuffer
def fill(fd, start, length):
    link.send(os.fstat(fd).st_size)
    link.recv()
    raise OSError(errno.ENOSPC, "full")
os.posix_fallocate = fill
os.ftruncate = lambda fd, size: fill(fd, 0, size)
with args[0] as buffer:
    try:
        buffer.resize(1 << 20)
    except OSError as error:
        link.send(error.errno)
"""


def waits_for_lock(buffer: SharedBuffer) -> bool:
    inode = f":{buffer._identity[1]} "
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and inode in line for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/locks tells which processes wait")
def test_a_failed_growth_leaves_that_of_others(make_buffer, start_child) -> None:
    """A process that finds no room cuts off only its own part, not what another added."""
    buffer = make_buffer(SIZE)
    child = start_child(FAIL, buffer)
    assert child.receive() == SIZE
    growing = threading.Thread(target=buffer.resize, args=(5 * SIZE,))
    growing.start()
    wait_until(lambda: not growing.is_alive() or waits_for_lock(buffer))
    child.send("go on")
    assert child.receive() == errno.ENOSPC
    growing.join()
    assert memory_size(buffer) == 5 * SIZE
    buffer[-1] = 7
    assert buffer[-1] == 7
    child.finish()


# ------------------------------------------------------------------ killed with the lock in hand

FORKS = """
import os, signal, threading
from shmkit import SharedBuffer
buffer = SharedBuffer.attach(args[0])
reserving = threading.Event()
def fill(*_):
    reserving.set()
    threading.Event().wait()
os.posix_fallocate = fill
threading.Thread(target=lambda: buffer.resize(50_000), daemon=True).start()
reserving.wait()
pid = os.fork()
if pid == 0:
    link.close()
    signal.pause()
link.send(pid)
signal.pause()
"""


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_a_child_of_a_killed_process_does_not_keep_its_lock(
    make_where, start_child, kind: str
) -> None:
    where = make_where(kind)
    with SharedBuffer.create(where, SIZE) as buffer:
        resizer = start_child(FORKS, where)
        child = resizer.receive()
        try:
            resizer.kill()
            buffer.resize(2 * SIZE)
        finally:
            os.kill(child, signal.SIGKILL)
            wait_until(lambda: is_gone(child))
        buffer.unlink()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_fork_in_a_locked_thread_keeps_its_descriptor(tmp_path: Path) -> None:
    """A forked child closes only the descriptors of threads that it does not have."""
    fd = os.open(tmp_path / "x", os.O_CREAT | os.O_RDWR)
    try:
        with resizing.locked(fd):
            assert in_child(lambda: os.fstat(fd).st_size) == 0
        assert not resizing._locking
    finally:
        os.close(fd)
