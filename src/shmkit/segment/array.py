"""SharedArray: a numpy array that processes share, which tells its shape and dtype by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NamedTuple,
    Self,
    SupportsIndex,
    TypeVar,
    overload,
)

from shmkit.compiled import Exporter
from shmkit.errors import ClosedError, IncompatibleSegment
from shmkit.memory.allocation import ADDRESS_SPACE
from shmkit.memory.buffer import SharedBuffer
from shmkit.memory.told import told
from shmkit.memory.url import Url, Where
from shmkit.memory.views import array_on, checked_array, dimensions_of
from shmkit.segment.array_header import ArrayHeader, plan, read
from shmkit.segment.array_operators import Operators

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import TypeVar as TypeVarWithDefault

    from shmkit.memory.mapping import Access

    Item = TypeVarWithDefault("Item", bound=np.generic, default=Any)
    Other = TypeVar("Other", bound=np.generic)
else:
    Item = TypeVar("Item")

__all__ = ["SharedArray", "plan_copy"]

Shape = SupportsIndex | Sequence[SupportsIndex]


class _Span(NamedTuple):
    """Which bytes of a memory are the items of an array: all of them, or a part."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any


class SharedArray(Operators, Exporter, Generic[Item]):
    """A numpy array in memory that processes share; shape and dtype are stored before its items.

    `create(where, shape, dtype)` makes it, `attach(where)` gets it in another process,
    `ensure(where, shape, dtype)` does what is needed. It is used as an array: indexed, iterated,
    calculated with, given to numpy. It pickles by reference, and so does `shared.part[10:20]`.
    `.array`, a plain numpy array, may outlive the handle: closing is always safe.
    """

    __slots__ = ("_array", "_buffer", "_owns", "_span")

    _array: np.ndarray[Any, np.dtype[Item]] | None
    _buffer: SharedBuffer
    _span: _Span
    _owns: bool  # whether the memory is closed with this handle

    def __init__(self, *_: object, **__: object) -> None:
        raise TypeError(
            "SharedArray has no constructor: use SharedArray.create(where, shape, dtype), "
            ".attach(where), .ensure(where, shape, dtype) or .from_array(array, where)"
        )

    @overload
    @classmethod
    def create(
        cls,
        where: Where | Url,
        shape: Shape,
        *,
        order: Literal["C", "F"] = ...,
        keep: bool = ...,
        mode: int = ...,
    ) -> SharedArray[np.float64]: ...
    @overload
    @classmethod
    def create(
        cls,
        where: Where | Url,
        shape: Shape,
        dtype: type[Other] | np.dtype[Other],
        *,
        order: Literal["C", "F"] = ...,
        keep: bool = ...,
        mode: int = ...,
    ) -> SharedArray[Other]: ...
    @overload
    @classmethod
    def create(
        cls,
        where: Where | Url,
        shape: Shape,
        dtype: Any,
        *,
        order: Literal["C", "F"] = ...,
        keep: bool = ...,
        mode: int = ...,
    ) -> SharedArray[Any]: ...
    @classmethod
    def create(
        cls,
        where: Where | Url,
        shape: Shape,
        dtype: Any = float,
        *,
        order: Literal["C", "F"] = "C",
        keep: bool = False,
        mode: int = 0o600,
    ) -> SharedArray[Any]:
        """Make an array that was not there, filled with zeros, its room reserved.

        Args:
            where: None or "anon:", "shm:NAME" or "NAME", "file:PATH" or a path object.
            shape: items in each dimension; () for a single item. There may be none at all.
            dtype: of fixed size; structures too.
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
        url = _url(where)
        size, fill = _plan(shape, dtype, order)
        buffer = SharedBuffer._create_filled(url, size, fill, keep=keep, mode=mode)
        return cls._over(buffer)

    @overload
    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        shape: Shape,
        *,
        order: Literal["C", "F"] = ...,
        keep: bool = ...,
        mode: int = ...,
    ) -> SharedArray[np.float64]: ...
    @overload
    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        shape: Shape,
        dtype: type[Other] | np.dtype[Other],
        *,
        order: Literal["C", "F"] = ...,
        keep: bool = ...,
        mode: int = ...,
    ) -> SharedArray[Other]: ...
    @overload
    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        shape: Shape,
        dtype: Any,
        *,
        order: Literal["C", "F"] = ...,
        keep: bool = ...,
        mode: int = ...,
    ) -> SharedArray[Any]: ...
    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        shape: Shape,
        dtype: Any = float,
        *,
        order: Literal["C", "F"] = "C",
        keep: bool = False,
        mode: int = 0o600,
    ) -> SharedArray[Any]:
        """Create an array, or attach to the one that is there; `created` tells.

        Of several processes that call this at the same time exactly one creates. A program that
        was killed with all its processes calls this again, and has its items again.

        Args:
            where: as in `create`.
            shape: as in `create`; an array that is there has to have it.
            dtype: as in `create`; an array that is there has to have it.
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
        url = _url(where)
        size, fill = _plan(shape, dtype, order)
        wanted = checked_array(shape, dtype)
        try:
            buffer = SharedBuffer._ensure_filled(url, size, fill, keep=keep, mode=mode)
        except IncompatibleSegment:
            # What is there has fewer bytes. Attaching tells in which way it is another array.
            cls.attach(url, access="r", shape=wanted[0], dtype=wanted[1]).close()
            raise
        return cls._over(buffer, *wanted)

    @overload
    @classmethod
    def attach(
        cls,
        where: Where | Url | SharedBuffer,
        *,
        access: str = ...,
        shape: Shape | None = ...,
        dtype: type[Other] | np.dtype[Other],
        timeout: float | None = ...,
    ) -> SharedArray[Other]: ...
    @overload
    @classmethod
    def attach(
        cls,
        where: Where | Url | SharedBuffer,
        *,
        access: str = ...,
        shape: Shape | None = ...,
        dtype: Any = ...,
        timeout: float | None = ...,
    ) -> Self: ...
    @classmethod
    def attach(
        cls,
        where: Where | Url | SharedBuffer,
        *,
        access: str = "rw",
        shape: Shape | None = None,
        dtype: Any = None,
        timeout: float | None = 0,
    ) -> SharedArray[Any]:
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

    @overload
    @classmethod
    def from_array(
        cls,
        array: np.ndarray[Any, np.dtype[Other]],
        where: Where | Url = ...,
        *,
        keep: bool = ...,
        mode: int = ...,
    ) -> SharedArray[Other]: ...
    @overload
    @classmethod
    def from_array(
        cls, array: Any, where: Where | Url = ..., *, keep: bool = ..., mode: int = ...
    ) -> SharedArray[Any]: ...
    @classmethod
    def from_array(
        cls,
        array: Any,
        where: Where | Url = None,
        *,
        keep: bool = False,
        mode: int = 0o600,
    ) -> SharedArray[Any]:
        """Make a shared array with the content of another: anything that numpy takes for one.

        Raises:
            As `create`.
        """
        size, fill = plan_copy(array)
        buffer = SharedBuffer._create_filled(_url(where), size, fill, keep=keep, mode=mode)
        return cls._over(buffer)

    @classmethod
    def _over(cls, buffer: SharedBuffer, shape: Shape | None = None, dtype: Any = None) -> Self:
        """Take a buffer over, and close it if it does not hold the array asked for."""
        try:
            header = read(buffer.buf, str(buffer.url))
            _refuse_another(str(buffer.url), header, shape, dtype)
            return cls._on(buffer, _span_of(header))
        except BaseException:
            # Made by this very call, which fails: it is of no use.
            if buffer.created:
                buffer.unlink()
            buffer.close()
            raise

    @classmethod
    def _on(cls, buffer: SharedBuffer, span: _Span, *, owns: bool = True) -> Self:
        self = cls.__new__(cls)
        self._buffer, self._span, self._owns = buffer, span, owns
        self._array = _view(buffer, span)
        return self

    def read_only(self) -> Self:
        """Another handle on the same array, for reading; it pickles as one, too.

        Raises:
            ClosedError: the handle was closed.
        """
        return type(self)._on(SharedBuffer.attach(self._open_buffer(), access="r"), self._span)

    @property
    def array(self) -> np.ndarray[Any, np.dtype[Item]]:
        """The array, as a plain one of numpy; read-only if the access is "r".

        It stays valid after `close`.

        Raises:
            ClosedError: the handle was closed.
        """
        if self._array is None:
            raise self._closed_error()
        return self._array

    @property
    def part(self) -> _Parts[Item]:
        """A part of the array that is a SharedArray, too: it pickles by reference.

        `shared.part[10:20]` is of the items 10 to 19. `shared[10:20]`, a plain numpy array, would
        be copied on its way to another process. A part need not be closed; the memory stays as
        long as there are parts of it. Slices, numbers, `...` and names of fields may be combined,
        as for any array of numpy that is to be a view.

        Raises:
            ClosedError: the handle was closed.
            IndexError: it reaches outside.
            TypeError: a list or a mask, which would make a copy.
        """
        self._open_buffer()
        return _Parts(self)

    shape: tuple[int, ...] = told("_span.shape", "Items in each dimension.")
    strides: tuple[int, ...] = told("_span.strides", "Bytes to the next item in each dimension.")
    dtype: np.dtype[Item] = told("_span.dtype", "Of the items.")
    itemsize: int = told("_span.dtype.itemsize", "Bytes of an item.")
    buffer: SharedBuffer = told("_buffer", "The memory, header included: do not close it.")
    url: Url = told("_buffer.url", "Where the memory is; `str()` of it is a `where`.")
    name: str = told(
        "_buffer.name", 'Name of the segment, path of the file, "" for anonymous memory.'
    )
    access: Access = told("_buffer.access", 'What may be done: "r", "rw" or "cow".')

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._span.shape)

    @property
    def size(self) -> int:
        """Number of items."""
        return prod(self._span.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the items."""
        return self.size * self.itemsize

    @property
    def created(self) -> bool:
        """Whether this handle made the memory."""
        return self._owns and self._buffer.created

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._array is None

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
        if not self._owns:
            return
        try:
            self._buffer.close(strict=strict)
        except BufferError:
            self._array = _view(self._buffer, self._span)
            raise

    def unlink(self) -> None:
        """Remove the name, of whichever process it is. Processes that have it mapped keep it."""
        self._buffer.unlink()

    def __enter__(self) -> Self:
        self._open_buffer()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._array = None
        if self._owns:
            self._buffer.__exit__(kind, error, traceback)

    def _exported(self) -> memoryview:
        return self.array.data

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> np.ndarray[Any, np.dtype[Any]]:
        if copy or (dtype is not None and dtype != self.dtype):
            if copy is False:
                raise ValueError(f"{self!r} as {dtype} would be a copy")
            return self.array.astype(dtype or self.dtype)
        return self.array

    def __dlpack__(self, **options: Any) -> Any:
        array: Any = self.array
        return array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array)

    def __contains__(self, value: object) -> bool:
        return value in self.array

    def __getitem__(self, key: Any) -> Any:
        return self.array[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._writable()
        self.array[key] = value

    if not TYPE_CHECKING:  # a type checker knows those of `.array`

        def __getattr__(self, name: str) -> Any:
            """The methods and attributes of the array: `shared.mean()`."""
            import numpy as np

            if name.startswith("_") or not hasattr(np.ndarray, name):
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute {name!r}, nor has an array"
                )
            return getattr(self.array, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._on, (self._open_buffer(), self._span)

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.access
        return f"<SharedArray {self.url} shape={self.shape} dtype={self.dtype} {state}>"

    def _writable(self) -> None:
        """Refuse if nothing may be written."""
        if not self.array.flags.writeable:
            raise ValueError(f"{self!r} is read-only: attach with access='rw', or 'cow'")

    def _open_buffer(self) -> SharedBuffer:
        if self._array is None:
            raise self._closed_error()
        self._buffer._open_region()
        return self._buffer

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self!r} was closed: attach() again")


class _Parts(Generic[Item]):
    """What `part` gives: its items are parts of an array."""

    __slots__ = ("_whole",)

    def __init__(self, whole: SharedArray[Item]) -> None:
        self._whole = whole

    @overload
    def __getitem__(self, key: str | list[str]) -> SharedArray[Any]: ...
    @overload
    def __getitem__(self, key: Any) -> SharedArray[Item]: ...
    def __getitem__(self, key: Any) -> SharedArray[Any]:
        import numpy as np

        whole = self._whole
        array = whole.array
        found = array[key]
        if not isinstance(found, np.ndarray):  # a single item, which numpy copies
            found = array[(*key, ...) if isinstance(key, tuple) else (key, ...)]
        if found.size and not np.may_share_memory(found, array):
            raise TypeError(
                f"{key!r:.80} makes a copy, which is no part of {whole!r}: use slices and numbers, "
                "or send the copy itself"
            )
        offset = whole._span.offset
        if found.size:
            offset += found.ctypes.data - array.ctypes.data
        span = _Span(offset, found.shape, found.strides, found.dtype)
        return SharedArray._on(whole._buffer, span, owns=False)

    def __repr__(self) -> str:
        return f"<parts of {self._whole!r}>"


def _url(where: Where | Url) -> Url:
    try:
        return Url.parse(where)
    except TypeError as error:
        raise TypeError(
            f"{error}. The arguments are where, shape, dtype: "
            "SharedArray.create('shm:NAME', (3, 4), 'f4')"
        ) from None


def _refuse_another(where: str, found: ArrayHeader, shape: Shape | None, dtype: Any) -> None:
    """Refuse an array that is not the one asked for."""
    import numpy as np

    remedy = "unlink it, take another name, or ask for what is there"
    if dtype is not None and np.dtype(dtype) != found.dtype:
        raise IncompatibleSegment(
            f"{where!r} holds items of dtype {found.dtype}, and {np.dtype(dtype)} is asked for: "
            f"{remedy}",
            where=where,
        )
    if shape is not None and dimensions_of(shape) != found.shape:
        raise IncompatibleSegment(
            f"{where!r} has shape {found.shape}, and {dimensions_of(shape)} is asked for: {remedy}",
            where=where,
        )


def _span_of(header: ArrayHeader) -> _Span:
    """All the items of an array."""
    itemsize = header.dtype.itemsize
    strides, step = [], itemsize
    for number in header.shape if header.fortran else reversed(header.shape):
        strides.append(step)
        step *= max(1, number)
    if not header.fortran:
        strides.reverse()
    return _Span(header.offset, header.shape, tuple(strides), header.dtype)


def _view(buffer: SharedBuffer, span: _Span) -> np.ndarray[Any, Any]:
    whole = buffer.buf if prod(span.shape) else buffer.buf[:0]
    array = array_on(whole, span.shape, span.dtype, span.offset, span.strides)
    return buffer._exports.add(array, f"array of {span.shape} {span.dtype}")


def plan_copy(array: Any) -> tuple[int, Callable[[memoryview], None]]:
    """The size of a copy of an array with its header, and what writes its bytes.

    Raises:
        As `SharedArray.create`.
    """
    import numpy as np

    source = np.asanyarray(array)
    fortran = source.flags.f_contiguous and not source.flags.c_contiguous
    return _plan(source.shape, source.dtype, "F" if fortran else "C", source)


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
