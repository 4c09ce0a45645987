r"""Backlog: the calls that were submitted and have no result yet.

    submit ---> running: in the ring of calls, or with a worker
          \--> parked:  waits until the ring has few enough calls

Only the next few calls are put into the ring, as many as the workers can do in some 20 ms, judged
by the rate of the last results. That is enough for a worker never to wait for the collector. A call
can be recalled, to be cancelled, until a worker has it: out of the ring, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.objects.codec import encode
from shmkit.errors import Full, PeerDied

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.channels.objects.codec import Encoded
    from shmkit.work.calls import CallRing
    from shmkit.work.future import CallFuture
    from shmkit.work.worker import Task

__all__ = ["Backlog", "Call"]

AHEAD: Final = 0.02  # seconds of work to keep in the ring of calls
MOST_AHEAD: Final = 1000  # calls in the ring, however short they are


class Call:
    """A call that was submitted and has no result yet.

    Args:
        future: the caller's.
        content: its pickle; None for a call with large arguments, which are copied only when it is
            put into the ring.
        task: what its pickle is of (worker.py).
    """

    __slots__ = ("before", "content", "future", "task")

    def __init__(self, future: CallFuture[Any], content: bytes | None, task: Task) -> None:
        self.future = future
        self.content = content
        # With a pickle the task is not needed: do not keep its arguments alive.
        self.task = task if content is None else None
        self.before = 0  # the position of the call that was put into the ring before it

    def finish(self, value: Any) -> None:
        """Set the future's result, unless it was set elsewhere."""
        _shielded(self.future.set_result, value)

    def fail(self, error: BaseException) -> None:
        """Set the future's exception, unless it was set elsewhere."""
        _shielded(self.future.set_exception, error)

    def cancel(self) -> None:
        """Cancel the future of a call that was recalled."""
        _shielded(self.future.cancel_recalled)


def _shielded(change: Callable[..., object], *args: Any) -> None:
    """Change a future; what its callbacks raise does not end the collector."""
    try:
        change(*args)
    except InvalidStateError:
        return
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            raise  # it may come from a signal handler
        # The standard library logs an Exception in this log, but lets a BaseException through.
        logging.getLogger("concurrent.futures").critical("a callback raised", exc_info=True)


class Backlog:
    """The calls in the ring or with a worker, and the calls that wait to be put into the ring.

    Args:
        calls: the ring.
        most_workers: how many workers take calls out of it.

    Attributes:
        running: calls in the ring or with a worker, by their ids (calls.py).
        parked: calls that wait, the oldest first.
        failed: calls that could not be sent or were lost, each with the reason; their futures are
            still to be set.

    Notes:
        The pool's lock guards all of it, except `tell_failed` and `running.pop`. No future is set
        with the lock held: its callbacks may submit.
    """

    def __init__(self, calls: CallRing, most_workers: int) -> None:
        self.running: dict[int, Call] = {}
        self.parked: deque[Call] = deque()
        self.failed: list[tuple[Call, BaseException]] = []
        self._calls = calls
        self._writer = calls.cursors[0]
        # At least one call running and one ready for each worker.
        self._window = self._least = 2 * most_workers + 1
        self._done, self._since = 0, time.monotonic()
        self._last = calls.position  # of the call that was put last

    def __len__(self) -> int:
        return len(self.running) + len(self.parked)

    def submit(self, call: Call, content: bytes | Encoded) -> None:
        """Send a call, or park it.

        Args:
            call: the call.
            content: it, encoded.
        """
        self._adapt()
        if self.parked or len(self.running) >= self._window or not self._send(call, content):
            self.parked.append(call)

    def _adapt(self) -> None:
        """Set how many calls may be in the ring, by the rate of results since the last time."""
        now = time.monotonic()
        # Not at every call: over a shorter time the rate says little.
        if now - self._since > AHEAD / 2:
            rate = self._done / (now - self._since)
            self._window = max(self._least, min(int(rate * AHEAD), MOST_AHEAD))
            self._done, self._since = 0, now

    def _send(self, call: Call, content: bytes | Encoded | None) -> bool:
        """Put a call into the ring; False if that is full. An error is the call's: True."""
        if content is None:
            try:
                content = encode(call.task)
            except BaseException as error:  # noqa: BLE001 - passed to the future
                self.failed.append((call, error))
                return True
        try:
            if type(content) is not bytes or not self._writer.put(content):
                self._calls.put_encoded(content, 0)
        except (Full, PeerDied):
            return False  # no room, or no live worker now: park it
        except Exception as error:  # noqa: BLE001 - passed to the future
            self.failed.append((call, error))
            return True
        # After the put, because its position is the id. The result may come before this line.
        call.before, self._last = self._last, self._calls.position
        call.future.position = self._last
        self.running[self._last] = call
        return True

    def park_again(self, call: Call) -> None:
        """Put a call back that a dead worker had not begun: it is the next one to run."""
        call.future.position = 0
        self.parked.appendleft(call)

    def refill(self) -> None:
        """Put parked calls into the ring, as far as the window allows."""
        self._adapt()
        parked, running = self.parked, self.running
        while parked and len(running) < self._window:
            call = parked.popleft()
            if not call.future.is_recalled and not self._send(call, call.content):
                parked.appendleft(call)
                break

    def count(self, done: int) -> None:
        """Note that so many results came, for their rate."""
        self._done += done

    def recall(self, future: CallFuture[Any]) -> bool:
        """Keep a call from being run, so that its future can be cancelled.

        Returns:
            Whether no worker has it, nor will have.
        """
        if future.position:
            call = self.running.get(future.position)
            if (
                call is None
                or call.future is not future
                or not self._calls.void(future.position, call.before)
            ):
                return False
            del self.running[future.position]
        # A parked call is dropped where it would be sent: to look for it may take long.
        future.is_recalled = True
        return True

    def recall_all(self) -> list[Call]:
        """Take out the calls that no worker has, to cancel them."""
        # The newest first: what a worker takes meanwhile is then at the other end.
        calls = [*self.parked, *list(self.running.values())[::-1]]
        recalled = [c for c in calls if not c.future.is_recalled and self.recall(c.future)]
        self.parked.clear()
        return recalled[::-1]

    def has_begun(self, future: CallFuture[Any]) -> bool:
        """Whether a worker has the call of a future, or had it."""
        return future.position > 0 and self._calls.is_taken(future.position)

    def clear(self) -> list[Call]:
        """Take out all calls, to fail them."""
        calls = [*self.running.values(), *self.parked]
        self.running.clear()
        self.parked.clear()
        return [call for call in calls if not call.future.is_recalled]

    def tell_failed(self) -> None:
        """Set the futures of calls that could not be sent, or were lost with their worker."""
        while self.failed:
            try:
                call, error = self.failed.pop()
            except IndexError:
                return  # another thread took the last one
            call.fail(error)
