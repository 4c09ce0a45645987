"""Record: one structure in place, whose fields are read and written where they are.

To a program it is what its layout was made of: the methods and properties of the class work on it.
One of a dataclass is an instance by `isinstance` and in `match`, and `dataclasses.asdict` takes it.
One of a NamedTuple is no tuple by `isinstance`: the C code of Python reads tuples by their memory.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

from shmkit.compiled import Exporter
from shmkit.memory.records.fields import Field

__all__ = ["Record", "record_type", "write"]


class Record(Exporter):
    """One record, in place: fields by name where they have names, and by number.

    Setting a field writes its bytes and nothing else; a number of up to 8 bytes at once. It is a
    buffer of its own bytes. It pickles as a copy.
    """

    __slots__ = ("_shm_at", "_shm_view")

    _shm_layout: ClassVar[Any]  # a Layout, which makes these

    def __init__(self, view: memoryview, at: int) -> None:
        self._shm_view = view
        self._shm_at = at

    if TYPE_CHECKING:
        # Of a format with names.
        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __len__(self) -> int:
        return len(self._shm_layout.fields)

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        view, at = self._shm_view, self._shm_at
        if isinstance(key, slice):
            return tuple(f.unpack(view, at + f.offset) for f in self._shm_layout.fields[key])
        field = self._shm_layout.fields[operator.index(key)]
        return field.unpack(view, at + field.offset)

    def __setitem__(self, key: SupportsIndex, value: Any) -> None:
        for offset, data in self._shm_layout.fields[operator.index(key)].pieces(value):
            write(self._shm_view, self._shm_at + offset, data)

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        layout = self._shm_layout
        if isinstance(other, Record | tuple):
            return bool(self[:] == tuple(other))
        if layout.make is not None and isinstance(other, layout.make):
            return bool(layout.copied(self._shm_view, self._shm_at) == other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._shm_layout.copied(self._shm_view, self._shm_at),)

    def _exported(self) -> memoryview:
        return self._shm_view[self._shm_at : self._shm_at + self._shm_layout.size]

    def __repr__(self) -> str:
        pairs = zip(self._shm_layout.fields, self[:], strict=True)
        shown = (f"{f.name}={value!r}" if f.name else repr(value) for f, value in pairs)
        return f"{self._shm_layout.kind}({', '.join(shown)})"


def _itself(value: Any) -> Any:
    return value


def write(view: memoryview, at: int, data: bytes) -> None:
    """Write the bytes of a field."""
    # One copy of all the bytes; struct.pack_into would set them to zero first, for all to see.
    try:
        view[at : at + len(data)] = data
    except TypeError as error:
        raise TypeError("these records are read-only: attach with access='rw', or 'cow'") from error


@lru_cache(maxsize=256)
def record_type(layout: Any) -> type[Record]:
    """The class of the records of a layout."""
    body: dict[str, Any] = {"__slots__": (), "_shm_layout": layout}
    make = layout.make
    if make is not None:
        if not issubclass(make, tuple):
            body["__class__"] = property(lambda _: make)
        for base in reversed(make.__mro__):
            if base is not object and base is not tuple:
                body.update((n, m) for n, m in vars(base).items() if _is_taken_over(n))
    body.update({field.name: _property(field) for field in layout.fields if field.name})
    return type(layout.kind, (Record,), body)


def _is_taken_over(name: str) -> bool:
    """Whether a record has an attribute of the class that it was made of: not the language's."""
    return not name.startswith("__") or name in ("__dataclass_fields__", "__doc__")


def _property(field: Field) -> property:
    offset, pack, unpack = field.offset, field.pack, field.unpack

    def get(record: Record) -> Any:
        return unpack(record._shm_view, record._shm_at + offset)

    def put(record: Record, value: Any) -> None:
        write(record._shm_view, record._shm_at + offset, pack(value))

    def put_pieces(record: Record, value: Any) -> None:
        for at, data in field.pieces(value):
            write(record._shm_view, record._shm_at + at, data)

    doc = f"Field at byte {offset}, {field.size} bytes."
    return property(get, put if field.nested is None else put_pieces, doc=doc)
