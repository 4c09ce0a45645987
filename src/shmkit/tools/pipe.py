"""A pipe through a ring: bytes from a descriptor into frames, and out again, between any processes.

    sender      read -> frame in place -> commit                    receiver    frame -> write
    the last one at its end of file:                                gets ShutDown once all is taken
      waits until all was taken -> shuts the ring down

Any number of senders and receivers share a ring. A sender waits for the end: so its exit says that
everything was received, and the one that made the ring keeps its name until then. What is killed
leaves its role behind, and the others are told.
"""

from __future__ import annotations

import os
import select
import stat
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from shmkit.channels.ring import Ring
from shmkit.deadline import Deadline
from shmkit.errors import PeerDied, ShmkitError, ShutDown
from shmkit.segment.words import DEATHS, HEAD, READER_ROLE, READY, STATE, TAIL, WRITER_ROLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CAPACITY", "BadFrames", "Broken", "Cut", "Mode", "receive", "send"]

CAPACITY: Final = 16 << 20  # bytes
_PIECE: Final = 1 << 20  # bytes of a frame, unless they are lines or frames already
_LARGE: Final = 1 << 16  # bytes from which on a frame is written out by itself
_BATCH: Final = 1024  # small frames that are written out together
_LENGTH: Final = struct.Struct("<I")  # before each frame of "frames"

Mode = Literal["bytes", "lines", "frames"]
"""What a frame is: as many bytes as come, a line, or a frame with its length before it."""


class Broken(ShmkitError):
    """A peer was killed, or gave up: not everything arrived."""


class Cut(ShmkitError):
    """What reads this process's output has gone."""


class BadFrames(ShmkitError):
    """The input is cut off in the middle of a frame."""


class _End(Exception):
    """The input has ended; raised where a frame was reserved that is not needed now."""


def send(
    where: str,
    fd: int,
    *,
    mode: Mode = "bytes",
    capacity: int = CAPACITY,
    progress: Callable[[int], object] = int,
) -> int:
    """Put what can be read from a descriptor into a ring, until its end of file, and see it taken.

    Args:
        where: the ring; it is made if it is not there.
        fd: to read from.
        mode: what a frame is.
        capacity: bytes of a ring that is made.
        progress: called with the number of bytes put so far.

    Returns:
        Bytes put.

    Raises:
        Broken: a receiver was killed, or the receivers ended first.
        BadFrames: the input ends in the middle of a frame.
        FrameTooLarge: a line or frame is larger than the ring.
        RoleTaken: the ring is for one producer, and has one.
        OSError: the input cannot be read, or there is no room.
    """
    with _ring(where, capacity) as ring, Ring.attach(ring.url) as bystander:
        dead = _Dead(bystander, READER_ROLE, "receiver")
        try:
            count = _PUTTERS[mode](ring, fd, progress)
        except ShutDown as error:
            dead.check()
            raise Broken(f"the receivers of {where} ended before the end of the input") from error
        except PeerDied as error:
            raise Broken(f"process {error.pid}, a receiver of {where}, was killed") from error
        except (ShmkitError, OSError):
            # The receivers must not take this for an end of file.
            ring.shutdown(immediate=True)
            raise
        end, is_creator = ring._words[TAIL], ring.buffer.created
        # Before it is asked who else sends: of two that end at once, one sees that it is the last.
        ring._producers.release()
        _wait_until_taken(bystander, end)
        if not bystander.statistics().producers:
            bystander.shutdown()
        elif is_creator:
            _wait_for_change(bystander, STATE, READY, lambda: None)
        dead.check()
        return count


def receive(
    where: str,
    fd: int,
    *,
    mode: Mode = "bytes",
    capacity: int = CAPACITY,
    progress: Callable[[int], object] = int,
) -> int:
    """Write what comes through a ring to a descriptor, until all its senders have ended.

    Args:
        where: the ring; it is made if it is not there.
        fd: to write to.
        mode: what is written: the bytes of all frames; "lines" adds a newline to a frame without
            one; "frames" puts the length of each before it.
        capacity: bytes of a ring that is made.
        progress: called with the number of bytes taken so far.

    Returns:
        Bytes taken.

    Raises:
        Broken: a sender was killed, or gave up.
        Cut: what reads the output has gone.
        RoleTaken: the ring is for one consumer, and has one.
        OSError: the output cannot be written.
    """
    with _ring(where, capacity) as ring:
        dead = _Dead(ring, WRITER_ROLE, "sender")
        taken = 0
        try:
            for size in _write_all(ring, fd, mode):
                taken += size
                progress(taken)
        except PeerDied as error:
            raise Broken(f"process {error.pid}, a sender of {where}, was killed") from error
        except OSError as error:
            # Senders would wait for ever, unless other receivers go on.
            if ring.statistics().consumers == (os.getpid(),):
                ring.shutdown(immediate=True)
            if isinstance(error, BrokenPipeError):
                raise Cut("what reads the output has gone") from error
            raise
        dead.check()
        if ring.statistics().state == "shut down at once":
            raise Broken(f"a sender or receiver of {where} gave up before the end of the input")
        return taken


@contextmanager
def _ring(where: str, capacity: int) -> Iterator[Ring]:
    """The ring of that name, made if need be; the name goes with the one that made it."""
    with Ring.ensure(where, capacity=capacity, producers="many", consumers="many") as ring:
        try:
            yield ring
        finally:
            # A file has no owner. This one was made for the pipe.
            if ring.buffer.created and ring.url.scheme == "file":
                ring.unlink()


class _Death(NamedTuple):
    pid: int
    mark: int  # when it attached


class _Dead:
    """The deaths on one side that were not there at first."""

    def __init__(self, ring: Ring, role: int, noun: str) -> None:
        self._ring, self._role, self._noun = ring, role, noun
        self._side = ring._producers if role == WRITER_ROLE else ring._consumers
        self._before = set(self._now())

    def _now(self) -> Iterator[_Death]:
        words = self._ring._words
        for death in self._side._survey()[1]:
            yield _Death(*death)
        # The last one whose place has a new owner.
        yield _Death(words[DEATHS + 2 * self._role + 1], words[DEATHS + 2 * self._role])

    def check(self) -> None:
        """Raise if there was one.

        Raises:
            Broken: there was.
        """
        for death in self._now():
            if death not in self._before:
                raise Broken(
                    f"process {death.pid}, a {self._noun} of {self._ring.url}, was killed: "
                    "what it had in hand is missing"
                )


# -- putting ---------------------------------------------------------------------------------------


def _put_bytes(ring: Ring, fd: int, progress: Callable[[int], object]) -> int:
    size = min(_PIECE, ring.capacity // 4)
    may_wait = not stat.S_ISREG(os.fstat(fd).st_mode)
    count = 0
    try:
        while True:
            # Not while a frame is reserved: other senders would wait for this one's input.
            if may_wait:
                select.select([fd], [], [])
            with ring.reserve(size) as frame:
                got = os.readv(fd, [frame.buf])
                if not got:
                    raise _End
                frame.truncate(got)
            count += got
            progress(count)
    except _End:
        return count


def _put_split(
    ring: Ring,
    fd: int,
    progress: Callable[[int], object],
    split: Callable[[bytes], tuple[list[bytes], bytes]],
) -> tuple[int, bytes]:
    """Put the frames that the input splits into; how many bytes, and what is left at its end."""
    count, rest = 0, b""
    # What has come is put before there is another wait for input.
    while piece := os.read(fd, _PIECE):
        frames, rest = split(rest + piece)
        count += _put_all(ring, frames)
        if len(rest) > ring.capacity:
            ring.put(rest)  # an error: it will never fit
        progress(count)
    return count, rest


def _put_lines(ring: Ring, fd: int, progress: Callable[[int], object]) -> int:
    count, rest = _put_split(ring, fd, progress, _split_lines)
    return count + (_put_all(ring, [rest]) if rest else 0)


def _split_lines(data: bytes) -> tuple[list[bytes], bytes]:
    # Not splitlines(): it ends a line at a carriage return, too.
    *lines, rest = data.split(b"\n")
    return [line + b"\n" for line in lines], rest


def _put_frames(ring: Ring, fd: int, progress: Callable[[int], object]) -> int:
    count, rest = _put_split(ring, fd, progress, _split_frames)
    if rest:
        raise BadFrames(
            f"the input ends in the middle of a frame, after {count} bytes of whole ones: it has "
            "to be what `recv --frames` writes"
        )
    return count


def _split_frames(data: bytes) -> tuple[list[bytes], bytes]:
    frames, at = [], 0
    while at + _LENGTH.size <= len(data):
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, at)[0]
        if end > len(data):
            break
        frames.append(data[start:end])
        at = end
    return frames, data[at:]


def _put_all(ring: Ring, frames: list[bytes]) -> int:
    done = 0
    while done < len(frames):
        done += ring.put_many(frames[done:] if done else frames)
    return sum(map(len, frames))


_PUTTERS: Final[dict[str, Callable[[Ring, int, Callable[[int], object]], int]]] = {
    "bytes": _put_bytes,
    "lines": _put_lines,
    "frames": _put_frames,
}


def _wait_until_taken(ring: Ring, end: int) -> None:
    """Wait until all that was put before a position is taken, and there was a receiver at all."""

    def look() -> None:
        death = ring._consumers.death()
        if death is not None and ring._words[HEAD] < end:
            raise Broken(
                f"process {death.pid}, a receiver of {ring.url}, was killed; "
                f"{end - ring._words[HEAD]} bytes were not received"
            )

    class Came(Exception):
        """A receiver is there."""

    def has_come() -> None:
        if ring.statistics().consumers:
            raise Came

    while (head := ring._words[HEAD]) < end:
        if ring._words[STATE] != READY:
            return  # another sender or receiver ended it
        _wait_for_change(ring, HEAD, head, look)
    try:
        if not head:  # nothing was put, ever
            has_come()
            _wait_for_change(ring, HEAD, head, has_come)
    except Came:
        return


def _wait_for_change(ring: Ring, word: int, seen: int, look: Callable[[], None]) -> None:
    """Wait until a word changes, or the ring is shut down."""
    ring._space_bell.wait(word, seen, Deadline(None), look)


# -- taking ----------------------------------------------------------------------------------------


def _write_all(ring: Ring, fd: int, mode: Mode) -> Iterator[int]:
    """Write out frame after frame, until the end; yields how many bytes went out."""
    # Writing to a file does not wait for any process: the frame is written where it is. Else other
    # receivers would wait for the reader of this one's output.
    kind = os.fstat(fd).st_mode
    in_place = stat.S_ISREG(kind) or os.fstat(fd).st_rdev == os.makedev(1, 3)
    room: Any = None if in_place else memoryview(bytearray(ring.capacity))
    large = mode == "bytes"
    try:
        while True:
            if not large:
                frames = ring.get_many(_BATCH)
                _write(fd, b"".join(_shaped(frames, mode)))
                size = sum(map(len, frames))
                large = mode == "bytes" and max(map(len, frames)) >= _LARGE
            elif in_place:
                with ring.peek() as view:
                    _write(fd, view)
                    size = len(view)
                large = size >= _LARGE
            else:
                size = ring.get_into(room)
                _write(fd, room[:size])
                large = size >= _LARGE
            yield size
    except ShutDown:
        return


def _shaped(frames: list[bytes], mode: Mode) -> Iterator[bytes]:
    for frame in frames:
        if mode == "frames":
            yield _LENGTH.pack(len(frame))
        yield frame
        if mode == "lines" and not frame.endswith(b"\n"):
            yield b"\n"


def _write(fd: int, data: bytes | memoryview) -> None:
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])
