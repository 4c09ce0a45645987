"""Watch: a descriptor that becomes readable when a word of a channel moves.

A process sleeps at a doorbell on a semaphore, and no `select` can wait for that. So a watch has a
thread that sleeps at the bell, as a waiting call would, and writes to the descriptor when it wakes.
The thread sleeps there only while the watch is armed: a put costs nothing more for channels that
are not watched, and no wake-up comes from one that is not armed.

    arm(seen): clear the descriptor; the thread sleeps until the word is not `seen` any more, or the
               channel is shut down, or its other side dies; then the descriptor is readable

A descriptor that is readable says "look again": what there was may have been taken meanwhile.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Final

from shmkit.deadline import Deadline
from shmkit.segment.words import READY

if TYPE_CHECKING:
    from shmkit.channels.roles import Side
    from shmkit.core import BellCore

__all__ = ["Watch"]

_NEVER: Final = Deadline(None)


class _Enough(Exception):
    """Ends the sleep of a thread."""


class Watch:
    """A descriptor that becomes readable when a word moves.

    Args:
        bell: where its thread sleeps.
        word: index of the word.
        peer: the side whose death counts as a move; None where deaths are not told.
    """

    def __init__(self, bell: BellCore, word: int, peer: Side | None) -> None:
        self._bell = bell
        self._word = word
        self._peer = peer
        self._seen = 0
        self._armed = self._closed = False
        # An RLock: a signal handler may arm it inside of an `arm`.
        self._lock = threading.RLock()
        self._wanted = threading.Semaphore(0)
        self._read, self._write = _new_descriptors()
        self._files = {number: _file_of(number) for number in (self._read, self._write)}
        self._pid = os.getpid()
        threading.Thread(target=self._run, name="shmkit watch", daemon=True).start()

    def fileno(self) -> int:
        """The descriptor.

        Raises:
            OSError: EBADF: this program closed it.
        """
        if not self._is_own(self._read):
            raise OSError(
                errno.EBADF,
                "this program closed the descriptor of a channel, as daemons close all of them: "
                "make or attach the handle after that",
            )
        return self._read

    def arm(self, seen: int) -> None:
        """Make the descriptor unreadable until the word is not as it was seen.

        An exception in between leaves it readable too early, and never too late.
        """
        with self._lock:
            if self._closed:
                return
            self._seen = seen
            if not self._armed:
                self._wanted.release()
                self._armed = True
            try:
                # The thread can not write before the lock is free.
                if self._is_own(self._read):
                    os.read(self._read, 8)
            except BlockingIOError:
                pass  # it was not readable

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            if self._closed:
                return
            try:
                self._bell.wait(self._word, self._seen, _NEVER, self._look)
            except (_Enough, IndexError):
                pass  # IndexError: the channel was closed, its words are gone
            with self._lock:
                self._armed = False
                self._signal()

    def _look(self) -> None:
        bell = self._bell
        # A closed channel's bell has words in which no state is open.
        if self._closed or bell._words[bell._state] != READY:
            raise _Enough
        if self._peer is not None and self._peer.death() is not None:
            raise _Enough

    def _signal(self) -> None:
        if not self._closed and self._is_own(self._write):
            os.write(self._write, (1).to_bytes(8, "little"))

    def close(self) -> None:
        """Close the descriptor, readable for whoever waits for it; the thread ends. Idempotent.

        In a forked child the thread is the parent's, and only the descriptor is closed.
        """
        forked = os.getpid() != self._pid
        if forked:
            self._lock = threading.RLock()  # another thread of the parent may have had it
        with self._lock:
            if self._closed:
                return
            if not forked:
                self._signal()
            self._closed = True
            self._wanted.release()
            for descriptor in self._files:
                if self._is_own(descriptor):
                    os.close(descriptor)

    def _is_own(self, descriptor: int) -> bool:
        """Not after the program closed it: its number may be another file's since."""
        return _file_of(descriptor) == self._files[descriptor]


def _file_of(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _new_descriptors() -> tuple[int, int]:
    """One to read from and one to write to; on Linux they are the same."""
    if hasattr(os, "eventfd"):
        descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return descriptor, descriptor
    read, write = os.pipe()
    os.set_blocking(read, False)
    return read, write
