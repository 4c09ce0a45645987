"""Supervisor: the worker processes of a pool, started when they are needed, watched and replaced.

A worker that ended stays in `dead` until its calls are accounted for (pool.py). Only then is its
slot free for another worker: until then its note is needed.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from shmkit.work.calls import Notes
from shmkit.work.template import Template, calm_logging
from shmkit.work.worker import work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from shmkit.work.calls import CallRing, ResultRing

__all__ = ["Orders", "Supervisor", "Worker", "slots_for"]

FAILED_STARTS: Final = 3  # of each worker, while none is ready: then none can start


class Orders(NamedTuple):
    """How the workers of a pool are started, and what they are told.

    Attributes:
        context: a `multiprocessing` context, which has the start method.
        most_workers: how many there may be at a time.
        initializer: called first in each of them; None for nothing.
        initargs: its arguments.
        most_calls: how many calls a worker runs before it is replaced; None for any number.
    """

    context: BaseContext
    most_workers: int
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    most_calls: int | None


class Worker(NamedTuple):
    """A worker process, and the slot of its note."""

    process: BaseProcess
    slot: int


def slots_for(most_workers: int) -> int:
    """How many slots a pool has: a dead worker keeps its own while its successor is at work."""
    return 2 * most_workers + 2


class Supervisor:
    """The worker processes of one pool, and their notes.

    Args:
        orders: what they are told.
        calls: where they take calls from.
        results: where they put results.

    Attributes:
        processes: the workers that take calls, by their pids.
        dead: workers that ended, whose calls are not yet accounted for.
        notes: which call each worker has.
        is_stopped: whether its workers were sent a signal, and no other is to start.
        initializer_error: the traceback of an initializer that failed, or "".

    Notes:
        The pool's lock guards all of it.
    """

    def __init__(self, orders: Orders, calls: CallRing, results: ResultRing) -> None:
        self.processes: dict[int, BaseProcess] = {}
        self.dead: list[Worker] = []
        self.is_stopped = False
        self.initializer_error = ""
        self._orders = orders
        self._calls = calls
        self._results = results
        self._forks = orders.context.get_start_method() == "fork"
        self._template: Template | None = None
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []  # workers that have run their last call
        self._failed_starts = 0  # since a worker was ready
        self._most_failed_starts = FAILED_STARTS * orders.most_workers
        self._was_refused = False  # whether the system refused a process since the last look
        slots = slots_for(orders.most_workers)
        self._free_slots = list(range(slots))
        self.notes = Notes.create(slots)

    @property
    def is_changing(self) -> bool:
        """Whether a worker is about to end, or has ended."""
        return bool(self._leaving or self.dead)

    # -- the living --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers that are forked, before this process has threads.

        Raises:
            BrokenProcessPool: as `staff`.
        """
        if not self._forks:
            return
        self.staff(self._orders.most_workers)
        try:
            # After them, because it needs nothing of them. What replaces them comes from it.
            self._template = Template(self._orders.context, lambda slot: work(*self._brief(slot)))
        except OSError:
            self._was_refused = True  # the workers there are go on alone

    def staff(self, calls: int) -> None:
        """Start workers, if there are fewer than so many calls need.

        If only some can be started, they do the work until the next look.

        Args:
            calls: how many wait or run.

        Raises:
            BrokenProcessPool: there is no worker, and none can be started.
        """
        if self.is_stopped:
            return
        workers, most = self._workers, self._orders.most_workers
        # Forked workers start all at once, before this process has threads.
        wanted = most if self._forks else min(calls, most)
        # After a refusal the workers there are go on alone until the next look.
        while len(workers) < wanted and self._free_slots and not (self._was_refused and workers):
            try:
                self._start_worker()
            except OSError as error:
                self._was_refused = True
                if not workers:
                    text = f"no worker process can be started: {error}"
                    raise BrokenProcessPool(text) from error

    def _start_worker(self) -> None:
        slot = self._free_slots.pop()
        self.notes.clear(slot)
        process = self._process(slot)
        worker = Worker(process, slot)
        # Listed before it runs: a signal handler may raise between its start and the next line.
        self._workers.append(worker)
        try:
            with calm_logging():
                process.start()
        except BaseException as error:
            if process.pid is None:
                self._workers.remove(worker)
                # After anything but an Exception it may run all the same: its slot stays taken.
                if isinstance(error, Exception):
                    self._free_slots.append(slot)
            raise
        finally:
            if process.pid is not None:
                self.processes[process.pid] = process

    def _process(self, slot: int) -> BaseProcess:
        if self._template is not None and self._template.is_alive:
            return self._template.process(slot)
        context = self._orders.context
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=work, args=self._brief(slot)
        )
        return process

    def _brief(self, slot: int) -> tuple[Any, ...]:
        """What `work` gets."""
        _, _, initializer, initargs, most_calls = self._orders
        calls, results, memory = self._calls, self._results, self.notes.memory
        return calls, results, memory, slot, initializer, initargs, most_calls

    def let_go(self, number: int) -> None:
        """Note that the worker that ran this call takes no other, and is about to end."""
        for worker in self._workers:
            if self.notes.taken(worker.slot) == number:
                self._workers.remove(worker)
                self._leaving.append(worker)
                self.processes.pop(worker.process.pid or 0, None)
                break

    def slots(self) -> list[int]:
        """The slots of all workers that live, as of the last look."""
        return [worker.slot for worker in self._workers + self._leaving]

    # -- the dead ----------------------------------------------------------------------------------

    def find_dead(self) -> None:
        """Move the workers that ended to `dead`."""
        self._was_refused = False
        for workers in self._workers, self._leaving:
            for worker in list(workers):
                if not worker.process.is_alive():
                    workers.remove(worker)
                    self.processes.pop(worker.process.pid or 0, None)
                    self.dead.append(worker)

    def taken_by(self, dead: Iterable[Worker]) -> dict[int, Worker]:
        """Which call each of the dead workers had, or had last."""
        return {self.notes.taken(worker.slot): worker for worker in dead}

    def started_by(self, dead: Iterable[Worker]) -> dict[int, Worker]:
        """Which call each of the dead workers may have begun to run."""
        return {self.notes.started(worker.slot): worker for worker in dead}

    def reap(self, dead: Sequence[Worker]) -> str:
        """Reap processes whose calls are accounted for, and free their slots.

        Returns:
            Why no worker can ever start, if their deaths say so, or "".
        """
        reason = ""
        can_start = any(map(self._was_ready, [*dead, *self._workers, *self._leaving]))
        self._failed_starts = 0 if can_start else self._failed_starts + len(dead)
        for worker in dead:
            process = worker.process
            process.join()
            code = process.exitcode
            # An exit before it was ready would come again with the next worker; a kill may not.
            if self.initializer_error and not self._was_ready(worker):
                reason = (
                    f"the initializer failed in worker process {process.pid}:\n"
                    + self.initializer_error
                )
            elif not can_start and (
                (code is not None and code >= 0) or self._failed_starts >= self._most_failed_starts
            ):
                reason = (
                    f"worker process {process.pid} ended with exit code {code} before it was "
                    "ready: its start, or the initializer, failed"
                )
            self._free_slots.append(worker.slot)
        return reason

    def _was_ready(self, worker: Worker) -> bool:
        return self.notes.is_ready(worker.slot)

    # -- the end -----------------------------------------------------------------------------------

    def stop(self, how: Literal["terminate", "kill"]) -> None:
        """Send SIGTERM or SIGKILL to all workers, and start none from now on."""
        self.is_stopped = True
        for worker in self._workers + self._leaving:
            getattr(worker.process, how)()

    def join(self) -> None:
        """Wait until every worker has ended."""
        for worker in self._workers + self._leaving + self.dead:
            worker.process.join()

    def close(self) -> None:
        """Give the memory back, when no worker is left."""
        # The processes' descriptors are closed with their last reference: only an executor's user
        # that has kept `processes` keeps them.
        for workers in self._workers, self._leaving, self.dead:
            workers.clear()
        self.processes = {}
        if self._template is not None:
            self._template.close()
            self._template = None
        self.notes.close()
