"""How a record is laid out: from a format of `struct`, a dataclass, a NamedTuple, or by ctypes.

A format means what it means to `struct`, each item a field with a number ("3f" is three), and with
a name where names are given. What the fields of a class may be stands in the map of this room.
"""

from __future__ import annotations

import dataclasses
import re
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin, get_type_hints

from shmkit.memory.records.fields import (
    ITEM,
    Field,
    alignment_of,
    field_of,
    nested_of,
    text_of,
)
from shmkit.memory.records.record import record_type

if TYPE_CHECKING:
    from shmkit.memory.records.structures import StructureLayout

__all__ = ["Layout", "layout_of"]

_PLAIN: Final = {int: "q", float: "d", bool: "?"}
_ITEMS: Final = re.compile(r"\s*(\d*)([xcbB?hHiIlLqQnNefdPsp])")
_MOST_TEXT: Final = 0xFFFF


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The fields of a record.

    Args:
        kind: how records are called, a class's name.
        fields: in their order.
        size: bytes of a record, padding included.
        make: the dataclass or NamedTuple; None for a format.
        alignment: bytes that the offset of one is a multiple of, where C lays it out.
    """

    kind: str
    fields: tuple[Field, ...]
    size: int
    make: type[Any] | None = None
    alignment: int = 1

    def item(self, *, readonly: bool) -> Any:  # noqa: ARG002 - of ctypes' structures
        """What makes a record of a view and a byte: its class."""
        return record_type(self)

    def dtype(self) -> Any:
        """The same for numpy."""
        import numpy as np

        return np.dtype(
            {
                "names": [field.name or f"f{n}" for n, field in enumerate(self.fields)],
                "formats": [f.nested.dtype() if f.nested else f.dtype for f in self.fields],
                "offsets": [field.offset for field in self.fields],
                "itemsize": self.size,
            }
        )

    def packed(self, value: Any) -> list[tuple[int, bytes]]:
        """The bytes of an instance of the class, or of a value for each field, in pieces."""
        if self.make is not None and isinstance(value, self.make):
            values = [getattr(value, field.name) for field in self.fields]
        else:
            values = _values(value, self.kind)
        if len(values) != len(self.fields):
            raise ValueError(
                f"a record of {self.kind} has {len(self.fields)} fields, not {len(values)}"
            )
        pairs = zip(self.fields, values, strict=True)
        return [piece for field, one in pairs for piece in field.pieces(one)]

    def copied(self, view: memoryview, at: int) -> Any:
        """A copy of a record: an instance of the class, or a tuple."""
        values = [
            (field.unpack if field.nested is None else field.nested.copied)(view, at + field.offset)
            for field in self.fields
        ]
        if self.make is None:
            return tuple(values)
        if not dataclasses.is_dataclass(self.make):
            return self.make(*values)
        given = dict(zip((field.name for field in self.fields), values, strict=True))
        later = {f.name for f in dataclasses.fields(self.make) if not f.init}
        made = self.make(**{name: given[name] for name in given if name not in later})
        for name in later:
            object.__setattr__(made, name, given[name])
        return made


def _values(value: Any, kind: str) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        raise TypeError(
            f"a record of {kind} is set to one, or to a value for each of its fields, not to "
            f"{value!r:.80}"
        ) from None


def layout_of(
    source: Any,
    names: str | Sequence[str] | None = None,
    *,
    packed: bool = False,
) -> Layout | StructureLayout:
    """What `source` says; arguments and errors as of `SharedBuffer.records`."""
    if isinstance(source, struct.Struct):
        source = source.format
    if isinstance(source, str):
        if isinstance(names, str):
            names = names.replace(",", " ").split()
        if packed:
            raise ValueError("'packed' is for dataclasses: a format with '<', '>' or '=' is packed")
        return _of_format(source, None if names is None else tuple(names))
    if isinstance(source, type):
        if names is not None:
            raise ValueError(f"the fields of {source.__name__} have names: 'names' is for formats")
        if _has_fields(source):
            return _of_class(source, packed)
        if "ctypes" in sys.modules:
            from shmkit.memory.records.structures import StructureLayout, is_structure

            if is_structure(source):
                if packed:
                    raise ValueError(
                        f"'packed' is for dataclasses: {source.__name__} says _pack_ = 1 itself"
                    )
                return StructureLayout(source)
    raise TypeError(
        "a record is a format of struct, a Struct, a dataclass, a NamedTuple or a structure of "
        f"ctypes, not {source!r}"
    )


def _has_fields(source: Any) -> bool:
    """Whether it is a dataclass, or a named tuple."""
    return isinstance(source, type) and (
        dataclasses.is_dataclass(source)
        or (issubclass(source, tuple) and hasattr(source, "_fields"))
    )


@lru_cache(maxsize=256)
def _of_format(format: str, names: tuple[str, ...] | None) -> Layout:  # noqa: A002
    try:
        size = struct.calcsize(format)
    except struct.error as error:
        raise ValueError(f"{format!r} is no format of struct: {error}") from error
    order, items = (format[0], format[1:]) if format[:1] in tuple("@=<>!") else ("@", format)
    fields: list[Field] = []
    at = 0
    for digits, code in _ITEMS.findall(items):
        number = int(digits) if digits else None
        if code == "p" and number == 0:
            raise ValueError(
                f"{format!r}: a 'p' has a length in its first byte, so at least one byte"
            )
        if order == "@" and code != "x":
            at += -at % alignment_of(code)
        if code == "x":
            at += 1 if number is None else number
            continue
        for count in (number,) if code in "sp" else (None,) * (1 if number is None else number):
            fields.append(field_of("", at, order, code, count))
            at += fields[-1].size
    if not size:
        raise ValueError(f"a record of {format!r} has no bytes")
    if names is not None:
        _name(fields, names, format)
    return Layout("Record", tuple(fields), size)


def _name(fields: list[Field], names: tuple[str, ...], what: str) -> None:
    if len(names) != len(fields):
        raise ValueError(f"{what!r} has {len(fields)} fields, and there are {len(names)} names")
    for field, name in zip(fields, names, strict=True):
        field.name = name
    for name in names:
        if not name.isidentifier() or name.startswith("_shm_") or names.count(name) > 1:
            raise ValueError(f"{name!r} cannot be the name of a field, or is there twice")


@lru_cache(maxsize=256)
def _of_class(source: type[Any], packed: bool) -> Layout:
    hints = _hints(source)
    names = (
        [f.name for f in dataclasses.fields(source)]
        if dataclasses.is_dataclass(source)
        else (source._fields)
    )
    fields: list[Field] = []
    at, widest = 0, 1
    for name in names:
        field, alignment = _field(name, hints.get(name), f"{source.__name__}.{name}", packed)
        if not packed:
            at += -at % alignment
            widest = max(widest, alignment)
        field.offset = at
        at += field.size
        fields.append(field)
    if not at:
        raise ValueError(f"a record of {source.__name__} has no bytes")
    return Layout(source.__name__, tuple(fields), at + -at % widest, source, widest)


def _hints(source: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(source, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{source.__name__}: {error}: define the types of its fields at the top of a module"
        ) from error


def _field(name: str, hint: Any, label: str, packed: bool) -> tuple[Field, int]:
    """A field of a class, and what it is aligned to."""
    kind, spec = hint, None
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        spec = next((note for note in notes if isinstance(note, str | int)), None)
    if spec is None and _has_fields(kind):
        try:
            nested = _of_class(kind, packed)
        except RecursionError:
            raise TypeError(f"{label} is a {kind.__name__}, which holds itself") from None
        return nested_of(name, nested), nested.alignment
    if spec is None:
        spec = _PLAIN.get(kind)
    if isinstance(spec, str):
        return _coded(name, kind, spec, label)
    if spec is None or kind not in (str, bytes):
        raise TypeError(
            f"{label} is {hint!r}, whose size is not known: use int, float, bool, Annotated[int, "
            "'H'] with a code of struct, Annotated[str, 30] for up to 30 bytes of text, a "
            "dataclass or a NamedTuple"
        )
    if not 0 < spec <= _MOST_TEXT:
        raise ValueError(f"{label} can have room for 1 to {_MOST_TEXT} bytes, not {spec}")
    return text_of(name, 0, spec, is_str=kind is str), 2


def _coded(name: str, kind: Any, spec: str, label: str) -> tuple[Field, int]:
    found = ITEM.fullmatch(spec.removeprefix("<"))
    if found is None or found[2] in "nNP":
        raise ValueError(
            f"{label}: {spec!r} is not one code of struct of a fixed size, such as 'H'"
        )
    if kind is str:
        raise TypeError(
            f"{label}: {spec!r} does not say how long a text is: use Annotated[str, 30] for up to "
            "30 bytes"
        )
    count = int(found[1]) if found[1] else None
    field = field_of(name, 0, "<", found[2], count)
    return field, struct.calcsize(f"<{found[2]}")
