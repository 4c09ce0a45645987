r"""Pool: what is behind a ProcessPoolExecutor, and the thread that keeps it going.

    submit ---> backlog ------> ring of calls ------> worker 1 .. n
                   |                                  |
                   v                                  v
    future <--- collector <---- ring of results <-----+

The collector gets the results, sets the futures, has parked calls sent (backlog.py), and looks
after the workers (crew.py).

A worker that died is looked up in the lines (calls.py): with the ring of calls locked, so that
nobody takes a call, and then with every result that is committed out of the ring of results, a call
that is out of the one ring and not through the other is with a live worker, or it was with the dead
one.
"""

from __future__ import annotations

import threading
import time
import traceback
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from shmkit.errors import Empty, Full, PeerDied, WorkerDied
from shmkit.work.backlog import Backlog, Call
from shmkit.work.calls import CallRing, ResultRing
from shmkit.work.supervisor import Crew, lines_for
from shmkit.work.worker import BROKEN, FAILED, LAST, WAKE, number_of, revive, unpack, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

    from shmkit.channels.objects.codec import Encoded, Received
    from shmkit.work.supervisor import Orders

__all__ = ["Pool"]

CALLS: Final = 32 << 20  # bytes of the ring of calls
RESULTS: Final = 32 << 20
LOOK: Final = 0.1  # seconds between two looks at the workers
LOOK_SOON: Final = 0.005  # the same, while one is about to end
BATCH: Final = 64  # results between two looks at what is parked


class Pool:
    """Workers, rings and calls. It lives as long as its collector, and knows no executor.

    Args:
        orders: what its workers are told.

    Attributes:
        lock: guards all that submitting threads and the collector share.
        closing: nothing more is submitted.
        cancelling: what waits is to be cancelled.
        broken: why no worker can be had, or "".
        backlog: the calls.

    Notes:
        Results are taken by the collector alone. No future is set with the lock held: its callbacks
        may submit.
    """

    def __init__(self, orders: Orders) -> None:
        self.lock = threading.Lock()
        self.closing = False
        self.cancelling = False
        self.broken = ""
        self._lost: BaseException | None = None  # a result was, and it is not known whose
        self._looked = 0.0  # when
        participants = lines_for(orders.most_workers) + 8
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
            self._crew = Crew(orders, self._calls, self._results)
            undo.pop_all()
        self.backlog = Backlog(self._calls, orders.most_workers)

    @property
    def processes(self) -> dict[int, BaseProcess]:
        """Those of the workers that take calls, by their pids."""
        return self._crew.processes

    def start(self) -> None:
        """Start the workers that must be there before there are threads.

        Raises:
            BrokenProcessPool: not one can be started.
        """
        self._crew.start()

    def submit(self, call: Call, content: bytes | Encoded) -> None:
        """Have a call run; for one who holds the lock.

        Args:
            call: the call.
            content: what is encoded of it.

        Raises:
            BrokenProcessPool: there is no worker, and none can be started.
        """
        self._crew.staff(len(self.backlog) + 1)
        self.backlog.submit(call, content)

    def wake(self) -> None:
        """Have the collector look around now."""
        try:
            self._results.put_object((0, WAKE, None), 0)
        except (Full, ValueError):
            pass  # it has something to do, or is through

    # -- collecting --------------------------------------------------------------------------------

    def collect(self, is_abandoned: Callable[[], bool]) -> None:
        """Set futures until all is done: what the collector's thread runs.

        Args:
            is_abandoned: whether nobody can submit any more.
        """
        try:
            while not self._is_finished(is_abandoned):
                self._step()
        except BaseException:  # noqa: BLE001 - every future's
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
                self.cancelling = False
                cancelled = self.backlog.drop_waiting()
            done = not self.backlog
        for call in cancelled:
            call.cancel()
        return done

    def _step(self) -> None:
        """Wait for results a little, then see to what they allow."""
        now = time.monotonic()
        pause = self._pause()
        count = 0
        if now - self._looked >= pause:
            self._looked = now
            self._look_around()
            pause = self._pause()
        try:
            frame = self._receive(pause)
            while True:
                if frame is not None:
                    self._settle(frame)
                count += 1
                if count == BATCH or self._results.empty():
                    break
                frame = self._receive(0)
            del frame
        except Empty:
            self._looked = 0.0
        if self.backlog.parked:
            with self.lock:
                self.backlog.refill()
            self.backlog.tell_failed()
        self.backlog.count(count)

    def _pause(self) -> float:
        return LOOK_SOON if self._crew.is_changing else LOOK

    def _receive(self, timeout: float) -> bytes | Received | None:
        """The next result, not yet unpickled; None for one that can not be had."""
        try:
            return self._results.get(timeout)
        except Empty:
            raise
        except PeerDied:
            self._looked = 0.0
        except Exception as error:  # noqa: BLE001 - the future's
            self._lost = error
        return None

    def _settle(self, frame: bytes | Received) -> None:
        """Give a future its result."""
        try:
            number, kind, value = unpack(frame)
        except BaseException as error:  # noqa: BLE001 - the future's
            number, kind, value = number_of(frame), FAILED, unreadable(error)
        running = self.backlog.running
        call = running.pop(number, None)
        if call is None:
            if number == 0:
                self._heed(kind, value)
                return
            with self.lock:  # its submit is just about to note it
                call = running.pop(number, None)
        if kind & LAST:
            with self.lock:
                self._crew.let_go(number)
            self._looked = 0.0  # another is to be started
        if call is None:
            return
        if kind & FAILED:
            call.fail(value if isinstance(value, BaseException) else revive(value))
        else:
            call.finish(value)

    def _heed(self, kind: int, value: Any) -> None:
        if kind == BROKEN:  # it ends now; as long as it has not, it may have something to log
            self._crew.failed_initializer = str(value)

    # -- the dead ----------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Find workers that ended, see to their calls, and start others."""
        with self.lock:
            self._crew.find_dead()
        if self._crew.dead or self._lost is not None:
            self._audit()
        if self.broken:
            return
        try:
            with self.lock:
                self._crew.staff(len(self.backlog))
        except BrokenProcessPool as error:
            if self.backlog:
                self._break(str(error))

    def _audit(self) -> None:
        """Account for every call that no live worker has."""
        crew, backlog = self._crew, self.backlog
        with self.lock:
            alive = crew.lines()
        seen = self._calls.look(crew.words, alive)
        if seen is None:
            return  # again at the next look
        while not self._results.empty():
            frame = self._receive(0)
            if frame is not None:
                self._settle(frame)
        if self.broken:
            return
        dead, crew.dead = crew.dead, []
        owners, started = crew.taken_by(dead), crew.started_by(dead)
        taken = set(seen.taken.values())
        with self.lock:
            astray = [n for n in backlog.running if n <= seen.head and n not in taken]
            for number in astray:
                call = backlog.running.pop(number)
                if number in started:
                    process = started[number].process
                    backlog.failed.append((call, WorkerDied(process.pid or 0, process.exitcode)))
                elif number in owners:
                    backlog.parked.appendleft(call)
                elif self._lost is not None:
                    backlog.failed.append((call, self._lost))
                else:
                    backlog.running[number] = call
            self._lost = None
            backlog.refill()
        backlog.tell_failed()
        reason = crew.bury(dead)
        if reason:
            self._break(reason)

    # -- the end -----------------------------------------------------------------------------------

    def _break(self, text: str) -> None:
        """Fail every call: no worker can be had."""
        with self.lock:
            self.closing = True
            self.broken = text
            calls = self.backlog.clear()
            self._crew.terminate()
        self.backlog.tell_failed()
        for call in calls:
            if call.start():
                call.fail(BrokenProcessPool(text))

    def _finish(self) -> None:
        """Send the workers home, and give everything back."""
        self._calls.shutdown()
        self._crew.join()
        with self.lock:
            self._crew.close()
            self._calls.close()
            self._results.close()

    def abandon(self) -> None:
        """End a pool whose collector never started."""
        self._break("it was not started")
        self._finish()
