r"""Pool: what is behind a ProcessPoolExecutor, and the thread that keeps it going.

    submit ---> backlog ------> ring of calls ------> worker 1 .. n
                   |                                  |
                   v                                  v
    future <--- collector <---- ring of results <-----+

The collector gets the results, sets the futures, has parked calls sent (backlog.py), and has the
supervisor replace workers that ended (supervisor.py).

When a worker died, every call is accounted for. First the collector locks the ring of calls, so
that no worker takes one, and reads the workers' notes (calls.py). Then it gets every result that is
in the ring of results. A call that has left the ring of calls, and has no result yet, is in the
note of a live worker. If it is in none, the dead worker had it.
"""

from __future__ import annotations

import threading
import time
import traceback
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Literal

from shmkit.channels.objects.codec import encode
from shmkit.errors import Empty, Full, PeerDied, WorkerDied
from shmkit.work.backlog import Backlog, Call
from shmkit.work.calls import CallRing, ResultRing
from shmkit.work.supervisor import Supervisor, slots_for
from shmkit.work.worker import BROKEN, FAILED, LAST, WAKE, number_of, revive, unpack, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

    from shmkit.channels.objects.codec import Encoded, Received
    from shmkit.work.future import CallFuture
    from shmkit.work.supervisor import Orders

__all__ = ["Pool", "nested"]

CALLS: Final = 32 << 20  # bytes of the ring of calls; only what is used takes memory
RESULTS: Final = 32 << 20  # bytes of the ring of results
LOOK: Final = 0.1  # seconds between two looks at the workers, while results come
IDLE: Final = 0.5  # the same, while none come
LOOK_SOON: Final = 0.005  # the same, when one is about to end; it grows to LOOK
BATCH: Final = 64  # results between two looks at the parked calls


class Pool:
    """Workers, rings and calls.

    It lives as long as its collector. It has no reference to its executor, so that this can be
    dropped; then the collector ends the pool.

    Args:
        orders: what its workers are told.

    Attributes:
        lock: guards everything that submitting threads and the collector share.
        closing: whether calls are refused from now on.
        cancelling: whether the collector is to cancel the calls that wait.
        broken: why no worker can start, or "".
        backlog: the calls.

    Notes:
        Only the collector gets results. No future is set with the lock held: its callbacks may
        submit.
    """

    def __init__(self, orders: Orders) -> None:
        self.lock = threading.RLock()  # re-entrant only to see that this thread has it
        self.closing = False
        self.cancelling = False
        self.broken = ""
        self._lost: BaseException | None = None  # why a result, of an unknown call, was lost
        self._pause = IDLE  # seconds to wait for a result
        self._looked = 0.0  # when the collector last looked for ended workers
        # Every worker that may live at a time, this process, and some to spare.
        participants = slots_for(orders.most_workers) + 8
        with ExitStack() as undo:
            self._calls = undo.enter_context(
                CallRing.create(
                    capacity=CALLS, producers="one", consumers="many", participants=participants
                )
            )
            self._results = undo.enter_context(
                ResultRing.create(
                    capacity=RESULTS, producers="many", consumers="one", participants=participants
                )
            )
            # Before there is a worker: it ends when this process is seen to be gone.
            self._calls.claim()
            self._results.claim()
            self._reader = self._results.cursors[1]
            self._supervisor = Supervisor(orders, self._calls, self._results)
            undo.pop_all()
        self.backlog = Backlog(self._calls, orders.most_workers)

    @property
    def processes(self) -> dict[int, BaseProcess]:
        """The processes of the workers that take calls, by their pids."""
        return self._supervisor.processes

    def start(self) -> None:
        """Start the workers that are forked, before this process has threads.

        Raises:
            BrokenProcessPool: no worker can be started.
        """
        self._supervisor.start()

    def check_free(self) -> None:
        """Refuse a call from a signal handler or finalizer that came while this thread is inside.

        Raises:
            RuntimeError: it is.
        """
        if self.lock._is_owned():  # type: ignore[attr-defined]
            raise nested()

    def submit(self, call: Call, content: bytes | Encoded) -> None:
        """Have a call run; the caller holds the lock.

        Args:
            call: the call.
            content: it, encoded.

        Raises:
            BrokenProcessPool: there is no worker, and none can be started.
        """
        self._supervisor.staff(len(self.backlog) + 1)
        call.future.keeper = self
        self.backlog.submit(call, content)

    def recall(self, future: CallFuture[Any]) -> bool:
        """Keep a call from being run; False if a worker has it, or it was recalled before."""
        self.check_free()
        with self.lock:
            if future.is_recalled or future.done() or not self.backlog.recall(future):
                return False
            self.backlog.refill()  # for there is room
        self.backlog.tell_failed()
        return True

    def has_begun(self, future: CallFuture[Any]) -> bool:
        """Whether a worker has a call, or had it."""
        with self.lock:
            return bool(self.backlog) and self.backlog.has_begun(future)

    def shut(self, cancel: bool) -> None:
        """Refuse further calls, and have the collector end the pool when it has none left."""
        with self.lock:
            self.cancelling = self.cancelling or cancel
            self.closing = True
        self.wake()

    def stop(self, how: Literal["terminate", "kill"]) -> None:
        """Send a signal to all workers; nothing replaces them."""
        with self.lock:
            self.closing = self.cancelling = True
            self._supervisor.stop(how)

    def wake(self) -> None:
        """Have the collector look at its orders now."""
        try:
            self._results.put_encoded(encode((0, WAKE, None)), 0)
        except (Full, ValueError):
            pass  # full: it is awake; closed: it has ended

    # -- collecting --------------------------------------------------------------------------------

    def collect(self, is_abandoned: Callable[[], bool]) -> None:
        """Set futures until all calls are done: what the collector's thread runs.

        Args:
            is_abandoned: tells whether the executor is gone, or the interpreter about to end.
        """
        try:
            while not self._is_finished(is_abandoned):
                self._step()
        except BaseException:  # noqa: BLE001 - passed to every future
            self._break(f"the collector of results failed:\n{traceback.format_exc()}")
        finally:
            self._finish()

    def _is_finished(self, is_abandoned: Callable[[], bool]) -> bool:
        if self.broken:
            return True
        if not self.closing:
            if not is_abandoned():
                return False
            self.closing = True
        cancelled: list[Call] = []
        with self.lock:
            if self.cancelling:
                # Workers that were killed may give calls back that they had not begun.
                self.cancelling = self._supervisor.is_stopped
                cancelled = self.backlog.recall_all()
            done = not self.backlog
        for call in cancelled:
            call.cancel()
        return done

    def _step(self) -> None:
        """Wait a little for results, set their futures, and send parked calls."""
        now = time.monotonic()
        count = 0
        if now - self._looked >= min(LOOK, self._pause):
            self._looked = now
            self._look_around()
            # One that is about to end has some last things to do, and that may take long.
            is_changing = self._supervisor.is_changing
            soon = LOOK_SOON if self._pause == IDLE else min(2 * self._pause, LOOK)
            self._pause = soon if is_changing else IDLE
        try:
            frame = self._receive(self._pause)
            while True:
                if frame is not None:
                    self._settle(frame)
                count += 1
                if count == BATCH:
                    break
                frame = self._reader.get()
                # None where there is no result, and where the next one needs care.
                if frame is None:
                    if self._results.empty():
                        break
                    frame = self._receive(0)
            del frame  # it may hold memory; the next wait may be long
        except Empty:
            # Nothing came for a while: perhaps the workers are dead. Look before the next wait.
            self._looked = 0.0
        if self.backlog.parked:
            with self.lock:
                self.backlog.refill()
            self.backlog.tell_failed()
        self.backlog.count(count)

    def _receive(self, timeout: float) -> bytes | Received | None:
        """The next result, not yet unpickled; None for one that was lost."""
        try:
            return self._results.get(timeout)
        except Empty:
            raise  # nothing came: no result was lost
        except PeerDied:  # told once for each worker that died
            self._looked = 0.0
        except Exception as error:  # noqa: BLE001 - passed to the future
            self._lost = error
        return None

    def _settle(self, frame: bytes | Received) -> None:
        """Set the future that a result is for."""
        try:
            number, kind, value = unpack(frame)
        except BaseException as error:  # noqa: BLE001 - passed to the future
            number, kind, value = number_of(frame), FAILED, unreadable(error)
        running = self.backlog.running
        call = running.pop(number, None)
        if call is None:
            if number == 0:  # no result of a call
                if kind == BROKEN:  # the worker ends by itself; it may still have to log the error
                    self._supervisor.initializer_error = str(value)
                return
            with self.lock:  # the thread that submitted it may be about to list it
                call = running.pop(number, None)
        if kind & LAST:
            with self.lock:
                self._supervisor.let_go(number)
            self._looked = 0.0  # its successor is to be started at once
        if call is None:
            return
        if kind & FAILED:
            call.fail(value if isinstance(value, BaseException) else revive(value))
        else:
            call.finish(value)

    # -- the dead ----------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Find workers that ended, account for their calls, and start successors."""
        with self.lock:
            self._supervisor.find_dead()
        if self._supervisor.dead or self._lost is not None:
            self._account()
        if self.broken:
            return
        try:
            with self.lock:
                self._supervisor.staff(len(self.backlog))
        except BrokenProcessPool as error:
            if self.backlog:
                self._break(str(error))

    def _account(self) -> None:
        """Decide about every call that dead workers had: to run again, done, or failed."""
        supervisor, backlog = self._supervisor, self.backlog
        with self.lock:
            alive = supervisor.slots()
        seen = self._calls.look(supervisor.notes, alive)
        if seen is None:
            return  # it is tried again at the next look
        # After the look, so that the result of any call that a worker had finished by then is here.
        while not self._results.empty():
            frame = self._receive(0)
            if frame is not None:
                self._settle(frame)
        if self.broken:
            return
        dead, supervisor.dead = supervisor.dead, []
        owners, started = supervisor.taken_by(dead), supervisor.started_by(dead)
        with self.lock:
            missing = [n for n in backlog.running if n <= seen.head and n not in seen.taken]
            for number in missing:
                call = backlog.running.pop(number)
                if number in started:
                    process = started[number].process
                    backlog.failed.append((call, WorkerDied(process.pid or 0, process.exitcode)))
                elif number in owners:  # taken, and not begun: another worker may run it
                    backlog.park_again(call)
                elif self._lost is not None:
                    backlog.failed.append((call, self._lost))
                else:  # no dead worker had it: go on waiting for its result
                    backlog.running[number] = call
            self._lost = None
            backlog.refill()
        backlog.tell_failed()
        reason = supervisor.reap(dead)
        if reason:
            self._break(reason)

    # -- the end -----------------------------------------------------------------------------------

    def _break(self, text: str) -> None:
        """Fail every call: no worker can start."""
        with self.lock:
            self.closing = True
            self.broken = text
            calls = self.backlog.clear()
            self._supervisor.stop("terminate")
        self.backlog.tell_failed()
        for call in calls:
            call.fail(BrokenProcessPool(text))

    def _finish(self) -> None:
        """End the workers, and give everything back."""
        # The shutdown ends the workers; the rings are closed when all have left.
        self._calls.shutdown()
        self._supervisor.join()
        with self.lock:
            self._supervisor.close()
            self._calls.close()
            self._results.close()

    def abandon(self) -> None:
        """End a pool whose collector never started."""
        self._break("it was not started")
        self._finish()


def nested() -> RuntimeError:
    """The error for a call from inside another one of the same executor."""
    return RuntimeError(
        "a call inside another one of the same executor: a signal handler or finalizer came while "
        "its own thread was inside; have it set a flag, or call from another thread"
    )
