"""SharedBuffer: the same calls on anonymous, named and file memory.

A map; each file uses the files below it:

- `buffer`: SharedBuffer: create, attach, ensure, and what stands below as methods
- `pickling`: how a handle crosses to another process
- `resizing`: another size under live maps
- `stream`: a file object on the bytes, lines, chunks
- `search`: find, count, regular expressions, replace
- `replacing`: replacing into a new file
- `content`: the bytes: items, slices, typed views, flush
- `handle`: the life of a handle: made, closed, unlinked
- `exports`: which views of a handle are in use
"""

from __future__ import annotations

from shmkit.memory.buffer.buffer import SharedBuffer

__all__ = ["SharedBuffer"]
