"""The creator of a named segment removes its name: at the end of its process at the latest.

Three things can happen to a creator, and each has its own remover:

- it leaves its `with`, or calls unlink(): the handle removes the name;
- its process ends: a `multiprocessing.util.Finalize`, which runs in multiprocessing's children too
  (they skip atexit before 3.13), after the children of this process have been waited for;
- its process is killed: the standard library's resource tracker, a process of its own.

A name that by then leads to other memory is left alone; but not by the tracker, which knows names
only. So whoever takes over what a dead creator left waits a moment for the creator's tracker: it
would remove the new memory's name. A forked child has no duty.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from shmkit.deadline import Deadline
from shmkit.memory.backends import backend_for
from shmkit.memory.identity import Exact, generation_at
from shmkit.memory.url import Url

__all__ = ["Ownership", "await_tracker", "leads_to", "remove"]

# Below 0: after the children of this process were joined; they may still want to attach. Above the
# -100 of multiprocessing's own temporary directory.
_PRIORITY: Final = -50
_TRACKED_AS: Final = "shared_memory"
# Seconds for the tracker of one that was just killed to do its work; it takes some milliseconds.
_TRACKER: Final = 0.5
_POLL: Final = 0.002

# How many duties of a process share the one entry that its tracker has for a name: a segment that
# somebody else unlinked may have a successor before its creator knows.
_tracked: dict[tuple[int, str], int] = {}
_TRACKING: Final = threading.RLock()  # a signal handler may create a segment, too
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_TRACKING._at_fork_reinit)  # type: ignore[attr-defined]


def remove(url: Url, identity: Exact) -> None:
    """Remove a name if it still leads to the memory meant; otherwise there is nothing to do.

    Looking and removing are two system calls: a name replaced exactly between them is lost.
    """
    if leads_to(url, identity):
        try:
            backend_for(url.scheme).unlink(url.name)
        except FileNotFoundError:
            pass  # somebody was first: it is gone, as it should be


def leads_to(url: Url, identity: Exact) -> bool:
    """Whether a name leads to the memory meant."""
    device, inode, generation = identity
    try:
        if backend_for(url.scheme).identify(url.name) != (device, inode):
            return False
    except FileNotFoundError:
        return False
    # b"": this user may not open the file; then its number has to do.
    return not generation or generation_at(url.name) in (generation, b"")


def await_tracker(url: Url, identity: tuple[int, int]) -> None:
    """Give the tracker of a dead creator time to remove the name, before it is used again.

    It may have none, or one that it shared with others and that lives on: then the time is lost.
    """
    if backend_for(url.scheme).creator_unlinks:
        deadline = Deadline(_TRACKER)
        while leads_to(url, (*identity, b"")) and not deadline.expired():
            time.sleep(_POLL)  # nothing announces that a name goes


class Ownership:
    """The duty to remove a name, from its creation until it is done.

    Args:
        url: named memory.
        identity: the memory that the name led to when the duty was taken.
    """

    def __init__(self, url: Url, identity: Exact) -> None:
        # Imported by those who need it: half of what importing this library costs.
        from multiprocessing import resource_tracker, util

        name = url.name
        self._url = url
        self._identity = identity
        self._pid = os.getpid()
        self._on_exit: Callable[[], None] = _nothing
        # The tracker's protocol is a line of ASCII with colons; other names stay.
        self._tracked = name.isascii() and not set(name) & set(":\r\n")
        self._register = resource_tracker.register
        self._unregister = resource_tracker.unregister
        if self._tracked:
            self._track()
        self._finalizer = util.Finalize(None, self._end_of_process, exitpriority=_PRIORITY)

    @property
    def here(self) -> bool:
        """Whether it is this process's duty, and not that of the one it was forked from."""
        return self._pid == os.getpid()

    def before_exit(self, notify: weakref.WeakMethod[Callable[[], None]]) -> None:
        """Have a method of the handle called when the process ends with the duty undone."""

        def call() -> None:
            method = notify()
            if method is not None:
                method()

        self._on_exit = call

    def fulfil(self) -> None:
        """Remove the name now. In a process that does not have the duty nothing happens."""
        if self.here and self._finalizer.still_active():
            remove(self._url, self._identity)
            self.drop()

    def drop(self) -> None:
        """Have no duty any more: the name was removed."""
        if not (self.here and self._finalizer.still_active()):
            return
        self._finalizer.cancel()
        if self._tracked:
            self._untrack()

    def _end_of_process(self) -> None:
        # The finalizer is not active any more: it is running.
        try:
            self._on_exit()
        finally:
            remove(self._url, self._identity)
            if self._tracked:
                self._untrack()

    def _track(self) -> None:
        name = self._url.name
        with _TRACKING:
            self._register(f"/{name}", _TRACKED_AS)
            _tracked[self._pid, name] = _tracked.get((self._pid, name), 0) + 1

    def _untrack(self) -> None:
        """Tell the tracker, unless a later segment of the name is tracked by the same entry."""
        key = self._pid, self._url.name
        with _TRACKING:
            _tracked[key] -= 1
            if not _tracked[key]:
                del _tracked[key]
                self._unregister(f"/{key[1]}", _TRACKED_AS)


def _nothing() -> None:
    pass
