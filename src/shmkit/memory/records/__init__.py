"""Records: structures in shared memory, read and written field by field.

A map; each file uses the files below it:

- `records`: Records, the sequence
- `layout`: what a format of `struct`, a dataclass or a NamedTuple says, as a list of fields
- `structures`: the same for the structures of ctypes
- `record`: Record, one structure in place
- `fields`: one field: where it is, and how its value becomes bytes and back

A dataclass or NamedTuple is laid out as C does it, little-endian: each field at a multiple of its
own size, the record a multiple of the largest (or `packed`, without gaps). Its fields may be:

    int "q", float "d", bool "?"        as they are
    Annotated[int, "H"]                 any code of struct
    Annotated[tuple, "3f"]              several of them, as a tuple
    Annotated[bytes, "16s"]             exactly 16 bytes
    Annotated[str, 30], [bytes, 30]     up to 30 bytes (of UTF-8); the length is stored before them
    another dataclass or NamedTuple     a record in the record

A structure of ctypes has the layout that ctypes gives it.
"""

from __future__ import annotations

from shmkit.memory.records.layout import Layout, layout_of
from shmkit.memory.records.record import Record
from shmkit.memory.records.records import Records, records_in

__all__ = ["Layout", "Record", "Records", "layout_of", "records_in"]
