r"""Backlog: the calls that were submitted and have no result yet.

    submit ---> running: in the ring of calls, or with a worker
          \--> parked:  sent when few enough are ahead of them

A call goes straight into the ring while few are in it, and is parked otherwise; calls in the ring
count as running, as in the standard library. How many may be in it follows the rate at which
results come, so that a worker never waits for the collector, and what is in it is about to run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.objects.codec import encode
from shmkit.errors import Full, PeerDied

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.channels.objects.codec import Encoded
    from shmkit.work.calls import CallRing

__all__ = ["Backlog", "Call"]

AHEAD: Final = 0.02  # seconds of work to have in the ring of calls
MOST_AHEAD: Final = 1000  # calls

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

    def start(self) -> bool:
        """Have the future run from now on; False if it was cancelled."""
        if not self.is_running:
            self.is_running = self.future.set_running_or_notify_cancel()
        return self.is_running

    def finish(self, value: Any) -> None:
        """Give the future its result, unless somebody else set it."""
        _shielded(self.future.set_result, value)

    def fail(self, error: BaseException) -> None:
        """Give the future its exception, unless somebody else set it."""
        _shielded(self.future.set_exception, error)

    def cancel(self) -> None:
        """Cancel the future, and tell who waits for it."""
        _shielded(self.future.cancel)
        _shielded(self.future.set_running_or_notify_cancel)


def _shielded(tell: Callable[..., object], *args: Any) -> None:
    """Call what may call callbacks; what one of them raises is not to end the collector."""
    try:
        tell(*args)
    except InvalidStateError:
        return
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            raise  # it may be a signal handler's
        # Logged where the standard library logs the others: it leaves out what is no Exception.
        logging.getLogger("concurrent.futures").critical("a callback raised", exc_info=True)


class Backlog:
    """Calls on their way, and those that wait for it.

    Args:
        calls: the ring they go into.
        most_workers: how many may take them out at a time.

    Attributes:
        running: what is in the ring or with a worker, by the number it is known by there.
        parked: what is to be sent, the oldest first.
        failed: what was not to be sent or was lost, with the reason; not yet told.

    Notes:
        The pool's lock guards all of it, but for `tell_failed` and for `running.pop`. No future is
        set with the lock held: its callbacks may submit.
    """

    def __init__(self, calls: CallRing, most_workers: int) -> None:
        self.running: dict[int, Call] = {}
        self.parked: deque[Call] = deque()
        self.failed: list[tuple[Call, BaseException]] = []
        self._calls = calls
        self._window = self._least = 2 * most_workers + 1
        self._done, self._since = 0, time.monotonic()

    def __len__(self) -> int:
        return len(self.running) + len(self.parked)

    def submit(self, call: Call, content: bytes | Encoded) -> None:
        """Send a call, or park it.

        Args:
            call: the call.
            content: what is encoded of it.
        """
        self._adapt()
        if self.parked or len(self.running) >= self._window or not self._send(call, content):
            self.parked.append(call)

    def _adapt(self) -> None:
        """Have the window follow the rate of results, downwards also when none come."""
        now = time.monotonic()
        if now - self._since > AHEAD / 2:
            rate = self._done / (now - self._since)
            self._window = max(self._least, min(int(rate * AHEAD), MOST_AHEAD))
            self._done, self._since = 0, now

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
            call.start()
            self.failed.append((call, error))
            return True
        call.start()
        self.running[self._calls.position] = call
        return True

    def refill(self) -> None:
        """Put parked calls into the ring, as many as may be in it."""
        self._adapt()
        parked, running = self.parked, self.running
        while parked and len(running) < self._window:
            call = parked.popleft()
            if call.start() and not self._send(call, call.content):
                parked.appendleft(call)
                break

    def count(self, done: int) -> None:
        """Note how many results came, for the rate they come at."""
        self._done += done

    def drop_waiting(self) -> list[Call]:
        """Take out the calls that never were in the ring, to cancel them."""
        waiting = [call for call in self.parked if not call.is_running]
        self.parked = deque(call for call in self.parked if call.is_running)
        return waiting

    def clear(self) -> list[Call]:
        """Take out all calls, to fail them."""
        calls = [*self.running.values(), *self.parked]
        self.running.clear()
        self.parked.clear()
        return calls

    def tell_failed(self) -> None:
        """Set the futures of calls that could not be sent, or were lost with their worker."""
        while self.failed:
            try:
                call, error = self.failed.pop()
            except IndexError:
                return  # another thread told it
            call.fail(error)
