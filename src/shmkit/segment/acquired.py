"""Acquired: what an acquire of a lock came to."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["AFTER_DEATH", "NO", "YES", "Acquired"]


class Acquired(enum.IntEnum):
    """What an acquire came to; false if the lock was not acquired."""

    NO = 0
    YES = 1
    AFTER_DEATH = 2
    """Acquired, and the holder before died holding it: what it guards may be half-changed."""


YES: Final = Acquired.YES
NO: Final = Acquired.NO
AFTER_DEATH: Final = Acquired.AFTER_DEATH
