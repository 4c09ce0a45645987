"""Bytes that processes share: buffers, arrays, files; over anonymous, named and file memory.

A map, from the top:

- `buffer`: SharedBuffer: made, attached to, resized
- `array`, `array_header`, `array_shape`: SharedArray: a numpy array that tells its shape and dtype
- `paged`, `pages`, `page_search`: PagedFile: a file of any size through a few pages of memory
- `reading`: open_bytes: the bytes of a file, read or mapped
- `search`, `replacing`: find, count, regular expressions, replace, in place and into a file
- `stream`: a file object on the bytes, lines, chunks
- `records`, `layout`, `fields`: structures in the memory, read and written field by field
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
