"""The creator of a named segment removes its name: at the end of its process at the latest.

Three things can happen to a creator, and each has its own remover:

- it leaves its `with`, or calls unlink(): the handle removes the name;
- its process ends: a `multiprocessing.util.Finalize` does. It runs in multiprocessing's children,
  too (they skip atexit before 3.13), after this process has waited for its own children;
- its process is killed: the standard library's resource tracker does, a process of its own.

The first two leave a name alone that leads to other memory by then. The tracker cannot: it knows
names only. A forked child has no duty.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from shmkit.memory.backends import backend_for
from shmkit.memory.identity import Exact, generation_at, is_own
from shmkit.memory.process import this_process
from shmkit.memory.tracker import ensure_tracker

if TYPE_CHECKING:
    import weakref

    from shmkit.memory.url import Url

__all__ = ["Ownership", "forget", "refuse_others", "remember", "remove"]

# Below 0: after the children of this process were joined; they may still want to attach. Above the
# -100 of multiprocessing's own temporary directory.
_PRIORITY: Final = -50
_TRACKED_AS: Final = "shared_memory"
# The tracker's protocol is a line of ASCII with colons. It is not told of other names.
_SPECIAL: Final = frozenset(":\r\n")

_duties: Final[dict[int, Ownership]] = {}  # of this process, and of its parents by fork
_armed: Final[set[int]] = set()  # processes with a finalizer for their end
# How many duties of a process share the one entry that its tracker has for a name: a segment that
# another process unlinked may have a successor before its creator knows.
_tracked: Final[dict[tuple[int, str], int]] = {}
_TRACKING: Final = threading.RLock()  # a signal handler may create a segment, too
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_TRACKING.acquire,
        after_in_parent=_TRACKING.release,
        after_in_child=_TRACKING.release,
    )


def remove(url: Url, identity: Exact) -> None:
    """Remove a name if it still leads to the memory meant; otherwise there is nothing to do.

    Looking and removing are two system calls: a name replaced exactly between them is lost.
    """
    backend = backend_for(url.scheme)
    generation = identity[2]
    try:
        if backend.identify(url.name) != identity[:2]:
            return
        # b"": this user may not open the file. Then its number has to do.
        if generation and generation_at(url.name) not in (generation, b""):
            return
        backend.unlink(url.name)
    except FileNotFoundError:
        pass  # it is gone, or another process was first


def refuse_others(fd: int, url: Url, why: str) -> None:
    """Refuse memory of another user, which has its creator's idea of what is true.

    Args:
        fd: an open descriptor of it.
        url: where it is, for the message.
        why: what would be wrong with it, and the way round; "" to take what any user made.

    Raises:
        PermissionError: it is another user's.
    """
    # Anonymous memory has no name that another user could have taken: it came by fork or pickle.
    if not why or url.scheme == "anon":
        return
    status = os.fstat(fd)
    if not is_own(status):
        whose = f"belongs to user {status.st_uid}"
        if status.st_uid == os.geteuid():
            whose += ", by which this user namespace shows all users that it does not know"
        raise PermissionError(errno.EPERM, f"{whose}: {why}", str(url))


class Ownership:
    """The duty to remove a name, if it leads to the memory `identity`, until that is done."""

    __slots__ = ("_identity", "_is_tracked", "_process", "_url", "handle")

    def __init__(self, url: Url, identity: Exact) -> None:
        self._url = url
        self._identity = identity
        self._process = this_process()
        self.handle: weakref.ref[Any] | None = None  # the handle with this duty
        self._is_tracked = _is_trackable(url.name)
        if self._is_tracked:
            self._track()
        _duties[id(self)] = self
        if self._process not in _armed:
            from multiprocessing import util

            _armed.add(self._process)
            util.Finalize(None, _end_of_process, exitpriority=_PRIORITY)

    @property
    def here(self) -> bool:
        """Whether it is this process's duty, and not that of the one it was forked from."""
        return self._process == this_process()

    def fulfil(self) -> None:
        """Remove the name now. In a process that does not have the duty nothing happens."""
        if self.here and id(self) in _duties:
            remove(self._url, self._identity)
            self.drop()

    def drop(self) -> None:
        """Have no duty any more: the name was removed."""
        if self.here and _duties.pop(id(self), None) is not None and self._is_tracked:
            self._untrack()

    def end_of_process(self) -> None:
        """Remove the name, and warn if the handle is open."""
        try:
            handle = self.handle and self.handle()
            if handle and self.here:
                handle._warn_if_open()
        finally:
            self.fulfil()

    def _track(self) -> None:
        key = self._process, self._url.name
        with _TRACKING:
            _tracker().register(f"/{key[1]}", _TRACKED_AS)
            _tracked[key] = _tracked.get(key, 0) + 1

    def _untrack(self) -> None:
        """Tell the tracker, unless a later segment of the name is tracked by the same entry."""
        key = self._process, self._url.name
        with _TRACKING:
            _tracked[key] -= 1
            if not _tracked[key]:
                del _tracked[key]
                _tracker().unregister(f"/{key[1]}", _TRACKED_AS)


def remember(name: str) -> None:
    """Have the tracker remove a segment when the last process that shares it has gone."""
    if _is_trackable(name):
        _tracker().register(f"/{name}", _TRACKED_AS)


def forget(name: str) -> None:
    """The name was removed: the tracker has nothing to do, whichever process told it.

    Where a duty of this process is on the name, that one tells the tracker when it ends.
    """
    with _TRACKING:
        if _is_trackable(name) and (os.getpid(), name) not in _tracked:
            tracker = _tracker()
            # First once more: a tracker that was never told of the name complains.
            tracker.register(f"/{name}", _TRACKED_AS)
            tracker.unregister(f"/{name}", _TRACKED_AS)


def _is_trackable(name: str) -> bool:
    return name.isascii() and _SPECIAL.isdisjoint(name)


def _end_of_process() -> None:
    with ExitStack() as all_of_them:  # also if one of them fails
        for duty in list(_duties.values()):
            all_of_them.callback(duty.end_of_process)


def _tracker() -> Any:
    # Imported by creators only: it is half of what the import of this library costs.
    from multiprocessing import resource_tracker

    if resource_tracker._resource_tracker._fd is None:  # type: ignore[attr-defined]
        ensure_tracker()  # it does not run
    return resource_tracker
