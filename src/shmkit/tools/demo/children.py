"""Child processes of a command: started, watched, and never left behind.

Only the parent reacts to signals. Ctrl-C goes to every process of the terminal, and a child that
is still importing would print a traceback. So the parent calls `put_off_stop_signals` before it
starts children. They inherit the blocked signals and begin to ignore what a terminal sends. The
parent kills them when it stops.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection
from typing import TYPE_CHECKING, Final, NoReturn, Self

from shmkit.deadline import Deadline
from shmkit.errors import PeerDied
from shmkit.tools.demo.signals import STOP_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from multiprocessing.process import BaseProcess

__all__ = ["Children"]

AFTER_ANOTHER: Final = 3  # exit code: ended because another process did


class Children:
    """Processes that work together: watched, and gone when the `with` is left.

    Args:
        method: how they are started: "fork", "spawn" or "forkserver"; None for the default.
    """

    def __init__(self, method: str | None) -> None:
        self._context = multiprocessing.get_context(method)
        self._processes: list[BaseProcess] = []

    def __enter__(self) -> Self:
        return self

    def start(
        self, name: str, target: Callable[..., None], *args: AbstractContextManager[object]
    ) -> None:
        """Start a process that runs `target(*args)` and then closes the arguments.

        Args:
            name: what errors call it.
            target: what it runs.
            args: handles for the target.
        """
        process = self._context.Process(  # type: ignore[attr-defined]
            target=_child, args=(target, *args), name=name, daemon=True
        )
        self._processes.append(process)
        process.start()

    def check(self) -> None:
        """See that the work goes on.

        Raises:
            PeerDied: a process failed, or none is left to wait for.
        """
        codes = [process.exitcode for process in self._processes]
        if any(codes) or None not in codes:
            self.explain()

    def explain(self, error: PeerDied | None = None) -> NoReturn:
        """Raise the error that tells which process failed.

        Args:
            error: what to raise if no process did.

        Raises:
            PeerDied: always.
        """
        # A ring may tell of a death before the exit code is known.
        deadline = Deadline(1.0)
        while not (failed := self._failed()) and deadline.remaining():
            alive = [each.sentinel for each in self._processes if each.exitcode is None]
            if not alive:
                break
            connection.wait(alive, deadline.remaining())
        if not failed:
            raise error or PeerDied("the processes ended before the work was done: run it again")
        pid, code = failed.pid or 0, failed.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        raise PeerDied(
            f"{failed.name} (pid {pid}) {how} before the work was done: run it again",
            pid=pid,
            role="producer",
        ) from error

    def _failed(self) -> BaseProcess | None:
        """A process that failed by itself, not because another process did."""
        for process in self._processes:
            if process.exitcode not in (None, 0, AFTER_ANOTHER):
                return process
        return None

    def finish(self, progress: Callable[[], None]) -> None:
        """Wait until all have ended.

        Args:
            progress: called several times a second meanwhile.

        Raises:
            PeerDied: one of them failed at the very end.
        """
        while alive := [each.sentinel for each in self._processes if each.exitcode is None]:
            progress()
            connection.wait(alive, 0.05)
        if any(process.exitcode for process in self._processes):
            self.explain()

    def __exit__(self, *_: object) -> None:
        started = [process for process in self._processes if process.pid is not None]
        for process in started:
            process.kill()  # they own no names, so they have nothing to remove
        for process in started:
            process.join()
            process.close()


def _child(target: Callable[..., None], *args: AbstractContextManager[object]) -> None:
    """Run `target` in a child and close its arguments; only the parent reacts to signals."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends these to all its processes
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Last: a signal that came before is now ignored, or ends this child.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with contextlib.ExitStack() as stack:
            for arg in args:
                stack.enter_context(arg)
            target(*args)
    except PeerDied:
        sys.exit(AFTER_ANOTHER)


def _end_with_parent() -> None:
    """Wait for the parent's death and end this process too: the result is for the parent alone."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"
    connection.wait([parent.sentinel])
    os._exit(AFTER_ANOTHER)
