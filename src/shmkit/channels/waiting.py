"""wait: several channels at once, and sockets and pipes with them."""

from __future__ import annotations

import math
import select
from typing import TYPE_CHECKING, Any, TypeVar

from shmkit.channels.fanout import Broadcast, Latest, Subscription
from shmkit.channels.handle import deadline_of
from shmkit.channels.objects.queue import Queue
from shmkit.channels.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shmkit.deadline import Deadline

__all__ = ["wait"]

T = TypeVar("T")

_MOST = (1 << 31) - 1  # milliseconds that poll() takes


def wait(channels: Iterable[T], timeout: float | None = None) -> list[T]:
    """Wait until one of several channels is ready, or more; which ones are.

    A `Ring`, `Queue` or `Subscription` is ready when a get would not wait: something is there, it
    was shut down, or the other side was killed. A `Latest` is ready when its value is newer than
    the one that this handle gave last. Whatever has a `fileno()`, and a descriptor itself, is ready
    when it is readable: sockets, pipes, `multiprocessing` connections and sentinels.

    Another thread or process may be faster: get with a timeout of 0 then.

    Args:
        channels: what to wait for; each handle has to be open.
        timeout: seconds to wait at most; None for ever, 0 or less not at all.

    Returns:
        Those that are ready, in the order given; none if the time was up.

    Raises:
        ClosedError: a handle is closed, or another thread closed it meanwhile.
        TypeError: one of them is no channel that is read and has no `fileno()`.
        ValueError: the timeout is NaN, or a descriptor is closed.
    """
    deadline = deadline_of(timeout)
    given = list(channels)
    sources = [_source_of(one) for one in given]
    files = [_descriptor_of(one) if _source_of(one) is None else -1 for one in given]
    while True:
        ready = {n for n, source in enumerate(sources) if source is not None and source._is_ready()}
        last = bool(ready) or deadline.expired()
        poller = select.poll()
        for n, source in enumerate(sources):
            if source is None:
                poller.register(files[n], select.POLLIN)
            elif not last:
                poller.register(source._armed_fileno(), select.POLLIN)
        events = dict(poller.poll(0 if last else _milliseconds(deadline)))
        for n, file in enumerate(files):
            if events.get(file, 0) & select.POLLNVAL:
                raise ValueError(f"descriptor {file} of {given[n]!r} is not open")
            if file in events:
                ready.add(n)
        if ready or last:
            return [one for n, one in enumerate(given) if n in ready]


def _source_of(one: Any) -> Ring | Subscription | Latest | None:
    """The handle that can be watched; None for what has a descriptor of its own."""
    if isinstance(one, Queue):
        ring: Ring = one._ring
        return ring
    return one if isinstance(one, (Ring, Subscription, Latest)) else None


def _descriptor_of(one: Any) -> int:
    try:
        return one if isinstance(one, int) else int(one.fileno())
    except AttributeError:
        if isinstance(one, Broadcast):
            raise TypeError(
                f"{one!r} is not read itself: wait for one of its subscribe()"
            ) from None
        raise TypeError(
            f"{one!r} can not be waited for: give a Ring, a Queue, a Subscription, a Latest, or "
            "something with a fileno()"
        ) from None


def _milliseconds(deadline: Deadline) -> int | None:
    left = deadline.remaining()
    return None if math.isinf(left) else min(math.ceil(left * 1000), _MOST)
