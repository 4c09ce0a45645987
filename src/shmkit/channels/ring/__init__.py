"""Ring: byte frames from producers to consumers.

    ring        the class: made, joined, looked at, closed; every call goes on from there
    options     how a ring is made
    write       the producers' side: room, policies, the wait for room
    read        the consumers' side: the next frame, checks, the wait for one
    batch       put_many and get_many
    lending     a side for one thread alone: attempts, waits, loans
    in_place    reserve, peek and get_into: frames lent to the caller

The common case of put and get is below all of these, in shmkit/core.py.
"""

from __future__ import annotations

from shmkit.channels.ring.in_place import Frame
from shmkit.channels.ring.lending import Wait, attempt, insist, take_role
from shmkit.channels.ring.options import stored
from shmkit.channels.ring.read import Reader
from shmkit.channels.ring.ring import Ring, RingStatistics
from shmkit.channels.ring.write import Writer

__all__ = [
    "Frame",
    "Reader",
    "Ring",
    "RingStatistics",
    "Wait",
    "Writer",
    "attempt",
    "insist",
    "stored",
    "take_role",
]
