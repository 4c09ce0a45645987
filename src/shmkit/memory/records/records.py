"""Records: a sequence of structures in the memory, whose fields are read and written in place."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, SupportsIndex, TypeVar, overload

from shmkit.compiled import Exporter
from shmkit.memory.mapping import checked_range
from shmkit.memory.records.layout import Layout
from shmkit.memory.records.record import write
from shmkit.memory.told import told
from shmkit.memory.views import array_on

if TYPE_CHECKING:
    import numpy as np

    from shmkit.memory.records.structures import StructureLayout

__all__ = ["Records", "records_in"]

T = TypeVar("T")


class Records(Exporter, Sequence[T], Generic[T]):
    """Structures in the memory, as a sequence: items, slices, iteration, a numpy array.

    Items are views: they change when the memory does. `read(i)` is a copy. Records without gaps
    between them are a buffer of their bytes, and each record is one, too.
    """

    __slots__ = ("_at", "_count", "_item", "_layout", "_step", "_view")

    itemsize: int = told("_layout.size", "Bytes of a record.")
    stride: int = told("_step", "Bytes from one record to the next; negative if backwards.")

    def __init__(
        self, view: memoryview, layout: Layout | StructureLayout, at: int, step: int, count: int
    ) -> None:
        self._view = view
        self._layout = layout
        self._at = at
        self._step = step
        self._count = count
        self._item = layout.item(readonly=view.readonly)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, key: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> Records[T]: ...
    def __getitem__(self, key: SupportsIndex | slice) -> T | Records[T]:
        if not isinstance(key, slice):
            return self._item(self._view, self._place(key))  # type: ignore[no-any-return]
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
            for index, pieces in enumerate(packed):
                targets._write(targets._at + index * targets._step, pieces)
            return
        self._write(self._place(key), self._layout.packed(value))

    def __iter__(self) -> Iterator[T]:
        view, item = self._view, self._item
        stop = self._at + self._count * self._step
        for at in range(self._at, stop, self._step):
            yield item(view, at)

    def read(self, index: SupportsIndex) -> T:
        """A copy of a record: an instance of its class, or a tuple.

        Raises:
            IndexError: there is no such record.
        """
        return self._layout.copied(self._view, self._place(index))  # type: ignore[no-any-return]

    @property
    def buf(self) -> memoryview:
        """The bytes of these records, as a memoryview: `records[i : i + 1].buf` is those of one.

        Raises:
            BufferError: there are gaps between them, or they are backwards.
        """
        size = self._layout.size
        if self._step != size and self._count > 1:
            raise BufferError(f"{self!r} do not lie side by side: take one of them, or to_numpy()")
        return self._view[self._at : self._at + self._count * size]

    def _exported(self) -> memoryview:
        return self.buf

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

    def _write(self, at: int, pieces: list[tuple[int, bytes]]) -> None:
        for offset, data in pieces:
            write(self._view, at + offset, data)


def records_in(
    view: memoryview,
    layout: Layout | StructureLayout,
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
