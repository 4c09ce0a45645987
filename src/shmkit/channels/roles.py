"""Side: one of the two sides of a channel: which participants have its role, and which died.

A role is a bit in the line of each participant that has it (segment/words.py). A participant lives
as long as the kernel holds its lock byte, so a line without a lock and with the bit set is a death
in that role. Where only one participant may have the role, it is also a lock byte of its own, which
the kernel takes back when the holder dies.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from shmkit.errors import PeerDied, RoleTaken
from shmkit.segment.words import ATTACHED, DEATHS, PID, ROLES

if TYPE_CHECKING:
    from shmkit.segment.presence import Presence
    from shmkit.segment.segment import Segment

__all__ = ["Death", "Side"]

LOOK: Final = 0.5  # seconds: the kernel is asked no more often by one who polls


class Death(NamedTuple):
    """A participant that died in a role.

    Attributes:
        pid: process id it had.
        mark: when it attached, in ns; it tells two deaths with the same pid apart.
    """

    pid: int
    mark: int


class Side:
    """The producer or the consumer side of a channel, as one handle sees it.

    Args:
        segment: the channel's memory.
        role: what it is called: "producer", "consumer", or as the channel has it.
        bit: 0 or 1, which of the roles it is.
        byte: the lock byte of a role that only one handle may have; None where many may.
        channel: what messages call the channel: "ring", "broadcast", ...

    Attributes:
        shared: whether many may have the role.
        next_look: when a call that does not wait looks for a death again, on the monotonic clock.
    """

    def __init__(
        self, segment: Segment, role: str, bit: int, byte: int | None, channel: str = "ring"
    ) -> None:
        self.role = role
        self._channel = channel
        self.shared: bool = byte is None
        self._segment = segment
        self._membership = segment.membership
        self._bit = bit
        self._byte = byte
        self._last = Death(0, 0)
        self.next_look: float = 0.0
        # A death is news only while no successor has come: older deaths are not told here.
        self._told: set[int] = {segment.words[DEATHS + 2 * bit]}
        if not segment.buffer.created:  # else there was none before, and the table is not touched
            alive, dead = self._survey()
            if alive:
                self._told.update(death.mark for death in dead)

    def claim(self) -> None:
        """Take the role for this handle. Idempotent: an interrupted claim may be repeated.

        Raises:
            RoleTaken: another live handle has it, and only one may.
            ClosedError: this handle was closed.
        """
        self._membership.register()
        presence, byte = self._membership.presence, self._byte
        words, at = self._segment.words, self._membership.line() + ROLES
        unlocks = presence.unlocks(byte) if byte is not None else iter(())
        try:
            self._claim(presence, byte)
            words[at] |= 1 << self._bit  # step: claim
        except BaseException:
            # A signal handler raised: others must not find the role taken by no process.
            if not words[at] >> self._bit & 1:
                for _ in unlocks:
                    break
            raise

    def _claim(self, presence: Presence, byte: int | None) -> None:
        if byte is not None and not presence.holds(byte) and not presence.try_lock(byte):
            pids = self.holders()
            pid = pids[0] if pids else 0
            remedy = f', or create the ring with {self.role}s="many"'
            raise RoleTaken(
                f"{self._channel} {str(self._segment.buffer.url)!r} has a {self.role} already, "
                f"process {pid}: close that one{remedy if self._channel == 'ring' else ''}",
                pid=pid,
                role=self.role,
            )

    def release(self) -> None:
        """Give the role back: a departure, not a death."""
        words, at, byte = self._segment.words, self._membership.line() + ROLES, self._byte
        presence = self._membership.presence
        # Lost: the program closed the descriptor, and the kernel took the byte back with it.
        is_held = byte is not None and not presence.is_lost
        unlocks = presence.unlocks(byte or 0) if is_held else iter(())
        # The bit before the lock: else a successor with the lock would see two holders.
        words[at] &= ~(1 << self._bit)
        for _ in unlocks:  # step: unclaim
            break

    def holders(self) -> list[int]:
        """Pids of the live handles that have the role, this one included."""
        return self._survey()[0]

    def death(self) -> Death | None:
        """A death to tell; where many may have the role, only once no holder is left alive."""
        alive, dead = self._survey()
        if self.shared and alive:
            return None
        for death in dead:
            if death.mark not in self._told:
                return death
        words = self._segment.words
        # The line of the dead may have a new owner by now; these words keep the last death.
        buried = Death(words[DEATHS + 2 * self._bit + 1], words[DEATHS + 2 * self._bit])
        return None if buried.mark in self._told else buried

    def tell(self, death: Death) -> None:
        """Note that the caller is told of a death."""
        self._told.add(death.mark)
        self._last = death

    def untell(self) -> None:
        """Take the last `tell` back: the caller has not heard of the death after all."""
        self._told.discard(self._last.mark)

    def raise_if_dead(self, title: str, word: int, seen: int) -> None:
        """Raise if this side died, and a word that it moves is still as it was seen.

        Args:
            title: what messages call the channel.
            word: index of the word.
            seen: the value it had.

        Raises:
            PeerDied: it did; told once per death to each `Side`.
        """
        death = self.death()
        # The word is read after the death is known: the last store of the dead is then seen.
        if death is None or self._segment.words[word] != seen:
            return  # alive, or it moved the word before it died: the caller tries again
        self.tell(death)
        raise PeerDied(
            f"process {death.pid}, the {self.role} of {title}, died without closing it; what it "
            "had committed stays, and a successor may attach",
            pid=death.pid,
            role=self.role,
        )

    def raise_if_seen_dead(self, title: str, word: int, seen: int) -> None:
        """`raise_if_dead` for a call that does not wait: it looks twice a second at most."""
        now = monotonic()
        if now >= self.next_look:
            self.next_look = now + LOOK
            self.raise_if_dead(title, word, seen)

    def has_news(self) -> bool:
        """Whether there is a death to tell; the next call that does not wait then tells it."""
        if self.death() is None:
            return False
        self.next_look = 0.0
        return True

    def _survey(self) -> tuple[list[int], list[Death]]:
        words, membership = self._segment.words, self._membership
        alive: list[int] = []
        dead: list[Death] = []
        for line, lives in membership.participants.in_role(self._bit):
            # Roles first, then the lock: a leaving participant clears its roles before it unlocks.
            if words[line + ROLES] >> self._bit & 1:
                owner = Death(words[line + PID], words[line + ATTACHED])
                if lives():
                    alive.append(owner.pid)
                elif (
                    words[line + ATTACHED] == owner.mark  # the line has no new owner
                    and words[line + ROLES] >> self._bit & 1
                ):
                    dead.append(owner)
        return alive, dead
