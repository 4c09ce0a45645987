"""Any byte range of any file, segment or device is mapped, or read where it cannot be mapped."""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmkit import SharedBuffer
from tests.contracts.buffer import pattern
from tests.processes import run_python

TOTAL = 3 * mmap.ALLOCATIONGRANULARITY + 123


def test_every_range_is_the_same_bytes(make_buffer, access: str) -> None:
    content = pattern(TOTAL)
    made = make_buffer(content)
    edges = [0, 1, 4095, 4096, 4097, 2 * 4096, TOTAL - 1, TOTAL]
    offsets = st.sampled_from(edges) | st.integers(0, TOTAL)

    @settings(max_examples=60, deadline=None)
    @given(offsets, st.none() | offsets)
    def check(offset: int, length: int | None) -> None:
        if length is not None and offset + length > TOTAL:
            with pytest.raises(ValueError, match=str(TOTAL)):
                SharedBuffer.attach(made, access=access, offset=offset, length=length)
            return
        end = TOTAL if length is None else offset + length
        with SharedBuffer.attach(made, access=access, offset=offset, length=length) as part:
            assert part[:] == content[offset:end]
            assert len(part) == end - offset

    check()


def test_every_write_lands(where) -> None:
    """Random writes through random windows, compared with a bytearray after each."""
    model = bytearray(pattern(TOTAL))

    with SharedBuffer.create(where, TOTAL) as made:
        made[:] = model

        @settings(max_examples=60, deadline=None)
        @given(st.data())
        def check(data) -> None:
            offset = data.draw(st.integers(0, TOTAL - 1))
            length = data.draw(st.integers(1, TOTAL - offset))
            start = data.draw(st.integers(0, length))
            stop = data.draw(st.integers(start, length))
            step = data.draw(st.sampled_from([1, 1, 2, 7, 4097]))
            with SharedBuffer.attach(made, offset=offset, length=length) as part:
                target = slice(start, stop, step)
                new = pattern(len(range(start, stop, step)), data.draw(st.integers(0, 99)))
                part[target] = new
            model[offset + start : offset + stop : step] = new
            assert made[:] == model

        check()
        made.unlink()


@pytest.mark.parametrize(
    ("offset", "length"),
    [(-1, None), (101, None), (0, 101), (100, 1), (50, 51), (0, -1), (1 << 70, None), (0, 1 << 70)],
)
def test_ranges_outside(make_buffer, offset: int, length: int | None) -> None:
    made = make_buffer(100)
    with pytest.raises(ValueError, match=r"100 bytes|negative"):
        SharedBuffer.attach(made, offset=offset, length=length)


@pytest.mark.parametrize("bad", [1.0, "1", b""])
def test_ranges_of_other_types(make_buffer, bad) -> None:
    made = make_buffer(100)
    for range_ in ({"offset": bad}, {"length": bad}):
        with pytest.raises(TypeError):
            SharedBuffer.attach(made, **range_)


# ------------------------------------------------------------------ files that are not plain


def test_empty_file_is_an_empty_buffer(tmp_path: Path, access: str) -> None:
    path = tmp_path / "empty"
    path.touch()
    with SharedBuffer.attach(path, access=access) as buffer:
        assert len(buffer) == 0
        assert buffer[:] == b""
        assert buffer.buf.nbytes == 0
        assert list(buffer) == []
        assert buffer.mapped
        assert buffer.view("Q").tolist() == []
        buffer.flush()
        buffer.advise("random")
        with pytest.raises(IndexError):
            buffer[0]
        with pytest.raises(ValueError, match="has no map"):
            buffer.raw  # noqa: B018
        if access != "r":
            buffer[0:0] = b""
        buffer.close(strict=True)
    with pytest.raises(ValueError, match="0 bytes"):
        SharedBuffer.attach(path, access=access, offset=1)


def test_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = pattern(300_000)  # more than a pipe holds
    for options, expected in (
        ({}, content),
        ({"offset": 1000, "length": 77}, content[1000:1077]),
        ({"offset": 299_000}, content[299_000:]),
    ):
        writer = threading.Thread(target=feed, args=(path, content))
        writer.start()
        with SharedBuffer.attach(path, access="r", timeout=20, **options) as buffer:
            assert not buffer.mapped
            assert buffer[:] == expected
            assert buffer.buf.readonly
            with pytest.raises(ValueError, match="has no map"):
                buffer.raw  # noqa: B018
            with pytest.raises(OSError, match="not mapped"):
                buffer.descriptor()
            copy = pickle.loads(pickle.dumps(buffer))
            assert (copy.mapped, copy.access, copy[:]) == (False, "r", expected)
            copy.close()
            buffer.close(strict=True)
        writer.join()


def feed(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except BrokenPipeError:
        pass  # the reader had all it wanted


def test_pipe_cannot_be_written_as_memory(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for access in ("rw", "cow"):
        with pytest.raises(OSError, match="is a pipe, which cannot be mapped; access 'r' would"):
            SharedBuffer.attach(path, access=access)
    with pytest.raises(OSError, match="is a pipe"):
        SharedBuffer.ensure(path, 10)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_proc_file_is_read() -> None:
    expected = Path("/proc/version").read_bytes()
    with SharedBuffer.attach("file:/proc/version", access="r") as buffer:
        assert buffer[:] == expected
        assert not buffer.mapped
    with SharedBuffer.attach("file:/proc/version", access="r", offset=3, length=4) as buffer:
        assert buffer[:] == expected[3:7]
    with pytest.raises(ValueError, match="reach outside"):
        SharedBuffer.attach("file:/proc/version", access="r", length=1 << 20)
    with pytest.raises(OSError, match="cannot be mapped"):
        SharedBuffer.attach("file:/proc/version", access="cow")


@pytest.mark.skipif(not Path("/sys/kernel/mm").exists(), reason="there is no /sys")
def test_sys_file_is_read() -> None:
    """A file of /sys claims 4096 bytes, has fewer, and cannot be mapped."""
    path = next(p for p in Path("/sys/kernel/mm").rglob("*") if p.is_file() and os.access(p, 4))
    with SharedBuffer.attach(path, access="r") as buffer:
        assert buffer[:] == path.read_bytes()
        assert not buffer.mapped


def test_endless_device_needs_a_length() -> None:
    with pytest.raises(OSError, match="no end: give a length"):
        SharedBuffer.attach("file:/dev/zero", access="r")
    with SharedBuffer.attach("file:/dev/zero", access="r", length=100) as buffer:
        assert buffer[:] == bytes(100)


def test_directory(tmp_path: Path, access: str) -> None:
    with pytest.raises(IsADirectoryError):
        SharedBuffer.attach(tmp_path, access=access)
    with pytest.raises(FileExistsError):
        SharedBuffer.create(tmp_path, 1)


def test_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with pytest.raises(OSError, match="is a socket, which cannot be mapped"):
            SharedBuffer.attach(path)


def test_symlink_in_dev_shm_is_never_followed(tmp_path: Path, unique_name) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    name = unique_name()
    Path("/dev/shm", name).symlink_to(target)
    try:
        for access in ("r", "rw"):
            with pytest.raises(OSError, match="symbolic links"):
                SharedBuffer.attach(name, access=access)
        with pytest.raises(FileExistsError):
            SharedBuffer.create(name, 10)
        assert target.read_bytes() == b"precious"
    finally:
        Path("/dev/shm", name).unlink()


def test_no_permission(make_where) -> None:
    where = make_where("shm")
    # Root may do everything, so its child becomes another user.
    mode = 0o600 if os.geteuid() == 0 else 0o400
    with SharedBuffer.create(where, 1, mode=mode):
        run_python(
            """
            import os
            from shmkit import SharedBuffer
            import shmkit.memory.backends.named
            if os.geteuid() == 0:
                os.setuid(65534)
            try:
                SharedBuffer.attach(args[0])
            except PermissionError as error:
                assert args[0] in str(error), error
            else:
                raise AssertionError("attached")
            """,
            where,
        )


def test_file_seen_through_ordinary_io(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"hello world")
    with SharedBuffer.attach(path) as buffer:
        buffer[0:5] = b"HELLO"
        buffer.flush()
        assert path.read_bytes() == b"HELLO world"
        with path.open("r+b") as file:
            file.write(b"12345")
        assert buffer[:] == b"12345 world"


def test_flush_of_any_range_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with SharedBuffer.create(path, 3 * 4096) as made:
        with SharedBuffer.attach(path, offset=4097) as part:
            part[:3] = b"abc"
            part.flush(1, 1)
            part.flush(0, 5000)
            part.flush(len(part) - 1)
        assert made[4097:4100] == b"abc"
    assert path.read_bytes()[4097:4100] == b"abc"


@pytest.mark.parametrize("span", [{"offset": -10, "length": 2}, {"offset": -1}, {"length": -1}])
@pytest.mark.parametrize("kind", ["pipe", "file of /proc"])
def test_negative_ranges_of_what_is_read(tmp_path: Path, kind: str, span) -> None:
    """Refused before anything is read."""
    path = Path("/proc/self/status")
    if kind == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
        end = os.open(path, os.O_RDWR)
        os.write(end, b"content")
    with pytest.raises(ValueError, match="must not be negative"):
        SharedBuffer.attach(path, access="r", **span)
    if kind == "pipe":
        assert os.read(end, 100) == b"content"
        os.close(end)
