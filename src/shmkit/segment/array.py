"""SharedArray: a numpy array that processes share, which tells its shape and dtype by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex

from shmkit.compiled import Exporter
from shmkit.errors import IncompatibleSegment
from shmkit.memory.allocation import ADDRESS_SPACE
from shmkit.memory.buffer import SharedBuffer
from shmkit.memory.told import told
from shmkit.memory.url import Url, Where
from shmkit.memory.views import array_on, checked_array, dimensions_of
from shmkit.segment.array_header import ArrayHeader, plan, read

if TYPE_CHECKING:
    import numpy as np

    from shmkit.memory.mapping import Access

__all__ = ["SharedArray"]

Shape = SupportsIndex | Sequence[SupportsIndex]


class SharedArray(Exporter):
    """A numpy array in memory that processes share; shape and dtype are stored before its items.

    `create(shape, dtype, where)` makes it, `attach(where)` gets it in another process, and it
    pickles by reference. `.array` may outlive the handle: closing is always safe.
    """

    __slots__ = ("_array", "_buffer", "_header")

    _array: np.ndarray[Any, Any] | None
    _buffer: SharedBuffer
    _header: ArrayHeader

    def __init__(self) -> None:
        raise TypeError("SharedArray has no constructor: use SharedArray.create() or .attach()")

    @classmethod
    def create(
        cls,
        shape: Shape,
        dtype: Any = float,
        where: Where | Url = None,
        *,
        order: Literal["C", "F"] = "C",
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Make an array that was not there, filled with zeros, its room reserved.

        Args:
            shape: items in each dimension; () for a single item. There may be none at all.
            dtype: of fixed size; structures too.
            where: None or "anon:", "shm:NAME" or "NAME", "file:PATH" or a path object.
            order: "C" for the last index changing fastest, "F" for the first.
            keep: leave the name of a segment in place when its creator goes. Files always stay.
            mode: permissions of a segment or file, less the umask.

        Raises:
            FileExistsError: it is there.
            ImportError: numpy is not installed: it comes with shmkit[numpy].
            OSError: ENOSPC: no room; nothing stays behind.
            TypeError: a dtype that holds Python objects.
            ValueError: a shape or name that cannot be.
        """
        size, fill = _plan(shape, dtype, order)
        buffer = SharedBuffer._create_filled(Url.parse(where), size, fill, keep=keep, mode=mode)
        return cls._over(buffer)

    @classmethod
    def ensure(
        cls,
        shape: Shape,
        dtype: Any = float,
        where: Where | Url = None,
        *,
        order: Literal["C", "F"] = "C",
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Create an array, or attach to the one that is there; `created` tells.

        Of several processes that call this at the same time exactly one creates.

        Args:
            shape: as in `create`; an array that is there has to have it.
            dtype: as in `create`; an array that is there has to have it.
            where: as in `create`.
            order: as in `create`; of a new array.
            keep: as in `create`.
            mode: as in `create`.

        Raises:
            CorruptSegment: the header of what is there breaks a rule, or it was cut off.
            ImportError: numpy is not installed: it comes with shmkit[numpy].
            IncompatibleSegment: what is there is no array, or one of another shape or dtype. It
                stays as it is.
            OSError: ENOSPC: no room.
            TypeError: a dtype that holds Python objects.
            ValueError: a shape or name that cannot be.
        """
        size, fill = _plan(shape, dtype, order)
        buffer = SharedBuffer._ensure_filled(Url.parse(where), size, fill, keep=keep, mode=mode)
        return cls._over(buffer, *checked_array(shape, dtype))

    @classmethod
    def attach(
        cls,
        where: Where | Url | SharedBuffer,
        *,
        access: str = "rw",
        shape: Shape | None = None,
        dtype: Any = None,
        timeout: float | None = 0,
    ) -> Self:
        """Get an array that is there.

        Args:
            where: as in `create`; or a buffer that holds an array.
            access: "r" to read, "rw" to read and write, "cow" for private changes.
            shape: what it has to be; None for any.
            dtype: what it has to be; None for any.
            timeout: seconds to wait for it to be made; None for ever.

        Raises:
            CorruptSegment: its header breaks a rule, or it was cut off.
            FileNotFoundError: it is not there.
            ImportError: numpy is not installed.
            IncompatibleSegment: no array, or one of another shape or dtype than asked for.
            PermissionError: it is not for this user, or not for writing.
        """
        buffer = SharedBuffer._attach_filled(where, access=access, timeout=timeout)
        return cls._over(buffer, shape, dtype)

    @classmethod
    def from_array(
        cls,
        array: Any,
        where: Where | Url = None,
        *,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Make a shared array with the content of another: anything that numpy takes for one.

        Raises:
            As `create`.
        """
        import numpy as np

        source = np.asanyarray(array)
        fortran = source.flags.f_contiguous and not source.flags.c_contiguous
        order: Literal["C", "F"] = "F" if fortran else "C"
        size, fill = _plan(source.shape, source.dtype, order, source)
        buffer = SharedBuffer._create_filled(Url.parse(where), size, fill, keep=keep, mode=mode)
        return cls._over(buffer)

    @classmethod
    def _over(cls, buffer: SharedBuffer, shape: Shape | None = None, dtype: Any = None) -> Self:
        """Take a buffer over, and close it if it does not hold the array asked for."""
        try:
            self = cls.__new__(cls)
            whole = buffer.buf
            self._header = header = read(whole, str(buffer.url))
            self._buffer = buffer
            self._array = _view(buffer, header)
            self._check(shape, dtype)
        except BaseException:
            # Made by this very call, which fails: it is of no use.
            if buffer.created:
                buffer.unlink()
            buffer.close()
            raise
        return self

    def read_only(self) -> Self:
        """Another handle on the same array, for reading; it pickles as one, too.

        Raises:
            ClosedError: the handle was closed.
        """
        return type(self).attach(self._buffer, access="r")

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The array; read-only if the access is "r". It stays valid after `close`.

        Raises:
            ClosedError: the handle was closed.
        """
        if self._array is None:
            raise self._buffer._closed_error()
        return self._array

    shape: tuple[int, ...] = told("_header.shape", "Items in each dimension.")
    dtype: np.dtype[Any] = told("_header.dtype", "Of the items.")
    nbytes: int = told("_header.size", "Bytes of the items.")
    buffer: SharedBuffer = told("_buffer", "The memory, header included: do not close it.")
    url: Url = told("_buffer.url", "Where the memory is; `str()` of it is a `where`.")
    name: str = told(
        "_buffer.name", 'Name of the segment, path of the file, "" for anonymous memory.'
    )
    access: Access = told("_buffer.access", 'What may be done: "r", "rw" or "cow".')
    created: bool = told("_buffer.created", "Whether this handle made the memory.")
    closed: bool = told("_buffer.closed", "Whether this handle was closed.")

    def flush(self) -> None:
        """Write changes to the disk, and return when they are there."""
        self._buffer.flush()

    def close(self, *, strict: bool = False) -> None:
        """Let go of the memory; it goes away with the last array on it.

        Args:
            strict: refuse while arrays are in use.

        Raises:
            BufferError: `strict`, and the array is in use elsewhere; the handle stays open.
        """
        array, self._array = self._array, None
        del array  # or it would be one in use
        try:
            self._buffer.close(strict=strict)
        except BufferError:
            self._array = _view(self._buffer, self._header)
            raise

    def unlink(self) -> None:
        """Remove the name, of whichever process it is. Processes that have it mapped keep it."""
        self._buffer.unlink()

    def __enter__(self) -> Self:
        self._buffer.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._array = None
        self._buffer.__exit__(kind, error, traceback)

    def _exported(self) -> memoryview:
        return self.array.data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy or (dtype is not None and dtype != self.dtype):
            if copy is False:
                raise ValueError(f"{self!r} as {dtype} would be a copy")
            return self.array.astype(dtype or self.dtype)
        return self.array

    def __len__(self) -> int:
        return len(self.array)

    def __reduce__(self) -> tuple[Any, ...]:
        self._buffer._open_region()
        return type(self)._over, (self._buffer,)

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.access
        return f"<SharedArray {self.url} shape={self.shape} dtype={self.dtype} {state}>"

    def _check(self, shape: Shape | None, dtype: Any) -> None:
        import numpy as np

        where = str(self.url)
        if dtype is not None and np.dtype(dtype) != self.dtype:
            raise IncompatibleSegment(
                f"{where!r} holds items of dtype {self.dtype}, and {np.dtype(dtype)} is asked for",
                where=where,
            )
        if shape is not None and dimensions_of(shape) != self.shape:
            raise IncompatibleSegment(
                f"{where!r} has shape {self.shape}, and {dimensions_of(shape)} is asked for",
                where=where,
            )


def _view(buffer: SharedBuffer, header: ArrayHeader) -> np.ndarray[Any, Any]:
    items = buffer.buf[header.offset : header.offset + header.size]
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    array = array_on(items, header.shape, header.dtype, order=order)
    return buffer._exports.add(array, f"array of {header.shape} {header.dtype}")


def _plan(
    shape: Shape, dtype: Any, order: Literal["C", "F"], source: np.ndarray[Any, Any] | None = None
) -> tuple[int, Callable[[memoryview], None]]:
    """The size of an array with its header, and what writes its bytes; zeros without a source."""
    if order not in ("C", "F"):
        raise ValueError(f"'order' must be 'C' or 'F', not {order!r}")
    dimensions, kind = checked_array(shape, dtype)
    length = prod(dimensions) * kind.itemsize
    if length > ADDRESS_SPACE:
        raise ValueError(f"{dimensions} of {kind}: {length} bytes, more than addresses reach")
    header, write = plan(dimensions, kind, fortran=order == "F")

    def fill(whole: memoryview) -> None:
        write(whole)
        if source is not None:
            array_on(whole[header.offset :], dimensions, kind, order=order)[...] = source

    return header.offset + length, fill
