"""Memory order between processes, from a language that has no fences.

Publishing is two stores, payload then index; x86-64 shows stores in the order they were made, other
machines need a fence between. Going to sleep needs the one order that x86-64 does not keep either:
a store ("I sleep", "I published") and then a load of what the other side stores. One fence on each
side gives it. But one side, the sleeper, is about to lose microseconds anyway, and the other is a
hot path: so on Linux the sleeper fences for both, with `membarrier(2)`, which makes every running
thread of the registered processes execute a fence. (The technique of userspace RCU, liburcu; and of
`folly::asymmetricHeavyBarrier`.)
"""

from __future__ import annotations

import os
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ATOMIC_RUNS", "STRONG_ORDER", "fence", "fence_all", "join_fence_all"]

# Without `platform`: to import it costs a tenth of what importing this library costs.
_MACHINE: Final = (
    os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "")
)
STRONG_ORDER: Final = _MACHINE in {"x86_64", "AMD64"}
"""Whether stores become visible in the order they were made, so that publishing needs no fence."""

ATOMIC_RUNS: Final = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether bytecode without a call in it runs uninterrupted by other threads and signal handlers.

With the GIL it is: CPython looks for either only at calls and at jumps backwards
(`CHECK_EVAL_BREAKER` in `Python/bytecodes.c`). There is one exception, before 3.12: an allocation
may collect garbage, and a finalizer may call anything.
"""

if STRONG_ORDER:
    # Each step takes a lock and gives it back. Both are one step of an iterator written in C: so a
    # signal handler or trace function that raises cannot come in between and leave it taken.
    _fences: Iterator[object]

    def _new_lock() -> None:
        global _fences
        lock = threading.Lock()
        _fences = zip(iter(lock.acquire, None), iter(lock.release, 0), strict=False)

    _new_lock()
    # Another thread may have held the lock at the fork, and is not in the child.
    os.register_at_fork(after_in_child=_new_lock)

    def fence() -> None:
        """Order every load and store before it before every one after it.

        On x86-64 any locked instruction does it; taking a lock and giving it back has two.
        """
        for _ in _fences:
            return
else:
    import posix_ipc

    _private = posix_ipc.Semaphore(None, posix_ipc.O_CREX)
    _private.unlink()

    def fence() -> None:
        """Order every load and store before it before every one after it.

        `post` then `wait` on a semaphore without waiters; the other way round orders nothing.
        """
        _private.release()
        _private.acquire()


_GLOBAL_EXPEDITED: Final = 2  # <linux/membarrier.h>
_REGISTER_GLOBAL_EXPEDITED: Final = 4
_SYSCALL: Final = 324  # of membarrier on x86-64


def join_fence_all() -> bool:
    """Let `fence_all` calls of other processes fence this process's threads, from now on.

    Returns:
        False where the kernel cannot do that; this process then has to fence for itself.
    """
    return _membarrier()(_REGISTER_GLOBAL_EXPEDITED)


def fence_all() -> None:
    """A fence here, and in every running thread of each process that joined."""
    fence()
    _membarrier()(_GLOBAL_EXPEDITED)


@cache
def _membarrier() -> Callable[[int], bool]:
    # The number of the system call is that of x86-64; elsewhere each side fences for itself.
    if not (STRONG_ORDER and sys.platform == "linux"):
        return lambda command: False  # noqa: ARG005 - as the one below
    import ctypes  # here: it costs a fifth of what importing the library does

    syscall = ctypes.CDLL(None).syscall

    def membarrier(command: int) -> bool:
        # A sandbox may forbid it, an old kernel may not know it: both answer -1.
        return bool(syscall(_SYSCALL, command, 0, 0) == 0)

    return membarrier
