"""Being stopped from outside, at a moment that suits: nothing half-made is left behind.

A handler that raises would do so between any two steps: in the middle of creating a segment, or of
removing it. Here the signals stay blocked, and a program asks at its own safe points whether one
has come.
"""

from __future__ import annotations

import contextlib
import signal
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["STOP_SIGNALS", "stop_signals_put_off"]

STOP_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


@contextlib.contextmanager
def stop_signals_put_off() -> Iterator[Callable[[], None]]:
    """Block Ctrl-C, SIGTERM and SIGHUP inside this `with`.

    Yields:
        What to call at safe points, a few times a second: it raises SystemExit(128 + number) when
        one of them has come. They stay blocked after that: no second one disturbs the tidying up.
    """
    # What is ignored already (nohup, a shell's background job) stays so: blocked it would pend.
    awaited = {each for each in STOP_SIGNALS if signal.getsignal(each) != signal.SIG_IGN}

    def stop_if_asked() -> None:
        for number in signal.sigpending() & awaited:
            raise SystemExit(128 + number)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        # multiprocessing's tracker ignores all but SIGHUP, and unblocks them here when it starts:
        # so it starts now, not later.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, before | awaited)
        yield stop_if_asked
    except SystemExit:
        raise
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
