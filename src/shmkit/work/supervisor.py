"""Crew: the worker processes of a pool: started as they are needed, watched, and replaced.

A worker that ended is dead until its calls are seen to (pool.py), and buried then: its line is free
for another only when nobody has to read it any more.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shmkit.memory.buffer import SharedBuffer
from shmkit.work.calls import LINE, READY, STARTED, TAKEN
from shmkit.work.worker import work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from shmkit.work.calls import CallRing, ResultRing

__all__ = ["Crew", "Orders", "Worker", "lines_for"]

FAILED_STARTS: Final = 3  # for each worker, with none that is ready: none can start


class Orders(NamedTuple):
    """What the workers of a pool are told.

    Attributes:
        context: how their processes are started.
        most_workers: how many there may be.
        initializer: for each of them, or None.
        initargs: its arguments.
        most_calls: how many calls a worker runs before it is replaced; None for any number.
    """

    context: BaseContext
    most_workers: int
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    most_calls: int | None


class Worker(NamedTuple):
    """A worker process, and which line is its own."""

    process: BaseProcess
    line: int


def lines_for(most_workers: int) -> int:
    """How many lines a crew has: while the dead are seen to, others have taken their places."""
    return 2 * most_workers + 2


class Crew:
    """Worker processes, and the lines in which they note which call they have.

    Args:
        orders: what they are told.
        calls: where they take calls from.
        results: where they put results.

    Attributes:
        processes: those of the workers that take calls, by their pids.
        dead: workers that ended, whose calls are still to be seen to.
        words: all lines; calls.py tells what is in them.
        failed_initializer: the traceback of an initializer that failed, or "".

    Notes:
        The pool's lock guards all of it.
    """

    def __init__(self, orders: Orders, calls: CallRing, results: ResultRing) -> None:
        self.processes: dict[int, BaseProcess] = {}
        self.dead: list[Worker] = []
        self.failed_initializer = ""
        self._orders = orders
        self._calls = calls
        self._results = results
        self._forks = orders.context.get_start_method() == "fork"
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []  # that have run their last call
        self._failed_starts = 0  # since a worker was ready
        self._most_failed_starts = FAILED_STARTS * orders.most_workers
        self._was_refused = False  # a process, since the last look
        lines = lines_for(orders.most_workers)
        self._free_lines = list(range(lines))
        self._lines = SharedBuffer.create(size=lines * LINE * 8)
        self.words = self._lines.view("Q")

    @property
    def is_changing(self) -> bool:
        """Whether a worker is about to end, or has ended."""
        return bool(self._leaving or self.dead)

    # -- the living --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers that must be there before there are threads; raises as `staff`."""
        if self._forks:
            self.staff(self._orders.most_workers)

    def staff(self, calls: int) -> None:
        """Start workers, if there are fewer than are needed for that many calls.

        If not all of them can be started, those that are there will do until the next look.

        Raises:
            BrokenProcessPool: there is none, and none can be started.
        """
        workers, most = self._workers, self._orders.most_workers
        wanted = most if self._forks else min(calls, most)
        while len(workers) < wanted and self._free_lines and not (self._was_refused and workers):
            try:
                self._start_worker()
            except OSError as error:
                self._was_refused = True
                if not workers:
                    text = f"no worker process can be started: {error}"
                    raise BrokenProcessPool(text) from error

    def _start_worker(self) -> None:
        context, _, initializer, initargs, most_calls = self._orders
        line = self._free_lines.pop()
        self.words[line * LINE : (line + 1) * LINE] = _NO_NOTE
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=work,
            args=(
                self._calls,
                self._results,
                self._lines,
                line,
                initializer,
                initargs,
                most_calls,
            ),
        )
        worker = Worker(process, line)
        # Noted before: a handler may raise when it runs already.
        self._workers.append(worker)
        try:
            process.start()
        except BaseException as error:
            if process.pid is None:
                self._workers.remove(worker)
                if isinstance(error, Exception):  # else it may run all the same, with this line
                    self._free_lines.append(line)
            raise
        finally:
            if process.pid is not None:
                self.processes[process.pid] = process

    def let_go(self, number: int) -> None:
        """The worker that ran this call runs no other."""
        for worker in self._workers:
            if self.words[worker.line * LINE + TAKEN] == number:
                self._workers.remove(worker)
                self._leaving.append(worker)
                self.processes.pop(worker.process.pid or 0, None)
                break

    def lines(self) -> list[int]:
        """The lines of all that live, as far as is known."""
        return [worker.line for worker in self._workers + self._leaving]

    # -- the dead ----------------------------------------------------------------------------------

    def find_dead(self) -> None:
        """See who ended."""
        self._was_refused = False
        for workers in self._workers, self._leaving:
            for worker in list(workers):
                if not worker.process.is_alive():
                    workers.remove(worker)
                    self.processes.pop(worker.process.pid or 0, None)
                    self.dead.append(worker)

    def taken_by(self, dead: Iterable[Worker]) -> dict[int, Worker]:
        """Which of the dead had which call, or had it last."""
        return {self.words[worker.line * LINE + TAKEN]: worker for worker in dead}

    def started_by(self, dead: Iterable[Worker]) -> dict[int, Worker]:
        """Which of the dead may have begun to run which call."""
        return {self.words[worker.line * LINE + STARTED]: worker for worker in dead}

    def bury(self, dead: Sequence[Worker]) -> str:
        """Reap processes whose calls were seen to.

        Returns:
            Why no worker can be had, if their deaths say so, or "".
        """
        reason = ""
        can_start = any(map(self._was_ready, [*dead, *self._workers, *self._leaving]))
        self._failed_starts = 0 if can_start else self._failed_starts + len(dead)
        for worker in dead:
            process = worker.process
            process.join()
            code = process.exitcode
            if self.failed_initializer and not self._was_ready(worker):
                reason = (
                    f"the initializer failed in worker process {process.pid}:\n"
                    + self.failed_initializer
                )
            elif not can_start and (
                (code is not None and code >= 0) or self._failed_starts >= self._most_failed_starts
            ):
                reason = (
                    f"worker process {process.pid} ended with exit code {code} before it was "
                    "ready: its start, or the initializer, failed"
                )
            self._free_lines.append(worker.line)
        return reason

    def _was_ready(self, worker: Worker) -> bool:
        return bool(self.words[worker.line * LINE + READY])

    # -- the end -----------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Have all workers end at once."""
        for worker in self._workers + self._leaving:
            worker.process.terminate()

    def join(self) -> None:
        """Wait until every worker has ended."""
        for worker in self._workers + self._leaving + self.dead:
            worker.process.join()

    def close(self) -> None:
        """Give the memory back, with no worker left to use it."""
        # Their descriptors go with them; whoever has the processes of the executor keeps them.
        for workers in self._workers, self._leaving, self.dead:
            workers.clear()
        self.processes = {}
        self.words = _NOTHING
        self._lines.close()


_NO_NOTE: Final = memoryview(bytes(LINE * 8)).cast("Q")
_NOTHING: Final = memoryview(bytearray(8)).cast("Q")
