"""Stop signals, put off to safe moments, so that a stopped command leaves nothing behind.

A handler that raises could do so between any two steps, even in the middle of creating or removing
a segment. Here the signals stay blocked, and the command asks at its own safe points whether one
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
        A function to call at safe points, several times a second. It raises
        SystemExit(128 + number) if one of the signals has come. They stay blocked, so that a second
        one does not disturb the clean-up.
    """
    # An ignored signal (nohup, a background job of a shell) is left alone: once blocked, it would
    # become pending and look like one to act on.
    awaited = {each for each in STOP_SIGNALS if signal.getsignal(each) != signal.SIG_IGN}
    # multiprocessing's resource tracker inherits the blocked SIGHUP. It ignores the other two by
    # itself, but unblocks them in this process when it is started: so it is started first.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    ensure_tracker()
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)

    def stop_if_asked() -> None:
        for number in signal.sigpending() & awaited:
            raise SystemExit(128 + number)

    return stop_if_asked
