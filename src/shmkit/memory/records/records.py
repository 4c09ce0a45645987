"""Records: a sequence of structures in the memory, whose fields are read and written in place."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, SupportsIndex, TypeVar, overload

from shmkit.memory.mapping import checked_range
from shmkit.memory.records.fields import Field
from shmkit.memory.records.layout import Layout
from shmkit.memory.told import told
from shmkit.memory.views import array_on

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Record", "Records", "records_in"]

T = TypeVar("T")


class Record:
    """One record, in place: fields by name where they have names, and by number.

    Setting a field writes its bytes and nothing else; a number of up to 8 bytes at once.
    """

    __slots__ = ("_shm_at", "_shm_view")

    _shm_layout: ClassVar[Layout]

    def __init__(self, view: memoryview, at: int) -> None:
        self._shm_view = view
        self._shm_at = at

    def __len__(self) -> int:
        return len(self._shm_layout.fields)

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        view, at = self._shm_view, self._shm_at
        if isinstance(key, slice):
            return tuple(f.unpack(view, at + f.offset) for f in self._shm_layout.fields[key])
        field = self._shm_layout.fields[operator.index(key)]
        return field.unpack(view, at + field.offset)

    def __setitem__(self, key: SupportsIndex, value: Any) -> None:
        field = self._shm_layout.fields[operator.index(key)]
        _write(self._shm_view, self._shm_at + field.offset, field.pack(value))

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        layout = self._shm_layout
        if isinstance(other, Record | tuple):
            return bool(self[:] == tuple(other))
        if layout.make is not None and isinstance(other, layout.make):
            return bool(layout.value(self[:]) == other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        pairs = zip(self._shm_layout.fields, self[:], strict=True)
        shown = (f"{f.name}={value!r}" if f.name else repr(value) for f, value in pairs)
        return f"{self._shm_layout.kind}({', '.join(shown)})"


class Records(Sequence[T], Generic[T]):
    """Structures in the memory, as a sequence: items, slices, iteration, a numpy array.

    Items are views: they change when the memory does. `read(i)` is a copy.
    """

    __slots__ = ("_at", "_count", "_item", "_layout", "_step", "_view")

    itemsize: int = told("_layout.size", "Bytes of a record.")
    stride: int = told("_step", "Bytes from one record to the next; negative if backwards.")

    def __init__(self, view: memoryview, layout: Layout, at: int, step: int, count: int) -> None:
        self._view = view
        self._layout = layout
        self._at = at
        self._step = step
        self._count = count
        self._item = _record_type(layout)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, key: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> Records[T]: ...
    def __getitem__(self, key: SupportsIndex | slice) -> T | Records[T]:
        if not isinstance(key, slice):
            return self._item(self._view, self._place(key))  # type: ignore[return-value]
        start, stop, by = key.indices(self._count)
        count = len(range(start, stop, by))
        at = self._at + start * self._step
        return Records(self._view, self._layout, at, by * self._step, count)

    @overload
    def __setitem__(self, key: SupportsIndex, value: T | Sequence[Any]) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: Iterable[T | Sequence[Any]]) -> None: ...
    def __setitem__(self, key: SupportsIndex | slice, value: Any) -> None:
        if isinstance(key, slice):
            targets, values = self[key], list(value)
            if len(values) != len(targets):
                raise ValueError(
                    f"{len(values)} records do not replace {len(targets)}: a buffer keeps its size"
                )
            packed = [self._layout.packed(one) for one in values]
            for index, parts in enumerate(packed):
                targets._write(targets._at + index * targets._step, parts)
            return
        self._write(self._place(key), self._layout.packed(value))

    def __iter__(self) -> Iterator[T]:
        view, item = self._view, self._item
        stop = self._at + self._count * self._step
        for at in range(self._at, stop, self._step):
            yield item(view, at)  # type: ignore[misc]

    def read(self, index: SupportsIndex) -> T:
        """A copy of a record: an instance of the dataclass, or a tuple.

        Raises:
            IndexError: there is no such record.
        """
        values = self._item(self._view, self._place(index))[:]
        return self._layout.value(values)  # type: ignore[no-any-return]

    def to_numpy(self) -> np.ndarray[Any, Any]:
        """A structured array on the same memory: one name for each field, "f0" where it has none.

        Text is of the type "V", bytes as they are: "S" would lose trailing NULs.

        Raises:
            ImportError: numpy is not installed: it comes with shmkit[numpy].
        """
        view, at = (self._view, self._at) if self._count else (self._view[:0], 0)
        return array_on(view, (self._count,), self._layout.dtype(), at, (self._step,))

    def __repr__(self) -> str:
        return (
            f"<Records of {self._layout.kind}: {self._count} of {self._layout.size} bytes, "
            f"{self._step} apart>"
        )

    def _place(self, key: SupportsIndex) -> int:
        index = operator.index(key)
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError(f"record {operator.index(key)} is outside: there are {self._count}")
        return self._at + index * self._step

    def _write(self, at: int, parts: list[bytes]) -> None:
        for field, data in zip(self._layout.fields, parts, strict=True):
            _write(self._view, at + field.offset, data)


def records_in(
    view: memoryview,
    layout: Layout,
    offset: SupportsIndex,
    stride: SupportsIndex | None,
    count: SupportsIndex | None,
    what: str,
) -> Records[Any]:
    """The records in some bytes, `what` for messages; see `SharedBuffer.records`."""
    step = layout.size if stride is None else operator.index(stride)
    if step < layout.size:
        raise ValueError(f"'stride' is {step}, and a record has {layout.size} bytes")
    first, left = checked_range(offset, None, len(view), what)
    number = max(0, (left - layout.size) // step + 1)
    if count is not None:
        wanted = operator.index(count)
        if not 0 <= wanted <= number:
            raise ValueError(
                f"{wanted} records of {layout.size} bytes, {step} apart, from byte {first} do "
                f"not fit into {what}: there is room for {number}"
            )
        number = wanted
    return Records(view, layout, first, step, number)


def _write(view: memoryview, at: int, data: bytes) -> None:
    # One copy of all the bytes; struct.pack_into would set them to zero first, for all to see.
    try:
        view[at : at + len(data)] = data
    except TypeError as error:
        raise TypeError("these records are read-only: attach with access='rw', or 'cow'") from error


@lru_cache(maxsize=256)
def _record_type(layout: Layout) -> type[Record]:
    body: dict[str, Any] = {"__slots__": (), "_shm_layout": layout}
    body.update({field.name: _property(field) for field in layout.fields if field.name})
    return type(layout.kind, (Record,), body)


def _property(field: Field) -> property:
    offset, pack, unpack = field.offset, field.pack, field.unpack

    def get(record: Record) -> Any:
        return unpack(record._shm_view, record._shm_at + offset)

    def put(record: Record, value: Any) -> None:
        _write(record._shm_view, record._shm_at + offset, pack(value))

    return property(get, put, doc=f"Field at byte {offset}, {field.size} bytes.")
