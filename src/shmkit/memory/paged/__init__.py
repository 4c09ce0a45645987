"""PagedFile: a file of any size through a few pages of memory.

A map; each file uses the files below it:

- `paged`: PagedFile: the file as a sequence of bytes
- `stream`: a file object on it
- `search`: find, count, regular expressions, over bytes that come page by page
- `pages`: the pages in memory: read when missed, written back when they have to go
"""

from __future__ import annotations

from shmkit.memory.paged.paged import PagedFile
from shmkit.memory.paged.pages import PagedStatistics

__all__ = ["PagedFile", "PagedStatistics"]
