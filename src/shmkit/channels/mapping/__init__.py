"""A dict that processes share.

keys.py         keys as bytes, and back
values.py       values as bytes, and back
generation.py   an index and a log of entries: what a reader needs, and no lock
writing.py      the steps of a writer, who has the lock: put, delete, compaction
shared_dict.py  the class
"""

from __future__ import annotations

from shmkit.channels.mapping.shared_dict import SharedDict

__all__ = ["SharedDict"]
