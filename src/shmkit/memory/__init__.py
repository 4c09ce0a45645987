"""Bytes that processes share: one SharedBuffer over anonymous, named and file memory.

A map, from the top:

- `buffer`: SharedBuffer: made, attached to, resized
- `content`: its bytes: slices, views, flush
- `handle`: its life: descriptors, pickling, close, unlink
- `opening`: getting hold of memory: exclusive creation, waiting for a name, half-made names
- `mapping`: memory -> addresses, at any byte offset
- `ownership`: whose duty it is to remove a name
- `loans`: which views of a handle are still in use
- `views`: typed views and arrays
- `resizing`: growing and shrinking under live maps
- `transfer`: how a handle crosses to another process
- `reserve`: room is taken at creation, or ENOSPC is told
- `url`: where memory lives
- `backends/`: anonymous, named, file: the system calls of each kind
"""

from __future__ import annotations

__all__: list[str] = []
