"""What a SharedBuffer promises whatever kind of memory it is on: cases, each run on all of them.

A case takes a buffer of `SIZE` bytes that hold `pattern(SIZE)`, and the same bytes in a bytearray
to be compared with. READING cases hold for every access, WRITING ones where writing is allowed,
READ_ONLY ones for access "r".
"""

from __future__ import annotations

import array
import random
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from shmkit import ClosedError, SharedBuffer

__all__ = ["READING", "READ_ONLY", "SIZE", "WRITING", "pattern"]

Case: TypeAlias = "Callable[[SharedBuffer, bytearray], None]"

SIZE = 10_000
READING: list[Case] = []
WRITING: list[Case] = []
READ_ONLY: list[Case] = []


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes without a period that a wrong offset could hide behind."""
    return random.Random(seed).randbytes(size)


SLICES = [
    slice(None),
    slice(0, 0),
    slice(0, 1),
    slice(4095, 4097),
    slice(-3, None),
    slice(-10, -2),
    slice(None, None, 7),
    slice(None, None, -1),
    slice(9000, 100, -13),
    slice(500, 100),
    slice(SIZE - 5, SIZE * 3),
    slice(-SIZE * 3, 5),
]


# ------------------------------------------------------------------ reading


@READING.append
def length_is_size(buffer: SharedBuffer, model: bytearray) -> None:
    assert len(buffer) == buffer.size == buffer.buf.nbytes == len(model)


@READING.append
def items_are_ints(buffer: SharedBuffer, model: bytearray) -> None:
    for index in (0, 1, 4095, 4096, SIZE - 1, -1, -SIZE):
        assert buffer[index] == model[index]
    assert list(buffer) == list(model)


@READING.append
def items_outside_are_index_errors(buffer: SharedBuffer, model: bytearray) -> None:
    for index in (SIZE, -SIZE - 1, 1 << 70):
        with pytest.raises(IndexError):
            buffer[index]


@READING.append
def other_keys_are_type_errors(buffer: SharedBuffer, model: bytearray) -> None:
    for key in ("1", 1.0, None, (1, 2), ...):
        with pytest.raises(TypeError):
            buffer[key]  # type: ignore[call-overload]


@READING.append
def slices_are_bytes(buffer: SharedBuffer, model: bytearray) -> None:
    for part in SLICES:
        assert buffer[part] == bytes(model[part]), part
        assert type(buffer[part]) is bytes


@READING.append
def buf_is_the_bytes(buffer: SharedBuffer, model: bytearray) -> None:
    assert buffer.buf == model
    assert buffer.buf.format == "B"
    assert buffer.buf.readonly == (buffer.access == "r")


@READING.append
def typed_views_read_native_items(buffer: SharedBuffer, model: bytearray) -> None:
    for code in "bBhHiIlLqQnNfdcP?":
        for offset in (0, 1, 4093):
            view = buffer.view(code, offset)
            raw = bytes(model[offset : offset + view.nbytes])
            assert view.tobytes() == raw
            assert len(view) == (SIZE - offset) // view.itemsize
            assert view.format == code
            three = buffer.view(code, offset, 3)
            assert three.tobytes() == raw[: 3 * view.itemsize]


@READING.append
def views_of_nothing(buffer: SharedBuffer, model: bytearray) -> None:
    for view in (buffer.view("Q", SIZE), buffer.view("d", 0, 0), buffer.view("@H", SIZE - 1)):
        assert len(view) == 0
        assert view.tolist() == []


@READING.append
def views_outside_are_value_errors(buffer: SharedBuffer, model: bytearray) -> None:
    for arguments in (("B", SIZE + 1), ("B", -1), ("Q", 0, SIZE // 8 + 1), ("B", 0, -1)):
        with pytest.raises(ValueError, match=r"10000 bytes|negative|outside"):
            buffer.view(*arguments)
    for code in ("", "BB", "<I", "s", "3B", "x", "@"):
        with pytest.raises(ValueError, match="'format' must be one of"):
            buffer.view(code)


@READING.append
def arrays_show_the_memory(buffer: SharedBuffer, model: bytearray) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    array = buffer.ndarray((3, 5), "<u4", offset=17)
    assert array.tolist() == np.frombuffer(bytes(model), "<u4", 15, 17).reshape(3, 5).tolist()
    assert array.flags.writeable == (buffer.access != "r")
    assert buffer.ndarray(4, "u1").tolist() == list(model[:4])
    assert buffer.ndarray((), "u1").item() == model[0]
    assert buffer.ndarray((0, 3), "f8").shape == (0, 3)
    record = np.dtype([("x", "<f4"), ("name", "S5")])
    assert buffer.ndarray(2, record, 1)["name"][1] == bytes(model[14:19]).rstrip(b"\0")
    with pytest.raises(TypeError, match="Python objects"):
        buffer.ndarray(1, object)
    with pytest.raises(ValueError, match="10000 bytes"):
        buffer.ndarray(SIZE + 1, "u1")
    with pytest.raises(ValueError, match="negative"):
        buffer.ndarray((-1, 2), "u1")


@READING.append
def flush_and_advise_change_nothing(buffer: SharedBuffer, model: bytearray) -> None:
    buffer.flush()
    buffer.flush(4097, 3)
    buffer.flush(SIZE, 0)
    for advice in ("sequential", "random", "willneed", "hugepage"):
        buffer.advise(advice)
    if buffer.access != "cow":
        buffer.advise("dontneed")
    assert buffer[:] == model
    for arguments in ((-1,), (SIZE + 1,), (0, SIZE + 1), (0, -1)):
        with pytest.raises(ValueError, match=r"outside|negative"):
            buffer.flush(*arguments)
    with pytest.raises(ValueError, match="sequential, random, willneed, dontneed, hugepage"):
        buffer.advise("soon")  # type: ignore[arg-type]


@READING.append
def raw_leads_to_byte_zero(buffer: SharedBuffer, model: bytearray) -> None:
    memory, start = buffer.raw
    assert memory[start : start + len(buffer)] == model


@READING.append
def closed_handles_refuse_everything(buffer: SharedBuffer, model: bytearray) -> None:
    shown = buffer.size, buffer.url, buffer.name, buffer.access, buffer.created, buffer.offset
    identity = hash(buffer)
    buffer.close()
    buffer.close()
    buffer.close(strict=True)
    assert buffer.closed
    assert shown == (
        buffer.size,
        buffer.url,
        buffer.name,
        buffer.access,
        buffer.created,
        buffer.offset,
    )
    assert repr(buffer) == f"<SharedBuffer {buffer.url} size={SIZE} closed>"
    assert hash(buffer) == identity
    uses: list[Callable[[], Any]] = [
        lambda: buffer[0],
        lambda: buffer[:],
        lambda: buffer.__setitem__(0, 0),
        lambda: buffer.__setitem__(slice(0, 1), b"x"),
        lambda: buffer.buf,
        lambda: buffer.raw,
        lambda: buffer.mapped,
        lambda: buffer.view("B"),
        lambda: buffer.ndarray(1, "u1"),
        buffer.flush,
        lambda: buffer.advise("random"),
        lambda: buffer.resize(SIZE),
        buffer.descriptor,
        buffer.__enter__,
        buffer.__reduce__,
        lambda: SharedBuffer.attach(buffer),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="was closed"):
            use()


@READING.append
def repr_tells_the_state(buffer: SharedBuffer, model: bytearray) -> None:
    assert repr(buffer) == f"<SharedBuffer {buffer.url} size={SIZE} {buffer.access}>"


# ------------------------------------------------------------------ writing


@WRITING.append
def items_are_written(buffer: SharedBuffer, model: bytearray) -> None:
    for index, value in ((0, 0), (4095, 255), (4096, 1), (-1, 7)):
        buffer[index] = model[index] = value
    assert buffer[:] == model


@WRITING.append
def wrong_items_change_nothing(buffer: SharedBuffer, model: bytearray) -> None:
    for number in (256, -1):
        with pytest.raises(ValueError, match="value"):
            buffer[0] = number
    wrong: Any
    for wrong in (1.0, b"a", None):
        with pytest.raises(TypeError):
            buffer[0] = wrong
    with pytest.raises(IndexError):
        buffer[SIZE] = 1
    assert buffer[:] == model


@WRITING.append
def slices_are_written(buffer: SharedBuffer, model: bytearray) -> None:
    for number, part in enumerate(SLICES):
        new = pattern(len(model[part]), number)
        model[part] = new
        buffer[part] = new
        assert buffer[:] == model, part


@WRITING.append
def anything_bytes_like_is_written(buffer: SharedBuffer, model: bytearray) -> None:
    for value in (
        b"12345678",
        bytearray(b"abcdefgh"),
        memoryview(b"0123456789abcdef")[::2],
        array.array("d", [1.5]),
        memoryview(array.array("H", [1, 2, 3, 4])),
        memoryview(bytes(8)).cast("B", (2, 4)),
    ):
        buffer[10:18] = value
        model[10:18] = bytes(memoryview(value))
        assert buffer[:] == model
    buffer[5:5] = array.array("d")
    assert buffer[:] == model


@WRITING.append
def another_length_is_refused(buffer: SharedBuffer, model: bytearray) -> None:
    for value in (b"", b"12", b"1234"):
        with pytest.raises(ValueError, match=f"{len(value)} bytes do not replace 3"):
            buffer[10:13] = value
    with pytest.raises(TypeError):
        buffer[10:13] = "abc"  # type: ignore[call-overload]
    assert buffer[:] == model


@WRITING.append
def overlapping_bytes_move(buffer: SharedBuffer, model: bytearray) -> None:
    buffer[3:5003] = buffer.buf[0:5000]
    model[3:5003] = model[0:5000]
    assert buffer[:] == model


@WRITING.append
def views_write_through(buffer: SharedBuffer, model: bytearray) -> None:
    words = buffer.view("Q", 8, 4)
    words[2] = 0x0102030405060708
    model[24:32] = words[2:3].tobytes()
    buffer.buf[0:3] = model[0:3] = b"xyz"
    assert buffer[:] == model
    assert buffer.view("Q", 24, 1)[0] == 0x0102030405060708


@WRITING.append
def arrays_write_through(buffer: SharedBuffer, model: bytearray) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    array = buffer.ndarray((2, 3), "<i2", offset=1)
    array[1] = [1, -1, 300]
    model[7:13] = b"\x01\0\xff\xff\x2c\x01"
    assert buffer[:] == model


# ------------------------------------------------------------------ read-only


@READ_ONLY.append
def writes_are_type_errors(buffer: SharedBuffer, model: bytearray) -> None:
    key: Any
    value: Any
    for key, value in ((0, 1), (slice(0, 2), b"ab")):
        with pytest.raises(TypeError, match="read-only: attach with access='rw'"):
            buffer[key] = value
    for view in (buffer.buf, buffer.view("B"), buffer.view("Q")):
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 0
    assert buffer[:] == model
