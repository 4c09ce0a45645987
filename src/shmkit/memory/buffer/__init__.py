"""SharedBuffer: the same calls on anonymous, named and file memory."""

from __future__ import annotations

from shmkit.memory.buffer.buffer import SharedBuffer

__all__ = ["SharedBuffer"]
