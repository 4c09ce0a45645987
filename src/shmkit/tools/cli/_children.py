"""Child processes of a command: started, watched, and never left behind.

Signals are the parent's business alone. A Ctrl-C goes to every process of the terminal; a child
that met it while it is still importing would print a traceback. So children start with the signals
blocked and ignore those of a terminal, and the parent kills them when it is stopped itself. The
parent has them blocked while it makes or removes anything: what is half-made would be left behind.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
from multiprocessing import connection, resource_tracker
from typing import TYPE_CHECKING, Final, NoReturn, Self

from shmkit.deadline import Deadline
from shmkit.errors import PeerDied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from multiprocessing.process import BaseProcess

__all__ = ["STOPPERS", "Children", "signals_blocked"]

STOPPERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BEREAVED: Final = 3  # exit code: ended because another process did


@contextlib.contextmanager
def signals_blocked() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Put off STOPPERS inside this `with`; what it yields lets them through for a while."""
    # multiprocessing's tracker unblocks the signals when it starts: so not later, in the midst. It
    # ignores all of them but SIGHUP.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPERS)

        @contextlib.contextmanager
        def let_through() -> Iterator[None]:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)  # may raise what was put off
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, STOPPERS)

        yield let_through
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Children:
    """Processes that do one work together: watched, and gone when the `with` is left.

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
        """Start a process that runs `target(*args)` and closes them; `name` is for errors.

        Call it inside `signals_blocked`.
        """
        process = self._context.Process(  # type: ignore[attr-defined]
            target=_child, args=(target, *args), name=name, daemon=True
        )
        self._processes.append(process)
        process.start()

    def check(self) -> None:
        """Raise PeerDied if a process failed, or if none is left to wait for."""
        codes = [process.exitcode for process in self._processes]
        if any(codes) or None not in codes:
            self.explain()

    def explain(self, error: PeerDied | None = None) -> NoReturn:
        """Raise PeerDied for the process that failed first, or `error` if all are well."""
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
        """A process that failed by itself, not because another one did."""
        for process in self._processes:
            if process.exitcode not in (None, 0, BEREAVED):
                return process
        return None

    def finish(self) -> None:
        """Wait until all have ended.

        Raises:
            PeerDied: one of them failed at the very end.
        """
        deadline = Deadline(5.0)
        for process in self._processes:
            process.join(deadline.remaining())
        if any(process.exitcode for process in self._processes):
            self.explain()

    def __exit__(self, *_: object) -> None:
        started = [process for process in self._processes if process.pid is not None]
        for process in started:
            process.kill()  # they own nothing: there is nothing that they could tidy up
        for process in started:
            process.join()
            process.close()


def _child(target: Callable[..., None], *args: AbstractContextManager[object]) -> None:
    """Run `target` in a child and close its arguments; the parent alone minds signals."""
    for number in (signal.SIGINT, signal.SIGHUP):  # those that a terminal sends to everybody
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPERS)
    try:
        with contextlib.ExitStack() as stack:
            for arg in args:
                stack.enter_context(arg)
            target(*args)
    except PeerDied:
        sys.exit(BEREAVED)
