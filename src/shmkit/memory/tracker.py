"""The standard library's resource tracker, started so that a warning cannot end it.

The tracker is a process of its own. When a program was killed, it removes the names of shared
memory and semaphores that the program left. It warns of each name that is gone already. It inherits
the program's `-W` options, so under `-W error` such a warning is an exception: the tracker dies of
it, and the other names stay for good. This happens to a name that was removed between its unlinking
and the message about it to the tracker, and to a name that another process removed. A tracker
that multiprocessing has started before is left as it is.
"""

from __future__ import annotations

import sys

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
