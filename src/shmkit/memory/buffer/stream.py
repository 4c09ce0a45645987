"""The bytes of a buffer as a file object, as lines, and in pieces."""

from __future__ import annotations

import errno
import io
import mmap
import operator
import os
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, SupportsIndex

from shmkit.memory.lines import lines_of
from shmkit.memory.views import view_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

    from shmkit.memory.buffer.content import Content

__all__ = ["Stream", "lines"]

_READ_AT_ONCE: Final = 1 << 16
_READ_FIRST: Final = 1 << 12  # lines ahead in a loop: at first so many bytes, then more


def lines(view: memoryview) -> Iterator[bytes]:
    r"""All lines, each with the b"\n" at its end; the last may have none."""
    pieces = range(0, len(view), _READ_AT_ONCE)
    return lines_of(view[at : at + _READ_AT_ONCE] for at in pieces)


class Stream(io.BufferedIOBase):
    """A file object on a buffer: reads and writes go straight to the memory.

    What is written is in the memory at once: there is nothing to flush. `flush()` of the buffer
    brings it to the disk. A stream is for one thread at a time. `fileno()` is not supported.

    A loop over the lines reads many at a time, and hands them out without a call of ours for each.
    What is meant by the position is settled when it matters next: `_lines` knows how many are left.
    """

    _batch: list[bytes] | None = None  # lines that were read ahead
    _lines: Any = None  # the iterator over them
    _counted: int = 0  # how many of them are before `_position`

    _memory: mmap.mmap | bytes | bytearray = b""
    _base: int = 0
    _view: memoryview = memoryview(b"")  # close() is called even if __init__ failed

    def __init__(self, buffer: Content, resize: Callable[[SupportsIndex], None]) -> None:
        super().__init__()
        self._buffer = buffer
        self._resize = resize
        self._position = 0
        self._pin()

    def _pin(self) -> None:
        self._memory, self._base, self._view = self._buffer._pin("open()")

    @property
    def name(self) -> str:
        """Where the memory is."""
        return str(self._buffer.url)

    @property
    def mode(self) -> str:
        """As of a file: "rb", or "rb+" where writing is allowed."""
        return "rb+" if self.writable() else "rb"

    def readable(self) -> bool:
        """Yes."""
        self._check()
        return True

    def writable(self) -> bool:
        """Unless the access of the buffer is "r"."""
        self._check()
        return self._buffer.access != "r"

    def seekable(self) -> bool:
        """Yes."""
        self._check()
        return True

    def tell(self) -> int:
        """The position: bytes from the beginning."""
        self._check()
        self._count()
        return self._position

    def seek(self, offset: SupportsIndex, whence: int = os.SEEK_SET) -> int:
        """Go to `offset` bytes from the beginning (0), from here (1) or from the end (2).

        Raises:
            ValueError: that is before the beginning, or `whence` is none of these.
        """
        self._settle()
        by = operator.index(offset)
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"'whence' must be 0, 1 or 2, not {whence!r}")
        to = by + (0, self._position, len(self._view))[whence]
        if to < 0:
            raise ValueError(f"position {to} is before the beginning")
        self._position = to
        return to

    def read(self, size: SupportsIndex | None = -1) -> bytes:
        """The next `size` bytes, or as many as there are; all that are left if negative."""
        self._settle()
        view, start = self._view, self._position
        wanted = -1 if size is None else operator.index(size)
        data = view[start : start + wanted if wanted >= 0 else None].tobytes()
        self._position = start + len(data)
        return data

    read1 = read

    def readinto(self, into: Buffer) -> int:
        """Fill `into` with the next bytes; returns how many there were."""
        self._settle()
        target = view_of(into)
        if not target.nbytes and not target.readonly:
            return 0  # cast() refuses some of these
        target = target.cast("B")
        source = self._view[self._position : self._position + len(target)]
        target[: len(source)] = source
        self._position += len(source)
        return len(source)

    readinto1 = readinto

    def readline(self, size: SupportsIndex | None = -1) -> bytes:
        r"""The rest of the line with its b"\n", of at most `size` bytes if not negative."""
        if self._lines is not None and size in (-1, None):
            self._check()
            line: bytes
            for line in self._lines:  # a loop has read it already
                return line
        self._settle()
        start, end = self._position, len(self._view)
        if size is not None and (most := operator.index(size)) >= 0:
            end = min(end, start + most)
        if start >= end:
            return b""
        at = self._memory.find(b"\n", self._base + start, self._base + end)
        if at >= 0:
            end = at - self._base + 1
        self._position = end
        return self._view[start:end].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        self._check()
        # Iterators over lines, one after the other, without a call of ours for each line.
        return chain.from_iterable(self._batches())

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def _batches(self) -> Iterator[Iterator[bytes]]:
        ahead = _READ_FIRST
        while True:
            self._settle()
            start = self._position
            batch = io.BytesIO(self._view[start : start + ahead]).readlines()
            ahead = min(2 * ahead, _READ_AT_ONCE)
            if len(batch) > 1 and not batch[-1].endswith(b"\n"):
                batch.pop()
            elif not batch or not batch[0].endswith(b"\n"):
                line = self.readline()  # a long one, or the last
                if not line:
                    return
                yield iter((line,))
                continue
            self._batch, self._counted, self._lines = batch, 0, iter(batch)
            yield self._lines
            if self._batch is not batch:
                ahead = _READ_FIRST  # the loop does something else with the stream, too

    def write(self, data: Buffer) -> int:
        """Write all of `data`; returns how many bytes that are.

        Raises:
            OSError: ENOSPC: there is not so much room before the end. Nothing was written.
            io.UnsupportedOperation: the access of the buffer is "r".
        """
        if not self.writable():
            raise io.UnsupportedOperation(f"{self._buffer!r} is read-only")
        self._settle()
        source = view_of(data)
        if source.format != "B" or source.ndim != 1:
            source = memoryview(source.tobytes())
        if not source.nbytes:
            return 0
        start, size = self._position, len(self._view)
        end = start + source.nbytes
        if end > size:
            raise OSError(
                errno.ENOSPC,
                f"{source.nbytes} bytes do not fit at position {start} of {size}: a buffer does "
                "not grow by itself, truncate(size) or resize(size) it",
                self.name,
            )
        self._view[start:end] = source
        self._position = end
        return source.nbytes

    def truncate(self, size: SupportsIndex | None = None) -> int:
        """Give the buffer another size; the position stays.

        Args:
            size: bytes; None for the position.

        Returns:
            The size.

        Raises:
            BufferError: it would shrink, and another process or a view uses the memory.
            io.UnsupportedOperation: this buffer cannot be resized.
            OSError: ENOSPC: no room.
        """
        self._settle()
        wanted = self._position if size is None else operator.index(size)
        if self._buffer.closed:
            raise io.UnsupportedOperation(f"{self._buffer!r} was closed: it keeps its size")
        # The stream's own view would count as one in use.
        self._let_go()
        try:
            self._resize(wanted)
        except ValueError as error:
            raise io.UnsupportedOperation(str(error)) from error
        finally:
            self._pin()
        return wanted

    def flush(self) -> None:
        """Nothing is to be done: `flush()` of the buffer brings its bytes to the disk."""
        self._check()

    def close(self) -> None:
        """Let go of the memory. The buffer stays as it is."""
        if not self.closed:
            self._settle()
        super().close()
        self._let_go()

    def detach(self) -> NoReturn:
        """There is no raw stream below."""
        raise io.UnsupportedOperation("a stream on memory has no raw stream")

    def __enter__(self) -> Self:
        self._check()
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"cannot pickle {self!r}: send the buffer, and open() it there")

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"at {self._position}"
        return f"<Stream {self._buffer.url} {state}>"

    def _let_go(self) -> None:
        self._view.release()
        self._memory = b""  # the map counts its references

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed stream")

    def _settle(self) -> None:
        """Be open and know the position, and have no lines ahead: they are read anew from here."""
        self._check()
        if self._batch is not None:
            self._count()
            self._lines.__setstate__(len(self._batch))  # ends it
            self._batch = self._lines = None

    def _count(self) -> None:
        """Move the position behind the lines that a loop has got so far."""
        if self._batch is not None:
            passed = len(self._batch) - self._lines.__length_hint__()
            self._position += sum(map(len, self._batch[self._counted : passed]))
            self._counted = passed
