r"""SharedPage: the memory a lock or an event lives in, there as long as somebody uses it.

A page has no creator that owns it. Whoever needs it first makes it, the last one out removes it,
and all zeros is a sound beginning; so there is nothing to be half-made. The resource tracker does
not know these names: it would remove them at the end of the first process tree, under the feet of
the others, and the next to come would make a second lock of the same name. A page whose users were
all killed stays until its next use, or `gc`.

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
from typing import TYPE_CHECKING, Final

from shmkit.errors import IncompatibleSegment
from shmkit.memory.buffer import SharedBuffer
from shmkit.sync.lines import LINE_WORDS, PARTICIPANT_LINE
from shmkit.sync.membership import Membership
from shmkit.sync.semaphores import OWNERSHIP
from shmkit.sync.waiting import OPEN

if TYPE_CHECKING:
    from shmkit.sync.semaphores import Counts

__all__ = ["STATE", "SharedPage"]

STATE: Final = 0x068 // 8
PARTICIPANTS: Final = 120

_MAGIC: Final = b"SHMKIT\x01\0"
_VERSION: Final = 1
_KIND = struct.Struct("<HHxxxx")


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
        self._participants = participants
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
                self.close()
                raise
            return

    def _enter(self, kind: int) -> None:
        view, name = self.buffer.buf, str(self.buffer.url)
        if self.buffer.url.scheme != "anon":
            os.close(self.buffer.descriptor())  # does the name still lead here?
        self.words: memoryview[int] = view.cast("Q")
        found, ours = bytes(view[:16]), _MAGIC + _KIND.pack(_VERSION, kind)
        if not any(found):
            view[0x30:0x40] = os.urandom(16)
            self.words[STATE] = OPEN
            self.words[OWNERSHIP] = self.membership.ownership()
            view[:16] = ours
        elif found != ours:
            raise IncompatibleSegment(
                f"{name!r} begins with {found!r}, and what is to live there with {ours!r}: "
                "take another name",
                where=name,
            )
        if self.membership.is_alone(self._participants):
            self.tidy()
        self.membership.call_when_last(self._remove)
        self.membership.enter(self.words, self._participants, bytes(view[0x30:0x40]).hex())

    def tidy(self) -> None:
        """Called for the first one in and the last one out, alone at the door: for subclasses."""

    def _remove(self) -> None:
        self.tidy()
        self.buffer.unlink()

    def close(self) -> None:
        """Leave; the last one out removes the page. Idempotent."""
        if hasattr(self, "membership"):
            self.membership.close()
        self.buffer.close()
