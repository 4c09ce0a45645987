"""Which process this is, told by a number that no parent, child or grandchild has, too.

A pid does not tell: in a new PID namespace a child can have the pid of its parent, 1 for example.
"""

from __future__ import annotations

import os

__all__ = ["this_process"]

_forks = 0  # of its ancestors, from the first one that imported this


def this_process() -> int:
    """A number of this process that differs from that of each process it was forked from."""
    # The pid, too: a library that forks in C does not call the hook below.
    return _forks << 32 | os.getpid()


def _in_forked_child() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    # Hooks run in the order of their registration. Whoever compares numbers in a hook has imported
    # this before.
    os.register_at_fork(after_in_child=_in_forked_child)
