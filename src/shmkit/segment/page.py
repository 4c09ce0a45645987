r"""SharedPage: the memory a lock or an event lives in, there as long as somebody uses it.

A page has no creator that owns it. Whoever needs it first makes it, the last one out removes it,
and all zeros is a sound beginning; so there is nothing to be half-made. The resource tracker does
not know these names: it would remove them at the end of the first process tree, under the feet of
the others, and the next to come would make a second lock of the same name. A page whose users were
all killed stays until its next use.

    offset  field                                              written by
    0x000   magic "SHMKIT\x01\0"                               the first
    0x008   layout version, kind (u16 each)                    the first
    0x030   incarnation: 16 random bytes                       the first
    0x068   state: always OPEN                                 the first
    0x070   whose the semaphores are (semaphores.py)           the first
    0x080   what the primitive keeps here                      see there
    0x400   participants, as in every segment (lines.py)  each its own
"""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from shmkit.errors import CorruptSegment, IncompatibleSegment
from shmkit.memory.buffer import SharedBuffer
from shmkit.segment.membership import Membership
from shmkit.segment.participants import LINE_WORDS, PARTICIPANT_LINE
from shmkit.segment.semaphores import OWNERSHIP
from shmkit.sync.doorbell import NO_WORDS, OPEN

if TYPE_CHECKING:
    from shmkit.segment.semaphores import Counts

__all__ = ["STATE", "SharedPage"]

STATE: Final = 0x068 // 8
PARTICIPANTS: Final = 120

_MAGIC: Final = b"SHMKIT\x01\0"
_VERSION: Final = 1
_KIND = struct.Struct("<HHxxxx")
_INCARNATION: Final = slice(0x030, 0x040)
# What may be written when the magic is not yet.
_BEFORE_MAGIC: Final = (_INCARNATION, slice(0x068, 0x078))


class SharedPage:
    """One handle on a page.

    Args:
        memory: a name, for processes that know it; None for a page that is reached by fork and
            pickle; or the buffer of a page that came by pickle.
        kind: what lives in it.
        semaphores: names of its semaphores, and the counts they start with.
        participants: how many handles there may be at a time.

    Raises:
        IncompatibleSegment: the name belongs to something else.
        CorruptSegment: others use it, and have lost its semaphores or its state.
        ValueError: a bad name.
        OSError: no room, or too many participants.

    Attributes:
        buffer: the memory.
        membership: this handle among the participants, and the semaphores.
        words: the page as 8-byte words.
    """

    def __init__(
        self,
        memory: str | SharedBuffer | None,
        kind: int,
        semaphores: Counts,
        *,
        participants: int = PARTICIPANTS,
    ) -> None:
        size = (PARTICIPANT_LINE + participants * LINE_WORDS) * 8
        if memory == "":
            raise ValueError("the name is empty: give one that others know, or None")
        self._participants = participants
        self._size = size
        while True:
            if isinstance(memory, SharedBuffer):
                self.buffer = memory
            elif memory is None:
                self.buffer = SharedBuffer.create(None, size=size)
            else:
                self.buffer = SharedBuffer.ensure(f"shm:{memory}", size, keep=True)
            try:
                self.membership = Membership(self.buffer, semaphores)
                self.membership.admit(partial(self._enter, kind))
            except FileNotFoundError:
                self.close()
                if not isinstance(memory, str):
                    raise
                continue  # the last one left it meanwhile, and took the name along
            except BaseException:
                self._undo()
                self.close()
                raise
            return

    def _enter(self, kind: int) -> None:
        view, name = self.buffer.buf, str(self.buffer.url)
        if self.buffer.url.scheme != "anon":
            os.close(self.buffer.descriptor())  # does the name still lead here?
        self.words: memoryview[int] = view[: self._size].cast("Q")
        found, ours = bytes(view[:16]), _MAGIC + _KIND.pack(_VERSION, kind)
        alone = self.membership.is_alone(self._participants)
        if alone and self._is_blank():
            view[_INCARNATION] = os.urandom(16)
            self.words[STATE] = OPEN
            self.words[OWNERSHIP] = self.membership.ownership()
            view[:16] = ours
        elif found != ours:
            raise IncompatibleSegment(
                f"{name!r} begins with {found!r}, and what is to live there with {ours!r}: "
                "take another name",
                where=name,
            )
        elif self.words[STATE] != OPEN:
            self._complain(f"its state is {self.words[STATE]}, and always {OPEN}")
        if alone:
            self.tidy()
        self.membership.call_when_last(self._remove)
        incarnation = bytes(view[_INCARNATION]).hex()
        try:
            self.membership.enter(self.words, self._participants, incarnation)
        except FileNotFoundError as error:
            self._complain("others use it, and its semaphores are gone", error)

    def _undo(self) -> None:
        """Remove what was made for nobody."""
        if self.buffer.created and hasattr(self, "membership"):
            try:
                with self.membership.entering(0):
                    if self.membership.is_alone(self._participants):
                        self.buffer.unlink()
            except OSError:  # somebody is at the door, who wants it; or there is no name
                return

    def _is_blank(self) -> bool:
        """Whether it is as it was made, all zeros, or its maker was killed soon after."""
        content = bytearray(self.buffer.buf)
        for written in _BEFORE_MAGIC:
            content[written] = bytes(written.stop - written.start)
        return len(content) == self._size and not any(content)

    def _complain(self, detail: str, cause: Exception | None = None) -> NoReturn:
        name = str(self.buffer.url)
        raise CorruptSegment(
            f"{name!r} is damaged: {detail}. Have everybody close it, and remove that name",
            where=name,
            detail=detail,
        ) from cause

    def tidy(self) -> None:
        """Called for the first one in and the last one out, alone at the door: for subclasses."""

    def _remove(self) -> None:
        self.tidy()
        self.buffer.unlink()

    def close(self) -> None:
        """Leave; the last one out removes the page. Idempotent."""
        if hasattr(self, "membership"):
            self.membership.close()
        self.words = NO_WORDS  # or they would keep the memory
        self.buffer.close()
