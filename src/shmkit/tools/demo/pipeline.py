"""Counting files in parallel: a reader, workers and the parent, with a ring for each arrow.

                  inbox 0    +----------+   outbox 0
              +------------> | worker 0 | ------------+
    +--------+               +----------+             |     +--------+
    | reader |    inbox 1    +----------+   outbox 1  +---> | parent |
    +--------+ ------------> | worker 1 | ------------+---> +--------+
                             +----------+

The reader reads each file straight into the ring of a worker that has room: a file stays with one
worker, and a slow worker gets fewer files. A file longer than a frame is cut into chunks. A worker
sends its counts for each file, and at the end, how often it saw each word. The parent makes all the
memory and watches the processes: one that fails ends the work with an error that names it.

A frame is a header (kind, whether it is the last of its message, number within the message, id) and
a payload:

    kind       from     id              payload
    DATA       reader   file's number   the next bytes of the file
    UNREAD     both     file's number   why it could not be read: the end of that file
    COUNT      worker   file's number   FileCount
    PROGRESS   worker   bytes counted   -
    WORDS      worker   0               pack_words()
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import tempfile
from array import array
from collections import Counter, deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

from shmkit.channels.ring import Ring
from shmkit.errors import Empty, Full, PeerDied, ShutDown
from shmkit.memory.buffer import SharedBuffer
from shmkit.tools.demo.children import Children
from shmkit.tools.demo.wordcount import (
    CHUNK,
    FileCount,
    FileTally,
    Report,
    fill,
    open_regular,
    reason,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["count_in_parallel"]

HEADER: Final = struct.Struct("<B?xxIQ")
DATA, UNREAD, COUNT, PROGRESS, WORDS = range(1, 6)

INBOX_BYTES: Final = 1 << 20
OUTBOX_BYTES: Final = 1 << 18
PROGRESS_BYTES: Final = 1 << 20
SLICE: Final = 0.005  # seconds to wait at one of several rings before the next is looked at


def count_in_parallel(
    paths: Sequence[str],
    *,
    memory: str = "anon",
    workers: int = 2,
    method: str | None = None,
    progress: Callable[[int, int], None] = lambda _files, _bytes: None,
) -> Report:
    """Count the files with a reader process and workers.

    Args:
        paths: files; one that cannot be read goes into `unread`.
        memory: where the rings are: "anon", "shm" (named) or "file".
        workers: how many worker processes, at least 1.
        method: how processes are started: "fork", "spawn" or "forkserver"; None for the default.
        progress: called with the number of files and of bytes done so far, several times a second,
            even when nothing is new; it may raise, to end the work.

    Returns:
        The same report as `count_serially`.

    Raises:
        PeerDied: a process was killed or failed; it says which and how.
        OSError: no room for the memory, or no process could be started. Nothing is left behind.
    """
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(_places(memory))

        def ring(part: str, capacity: int) -> Ring:
            # It may raise: a stop is noticed between two rings.
            progress(0, 0)
            return stack.enter_context(Ring.create(where(part), capacity=capacity))

        inboxes = [ring(f"in{number}", INBOX_BYTES) for number in range(workers)]
        outboxes = [ring(f"out{number}", OUTBOX_BYTES) for number in range(workers)]
        # Without paths one byte: memory has no size 0.
        listing = b"".join(os.fsencode(path) + b"\0" for path in paths) or b"\0"
        list_memory = SharedBuffer.create(where("list"), len(listing))
        stack.enter_context(list_memory)[: len(listing)] = listing
        children = stack.enter_context(Children(method))
        for number, (inbox, outbox) in enumerate(zip(inboxes, outboxes, strict=True)):
            progress(0, 0)
            children.start(f"worker {number}", _work, inbox, outbox)
        children.start("reader", _read, list_memory, *inboxes)
        report = _merge(paths, outboxes, children, progress)
        children.finish(lambda: progress(len(paths), report.size))
        return report


@contextlib.contextmanager
def _places(memory: str) -> Iterator[Callable[[str], str]]:
    """Yield a function from a part's name to its `where`; files get a temporary directory."""
    token = f"shmkit-{os.getpid()}-{secrets.token_hex(3)}"
    if memory == "file":
        with tempfile.TemporaryDirectory(prefix="shmkit-demo-") as directory:
            yield lambda part: f"file:{Path(directory, part)}"
    elif memory == "shm":
        yield lambda part: f"shm:{token}-{part}"
    else:
        yield lambda _part: "anon:"


def _merge(
    paths: Sequence[str],
    outboxes: Sequence[Ring],
    children: Children,
    progress: Callable[[int, int], None],
) -> Report:
    """Collect what the workers send until each has shut its outbox down."""
    report = Report()
    words: dict[Ring, list[bytes]] = {outbox: [] for outbox in outboxes}
    size = 0
    open_boxes = deque(outboxes)
    idle_boxes = 0
    while open_boxes:
        progress(len(report.files) + len(report.unread), size)
        outbox = open_boxes[0]
        try:
            # Do not wait while another outbox may have frames. If all were empty, wait at one.
            frames = outbox.get_many(timeout=SLICE if idle_boxes >= len(open_boxes) else 0)
        except Empty:
            idle_boxes += 1
            open_boxes.rotate()
            children.check()
            continue
        except ShutDown:
            open_boxes.popleft()
            continue
        except PeerDied as error:
            children.explain(error)
        idle_boxes = 0
        open_boxes.rotate()
        for frame in frames:
            kind, last, _, ident = HEADER.unpack_from(frame)
            payload = frame[HEADER.size :]
            if kind == PROGRESS:
                size += ident
            elif kind == COUNT:
                report.files[paths[ident]] = FileCount.unpack(payload)
            elif kind == UNREAD:
                report.unread[paths[ident]] = payload.decode()
            else:
                words[outbox].append(payload)
                if last:
                    report.words.update(_unpack_words(b"".join(words.pop(outbox))))
    return report


def _read(listing: SharedBuffer, *inboxes: Ring) -> None:
    """The reader process: send all files to the workers, then shut their inboxes down."""
    paths = bytes(listing[:]).split(b"\0")
    files = deque((number, os.fsdecode(path)) for number, path in enumerate(paths) if path)
    with contextlib.ExitStack() as stack:
        _feed(files, deque(stack.enter_context(_Lane(inbox)) for inbox in inboxes))


def _feed(files: deque[tuple[int, str]], lanes: deque[_Lane]) -> None:
    """Serve the inboxes in turns, until each was shut down."""
    full_lanes = 0
    while lanes:
        lane = lanes[0]
        if not files and lane.idle:
            lane.inbox.shutdown()
            lanes.popleft()
            continue
        try:
            # Do not wait while another inbox may have room. If all were full, wait at one.
            lane.step(files, SLICE if full_lanes >= len(lanes) else 0)
        except Full:
            full_lanes += 1
        else:
            full_lanes = 0
        lanes.rotate()


class _Lane:
    """One worker's inbox, and the file that is being put into it; `with` closes the file."""

    def __init__(self, inbox: Ring) -> None:
        self.inbox = inbox
        self._number = self._sequence = 0
        self._file: IO[bytes] | None = None

    @property
    def idle(self) -> bool:
        return self._file is None

    def step(self, files: deque[tuple[int, str]], timeout: float) -> None:
        """Put the next frame, of the next file if none is open.

        Raises:
            Full: there was no room for `timeout` seconds.
        """
        # The size is known only after the read: reserve a whole chunk, and truncate it.
        with self.inbox.reserve(HEADER.size + CHUNK, timeout=timeout) as frame:
            room = frame.buf[HEADER.size :]
            kind = DATA
            try:
                if self._file is None:
                    self._number, path = files.popleft()
                    self._sequence = 0
                    self._file = open_regular(path)
                size = fill(self._file, room)
                # A short read is the end; a file of whole chunks ends with an empty one.
                last = size < CHUNK
            except OSError as error:
                message = reason(error).encode(errors="replace")[:CHUNK]
                kind, size, last = UNREAD, len(message), True
                room[:size] = message
            HEADER.pack_into(frame.buf, 0, kind, last, self._sequence, self._number)
            frame.truncate(HEADER.size + size)
        self._sequence += 1
        if last:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _work(inbox: Ring, outbox: Ring) -> None:
    """A worker process: count files until the inbox is shut down, then send the words."""
    words: Counter[bytes] = Counter()
    tally = FileTally()
    expected = 0
    progress = 0
    for frame in inbox:
        kind, last, sequence, number = HEADER.unpack_from(frame)
        payload = frame[HEADER.size :]
        # A ring loses, doubles and reorders nothing: here that is checked.
        if sequence != expected:
            raise RuntimeError(f"got chunk {sequence} of file {number}, expected {expected}")
        expected = 0 if last else sequence + 1
        if kind == UNREAD:
            outbox.put(frame)
        else:
            tally.feed(payload)
            progress += len(payload)
            if last:
                outbox.put(HEADER.pack(COUNT, True, 0, number) + tally.finish(words).pack())
        if last:
            tally = FileTally()
        if progress >= PROGRESS_BYTES:
            outbox.put(HEADER.pack(PROGRESS, True, 0, progress))
            progress = 0
    outbox.put(HEADER.pack(PROGRESS, True, 0, progress))
    message = _pack_words(words)
    for sequence, start in enumerate(range(0, len(message), CHUNK)):
        last = start + CHUNK >= len(message)
        outbox.put(HEADER.pack(WORDS, last, sequence, 0) + message[start : start + CHUNK])
    outbox.shutdown()


def _pack_words(words: Counter[bytes]) -> bytes:
    """The number of words, 8 bytes with the count of each, and the words, joined by newlines."""
    times = array("Q", words.values())
    return struct.pack("@Q", len(times)) + times.tobytes() + b"\n".join(words)


def _unpack_words(message: bytes) -> dict[bytes, int]:
    """The opposite of `_pack_words`."""
    (count,) = struct.unpack_from("@Q", message)
    words_at = 8 + 8 * count
    times = array("Q")
    times.frombytes(memoryview(message)[8:words_at])
    # split() of an empty message gives one empty string; zip() drops it.
    return dict(zip(message[words_at:].split(b"\n"), times, strict=False))
