"""Bytes that processes share: buffers and files, over anonymous, named and file memory.

A map, from the top. What other floors need is imported from the doors of the rooms:

- `buffer/`: SharedBuffer: made, attached to, searched, streamed, resized
- `records/`: structures in the memory, read and written field by field
- `paged/`: PagedFile: a file of any size through a few pages of memory
- `shared_memory`: SharedMemory, the standard library's class
- `open_bytes`: the bytes of a file, read or mapped

and what these stand on:

- `creation`: getting hold of memory: made in one step, opened, waited for
- `ownership`: the creator removes the name
- `process`: which process this is, where pids do not tell
- `mappers`: which processes have a memory
- `mapping`: from a descriptor to addresses, at any byte offset
- `untracked`: maps that keep no descriptor, before Python 3.13
- `allocation`: room is taken at creation, or the lack of it is an error
- `searchable`: the methods of a bytearray that search
- `lines`: lines of bytes that come in pieces
- `views`: typed views and arrays
- `identity`: which memory a descriptor or a name leads to
- `files`, `opening`: files as they are given: paths, links, descriptors, open files
- `url`: where memory lives
- `checks`: what callers give, checked
- `told`: a read-only property in a line
- `imports`: a fork waits for imports in other threads
- `tracker`: the resource tracker is started, and its lock kept over a fork
- `backends/`: anonymous, named, file: the system calls of each kind
"""

from __future__ import annotations

__all__: list[str] = []
