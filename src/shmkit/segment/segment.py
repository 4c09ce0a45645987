"""Segment: shared memory that describes itself, and the handshake of its creators and attachers.

    create:  memory without a name -> header -> name -> enter
    attach:  open by name -> check the header -> enter
    ensure:  attach, or create; again if another process was faster
    enter:   alone at the door: does the name still lead here? -> semaphores -> a place in the table

Memory is filled before it has a name (memory/creation.py), so what has one is whole: a segment
with a header, or not ours. What is not ours is refused, and not touched. The bytes are drawn in
words.py, entering is membership.py.

A lock or an event lives in a segment without data, a *control page*. It belongs to no process: its
first user makes it, the last one out removes it. The resource tracker does not know its name: it
would remove the page at the end of the first process tree, while other processes use it, and the
next user would make a second lock of the same name. A page whose users were all killed stays until
its next use.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from shmkit.errors import CorruptSegment, IncompatibleSegment
from shmkit.memory.allocation import fill_holes
from shmkit.memory.buffer import SharedBuffer
from shmkit.memory.ownership import refuse_others
from shmkit.memory.url import Url
from shmkit.segment import header
from shmkit.segment.membership import Membership
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.words import (
    CALLS_KIND,
    DICT_KIND,
    JOINABLE_QUEUE_KIND,
    KEPT,
    LEAST_DATA,
    LINE,
    OBJECT_RING_KIND,
    PAGE,
    PARTICIPANTS_AT,
    POISONED,
    QUEUE_KIND,
    RESULTS_KIND,
    STATE,
)

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from shmkit.memory.url import Where
    from shmkit.segment.header import Header
    from shmkit.segment.words import Kind

__all__ = ["CONTROL_PARTICIPANTS", "PARTICIPANTS", "Segment"]

_NO_MAP: Final[Any] = None
PARTICIPANTS: Final = (2 * PAGE - PARTICIPANTS_AT * 8) // LINE  # what fits into two pages
CONTROL_PARTICIPANTS: Final = 120
_SCHEMES: Final = ("anon:", "shm:", "file:")
_WITH_PICKLES: Final = {
    kind.number
    for kind in (
        OBJECT_RING_KIND,
        QUEUE_KIND,
        JOINABLE_QUEUE_KIND,
        CALLS_KIND,
        RESULTS_KIND,
        DICT_KIND,
    )
}


def _nothing(segment: Segment) -> None:
    """The `first` of callers that have nothing to do first."""


class Segment:
    """One handle's part in a segment: the memory behind a header that was made or checked.

    Made by `create`, `attach`, `ensure`, `join` or `control`.

    Attributes:
        buffer: the memory; the segment closes it.
        kind: what lives there.
        membership: this handle among the participants, and its semaphores.
        header: the fixed fields.
        words: the segment as 8-byte words.
        map: the mmap of the memory, for hot paths that slice bytes.
        base: index in `map` of the first byte of the data.
        data_word: index in `words` of the same.
    """

    membership: Membership
    header: Header
    words: memoryview[int]
    map: mmap.mmap
    base: int
    data_word: int

    def __init__(self, buffer: SharedBuffer, kind: Kind) -> None:
        """Take over a buffer; the class methods are the ways to make a segment."""
        self.buffer = buffer
        self.kind = kind

    # -- making and joining ------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        where: Where | Url,
        kind: Kind,
        data_size: int = 0,
        *,
        flags: int = 0,
        participants: int = PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
        fill: Callable[[memoryview], None] | None = None,
    ) -> Segment:
        """Make a new one. Leaves nothing behind when it fails.

        Args:
            where: its memory.
            kind: what is to live there.
            data_size: bytes of data, a power of two.
            flags: of the kind.
            participants: how many handles there may be at a time.
            keep: leave the name in place when its creator goes.
            mode: permissions, less the umask.
            fill: writes what else is there from the beginning; it gets all the bytes, header and
                all.

        Raises:
            FileExistsError: it is there.
            OSError: ENOSPC, no room for it.
        """
        size, write = _new(kind, data_size, flags, participants, fill)
        buffer = SharedBuffer._create_filled(Url.parse(where), size, write, keep=keep, mode=mode)
        return cls._join_own(buffer, kind)

    @classmethod
    def attach(
        cls,
        where: Where | Url,
        kind: Kind,
        *,
        timeout: float | None = 0,
        trust_owner: bool = False,
    ) -> Segment:
        """Join one that exists, waiting up to `timeout` seconds for it.

        Another user's is refused, unless `trust_owner` is set and it holds no pickles.

        Raises:
            PermissionError: it is another user's.
            FileNotFoundError: nothing of that name.
            IncompatibleSegment: not a segment, or another kind or version.
            CorruptSegment: its header breaks a rule.
            OSError: ENOSPC: it is a copy with holes, and there is no room to fill them.
        """
        refusal = _refusal(kind, trust_owner)
        buffer = SharedBuffer._attach_filled(where, timeout=timeout, refusal=refusal)
        return cls.join(buffer, kind)

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        kind: Kind,
        data_size: int = 0,
        *,
        flags: int = 0,
        participants: int = PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
        fill: Callable[[memoryview], None] | None = None,
        first: Callable[[Segment], None] = _nothing,
        trust_owner: bool = False,
    ) -> Segment:
        """Join the one that exists, or make it.

        Args:
            where: as of `create`, and so are the rest; what exists keeps its own.
            kind: what is to live there.
            data_size: bytes of data, a power of two.
            flags: of the kind.
            participants: how many handles there may be at a time.
            keep: leave the name in place when its creator goes.
            mode: permissions, less the umask.
            fill: writes what else is there from the beginning.
            first: as of `control`.
            trust_owner: as of `attach`.

        Raises:
            IncompatibleSegment, CorruptSegment, PermissionError: as `attach`.
            OSError: as `create`.
        """
        url = Url.parse(where)
        size, write = _new(kind, data_size, flags, participants, fill)
        refusal = _refusal(kind, trust_owner)
        while True:
            try:
                buffer = SharedBuffer._ensure_filled(
                    url, size, write, keep=keep, mode=mode, refusal=refusal
                )
            except IncompatibleSegment:  # smaller than a new one: `join` tells if it is ours
                try:
                    buffer = SharedBuffer._attach_filled(url, refusal=refusal)
                except FileNotFoundError:
                    continue
            try:
                if buffer.created:
                    return cls._join_own(buffer, kind)
                return cls.join(buffer, kind, first)
            except FileNotFoundError:
                continue  # unlinked meanwhile: it is ours to make

    @classmethod
    def control(
        cls,
        memory: str | Url | SharedBuffer | None,
        kind: Kind,
        *,
        participants: int = CONTROL_PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
        fill: Callable[[memoryview], None] | None = None,
        first: Callable[[Segment], None] = _nothing,
        exclusive: bool = False,
        trust_owner: bool = False,
    ) -> Segment:
        """A control page: a segment without data, that goes with its last user.

        Args:
            memory: a name, for processes that know it; a url; None for a page that is reached by
                fork and pickle; or the buffer of a page that came by pickle.
            kind: what lives there.
            participants: how many handles there may be at a time.
            keep: leave the name in place when the last user goes. Files always stay.
            mode: permissions, less the umask.
            fill: as of `create`.
            first: called alone at the door if no other handle is a participant.
            exclusive: make it; it must not be there.
            trust_owner: as of `attach`.

        Raises:
            FileExistsError: `exclusive`, and it is there.
            IncompatibleSegment: the name belongs to something else.
            CorruptSegment: its header was overwritten.
            FileNotFoundError: a page that came by pickle was removed meanwhile.
            TypeError: a name that is no str.
            PermissionError: it is another user's.
            ValueError: a bad name.
            OSError: no room, or too many participants.
        """
        if not isinstance(memory, str | Url | SharedBuffer | None):
            raise TypeError(
                f"the name of a {kind.noun} is a str, or None for one without a name, "
                f"not {memory!r}, which is of type {type(memory).__name__!r}"
            )
        if memory == "":
            raise ValueError("the name is empty: give one that others know, or None")
        if isinstance(memory, str) and memory.startswith(_SCHEMES):
            raise ValueError(
                f"{memory!r} is a url, where a name is asked for: use ensure({memory!r}), create() "
                f"or attach(), or the name alone, {memory.partition(':')[2]!r}"
            )
        if isinstance(memory, SharedBuffer):
            return cls.join(memory, kind, first)
        if memory is None:
            return cls.create(None, kind, participants=participants, fill=fill)
        url = memory if isinstance(memory, Url) else Url.parse(f"shm:{memory}")
        ensure = partial(cls.ensure, first=first, trust_owner=trust_owner)
        return (cls.create if exclusive else ensure)(
            url,
            kind,
            flags=KEPT if keep else 0,
            participants=participants,
            keep=True,  # by the process that makes it
            mode=mode,
            fill=fill,
        )

    @classmethod
    def join(
        cls,
        buffer: SharedBuffer,
        kind: Kind,
        first: Callable[[Segment], None] = _nothing,
    ) -> Segment:
        """Join the segment in a buffer that is attached already; closes the buffer on failure.

        Args:
            buffer: all of its memory.
            kind: what has to live there.
            first: as of `control`.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
            FileNotFoundError: its name was removed meanwhile.
        """
        self = cls(buffer, kind)
        try:
            if buffer.size < PAGE:
                raise IncompatibleSegment(
                    f"{str(buffer.url)!r} holds no {kind.noun}: it is {buffer.size} bytes, and a "
                    f"{kind.noun} needs at least {PAGE + (0 if kind.control else LEAST_DATA)}: "
                    "take another name, or unlink it if nothing uses it",
                    where=str(buffer.url),
                )
            self._bind()
            self._enter(first)
        except BaseException:
            self.close()
            raise
        return self

    @classmethod
    def _join_own(cls, buffer: SharedBuffer, kind: Kind) -> Segment:
        """Join the segment that this process has just made; if that fails, it is removed."""
        self = cls(buffer, kind)
        try:
            self._bind()
            self._enter()
        except BaseException:
            self._undo()
            self.close()
            raise
        return self

    def _undo(self) -> None:
        """Remove the name of what this process made and could not join."""
        if not self.kind.control:
            self.buffer.unlink()  # while it is mapped: no other file can get its inode number
        elif hasattr(self, "membership"):
            try:
                leaving = self.membership.participants.enter_door(0)
                try:
                    if self.membership.participants.are_none():
                        self.buffer.unlink()
                finally:
                    for _ in leaving:
                        break
            except OSError:
                return  # another process is at the door, and wants it; or there is no name

    def _bind(self) -> None:
        """Check the header, and take from it what the hot paths use."""
        where = str(self.buffer.url)
        self.map, start = self.buffer.raw
        if start:
            raise ValueError(f"segment {where!r} is not attached from its first byte on")
        self.header = header.read(self.map, self.kind, self.buffer.size, where)
        self.base = self.header.data_offset
        self.words = memoryview(self.map)[: self.header.total].cast("Q")
        self.data_word = self.header.data_offset // 8

    def _enter(self, first: Callable[[Segment], None] = _nothing) -> None:
        membership = self.membership = Membership(self.buffer, self.kind)
        membership.bind(self.map, self.words, self.header.participants)
        url = self.buffer.url
        if self.kind.number in _WITH_PICKLES and not self.buffer.created:  # it may be unpickled
            refuse_others(membership.presence.descriptor, url, _refusal(self.kind, False))
        named_page = self.goes_with_last_user
        may_have_holes = url.scheme != "anon" and not self.buffer.created

        def enter() -> None:
            if named_page:
                # An error if the last participant removed the name before this one was at the door.
                os.close(self.buffer.descriptor())
            # A copied file may have holes: on a full disk, a store into one is a SIGBUS.
            if may_have_holes and membership.participants.are_none():
                fill_holes(membership.presence.descriptor, self.header.total, url)
            if first is not _nothing and membership.participants.are_none():
                first(self)
            membership.enter()

        if named_page:
            membership.call_when_last(self.buffer.unlink)
        membership.admit(enter)

    @property
    def goes_with_last_user(self) -> bool:
        """Whether it is a control page whose name the last one out removes."""
        is_kept = self.buffer.url.scheme != "shm" or self.header.flags & KEPT
        return self.kind.control and not is_kept

    # -- using and leaving -------------------------------------------------------------------------

    def poison(self, detail: str) -> CorruptSegment:
        """Mark the segment as broken for all participants, and give the error to raise."""
        self.words[STATE] = POISONED
        return self.corrupt(detail)

    def corrupt(self, detail: str) -> CorruptSegment:
        """The error that says what is broken."""
        return self.membership.corrupt(detail)

    def close(self) -> None:
        """Leave; the memory goes with the last view of it. Idempotent."""
        if hasattr(self, "membership"):
            self.membership.close()
        self.words, self.map = NO_WORDS, _NO_MAP
        self.buffer.close()

    def unlink(self) -> None:
        """Remove the name: no process can attach any more; participants go on."""
        self.buffer.unlink()


def _refusal(kind: Kind, trust_owner: bool) -> str:
    """Why another user's is refused; "" if it is not."""
    if kind.number in _WITH_PICKLES:
        return "objects are pickles, pickles are code, and only your own is run"
    if trust_owner:
        return ""
    return (
        f"that user could change this {kind.noun} behind its rules: take another name, or pass "
        "trust_owner=True if you trust them"
    )


def _new(
    kind: Kind,
    data_size: int,
    flags: int,
    participants: int,
    fill: Callable[[memoryview], None] | None,
) -> tuple[int, Callable[[memoryview], None]]:
    """Bytes of a new segment, and what writes its content."""
    size = header.data_offset(participants) + data_size
    write = partial(
        header.fill, kind=kind, flags=flags, data_size=data_size, participants=participants
    )
    if fill is None:
        return size, write

    def write_all(view: memoryview) -> None:
        write(view)
        fill(view)

    return size, write_all
