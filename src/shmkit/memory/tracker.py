"""The standard library's resource tracker, started so that a warning cannot end it.

The tracker is a process of its own. When a program was killed, it removes the names of shared
memory and semaphores that the program left. It warns of each name that is gone already. It inherits
the program's `-W` options, so under `-W error` such a warning is an exception: the tracker dies of
it, and the other names stay for good. This happens to a name that was removed between its unlinking
and the message about it to the tracker, and to a name that another process removed. A tracker
that multiprocessing has started before is left as it is.

A fork that comes while another thread talks to the tracker would leave a child whose every call to
it waits for ever: that thread, which has the tracker's lock, is not in the child. So the lock is
taken before a fork, and given back on both sides.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

__all__ = ["ensure_tracker"]

# Of several options the last one that fits a warning counts. The words are how all of them begin.
_NO_ERROR = "default:resource_tracker:UserWarning"


def ensure_tracker() -> None:
    """Start the resource tracker unless it runs; its own warnings are never errors for it."""
    from multiprocessing import resource_tracker

    sys.warnoptions.append(_NO_ERROR)  # for the tracker's command line, which is made from them
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_NO_ERROR)


_MODULE: Final = "multiprocessing.resource_tracker"
# Seconds. It is held for microseconds, and while the tracker is started. A fork comes all the same.
_PATIENCE: Final = 2.0
_taken: Final[list[Any]] = []  # locks that a fork is to give back


def _before_fork() -> None:
    module: Any = sys.modules.get(_MODULE)  # never imported here: a fork is not to cost that
    tracker = getattr(module, "_resource_tracker", None)
    lock = getattr(tracker, "_lock", None)
    if lock is not None and lock.acquire(timeout=_PATIENCE):
        _taken.append(lock)


def _after_fork() -> None:
    while _taken:
        lock = _taken.pop()
        # In some versions of Python it is a plain Lock.
        is_ours = lock._is_owned if hasattr(lock, "_is_owned") else lock.locked
        if is_ours():  # else the standard library made it anew in the child
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
