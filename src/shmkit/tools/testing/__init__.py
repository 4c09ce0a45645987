"""For tests of programs that use shmkit: kill a process at a step, and see that nothing is lost.

    with assert_no_leaks(), deadline(30):
        with Ring.create() as ring:
            victim = run_until("put.tail", fill, ring)   # SIGKILLed before it commits a frame
            assert victim.reached
            assert ring.empty()

- `kill_points()` lists the steps at which a process may be killed while the rest has to go on.
  They are comments in the sources, `# step: NAME`; your own modules may have some, too.
- `run_until(point, target, ...)` runs `target` in a child, and kills or stops it exactly there.
- `assert_no_leaks()` fails if a block leaves a name, a descriptor or a child behind.
- `deadline(seconds)` ends a block that hangs, and the children it has started.

None of it costs anything where it is not used: the library has no hooks for it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from shmkit.tools.testing.killing import Victim, run_until, start_until
from shmkit.tools.testing.leaks import assert_no_leaks, children
from shmkit.tools.testing.steps import KillPoint, kill_points

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = [
    "KillPoint",
    "Victim",
    "assert_no_leaks",
    "deadline",
    "kill_points",
    "run_until",
    "start_until",
]


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End a `with` block, or a decorated function, that takes too long, and its children.

    Children that were started inside the block are killed; their `join` or `wait` reaps them as
    usual. It uses SIGALRM. An alarm that was set before goes on afterwards.

    Args:
        seconds: how long it may take.

    Raises:
        TimeoutError: it took longer.
        ValueError: `seconds` is not above 0.
        RuntimeError: not in the main thread, the only one that runs signal handlers.
    """
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: a deadline is more than 0 s away")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a deadline works by a signal: set it in the main thread")
    before = _children()

    def expire(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        started = _children() - before
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise TimeoutError(
            f"not done after {seconds} s; "
            + (f"killed children {sorted(started)}" if started else "it has no children")
        )

    handler = signal.signal(signal.SIGALRM, expire)
    began = time.monotonic()
    earlier, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # The alarm before its handler: without one, SIGALRM ends the process.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if earlier:
            # Never 0, which would turn the earlier alarm off.
            left = max(earlier - (time.monotonic() - began), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def _children() -> set[int]:
    return children() if sys.platform.startswith("linux") else set()
