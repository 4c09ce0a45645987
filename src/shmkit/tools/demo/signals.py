"""Being stopped from outside, at a moment that suits: nothing half-made is left behind.

A handler that raises would do so between any two steps: in the middle of creating a segment, or of
removing it. Here the signals stay blocked, and a command asks at its own safe points whether one
has come.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from shmkit.memory.tracker import ensure_tracker

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STOP_SIGNALS", "put_off_stop_signals"]

STOP_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def put_off_stop_signals() -> Callable[[], None]:
    """Block Ctrl-C, SIGTERM and SIGHUP from here to the end of the process.

    Returns:
        What to call at safe points, several times a second: it raises SystemExit(128 + number) if
        one of them has come. No second one disturbs the tidying up that follows.
    """
    # What is ignored already (nohup, a shell's background job) stays so: blocked it would pend.
    awaited = {each for each in STOP_SIGNALS if signal.getsignal(each) != signal.SIG_IGN}
    # multiprocessing's tracker ignores all but SIGHUP, and unblocks them here when it starts: so it
    # starts now, not later.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    ensure_tracker()
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)

    def stop_if_asked() -> None:
        for number in signal.sigpending() & awaited:
            raise SystemExit(128 + number)

    return stop_if_asked
