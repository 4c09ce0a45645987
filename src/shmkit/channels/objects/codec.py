r"""Codec: objects as frames, and back.

A small object is its pickle, as `pickle.dumps` makes it. What is large inside an object stays out
of the pickle (PEP 574), so that its bytes are copied once, from where they are into the frame, and
once more out of the frame to where they stay:

    0       bytes of the table (u32), 4 bytes zero
    8       bytes of the pickle (u64)
    16      table: what the buffers are, pickled
            pickle, with NEXT_BUFFER where a buffer belongs
            the buffers, each at a multiple of 16

Three kinds of things are buffers: `bytes`, `bytearray` and contiguous buffers from 128 KiB on, and
numpy arrays from 1000 bytes on. Arrays come out as arrays that own their memory and are writable,
in the order (C or Fortran) they had; a strided one comes out contiguous. A memoryview comes out as
a memoryview on memory of its own.

The pickler itself tells where its large buffers are. It writes a buffer of 64 KiB or more to its
file without copying it, right behind a piece that ends with the buffer's opcode and length
(`_write_bytes` in `Modules/_pickle.c`, `_Framer.write_large_bytes` in `Lib/pickle.py`). If another
pickler does otherwise, the buffers stay in the pickle.

Reducers come from `copyreg` and from `multiprocessing` (connections, sockets, and whatever was
registered with its `ForkingPickler`).
"""

from __future__ import annotations

import copyreg
import math
import pickle
import struct
import sys
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.reduction import ForkingPickler
from pickle import PickleBuffer
from typing import Any, Final

__all__ = ["Encoded", "Memory", "Received", "Source", "decode", "encode", "load"]

PROTOCOL: Final = 5
LEAST_ARRAY: Final = 1000  # bytes; numpy copies smaller ones out of a pickle as fast
LEAST_PAYLOAD: Final = 128 << 10  # bytes; two more copies of a smaller one cost less than a table

_HEAD: Final = struct.Struct("<I4xQ")
_ALIGN: Final = 16
_NEXT_BUFFER: Final = b"\x97"
_FRAME: Final = 0x95
_BINBYTES: Final = b"B"
_BINBYTES8: Final = b"\x8e"
_BYTEARRAY8: Final = b"\x96"

# A line of the table: n for bytes, (n,) for a bytearray, (shape, dtype, order) for an array.
_Line = int | tuple[int] | tuple[tuple[int, ...], Any, str]
_FORMATS: Final = frozenset("bBhHiIlLqQnNefdcP?")


class Source:
    """Where a frame is read from: `Memory`, or a file.

    Attributes:
        size: bytes of the frame.
    """

    __slots__ = ()

    size: int

    def fill(self, at: int, target: memoryview) -> None:
        """Copy as many bytes from `at` on as `target` has."""
        raise NotImplementedError

    def bytearray(self, at: int, size: int) -> bytearray:
        """A copy of `size` bytes from `at` on."""
        copy = bytearray(size)
        self.fill(at, memoryview(copy))
        return copy

    def bytes(self, at: int, size: int) -> bytes:
        """The same as bytes."""
        return bytes(self.bytearray(at, size))


class Encoded:
    """An object taken apart: its pickle, and buffers that are still where the object has them.

    Args:
        stream: pieces of the pickle.
        lines: the table, a line for each buffer.
        buffers: contiguous views of bytes.

    Attributes:
        size: bytes of the frame.
        pieces: (position in the frame, bytes) of everything in it; gaps are padding.
    """

    __slots__ = ("pieces", "size")

    def __init__(self, stream: list[bytes], lines: list[_Line], buffers: list[memoryview]) -> None:
        table = pickle.dumps(lines, PROTOCOL)
        length = sum(map(len, stream))
        self.pieces: list[tuple[int, bytes | memoryview]] = [
            (0, _HEAD.pack(len(table), length) + table)
        ]
        at = _HEAD.size + len(table)
        for piece in stream:
            self.pieces.append((at, piece))
            at += len(piece)
        for buffer in buffers:
            at += -at % _ALIGN
            self.pieces.append((at, buffer))
            at += len(buffer)
        self.size = at

    def write(self, target: memoryview) -> None:
        """Copy it into `size` bytes of writable memory."""
        for at, piece in self.pieces:
            target[at : at + len(piece)] = piece


class Received:
    """An encoded object, copied out of its frame; `load` makes the object."""

    __slots__ = ("_buffers", "_stream")

    def __init__(self, stream: bytes, buffers: list[Any]) -> None:
        self._stream = stream
        self._buffers = buffers

    def load(self) -> Any:
        """Unpickle it.

        Raises:
            Exception: whatever the pickle's own code raises.
        """
        return pickle.loads(self._stream, buffers=self._buffers)


load: Final = pickle.loads
"""Make an object of what `encode` gave as `bytes`."""


def encode(obj: Any) -> bytes | Encoded:
    """Pickle an object; what is large in it is left where it is.

    Args:
        obj: anything that pickles, or has a reducer.

    Returns:
        A pickle, when nothing in it is large; otherwise an `Encoded`, to be written before the
        object changes.

    Raises:
        Exception: it does not pickle: `pickle.PicklingError`, TypeError, AttributeError, or
            whatever its own code raises.
    """
    try:
        pickler = _picklers.pop()
    except IndexError:  # all are in use: in other threads, or in a call around this one
        pickler = _new_pickler()
    dump, clear_memo, pieces = pickler
    dump(obj)  # a pickler that raised is not used again
    clear_memo()
    if len(pieces) == 1:
        frame: bytes = pieces.pop()
        _picklers.append(pickler)
        return frame
    taken = pieces[:]
    pieces.clear()
    _picklers.append(pickler)
    return _sort(taken)


def _sort(pieces: list[Any]) -> bytes | Encoded:
    """Separate the pickle's own pieces from the buffers between them."""
    stream = [b""]
    lines: list[_Line] = []
    buffers: list[memoryview] = []
    for item in pieces:
        if type(item) is _Array:
            lines.append(item.line)
            buffers.append(item.content)
            continue
        piece = item.raw() if type(item) is PickleBuffer else item
        header = _header_of(stream[-1], piece)
        if not header:
            stream.append(bytes(piece))
            continue
        is_bytes = stream[-1][-header] != _BYTEARRAY8[0]
        # Opcode and length go: the unpickler takes the next buffer of the list instead.
        stream[-1] = stream[-1][:-header] + _NEXT_BUFFER
        lines.append(len(piece) if is_bytes else (len(piece),))
        buffers.append(memoryview(piece))
    if not lines:
        return b"".join(stream)
    return Encoded(stream, lines, buffers)


def _header_of(before: bytes, piece: Any) -> int:
    """Bytes of opcode and length at the end of `before`, if `piece` is what they announce."""
    size = len(piece)
    if size < LEAST_PAYLOAD or (type(piece) is bytes and _is_frame(piece)):
        return 0
    long = size.to_bytes(8, "little")
    if before.endswith((_BINBYTES8 + long, _BYTEARRAY8 + long)):
        return 9  # an opcode and 8 bytes of length
    return 5 if size < 1 << 32 and before.endswith(_BINBYTES + long[:4]) else 0


def _is_frame(piece: bytes) -> bool:
    """Whether a piece may be a frame of the pickle itself, and so no payload."""
    # Behind the frame there may be the header of a payload: at most 9 bytes.
    return piece[0] == _FRAME and 0 <= len(piece) - 9 - int.from_bytes(piece[1:9], "little") <= 9


class _Array:
    """An array on its way into a frame."""

    __slots__ = ("content", "line")

    def __init__(self, array: Any) -> None:
        order = "C" if array.flags.c_contiguous else "F"
        self.line = (array.shape, _spelling(array.dtype), order)
        self.content = _bytes_of(array)


def _bytes_of(array: Any) -> memoryview:
    """The memory of a contiguous array that has some, as bytes."""
    flat = array if array.flags.c_contiguous else array.T
    return memoryview(flat.reshape(-1).view("u1"))


@lru_cache(maxsize=128)
def _spelling(dtype: Any) -> Any:
    """A dtype as its short string if that says it all, because pickling a dtype takes longer."""
    return dtype.str if _numpy().dtype(dtype.str) == dtype else dtype


def _numpy() -> Any:
    """numpy, which is there when an array is."""
    return sys.modules["numpy"]


# Stands in the pickle for an array; the array itself is among the pieces.
_MARK: Final = PickleBuffer(bytearray())
# What `ForkingPickler.register` fills; its instances have a copy.
_registered: Final[dict[type, Any]] = getattr(ForkingPickler, "_extra_reducers", {})

_Pickler = tuple[Callable[[Any], None], Callable[[], None], list[Any]]
_picklers: list[_Pickler] = []  # picklers that are not in use


class _Reducers(dict[type, Any]):
    """The dispatch table of one pickler: what the registries have, and a reducer for arrays."""

    def __init__(self, pieces: list[Any]) -> None:
        self[memoryview] = _reduce_view
        self._pieces = pieces

    def __missing__(self, kind: type) -> Any:
        # Not kept in this table: a program may register another reducer later.
        reducer = _registered.get(kind) or copyreg.dispatch_table.get(kind)
        if reducer is not None:
            return reducer
        # numpy is not imported for this: where there is an array, it is loaded.
        if kind.__name__ == "ndarray" and kind is getattr(sys.modules.get("numpy"), "ndarray", 0):
            return self._reduce_array
        # The pickler then goes on as without a table.
        raise KeyError(kind)

    def _reduce_array(self, array: Any) -> Any:
        dtype, flags = array.dtype, array.flags
        # Small, or more than plain bytes: numpy's own way, inside the pickle.
        if array.nbytes < LEAST_ARRAY or dtype.hasobject or dtype.metadata:
            return array.__reduce__()
        if not (flags.c_contiguous or flags.f_contiguous):
            array = array.copy()
        self._pieces.append(_Array(array))
        return _itself, (_MARK,)  # NEXT_BUFFER: `_sort` finds the array at the same place


def _reduce_view(view: memoryview) -> Any:
    content = PickleBuffer(view if view.c_contiguous else view.tobytes())
    return _view, (content, view.format, view.shape, view.readonly)


def _is_in_band(buffer: PickleBuffer) -> bool:
    return buffer is not _MARK


def _new_pickler() -> _Pickler:
    pieces: list[Any] = []
    pickler = pickle.Pickler(_Sink(pieces.append), PROTOCOL, buffer_callback=_is_in_band)
    pickler.dispatch_table = _Reducers(pieces)
    return pickler.dump, pickler.clear_memo, pieces


class _Sink:
    """A file for a pickler."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


class Memory(Source):
    """A frame in memory, as a view of bytes."""

    __slots__ = ("_view", "size")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self.size = len(view)

    def fill(self, at: int, target: memoryview) -> None:
        """Copy as many bytes from `at` on as `target` has."""
        target[:] = self._view[at : at + len(target)]

    def bytes(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes from `at` on."""
        return bytes(self._view[at : at + size])


def decode(source: Source) -> Received:
    """Copy an `Encoded` out of where it is.

    Args:
        source: the frame.

    Raises:
        Exception: the frame does not hold what it says it holds: a ValueError mostly.
        MemoryError: no memory for its buffers.
    """
    table_size, length = _HEAD.unpack(source.bytes(0, _check(source, 0, _HEAD.size)))
    at = _HEAD.size
    lines: list[_Line] = pickle.loads(source.bytes(at, _check(source, at, table_size)))
    at += table_size
    stream = source.bytes(at, _check(source, at, length))
    at += length
    buffers: list[Any] = []
    for line in lines:
        at += -at % _ALIGN
        if isinstance(line, int):
            buffers.append(source.bytes(at, _check(source, at, line)))
            at += line
        elif len(line) == 1:
            (size,) = line
            buffers.append(source.bytearray(at, _check(source, at, size)))
            at += size
        else:
            # Here, and not above: only a frame with arrays needs numpy.
            import numpy as np

            shape, dtype, order = line
            _check(source, at, math.prod(shape) * np.dtype(dtype).itemsize)
            array: Any = np.empty(shape, dtype, order)  # type: ignore[call-overload]
            target = _bytes_of(array)
            source.fill(at, target)
            buffers.append(array)
            at += len(target)
    return Received(stream, buffers)


def _check(source: Source, at: int, size: int) -> int:
    """A size that a frame names, if it has so many bytes: before memory is taken for them."""
    if not 0 <= size <= source.size - at:
        raise ValueError(f"{size} bytes at {at} of a frame of {source.size}")
    return size


def _itself(buffer: Any) -> Any:
    """What the pickle of an array calls: the array is made by then."""
    return buffer


def _view(content: Any, code: str, shape: tuple[int, ...], readonly: bool) -> memoryview:
    """What the pickle of a memoryview calls.

    An empty view loses its shape; a format that cast() does not know becomes "B".
    """
    view = memoryview(content)
    if readonly:
        view = view.toreadonly()
    if code == "B" and len(shape) == 1:
        return view
    if code.removeprefix("@") not in _FORMATS:
        return view
    if not view.nbytes:  # cast() refuses it
        # 16 bytes are a whole number of items in every format; the slice is empty again.
        nothing = memoryview(bytes(16) if readonly else bytearray(16))
        return nothing.cast(code)[:0]  # type: ignore[call-overload, no-any-return]
    return view.cast(code, shape)  # type: ignore[call-overload, no-any-return]
