"""One segment, decoded: header, participants, locks, frames, and what is wrong with it.

What the numbers mean is told by the tables of segment/words.py. A segment may be in use: words are
read at slightly different moments. What looks impossible is read again, and is called wrong only
when it stays so.
"""

from __future__ import annotations

import ast
import struct
import time
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.frame import second_word, step_of
from shmkit.core import IMPOSSIBLE
from shmkit.errors import CorruptSegment, IncompatibleSegment
from shmkit.memory.identity import identity_of
from shmkit.segment import header as headers
from shmkit.segment import words as layouts
from shmkit.segment.words import (
    ENTERING,
    FRAME_HEADER,
    IDLE,
    INSIDE,
    KIND_MASK,
    KIND_SHIFT,
    KINDS,
    LEAVING,
    LINE_WORDS,
    LOCK_WORDS,
    MAGIC,
    MOST_PARTICIPANTS,
    PAD,
    PAGE,
    PARTICIPANT_BYTE,
    PARTICIPANTS_AT,
    SEMAPHORE_AT,
    SIZE_MASK,
)
from shmkit.tools.inspection.pickled import type_of
from shmkit.tools.inspection.processes import command_of
from shmkit.tools.inspection.raw import resident

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from shmkit.memory.identity import Identity
    from shmkit.segment.words import Field, Kind, Table
    from shmkit.tools.inspection.processes import Holders
    from shmkit.tools.inspection.raw import Raw

__all__ = [
    "MOST_FRAMES",
    "FieldValue",
    "Frame",
    "Inspection",
    "LockState",
    "Participant",
    "Segment",
    "SemaphoreState",
    "decode",
    "describe",
]

_PREVIEW: Final = 64  # bytes of a frame that are shown
_PICKLE: Final = 1 << 16  # bytes of a pickle that are looked at for its type
_FRAMES: Final = 10  # that are shown, unless it is said otherwise
MOST_FRAMES: Final = 100_000  # that are counted, unless it is said otherwise
_PIECE: Final = 1 << 18  # bytes of data that are read at a time
_MOST_SAID: Final = 3  # deaths that get a sentence each
_LOOKS: Final = 4  # at words that seem impossible
_PAUSE: Final = 0.001  # seconds between them
_STATES: Final = {
    layouts.READY: "open",
    layouts.SHUT: "shut down",
    layouts.CUT: "shut down at once",
    layouts.POISONED: "corrupt",
}
_ROLES: Final = ("puts", "gets")
_PHASES: Final = {ENTERING: "entering", INSIDE: "inside", LEAVING: "leaving"}
_CODED: Final = struct.Struct("<I4xQ")  # of an encoded object: channels/objects/codec.py
# A glibc semaphore: value and number of waiters (sysdeps/nptl/internaltypes.h, struct new_sem).
_SEM: Final = struct.Struct("<II")
_SEM_SIZE: Final = 32
_GLIBC: Final = b"glibc"
_SECONDS: Final = 1e9  # nanoseconds


@dataclass(frozen=True)
class FieldValue:
    """A field of a layout, with what it has.

    Attributes:
        at: byte of the segment.
        name: as in `segment/words.py`.
        value: a number, numbers, or bytes as hexadecimal text.
        meaning: what the table says of it.
    """

    at: int
    name: str
    value: int | list[int] | str
    meaning: str


@dataclass(frozen=True)
class Participant:
    """A participant, or what is left of one.

    Attributes:
        place: its number in the table.
        pid: its process, as it wrote it down itself; in another container it is another number.
        alive: whether the kernel holds its lock byte.
        roles: "puts", "gets", both or none.
        attached: when it came, in seconds since 1970.
        command: the command line of the live process with that pid.
        locks: where it is at each lock, by the lock's name: "entering", "inside" or "leaving".
        entries: how often it was inside each lock.
    """

    place: int
    pid: int
    alive: bool
    roles: tuple[str, ...]
    attached: float
    command: str
    locks: dict[str, str]
    entries: dict[str, int]


@dataclass(frozen=True)
class LockState:
    """A lock of a segment.

    Attributes:
        name: "put" or "get" of a ring; of what has one lock, its kind.
        holders: pids that are inside; more than one only while it is handed over after a death.
        waiters: pids that want it.
        dead: pids that died at it: the next to acquire it is told, or finds the token.
    """

    name: str
    holders: tuple[int, ...]
    waiters: tuple[int, ...]
    dead: tuple[int, ...]


@dataclass(frozen=True)
class SemaphoreState:
    """A semaphore in a segment.

    Attributes:
        name: what it is for.
        value: its count.
        waiters: how many threads sleep at it.
    """

    name: str
    value: int
    waiters: int


@dataclass(frozen=True)
class Frame:
    """A frame that waits.

    Attributes:
        position: bytes put before it since creation.
        size: bytes of its payload.
        preview: its first bytes, as hexadecimal text.
        type: of a queue: the type of the object.
        object_size: of a queue: bytes of the object, which may be outside of the ring.
    """

    position: int
    size: int
    preview: str
    type: str | None = None
    object_size: int | None = None


@dataclass(frozen=True)
class Segment:
    """A segment, semaphore or file in a line.

    Attributes:
        where: "shm:NAME", "file:PATH", "anon:INODE"; a name in parentheses was removed.
        path: where it can be read now.
        kind: what lives there: a noun.
        ours: whether this library made it, by what it holds and how it is called.
        size: bytes.
        resident: bytes that take memory, or room on a disk.
        device: of the file system.
        inode: in the file system.
        owner: user id.
        mode: permissions.
        created: seconds since 1970; None if it is not told.
        used: seconds since 1970 when it is known to have been used last.
        pids: processes that map it or have it open, as far as this user may see.
        participants: how many handles are alive by the kernel's locks; None if it has none.
        status: "live", "idle" (a file without a process), "orphan" (no process has it), or
            "unknown" (processes that may have it hide what they map).
        state: of a channel: "open", "shut down", "shut down at once", "corrupt".
        depth: bytes or objects that wait, or the count of a semaphore.
        capacity: bytes or objects there may be; None if there is no limit.
        unit: of depth and capacity: "bytes", "objects", "count"; "" if there is no depth.
        passed: how much was put since creation; only grows.
        passed_unit: "bytes", "objects", "values" or "writes".
        lost: frames that a full ring dropped.
        waiting: threads that sleep there; None if it is not told.
        dead: participants that died without leaving.
        says: what else there is to say in a few words.
        sound: whether its header, if it is ours, can be believed.
        belongs_to: where that is which it goes with: the page of the bytes of a `once`.
        wrong: what is wrong, a sentence each.
    """

    where: str
    path: str
    kind: str
    ours: bool
    size: int
    resident: int
    device: int
    inode: int
    owner: int
    mode: int
    created: float | None
    used: float
    pids: tuple[int, ...]
    participants: int | None = None
    status: str = "unknown"
    state: str | None = None
    depth: int | None = None
    capacity: int | None = None
    unit: str = ""
    passed: int | None = None
    passed_unit: str = ""
    lost: int | None = None
    waiting: int | None = None
    dead: int = 0
    says: str = ""
    sound: bool = True
    belongs_to: str = ""
    wrong: tuple[str, ...] = ()

    @property
    def identity(self) -> Identity:
        """Device and inode."""
        return self.device, self.inode


@dataclass(frozen=True)
class Inspection:
    """All there is to know of a segment.

    Attributes:
        segment: in a line.
        header: the fields of its header; empty if it has none of ours.
        participants: the live ones, and what dead ones left.
        locks: its locks.
        semaphores: those in the segment, where the C library is known.
        frames: the first frames that wait.
        frame_count: how many wait.
        frame_bytes: bytes that these take, headers included.
        frames_counted: whether that is all of them, and not just the first.
        incarnation: a random number that tells it from its successors, as hexadecimal text.
        content: where the bytes of a `once` are.
    """

    segment: Segment
    header: tuple[FieldValue, ...] = ()
    participants: tuple[Participant, ...] = ()
    locks: tuple[LockState, ...] = ()
    semaphores: tuple[SemaphoreState, ...] = ()
    frames: tuple[Frame, ...] = ()
    frame_count: int = 0
    frame_bytes: int = 0
    frames_counted: bool = True
    incarnation: str = ""
    content: str = ""


def decode(
    raw: Raw,
    where: str,
    path: str,
    holders: Holders,
    *,
    name: str = "",
    frames: int | None = _FRAMES,
    count: int = MOST_FRAMES,
    header: bool = True,
) -> Inspection:
    """Decode what is in a file, whatever it is.

    Args:
        raw: the open file.
        where: what it is called.
        path: where it can be read.
        holders: which processes have which memory.
        name: its name in /dev/shm, which tells of files without a header whose they are.
        frames: how many frames to show; None: not even to count them.
        count: how many frames to count at most.
        header: whether to tell the fields of the header, one by one.

    Raises:
        OSError: it cannot be read.
    """
    segment = describe(raw.status, where, path, holders)
    page = raw.read(0, PAGE)
    if page[: len(MAGIC)] == MAGIC:
        found = _Decoder(raw, segment, page, frames, count, header).inspect()
    else:
        found = Inspection(_without_header(raw, segment, page, name))
    return replace(found, segment=_judged(found.segment, holders))


def describe(
    status: os.stat_result, where: str, path: str, holders: Holders, *, kind: str = "bytes"
) -> Segment:
    """What is told of a file without reading it."""
    pids = holders.of(identity_of(status))
    return Segment(
        where=where,
        path=path,
        kind=kind,
        ours=False,
        size=status.st_size,
        resident=resident(status),
        device=status.st_dev,
        inode=status.st_ino,
        owner=status.st_uid,
        mode=status.st_mode & 0o7777,
        created=None,
        used=max(status.st_mtime, status.st_ctime),
        pids=pids,
        status="live" if pids else "unknown",
    )


def _judged(segment: Segment, holders: Holders) -> Segment:
    """Say whether it is anybody's."""
    if segment.participants or segment.pids:
        status = "live"
    elif segment.where.startswith("file:"):
        status = "idle"
    elif holders.hidden and segment.mode & 0o077:
        status = "unknown"
    else:
        status = "orphan"
    return replace(segment, status=status)


# -- what has no header ----------------------------------------------------------------------------


def _without_header(raw: Raw, segment: Segment, page: bytes, name: str) -> Segment:
    if name.startswith("sem.") and raw.size == _SEM_SIZE:
        value, waiters = _SEM.unpack_from(page)
        return replace(
            segment,
            kind="POSIX semaphore",
            ours=_is_hexadecimal(name.removeprefix("sem.shmkit-")[:16], 16)
            and name.startswith("sem.shmkit-"),
            depth=value,
            unit="count",
            waiting=waiters,
        )
    if name.startswith("shmkit-once-") and _is_hexadecimal(name.removeprefix("shmkit-once-"), 32):
        return replace(segment, kind="once bytes", ours=True)
    if name.startswith("shmkit_") and _is_hexadecimal(name.removeprefix("shmkit_"), 22):
        return replace(segment, kind="buffer", ours=True)
    if segment.where.startswith("anon:"):
        return replace(segment, kind="buffer", ours=True)
    return segment


def _is_hexadecimal(text: str, length: int) -> bool:
    return len(text) == length and not set(text) - set("0123456789abcdef")


# -- what has one ----------------------------------------------------------------------------------


@dataclass
class _Decoder:
    """The decoding of one segment that begins with our magic."""

    raw: Raw
    segment: Segment
    page: bytes
    frames: int | None
    count: int
    header: bool
    wrong: list[str] = field(default_factory=list)

    def inspect(self) -> Inspection:
        """Decode it."""
        page = self.page
        if len(page) < PAGE:
            self.wrong.append(f"it has {len(page)} bytes, less than its header: it was cut off")
            return self._done(Inspection(self._told(kind="unknown", sound=False)))
        fixed = dict(_values(layouts.HEADER, page))
        kind = KINDS.get(fixed["kind"])
        noun = kind.noun if kind is not None else f"unknown kind {fixed['kind']}"
        created = fixed["created"] / _SECONDS
        self.segment = self._told(
            kind=noun,
            ours=True,
            created=created,
            used=max(created, self.segment.used) if created < time.time() else self.segment.used,
            state=_STATES.get(fixed["state"], f"impossible ({fixed['state']})"),
        )
        found = Inspection(self.segment, header=_fields(kind, page) if self.header else ())
        if not self._is_sound(kind, fixed):
            return self._done(replace(found, segment=self._told(sound=False)))
        assert kind is not None
        found = replace(found, incarnation=bytes(fixed["incarnation"]).hex())
        if fixed["participants"]:
            found = self._with_participants(found, kind, fixed)
        return self._done(self._with_content(found, kind, fixed))

    def _told(self, **changes: Any) -> Segment:
        return replace(self.segment, **changes)

    def _done(self, found: Inspection) -> Inspection:
        return replace(found, segment=replace(found.segment, wrong=tuple(self.wrong)))

    def _is_sound(self, kind: Kind | None, fixed: dict[str, Any]) -> bool:
        """Whether the header can be believed; says what is wrong with it."""
        where = self.segment.where
        try:
            if kind is None:  # read_fixed tells of a bad version or checksum first
                headers.read_fixed(self.page, layouts.RING_KIND, where)
            elif fixed["participants"] or kind is not layouts.ARRAY_KIND:
                headers.read(self.page, kind, self.raw.size, where)
            else:
                headers.read_fixed(self.page, kind, where)
        except CorruptSegment as error:
            self.wrong.append(f"{error.detail}: it was cut off or overwritten")
            # A state that cannot be leaves the rest to be told.
            return "state" in error.detail and fixed["state"] not in _STATES
        except IncompatibleSegment as error:
            self.wrong.append(
                f"layout version {fixed['version']}, this shmkit reads {layouts.VERSION}"
                if fixed["version"] != layouts.VERSION
                else str(error)
            )
            return False
        if fixed["state"] == layouts.POISONED:
            self.wrong.append("it was found corrupt before: unlink it and create it anew")
        return True

    # -- participants and locks --------------------------------------------------------------------

    def _with_participants(
        self, found: Inspection, kind: Kind, fixed: dict[str, Any]
    ) -> Inspection:
        count = min(fixed["participants"], MOST_PARTICIPANTS)
        words = self.raw.words(PARTICIPANTS_AT * 8, count * LINE_WORDS)
        held = {byte - PARTICIPANT_BYTE for byte in self.raw.held(PARTICIPANT_BYTE, count)}
        people = tuple(self._participants(kind, words, held, count))
        semaphores = tuple(_semaphores(kind, fixed, self.page))
        locks = tuple(_lock(name, people) for name in _lock_names(kind))
        alive = len(held)
        dead = [person for person in people if not person.alive and (person.roles or person.locks)]
        self._say_deaths(dead)
        used = max([self.segment.used, *(person.attached for person in people)])
        segment = replace(
            found.segment,
            # One with a plain semaphore and nothing else has no locks in the kernel.
            participants=alive if kind is not layouts.SEMAPHORE_KIND else None,
            dead=len(dead),
            used=used if used < time.time() else found.segment.used,
            waiting=sum(each.waiters for each in semaphores) if semaphores else None,
        )
        return replace(
            found, segment=segment, participants=people, locks=locks, semaphores=semaphores
        )

    def _participants(
        self, kind: Kind, words: memoryview[int], held: set[int], count: int
    ) -> Iterator[Participant]:
        for place in range(count):
            at = place * LINE_WORDS
            line = words[at : at + LINE_WORDS].tolist()
            alive = place in held
            if not alive and not any(line):
                continue
            locks, entries = {}, {}
            for index, name in enumerate(_lock_names(kind)[: layouts.LOCKS]):
                first = layouts.PHASES + LOCK_WORDS * index
                phase = line[first + layouts.PHASE]
                entries[name] = line[first + layouts.ENTRIES]
                if phase in _PHASES:
                    locks[name] = _PHASES[phase]
                elif phase != IDLE:
                    self.wrong.append(f"participant {place} is at the {name} lock in phase {phase}")
            roles = tuple(role for bit, role in enumerate(_ROLES) if line[layouts.ROLES] >> bit & 1)
            if alive or roles or locks:
                pid = line[layouts.PID]
                yield Participant(
                    place,
                    pid,
                    alive,
                    roles,
                    line[layouts.ATTACHED] / _SECONDS,
                    command_of(pid) if alive and pid < 1 << 32 else "",
                    locks,
                    entries,
                )

    def _say_deaths(self, dead: list[Participant]) -> None:
        for person in dead[:_MOST_SAID]:
            roles = f", which {' and '.join(person.roles)}," if person.roles else ""
            at = "".join(
                f" {phase} the {name}" + ("" if name == "lock" else " lock")
                for name, phase in person.locks.items()
            )
            self.wrong.append(
                f"process {person.pid}{roles} died" + (at or " without closing its handle")
            )
        if len(dead) > _MOST_SAID:
            self.wrong.append(f"{len(dead) - _MOST_SAID} more participants died")

    # -- content -----------------------------------------------------------------------------------

    def _with_content(self, found: Inspection, kind: Kind, fixed: dict[str, Any]) -> Inspection:
        names = {name for name, _ in kind.semaphores}
        if {"data", "space", "put", "get"} <= names:
            return self._with_ring(found, kind, fixed)
        if kind is layouts.BROADCAST_KIND:
            return self._with_broadcast(found, fixed)
        word = _words_of(self.page)
        changes: dict[str, Any] = {}
        if kind is layouts.LATEST_KIND:
            changes = {"passed": word[layouts.LATEST_VERSION], "passed_unit": "values"}
            changes["says"] = f"version {word[layouts.LATEST_VERSION]}"
        elif kind is layouts.DICT_KIND:
            changes = {"passed": word[layouts.DICT_WRITES], "passed_unit": "writes"}
            changes["says"] = f"{word[layouts.DICT_LIVE]} entries"
        elif kind is layouts.EVENT_KIND:
            changes = {"says": "set" if word[layouts.EVENT_SET] else "clear"}
        elif kind is layouts.SEMAPHORE_KIND and found.semaphores:
            changes = {"depth": found.semaphores[0].value, "unit": "count"}
        elif kind is layouts.ONCE_KIND:
            name = self.page[layouts.ONCE_NAME].hex()
            changes = {"says": "built" if word[layouts.ONCE_BUILT] else "not built"}
            found = replace(
                found,
                content=f"shm:shmkit-once-{name}" if any(self.page[layouts.ONCE_NAME]) else "",
            )
        elif kind is layouts.ARRAY_KIND:
            changes = {"says": self._array_of()}
        elif kind.locks:
            holders = [pid for lock in found.locks for pid in lock.holders]
            changes = {"says": f"held by {holders[0]}" if holders else "free"}
        return replace(found, segment=replace(found.segment, **changes))

    def _array_of(self) -> str:
        """Shape and type of a shared array."""
        length, checksum = struct.unpack_from(
            layouts.ARRAY_DESCRIPTION, self.page, layouts.ARRAY_TEXT_LENGTH
        )
        text = self.raw.read(layouts.ARRAY_TEXT, min(length, _PICKLE))
        if zlib.crc32(text) != checksum:
            self.wrong.append("the checksum of the array's description does not fit it")
            return ""
        try:
            shape, dtype = ast.literal_eval(text.decode("ascii"))
            return f"{shape} of {dtype}"
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            self.wrong.append(f"the array's description means nothing: {text[:40]!r}")
            return ""

    def _with_ring(self, found: Inspection, kind: Kind, fixed: dict[str, Any]) -> Inspection:
        size, page = fixed["data_size"], self.page
        for look in range(_LOOKS):
            first, tail, problem = _span(_words_of(page), size)
            if not problem:
                break
            if look == _LOOKS - 1:
                self.wrong.append(problem)
                return found
            time.sleep(_PAUSE)  # a word may have been read between two of its changes
            page = self.raw.read(0, PAGE).ljust(PAGE, b"\0")
        word = _words_of(page)
        changes: dict[str, Any] = {
            "depth": tail - first,
            "capacity": size,
            "unit": "bytes",
            "passed": word[layouts.TAIL],
            "passed_unit": "bytes",
            "lost": word[layouts.DROPPED],
        }
        # Without a limit a queue counts nothing but bytes.
        if kind in (layouts.QUEUE_KIND, layouts.JOINABLE_QUEUE_KIND) and _is_counted(word):
            put = _passed(word, layouts.PUT_NOTES, layouts.TAIL)
            taken = _passed(word, layouts.GET_NOTES, layouts.HEAD)
            changes |= {
                "depth": max(0, put - taken),
                "capacity": word[layouts.MAXSIZE] or None,
                "unit": "objects",
                "passed": put,
                "passed_unit": "objects",
            }
        found = replace(found, segment=replace(found.segment, **changes))
        is_objects = kind is not layouts.RING_KIND
        walk = _Walk(self.raw, fixed, lambda word: _span(word, size)[0], is_objects)
        return self._walked(found, walk, first, tail)

    def _walked(self, found: Inspection, walk: _Walk, first: int, tail: int) -> Inspection:
        if self.frames is None:
            return replace(found, frames_counted=False)
        walk.go(first, tail, self.frames, self.count)
        self.wrong += walk.wrong
        return replace(
            found,
            frames=tuple(walk.frames),
            frame_count=walk.count,
            frame_bytes=walk.end - walk.start,
            frames_counted=walk.is_whole,
        )

    def _with_broadcast(self, found: Inspection, fixed: dict[str, Any]) -> Inspection:
        word, size = _words_of(self.page), fixed["data_size"]
        tail, oldest = word[layouts.TAIL], word[layouts.OLDEST]
        if (tail | oldest) & IMPOSSIBLE or not 0 <= tail - oldest <= size:
            self.wrong.append(f"tail {tail} and oldest {oldest} in {size} bytes")
            return found
        changes = {
            "depth": tail - oldest,
            "capacity": size,
            "unit": "bytes",
            "passed": tail,
            "passed_unit": "bytes",
        }
        walk = _Walk(self.raw, fixed, lambda word: word[layouts.OLDEST], objects=False)
        walk.checked = False
        found = replace(found, segment=replace(found.segment, **changes))
        return self._walked(found, walk, oldest, tail)


class _Walk:
    """A walk over the frames that wait, while other processes go on.

    Args:
        raw: the open file.
        fixed: the fixed fields of its header.
        oldest: where the oldest frame is, by the words of the header.
        objects: whether frames are objects.
    """

    def __init__(
        self,
        raw: Raw,
        fixed: dict[str, Any],
        oldest: Callable[[memoryview[int]], int],
        objects: bool,
    ) -> None:
        self.raw = raw
        self.base, self.size = fixed["data_offset"], fixed["data_size"]
        self.checked = bool(fixed["flags"] & layouts.CHECKED)
        self.oldest, self.objects = oldest, objects
        self.frames: list[Frame] = []
        self.count = 0
        self.start = self.end = 0  # of what was counted
        self.is_whole = True
        self.wrong: list[str] = []
        self._piece, self._piece_at = memoryview(b""), 0

    def go(self, first: int, tail: int, most: int, count: int) -> None:
        """Walk from the oldest frame to the end of the last."""
        at, looks = first, _LOOKS
        self.start = self.end = first
        while at < tail:
            if self.count >= count:
                self.is_whole = False
                return
            head = self._read(at, FRAME_HEADER)
            word, second = struct.unpack_from("<QQ", head) if len(head) == FRAME_HEADER else (0, 0)
            size = word & SIZE_MASK
            end = at + step_of(size)
            problem = self._problem(at, word, end, tail, head)
            shown = None
            if not problem and not word & PAD and len(self.frames) < most:
                shown, problem = self._show(at, word, second)
            if problem or shown:
                oldest = self._oldest()
                if oldest > at:  # it was taken meanwhile, and may be written over by now
                    self.frames.clear()
                    self.count, at, looks = 0, oldest, looks - 1
                    self.start = self.end = oldest
                    self._piece = memoryview(b"")
                    if not looks or oldest >= tail:
                        self.is_whole = False
                        return
                    continue
            if problem:
                self.wrong.append(problem)
                self.is_whole = False
                return
            if shown:
                self.frames.append(shown)
            self.count += not word & PAD
            at = self.end = end

    def _problem(self, at: int, word: int, end: int, tail: int, head: memoryview) -> str:
        lap_end = (at | (self.size - 1)) + 1
        if len(head) < FRAME_HEADER:
            return f"the file ends before the frame at {at}"
        if end > tail or end > lap_end:
            return f"the frame at {at} says {word & SIZE_MASK} bytes, and would end at {end}"
        return ""

    def _show(self, at: int, word: int, second: int) -> tuple[Frame | None, str]:
        size, kind = word & SIZE_MASK, (word & KIND_MASK) >> KIND_SHIFT
        if self.checked:
            payload = self._read(at + FRAME_HEADER, size)
            if second_word(word & (SIZE_MASK | KIND_MASK), at, payload) != second:
                return None, f"the checksum of the frame at {at} does not fit it"
        start = self._read(at + FRAME_HEADER, min(size, _PICKLE if self.objects else _PREVIEW))
        frame = Frame(at, size, bytes(start[:_PREVIEW]).hex())
        if self.objects:
            name, length = _object_of(kind, bytes(start), size)
            frame = replace(frame, type=name, object_size=length)
        return frame, ""

    def _oldest(self) -> int:
        return self.oldest(self.raw.words(0, PAGE // 8))

    def _read(self, at: int, size: int) -> memoryview:
        start = at & (self.size - 1)
        begin = start - self._piece_at
        if not 0 <= begin <= begin + size <= len(self._piece):
            length = min(max(size, _PIECE), self.size - start)
            self._piece = memoryview(self.raw.read(self.base + start, length))
            self._piece_at, begin = start, 0
        return self._piece[begin : begin + size]


# -- parts of it -----------------------------------------------------------------------------------


def _values(table: Table, page: bytes, skip: frozenset[str] = frozenset()) -> Iterator[Any]:
    """Names and values of the fields of a table."""
    for each in table.fields:
        count, _, unit = each.type.partition(" ")
        if each.name in skip or each.type in ("sem_t", "text", "byte", "bytes"):
            continue
        if unit == "bytes":
            yield each.name, page[each.at : each.at + int(count)]
        elif unit == "u64":
            yield each.name, list(struct.unpack_from(f"<{count}Q", page, each.at))
        else:
            code = {"u16": "<H", "u32": "<I", "u64": "<Q"}.get(each.type)
            if code is not None:
                yield each.name, struct.unpack_from(code, page, each.at)[0]


def _fields(kind: Kind | None, page: bytes) -> tuple[FieldValue, ...]:
    """The header of a kind, decoded from its tables."""
    found: list[FieldValue] = []
    for table in (layouts.HEADER, *_tables_of(kind)):
        named: dict[str, Field] = {each.name: each for each in table.fields}
        for name, value in _values(table, page):
            each = named[name]
            shown = value.hex() if isinstance(value, bytes) else value
            found.append(FieldValue(each.at, name, shown, each.meaning))
    return tuple(found)


def _tables_of(kind: Kind | None) -> list[Table]:
    if kind is None:
        return []
    names = {name for name, _ in kind.semaphores}
    if {"data", "space", "put", "get"} <= names:
        is_queue = kind in (layouts.QUEUE_KIND, layouts.JOINABLE_QUEUE_KIND)
        return [layouts.RING, layouts.QUEUE] if is_queue else [layouts.RING]
    noun = kind.noun.replace(" ", "")
    return [table for table in layouts.TABLES if table.title.lower().replace(" ", "") == noun]


def _words_of(page: bytes) -> memoryview[int]:
    return memoryview(page)[:PAGE].cast("Q")


def _span(words: memoryview[int], size: int) -> tuple[int, int, str]:
    """Where the oldest frame of a ring begins and the newest ends, and what is wrong with that."""
    tail, head, skip = words[layouts.TAIL], words[layouts.HEAD], words[layouts.SKIP]
    if (head | tail) & IMPOSSIBLE:
        return 0, 0, f"tail {tail} and head {head} cannot be"
    if head >= tail:
        # The head may have been read later than the tail, but not by a whole ring.
        problem = f"head {head} is past tail {tail}" if head - tail > size else ""
        return tail, tail, problem
    start = (head | (size - 1)) + 1 if head == skip else head
    if not 0 <= tail - start <= size:
        return 0, 0, f"tail {tail} and head {head} in a ring of {size} bytes"
    return start, tail, ""


def _is_counted(words: memoryview[int]) -> bool:
    """Whether the objects of a queue are counted: it has a limit, or a note was made."""
    return bool(words[layouts.MAXSIZE]) or any(words[layouts.PUT_NOTES : layouts.PUT_NOTES + 5])


def _passed(words: memoryview[int], notes: int, position: int) -> int:
    """How many objects passed a side of a queue: channels/objects/tally.py."""
    at = notes + 1 + 2 * (words[notes] & 1)
    return words[at + 1] + (words[at] != words[position])


def _lock_names(kind: Kind) -> tuple[str, ...]:
    """What the locks of a kind are called: of the only one it would be no news which it is."""
    return kind.locks if len(kind.locks) != 1 else (kind.noun,)


def _lock(name: str, people: tuple[Participant, ...]) -> LockState:
    def at(*phases: str, alive: bool) -> tuple[int, ...]:
        return tuple(
            person.pid
            for person in people
            if person.alive is alive and person.locks.get(name) in phases
        )

    return LockState(
        name,
        holders=at("inside", alive=True),
        waiters=at("entering", alive=True),
        dead=at("entering", "inside", "leaving", alive=False),
    )


def _semaphores(kind: Kind, fixed: dict[str, Any], page: bytes) -> Iterator[SemaphoreState]:
    """The semaphores in the segment; none if they are of a C library that is not known here."""
    form = fixed["semaphore_format"].to_bytes(8, "little")
    # A plain Semaphore has no first participant that says which it is.
    if not (form == _GLIBC.ljust(7, b"\0") + b"\x08" or kind is layouts.SEMAPHORE_KIND):
        return
    for name, _ in kind.semaphores:
        if name in SEMAPHORE_AT:
            yield SemaphoreState(name, *_SEM.unpack_from(page, SEMAPHORE_AT[name]))


def _object_of(kind: int, start: bytes, size: int) -> tuple[str, int | None]:
    """Type and size of an object in a frame, of which the first bytes are given."""
    if kind == 0:
        return type_of(start), size
    if kind == 1 and len(start) >= _CODED.size:
        table, length = _CODED.unpack_from(start)
        at = _CODED.size + table
        name = type_of(start[at : at + length])
        # Then the outermost object is itself one of the buffers behind the pickle.
        return ("bytes" if name == "any" else name), size
    if kind == 2:
        return "object in overflow", None
    return "unknown", None
