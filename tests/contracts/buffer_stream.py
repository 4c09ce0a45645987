"""What the file object, the lines and the chunks of a buffer promise; see `buffer.py`."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from typing import Any

import pytest

from shmkit import ClosedError, SharedBuffer
from tests.contracts.buffer import SIZE, Case, pattern

__all__ = ["READING", "READ_ONLY", "WRITING"]

READING: list[Case] = []
WRITING: list[Case] = []
READ_ONLY: list[Case] = []


@READING.append
def reads_like_a_file(buffer: SharedBuffer, model: bytearray) -> None:
    """The same calls on both streams give the same results."""
    ours, theirs = buffer.open(), io.BytesIO(model)
    for step in (
        lambda file: file.read(10),
        lambda file: file.tell(),
        lambda file: file.read1(5),
        lambda file: file.readline(),
        lambda file: file.readline(3),
        lambda file: file.readline(0),
        lambda file: file.seek(-100, os.SEEK_END),
        lambda file: file.readlines(),
        lambda file: file.read(),
        lambda file: file.readline(),
        lambda file: file.seek(SIZE + 50),
        lambda file: file.read(5),
        lambda file: file.tell(),
        lambda file: file.seek(-51, os.SEEK_CUR),
        lambda file: file.read(None),
        lambda file: file.seek(0),
        lambda file: next(file),
        lambda file: list(file),
        lambda file: (file.seek(4090), file.readlines(9)),
        lambda file: (file.readable(), file.seekable(), file.isatty(), file.closed),
    ):
        assert step(ours) == step(theirs)
    into, other = bytearray(7), bytearray(7)
    for at in (0, SIZE - 3, SIZE):
        ours.seek(at)
        theirs.seek(at)
        assert ours.readinto(into) == theirs.readinto(other)
        assert ours.readinto1(into) == theirs.readinto1(other)
        assert (into, ours.tell()) == (other, theirs.tell())
    ours.close()


@READING.append
def stream_tells_what_it_is(buffer: SharedBuffer, model: bytearray) -> None:
    with buffer.open() as stream:
        assert isinstance(stream, io.BufferedIOBase)
        assert stream.name == str(buffer.url)
        assert stream.writable() == (buffer.access != "r")
        assert stream.mode == ("rb" if buffer.access == "r" else "rb+")
        assert repr(stream) == f"<Stream {buffer.url} at 0>"
        for use in (stream.fileno, stream.detach):
            with pytest.raises(io.UnsupportedOperation):
                use()
        with pytest.raises(TypeError, match="send the buffer"):
            stream.__reduce_ex__(4)
    assert stream.closed
    assert repr(stream) == f"<Stream {buffer.url} closed>"
    stream.close()
    uses: list[Any] = [
        stream.read,
        stream.readline,
        stream.tell,
        stream.flush,
        stream.truncate,
        stream.readable,
        stream.writable,
        stream.seekable,
        stream.__enter__,
        lambda: stream.readinto(bytearray(1)),
        lambda: stream.seek(0),
        lambda: stream.write(b"a"),
        lambda: next(stream),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="closed"):
            use()
    assert buffer[0] == model[0]


@READING.append
def wrong_positions_are_value_errors(buffer: SharedBuffer, model: bytearray) -> None:
    with buffer.open() as stream:
        stream.seek(5)
        for arguments in ((-1,), (-6, 1), (-SIZE - 1, 2), (0, 3)):
            with pytest.raises(ValueError, match=r"before the beginning|'whence'"):
                stream.seek(*arguments)
        assert stream.tell() == 5


@READING.append
def stream_outlives_the_buffer(buffer: SharedBuffer, model: bytearray) -> None:
    stream, lines, chunks = buffer.open(), buffer.lines(), buffer.chunks(100)
    with pytest.raises(BufferError, match=r"open\(\)"):
        buffer.close(strict=True)
    buffer.close()
    assert stream.read() == model
    assert b"".join(lines) == model
    assert b"".join(chunks) == model
    stream.close()
    for use in (buffer.open, buffer.lines, lambda: buffer.chunks(1)):
        with pytest.raises(ClosedError):
            use()


@READING.append
def a_closed_stream_lets_go(buffer: SharedBuffer, model: bytearray) -> None:
    stream = buffer.open()
    stream.read()
    stream.close()
    buffer.close(strict=True)


@READING.append
def lines_are_those_of_a_file(buffer: SharedBuffer, model: bytearray) -> None:
    assert list(buffer.lines()) == io.BytesIO(model).readlines()


@READING.append
def chunks_are_views_of_all(buffer: SharedBuffer, model: bytearray) -> None:
    for size in (1, 999, 4096, SIZE, SIZE + 1):
        chunks = list(buffer.chunks(size))
        assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
        assert 0 < len(chunks[-1]) <= size
        assert b"".join(chunks) == model
        assert chunks[0].readonly == (buffer.access == "r")
    for size in (0, -1):
        with pytest.raises(ValueError, match="'size' must be at least 1"):
            buffer.chunks(size)


@WRITING.append
def writes_like_a_file(buffer: SharedBuffer, model: bytearray) -> None:
    with buffer.open() as stream:
        for at, data in ((0, b"abc"), (4095, b"xy"), (SIZE - 3, b"end"), (7, b"")):
            stream.seek(at)
            assert stream.write(data) == len(data)
            assert stream.tell() == at + len(data)
            model[at : at + len(data)] = data
            assert buffer[:] == model
        stream.seek(50)
        assert stream.write(memoryview(b"0123456789")[::2]) == 5
        assert stream.write(memoryview(bytes(16)).cast("Q")) == 16
        model[50:71] = b"02468" + bytes(16)
        stream.seek(10)
        stream.writelines([b"one\n", b"two\n"])
        model[10:18] = b"one\ntwo\n"
        stream.flush()
    assert buffer[:] == model


@WRITING.append
def what_does_not_fit_is_not_begun(buffer: SharedBuffer, model: bytearray) -> None:
    with buffer.open() as stream:
        for at, size in ((SIZE - 3, 4), (SIZE, 1), (SIZE + 7, 1)):
            stream.seek(at)
            with pytest.raises(OSError, match=f"do not fit at position {at} of {SIZE}"):
                stream.write(b"x" * size)
            assert stream.tell() == at
            assert stream.write(b"") == 0
    assert buffer[:] == model


@WRITING.append
def text_and_its_formats_go_through(buffer: SharedBuffer, model: bytearray) -> None:
    buffer[:] = b" " * SIZE
    rows = [["zwölf", "1"], ["三", "x,y\n"]]
    with io.TextIOWrapper(buffer.open(), "utf-8", newline="") as text:
        csv.writer(text).writerows(rows)
        end = text.tell()
    with io.TextIOWrapper(buffer.open(), "utf-8", newline="") as text:
        assert list(csv.reader(text))[:2] == rows
    buffer[:] = json.dumps(rows).encode().ljust(SIZE)
    with buffer.open() as stream:
        assert json.load(stream) == rows
    assert end == len('zwölf,1\r\n三,"x,y\n"\r\n'.encode())


@WRITING.append
def archives_go_through(buffer: SharedBuffer, model: bytearray) -> None:
    content = pattern(3000, 5)
    with buffer.open() as stream:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a/b", content)
        end = stream.tell()
    with buffer.open() as stream, zipfile.ZipFile(io.BytesIO(stream.read(end))) as archive:
        assert archive.read("a/b") == content
    # Read in place: what lies behind an archive must not be its comment, so there is nothing.
    buffer.move(SIZE - end, 0, end)
    with buffer.open() as stream, zipfile.ZipFile(stream) as archive:
        assert archive.read("a/b") == content
        assert archive.testzip() is None


@WRITING.append
def numpy_files_go_through(buffer: SharedBuffer, model: bytearray) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    array = np.arange(300, dtype="<u2").reshape(20, 15)
    with buffer.open() as stream:
        np.save(stream, array)
        stream.seek(0)
        assert (np.load(stream) == array).all()


@READ_ONLY.append
def streams_are_not_written(buffer: SharedBuffer, model: bytearray) -> None:
    with buffer.open() as stream:
        for use in (lambda: stream.write(b"a"), lambda: stream.truncate(5)):
            with pytest.raises(io.UnsupportedOperation, match=r"read-only|access='rw'"):
                use()
    assert buffer[:] == model
