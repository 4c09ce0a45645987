"""A SharedBuffer is a buffer to others: to the interpreter, to numpy, to other objects of ours."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest

from shmkit import Ring, SharedBuffer, compiled
from tests.contracts.buffer import SIZE, pattern

CONTENT = pattern(SIZE)

# Plain Python has no way to be a buffer before 3.12.
needs_protocol = pytest.mark.skipif(
    compiled.core is None and sys.version_info < (3, 12), reason="needs Python 3.12 or the core"
)


@pytest.fixture
def buffer(make_buffer) -> SharedBuffer:
    made: SharedBuffer = make_buffer(CONTENT)
    return made


@needs_protocol
def test_the_interpreter_takes_it(buffer: SharedBuffer, tmp_path) -> None:
    uses: list[Callable[[Any], Any]] = [
        lambda b: memoryview(b).tobytes(),
        lambda b: hashlib.sha256(b).digest(),
        lambda b: [m.span() for m in re.finditer(re.escape(CONTENT[5000:5010]), b)],
        lambda b: b"-".join([b, b]),
        lambda b: struct.unpack_from("<Q", b, 3),
        lambda b: int.from_bytes(b, "little"),
        bytearray,
    ]
    for use in uses:
        assert use(buffer) == use(CONTENT)
    with (tmp_path / "out").open("wb", buffering=0) as file:
        assert os.write(file.fileno(), buffer) == file.write(buffer) == SIZE
    assert (tmp_path / "out").read_bytes() == CONTENT * 2
    memoryview(buffer)[:3] = b"abc"
    assert buffer[:3] == b"abc"
    with SharedBuffer.attach(buffer, access="r") as reader:
        assert memoryview(reader).readonly
        view = memoryview(reader)
    assert view[:3] == b"abc"  # a view keeps the memory


def test_it_is_copied_at_once(buffer: SharedBuffer, access: str, monkeypatch) -> None:
    monkeypatch.setattr(SharedBuffer, "__iter__", None)  # byte by byte
    with SharedBuffer.attach(buffer, access=access, offset=7) as part:
        assert bytes(part) == CONTENT[7:]


def test_numpy_sees_the_memory(buffer: SharedBuffer, access: str) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    with SharedBuffer.attach(buffer, access=access, offset=1) as part:
        array = np.asarray(part)
        assert (array.dtype, array.shape) == (np.uint8, (SIZE - 1,))
        assert array.flags.writeable == (access != "r")
        assert array.tobytes() == CONTENT[1:]
        part_of_it = np.asarray(part, "u1")
        copy = np.array(part)
        if access != "r":
            array[0] = 255 - array[0]
            assert part[0] == array[0] == part_of_it[0] != copy[0]
        assert np.asarray(part, "f4").tolist() == list(part[:])
    assert array[1] == CONTENT[2]  # the array keeps the memory


def test_the_way_that_numpy_takes_without_the_protocol(buffer: SharedBuffer) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    assert np.shares_memory(buffer.__array__(), buffer.ndarray(SIZE, "u1"))
    assert buffer.__array__("f8").dtype == "f8"
    assert not np.shares_memory(buffer.__array__(copy=True), buffer.ndarray(SIZE, "u1"))
    with pytest.raises(ValueError, match="are uint8: as f8 they are a copy"):
        buffer.__array__("f8", copy=False)


def test_ours_take_it(buffer: SharedBuffer) -> None:
    """Also in plain Python 3.11."""
    with SharedBuffer.create(size=9) as other, Ring.create(capacity=4096) as ring:
        other[:] = b"the words"
        buffer[4000:4009] = other
        assert (buffer[4000:4009], buffer.find(other), other in buffer) == (other[:], 4000, True)
        assert buffer.count(other) == buffer.replace(other, other) == 1
        ring.put(other)
        assert ring.get() == b"the words"
        ring.put_many([other, b"more"])
        assert ring.get_many() == [b"the words", b"more"]
        stream = buffer.open()
        stream.write(other)
        stream.seek(5)
        assert stream.readinto(other) == 9
        assert other[:4] == b"ords"


def test_what_has_no_bytes_is_told(buffer: SharedBuffer) -> None:
    for wrong, word in (("text", "str: encode it first"), (3.5, "float"), (None, "NoneType")):
        for use in (
            lambda wrong=wrong: buffer.replace(wrong, wrong),
            lambda wrong=wrong: buffer.__setitem__(slice(0, 3), wrong),
        ):
            with pytest.raises(TypeError, match=f"bytes are needed, or what has some, not {word}"):
                use()
