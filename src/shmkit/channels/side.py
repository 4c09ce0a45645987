"""Side: one of the two sides of a ring, who has its role, and whose death it was.

The words of a side's line are drawn in segment.py. A role of which there may be one is a lock byte
that the kernel takes back from the dead; beside it stands a generation, odd while claimed, so that
a claim whose lock is gone is a death, and one that the next claimer finds is written down as such
before it claims.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shmkit.channels.segment import LINE_CLAIM, LINE_DEATH, LINE_DEATH_PID, LINE_PID
from shmkit.errors import RoleTaken

if TYPE_CHECKING:
    from shmkit.channels.segment import Segment

__all__ = ["Side"]


class Side:
    """The producer or the consumer side of a ring, as one handle sees it.

    Args:
        segment: the ring's memory.
        role: "producer" or "consumer", for messages.
        line: index of the first word of the side's line.
        byte: the lock byte of the role.
    """

    def __init__(self, segment: Segment, role: str, line: int, byte: int) -> None:
        self.role = role
        self._segment = segment
        self._line = line
        self._byte = byte
        self._told = segment.words[line + LINE_DEATH]  # earlier deaths are not our business

    def claim(self) -> None:
        """Take the role for this handle.

        Raises:
            RoleTaken: another live handle has it.
            ClosedError: this handle was closed.
        """
        segment, words, line = self._segment, self._segment.words, self._line
        membership = segment.membership
        membership.register()
        if not membership.presence.try_lock(self._byte):
            pid = words[line + LINE_PID]
            raise RoleTaken(
                f"ring {str(segment.buffer.url)!r} has a {self.role} already, process {pid}: close "
                f'that one, or create the ring with {self.role}s="many"',
                pid=pid,
                role=self.role,
            )
        claim = words[line + LINE_CLAIM]
        if claim & 1:
            words[line + LINE_DEATH_PID] = words[line + LINE_PID]
            words[line + LINE_DEATH] = claim >> 1
        words[line + LINE_PID] = os.getpid()
        words[line + LINE_CLAIM] = ((claim >> 1) + 1) << 1 | 1

    def release(self) -> None:
        """Give the role back, if this handle has it: a departure, not a death."""
        presence = self._segment.membership.presence
        if presence.holds(self._byte):
            self._segment.words[self._line + LINE_CLAIM] &= ~1
            presence.unlock(self._byte)

    def holder(self) -> int | None:
        """Pid of the live handle that has the role, None if there is none."""
        if self._segment.membership.presence.is_held(self._byte):
            return self._segment.words[self._line + LINE_PID]
        return None

    def death(self) -> tuple[int, int] | None:
        """Generation and pid of one that died in this role and was not told of; None without."""
        words, line = self._segment.words, self._line
        claim = words[line + LINE_CLAIM]
        if (
            claim & 1
            and claim >> 1 > self._told
            and not self._segment.membership.presence.is_held(self._byte)
            and words[line + LINE_CLAIM] == claim
        ):
            return claim >> 1, words[line + LINE_PID]
        death = words[line + LINE_DEATH]
        return (death, words[line + LINE_DEATH_PID]) if death > self._told else None

    def tell(self, generation: int) -> None:
        """Note that this handle's user has been told of a death."""
        self._told = generation
