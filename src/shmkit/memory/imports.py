"""A fork waits until other threads have finished imports of this package's.

Much of this package is imported when it is first used, perhaps in a thread. Python keeps its own
import lock over a fork, but not the lock of each module: a child that is forked in the middle of
such an import would wait for ever for a thread that it does not have. So a fork waits for the end
of these imports, and holds the import lock, so that no other begins. Other packages' imports are
not waited for: a program may run as a whole inside the import of a module.
"""

from __future__ import annotations

import _imp
import os
import threading
import time
from importlib import _bootstrap
from typing import Any, Final

__all__: list[str] = []

# This package, and what it imports late.
_WAITED_FOR: Final = frozenset({"shmkit", "multiprocessing", "concurrent", "ctypes", "numpy"})
# Seconds. An import takes milliseconds. A fork comes all the same.
_PATIENCE: Final = 2.0
_LOOK: Final = 0.0005  # seconds
_LOCKS: Final[dict[str, Any]] = getattr(_bootstrap, "_module_locks", {})  # by names of modules


def _is_importing() -> bool:
    """Whether another thread is in an import that is waited for; the import lock is held."""
    me = threading.get_ident()
    for name, reference in list(_LOCKS.items()):
        if name.partition(".")[0] in _WAITED_FOR:
            lock = reference()
            if lock is not None and lock.owner not in (None, me):
                return True
    return False


def _before_fork() -> None:
    end = time.monotonic() + _PATIENCE
    _imp.acquire_lock()
    while _is_importing() and time.monotonic() < end:
        _imp.release_lock()
        time.sleep(_LOOK)
        _imp.acquire_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_imp.release_lock, after_in_child=_imp.release_lock
    )
