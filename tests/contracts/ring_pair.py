"""A producer and a consumer of one ring, wherever they are: here, or one in another process.

A case of the contract (ring.py) drives a `Pair`. Its two ends answer to the names of `Ring`'s
methods; what they raise and return comes back the same way from another process as from this one:

    pair.producer.put(b"x")                       a method, at that end
    pair.consumer.run(read_all, 10)               read_all(ring, 10), at that end
    waiting = pair.consumer.begin("get")          the same without waiting for it
    waiting.result()
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Protocol

from shmkit import Ring

__all__ = ["TIMEOUT", "Far", "Near", "Pair", "serve"]

TIMEOUT = 10.0  # seconds until a call that does not return has failed


class Result(Protocol):
    """What will come back from a call that was begun."""

    def result(self, timeout: float = TIMEOUT) -> Any:
        """Wait for it; raises what the call raised."""
        ...


class End:
    """One end of a pair."""

    pid: int

    def begin(self, what: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Result:
        """Call a method of the ring, or a function with the ring, without waiting for it."""
        raise NotImplementedError

    def run(self, what: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The same, and wait for what comes back."""
        return self.begin(what, *args, **kwargs).result()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.run(name, *args, **kwargs)


class Near(End):
    """An end in this process: a handle, used by a thread."""

    def __init__(self, ring: Ring, pid: int) -> None:
        self.ring = ring
        self.pid = pid
        self._thread = ThreadPoolExecutor(1)

    def begin(self, what: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Result:
        return self._thread.submit(call, self.ring, what, args, kwargs)

    def run(self, what: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return call(self.ring, what, args, kwargs)

    def close(self) -> None:
        """Close the handle, which ends what waits at it."""
        self.ring.close()
        self._thread.shutdown()


class Far(End):
    """An end in another process, which runs `serve`."""

    def __init__(self, link: Connection, key: str, pid: int) -> None:
        self.pid = pid
        self._link = link
        self._key = key

    def begin(self, what: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Result:
        assert not self._link.closed, "the other process has failed to answer before"
        self._link.send((self._key, what, args, kwargs))
        return _Reply(self._link)

    def close(self) -> None:
        """Close the handle."""
        self.run("close")


class _Reply:
    def __init__(self, link: Connection) -> None:
        self._link = link

    def result(self, timeout: float = TIMEOUT) -> Any:
        if not self._link.poll(timeout):
            self._link.close()  # or a late answer would be taken for that of the next call
            raise AssertionError(f"the other process did not answer in {timeout} s")
        worked, answer = self._link.recv()
        if worked:
            return answer
        raise answer


class Pair:
    """Both ends of a ring, which begins empty and without roles."""

    def __init__(self, producer: End, consumer: End) -> None:
        self.producer = producer
        self.consumer = consumer

    @property
    def one_handle(self) -> bool:
        """Whether both ends are one handle, which then has both roles."""
        return self.producer is self.consumer

    @property
    def near(self) -> Near:
        """An end in this process."""
        end = self.producer if isinstance(self.producer, Near) else self.consumer
        assert isinstance(end, Near)
        return end


def call(
    ring: Ring, what: str | Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a method of the ring, or a function with the ring."""
    if isinstance(what, str):
        return getattr(ring, what)(*args, **kwargs)
    return what(ring, *args, **kwargs)


def serve(link: Connection, rings: dict[str, Ring]) -> None:
    """What the other process does: one call after the other, until it gets None."""
    while (message := link.recv()) is not None:
        key, what, args, kwargs = message
        try:
            answer = True, call(rings[key], what, args, kwargs)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the test
            answer = False, error
        link.send_bytes(pickle.dumps(answer))
    for ring in rings.values():
        ring.close()
