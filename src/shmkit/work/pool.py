r"""Pool: what is behind a ProcessPoolExecutor: the workers, and the thread that minds them.

    submit --> running ------> ring of calls ------> worker 1 .. n
          \--> parked --^                             |
                        |                             v
    future <------- collector <------ ring of results

A call goes straight into the ring of calls while few are in it, and is parked otherwise; calls in
the ring count as running, as in the standard library. How many may be in it follows the rate at
which results come, so that a worker never waits for the collector, and what is in it is about to
run. The collector gets the results, sets the futures, puts parked calls in, and looks after the
dead.

A worker that died is looked up in the lines (calls.py): with the ring of calls locked, so that
nobody takes a call, and then with every result that is committed out of the ring of results, a call
that is out of the one ring and not through the other is with a live worker, or it was with the dead
one.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from concurrent.futures import Future, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shmkit.channels.codec import Encoded, encode
from shmkit.errors import Empty, Full, PeerDied
from shmkit.memory.buffer import SharedBuffer
from shmkit.work.calls import LINE, READY, STARTED, TAKEN, CallRing, ResultRing
from shmkit.work.died import WorkerDied
from shmkit.work.worker import (
    BROKEN,
    FAILED,
    LAST,
    WAKE,
    number_of,
    revive,
    unpack,
    unreadable,
    work,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from shmkit.channels.codec import Received

__all__ = ["Call", "Pool"]

CALLS: Final = 32 << 20  # bytes of the ring of calls
RESULTS: Final = 32 << 20
LOOK: Final = 0.1  # seconds between two looks at the workers
AHEAD: Final = 0.02  # seconds of work to have in the ring of calls
MOST_AHEAD: Final = 1000  # calls
BATCH: Final = 64  # results between two looks at what is parked
FAILED_STARTS: Final = 3  # in a row: no worker can start

_Task = tuple[Any, tuple[Any, ...], dict[str, Any]]


class Call:
    """A call that was submitted and has no result yet.

    Args:
        future: what the caller has of it.
        content: its pickle; None if what is large in it is not yet copied.
        task: function, arguments and keyword arguments, in that case.
    """

    __slots__ = ("content", "future", "is_running", "task")

    def __init__(self, future: Future[Any], content: bytes | None, task: _Task) -> None:
        self.future = future
        self.content = content
        self.task = task if content is None else None
        self.is_running = False


class _Worker(NamedTuple):
    process: BaseProcess
    line: int


class Pool:
    """Workers, rings and calls. It lives as long as its collector, and knows no executor.

    Args:
        context: how processes are started.
        most_workers: how many there may be.
        initializer: for each of them.
        initargs: its arguments.
        most_calls: how many calls a worker runs before it is replaced; None for any number.

    Notes:
        `lock` guards all that submitting threads and the collector share. Results are taken by the
        collector alone. No future is set with the lock held: its callbacks may submit.
    """

    def __init__(
        self,
        context: BaseContext,
        most_workers: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        most_calls: int | None,
    ) -> None:
        self.lock = threading.Lock()
        self.closing = False
        self.cancelling = False
        self.broken = ""
        self.processes: dict[int, BaseProcess] = {}
        self._context = context
        self._forks = context.get_start_method() == "fork"
        self._most_workers = most_workers
        self._initializer = initializer
        self._initargs = initargs
        self._most_calls = most_calls
        self._workers: list[_Worker] = []
        self._leaving: list[_Worker] = []  # that have run their last call
        self._dead: list[_Worker] = []  # whose calls are still to be seen to
        self._failed_starts = 0
        self._failed_initializer = ""  # the traceback
        self._lost: BaseException | None = None  # a result was, and it is not known whose
        self.failed: list[tuple[Call, BaseException]] = []  # not yet told
        self._running: dict[int, Call] = {}
        self._parked: deque[Call] = deque()
        self._window = self._least = 2 * most_workers + 1
        self._looked = 0.0  # when
        self._done, self._since = 0, time.monotonic()
        lines = 2 * most_workers + 2
        self._free_lines = list(range(lines))
        participants = lines + 8
        self._calls = CallRing.create(
            capacity=CALLS, producers="one", consumers="many", participants=participants
        )
        try:
            self._results = ResultRing.create(
                capacity=RESULTS, producers="many", consumers="one", participants=participants
            )
            try:
                self._lines = SharedBuffer.create(size=lines * LINE * 8)
                self._words = self._lines.view("Q")
            except BaseException:
                self._results.close()
                raise
        except BaseException:
            self._calls.close()
            raise

    # -- submitting --------------------------------------------------------------------------------

    def submit(self, call: Call, content: bytes | Encoded) -> None:
        """Have a call run; for one who holds the lock.

        Args:
            call: the call.
            content: what is encoded of it.
        """
        self._staff(1)
        if self._parked or len(self._running) >= self._window or not self._send(call, content):
            self._parked.append(call)

    def _send(self, call: Call, content: bytes | Encoded | None) -> bool:
        """Put a call into the ring; False if that is full."""
        if content is None:
            try:
                content = encode(call.task)
            except BaseException as error:  # noqa: BLE001 - the future's
                self.failed.append((call, error))
                return True
        try:
            self._calls.put_encoded(content, 0)
        except (Full, PeerDied):
            return False
        except Exception as error:  # noqa: BLE001 - the future's
            call.is_running = call.is_running or call.future.set_running_or_notify_cancel()
            self.failed.append((call, error))
            return True
        if not call.is_running:
            call.is_running = call.future.set_running_or_notify_cancel()
        self._running[self._calls.position] = call
        return True

    def tell_failed(self) -> None:
        """Set the futures of calls that could not be sent, or were lost with their worker."""
        while self.failed:
            try:
                call, error = self.failed.pop()
            except IndexError:
                return  # another thread told it
            _fail(call, error)

    def start(self) -> None:
        """Start the workers that must be there before there are threads."""
        if self._forks:
            self._staff(self._most_workers)

    def _staff(self, more: int = 0) -> None:
        """Start workers, if there are fewer than are needed for the calls there are."""
        wanted = len(self._running) + len(self._parked) + more
        wanted = self._most_workers if self._forks else min(wanted, self._most_workers)
        while len(self._workers) < wanted and self._free_lines:
            self._start_worker()

    def _start_worker(self) -> None:
        line = self._free_lines[-1]
        self._words[line * LINE : (line + 1) * LINE] = _NO_NOTE
        process: BaseProcess = self._context.Process(  # type: ignore[attr-defined]
            target=work,
            args=(
                self._calls,
                self._results,
                self._lines,
                line,
                self._initializer,
                self._initargs,
                self._most_calls,
            ),
        )
        process.start()
        self._free_lines.pop()
        self._workers.append(_Worker(process, line))
        assert process.pid is not None
        self.processes[process.pid] = process

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
                cancelled = [call for call in self._parked if not call.is_running]
                self._parked = deque(call for call in self._parked if call.is_running)
            done = not self._running and not self._parked
        for call in cancelled:
            call.future.cancel()
            call.future.set_running_or_notify_cancel()
        return done

    def _step(self) -> None:
        """Wait for results a little, then see to what they allow."""
        now = time.monotonic()
        pause = 0.005 if self._leaving or self._dead else LOOK
        count = 0
        if now - self._looked >= pause:
            self._looked = now
            self._look_around()
            pause = 0.005 if self._leaving or self._dead else LOOK
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
        if self._parked:
            with self.lock:
                self._refill()
            self.tell_failed()
        self._done += count

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
        call = self._running.pop(number, None)
        if call is None:
            if number == 0:
                self._heed(kind, value)
                return
            with self.lock:  # its submit is just about to note it
                call = self._running.pop(number, None)
        if kind & LAST:
            self._let_go(number)
        if call is None:
            return
        if kind & FAILED:
            _fail(call, value if isinstance(value, BaseException) else revive(value))
            return
        try:
            call.future.set_result(value)
        except InvalidStateError:
            return  # somebody else set it

    def _heed(self, kind: int, value: Any) -> None:
        if kind == BROKEN:  # it ends now; as long as it has not, it may have something to log
            self._failed_initializer = str(value)

    def _let_go(self, number: int) -> None:
        """The worker that ran this call runs no other."""
        with self.lock:
            for worker in self._workers:
                if self._words[worker.line * LINE + TAKEN] == number:
                    self._workers.remove(worker)
                    self._leaving.append(worker)
                    self.processes.pop(worker.process.pid or 0, None)
                    break
            self._staff()

    def _refill(self) -> None:
        """Put parked calls into the ring, as many as may be in it."""
        now = time.monotonic()
        if now - self._since > AHEAD / 2:
            rate = self._done / (now - self._since)
            self._window = max(self._least, min(int(rate * AHEAD), MOST_AHEAD))
            self._done, self._since = 0, now
        parked, running = self._parked, self._running
        while parked and len(running) < self._window:
            call = parked.popleft()
            if not call.is_running:
                if not call.future.set_running_or_notify_cancel():
                    continue
                call.is_running = True
            if not self._send(call, call.content):
                parked.appendleft(call)
                break

    # -- the dead ----------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Find workers that ended, see to their calls, and start others."""
        with self.lock:
            for workers in self._workers, self._leaving:
                for worker in list(workers):
                    if not worker.process.is_alive():
                        workers.remove(worker)
                        self.processes.pop(worker.process.pid or 0, None)
                        self._dead.append(worker)
        if self._dead or self._lost is not None:
            self._audit()
        if self.broken:
            return
        try:
            with self.lock:
                self._staff()
        except OSError as error:
            if not self._workers:
                self._break(f"no worker process can be started: {error}")

    def _audit(self) -> None:
        """Account for every call that no live worker has."""
        with self.lock:
            alive = [worker.line for worker in self._workers + self._leaving]
        seen = self._calls.look(self._words, alive)
        if seen is None:
            return  # again at the next look
        while not self._results.empty():
            frame = self._receive(0)
            if frame is not None:
                self._settle(frame)
        if self.broken:
            return
        words, dead = self._words, self._dead
        self._dead = []
        owners = {words[w.line * LINE + TAKEN]: w for w in dead}
        started = {words[w.line * LINE + STARTED]: w for w in dead}
        taken = set(seen.taken.values())
        with self.lock:
            astray = [n for n in self._running if n <= seen.head and n not in taken]
            for number in astray:
                call = self._running.pop(number)
                if number in started:
                    process = started[number].process
                    self.failed.append((call, WorkerDied(process.pid or 0, process.exitcode)))
                elif number in owners:
                    self._parked.appendleft(call)
                elif self._lost is not None:
                    self.failed.append((call, self._lost))
                else:
                    self._running[number] = call
            self._lost = None
            self._refill()
        self.tell_failed()
        self._bury(dead)

    def _bury(self, dead: list[_Worker]) -> None:
        for worker in dead:
            worker.process.join()
            if self._words[worker.line * LINE + READY]:
                self._failed_starts = 0
            else:
                self._failed_starts += 1
                code = worker.process.exitcode
                if self._failed_initializer:
                    self._break(
                        f"the initializer failed in worker process {worker.process.pid}:\n"
                        + self._failed_initializer
                    )
                elif (code is not None and code >= 0) or self._failed_starts >= FAILED_STARTS:
                    self._break(
                        f"worker process {worker.process.pid} ended with exit code {code} before "
                        "it was ready: its start, or the initializer, failed"
                    )
            self._free_lines.append(worker.line)

    # -- the end -----------------------------------------------------------------------------------

    def _break(self, text: str) -> None:
        """Fail every call: no worker can be had."""
        with self.lock:
            self.closing = True
            self.broken = text
            calls = [*self._running.values(), *self._parked]
            self._running.clear()
            self._parked.clear()
            for worker in self._workers + self._leaving:
                worker.process.terminate()
        self.tell_failed()
        for call in calls:
            if call.is_running or call.future.set_running_or_notify_cancel():
                _fail(call, BrokenProcessPool(text))

    def _finish(self) -> None:
        """Send the workers home, and give everything back."""
        self._calls.shutdown()
        for worker in self._workers + self._leaving + self._dead:
            worker.process.join()
        self.close()

    def abandon(self) -> None:
        """End a pool whose collector never started."""
        self._break("it was not started")
        self._finish()

    def close(self) -> None:
        """Give the memory back, with no worker left to use it."""
        with self.lock:
            # Their descriptors go with them; whoever has the processes of the executor keeps them.
            for workers in self._workers, self._leaving, self._dead:
                workers.clear()
            self.processes = {}
            self._words = _NOTHING
            self._calls.close()
            self._results.close()
            self._lines.close()


_NO_NOTE: Final = memoryview(bytes(LINE * 8)).cast("Q")
_NOTHING: Final = memoryview(bytearray(8)).cast("Q")


def _fail(call: Call, error: BaseException) -> None:
    try:
        call.future.set_exception(error)
    except InvalidStateError:
        return  # somebody else set it
