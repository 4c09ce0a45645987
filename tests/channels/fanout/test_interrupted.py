"""Calls that are interrupted: by exceptions, by calls on the same object, by threads that switch.

An exception may come between any two lines. It leaves the memory and the handle such that the next
call works. A call from inside another one of the same thread works, or is a RuntimeError at once.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shmkit.channels.fanout
from shmkit import Broadcast, ClosedError, Empty, Latest
from tests.contracts.broadcast import Reader, numbered
from tests.contracts.latest import checked, value

ROOM = str(Path(shmkit.channels.fanout.__file__).parent)

# These take SIGALRM for themselves, which pytest-timeout uses otherwise.
own_alarm = pytest.mark.timeout(60, method="thread")


class Interruption(BaseException):
    """What the handlers of these tests raise."""


def interrupted_at(line: int, call: Callable[[], object], act: Callable[[], object]) -> bool:
    """Call something, and act once at a line of the room that it runs; whether it came to that."""
    left = line

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return left <= 0


def raise_it() -> None:
    raise Interruption


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Call something in another thread, which must not wait for ever for this one."""
    with ThreadPoolExecutor(1) as threads:
        yield lambda call: threads.submit(call).result(20)


def test_an_exception_at_any_line_of_a_publish(elsewhere: Any) -> None:
    for line in range(1, 200):
        with Broadcast.create(capacity=4096) as broadcast:
            reader, number = Reader(broadcast.subscribe()), 0
            for size in (100, 1500, 1900):  # in the second and third the oldest frames go
                before = broadcast.statistics().published
                frame = numbered(number, 100).ljust(size)
                with suppress(Interruption):
                    interrupted_at(line, partial(broadcast.publish, frame), raise_it)
                number = broadcast.statistics().published
                assert number in (before, before + 1)
            broadcast.publish(numbered(number, 200))
            elsewhere(partial(broadcast.publish, numbered(number + 1, 200)))
            number += 2
            assert broadcast.statistics().published == number
            got = []
            with suppress(Empty):
                while True:
                    got.append(reader.subscription.get(0))
            assert got[-1] == numbered(number - 1, 200)
            assert len(got) + reader.subscription.lost == number


def test_an_exception_at_any_line_of_a_get(elsewhere: Any) -> None:
    """The frame is there for the next get, or was just about to be returned."""
    for line in range(1, 100):
        with Broadcast.create(capacity=4096) as broadcast:
            subscription = broadcast.subscribe()
            for first in (0, 1000):  # the second time frames were lost
                for number in range(first, first + 20 + first // 10):
                    broadcast.publish(b"%d" % number)
                newest = b"%d" % number
                with suppress(Interruption):
                    interrupted_at(line, subscription.get_nowait, raise_it)
                seen = subscription.statistics()
                subscription.get(0)
                elsewhere(subscription.get_nowait)
                now = subscription.statistics()
                assert now.received == seen.received + 2
                with suppress(Empty):
                    while True:
                        last = subscription.get(0)
                assert last == newest
                now = subscription.statistics()
                assert now.received + now.lost == broadcast.statistics().published


def test_an_exception_at_any_line_of_a_set(elsewhere: Any) -> None:
    for line in range(1, 60):
        with Latest.create(size=1000) as latest:
            for _ in range(2):
                before = latest.version
                with suppress(Interruption):
                    interrupted_at(line, lambda: latest.set(value(latest.version + 1)), raise_it)
                assert latest.version in (before, before + 1)
                if latest.version:
                    assert checked(latest.get()) == latest.version
            version = latest.set(value(latest.version + 1))
            assert checked(latest.get()) == version
            assert elsewhere(lambda: latest.set(value(latest.version + 1))) == version + 1
            assert checked(latest.get()) == version + 1


@pytest.mark.parametrize("which", ["subscription", "broadcast", "latest"])
def test_an_exception_at_any_line_of_a_close(which: str) -> None:
    """The next close goes on with it."""
    for line in range(1, 30):
        broadcast, latest = Broadcast.create(capacity=4096), Latest.create(size=100)
        subscription = broadcast.subscribe()
        broadcast.publish(b"x")
        latest.set(b"x")
        handles: dict[str, tuple[Any, Callable[[], object]]] = {
            "subscription": (subscription, subscription.get),
            "broadcast": (broadcast, partial(broadcast.publish, b"y")),
            "latest": (latest, partial(latest.set, b"y")),
        }
        handle, call = handles[which]
        with suppress(Interruption):
            interrupted_at(line, handle.close, raise_it)
        handle.close()
        assert handle.closed
        with pytest.raises(ClosedError):
            call()
        broadcast.close()
        latest.close()


def call_at_each_line(outer: str, inner: str) -> tuple[int, int]:
    """Call something in the middle of another call, at each of its lines; how that went.

    Returns:
        How often the inner call worked, and how often it was refused.
    """
    answers: list[str] = []
    for line in range(1, 100):
        with Broadcast.create(capacity=4096) as broadcast, Latest.create(size=100) as latest:
            subscription = broadcast.subscribe()
            broadcast.publish(b"a")
            latest.set(b"a")
            calls: dict[str, Callable[[], object]] = {
                "publish": partial(broadcast.publish, b"b"),
                "get": subscription.get_nowait,
                "close broadcast": broadcast.close,
                "set": partial(latest.set, b"b"),
                "wait": partial(latest.wait, 0),
                "close latest": latest.close,
            }
            if not interrupted_at(
                line,
                partial(tried, calls[outer]),
                lambda: answers.append(
                    tried(calls[inner])  # noqa: B023 - called before the loop goes on
                ),
            ):
                break
            if "close" not in inner:
                latest.set(b"d")
                assert latest.get() == b"d"
                broadcast.publish(b"d")
                with suppress(Empty):
                    while True:
                        last = subscription.get(0)
                assert last == b"d"
                seen = subscription.statistics()
                assert seen.received == broadcast.statistics().published
    return answers.count("worked"), answers.count("refused")


def tried(call: Callable[[], object]) -> str:
    """Call something that may be refused, but at once."""
    start = time.monotonic()
    try:
        with suppress(Empty, ClosedError):
            call()
    except RuntimeError as error:
        assert "inside another" in str(error)
        return "refused"
    finally:
        assert time.monotonic() - start < 5
    return "worked"


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("publish", "publish"),
        ("publish", "close broadcast"),
        ("get", "get"),
        ("set", "set"),
        ("set", "close latest"),
    ],
)
def test_a_call_inside_another_is_an_error_at_once(outer: str, inner: str) -> None:
    """Where the outer one has not begun or has ended it works."""
    worked, refused = call_at_each_line(outer, inner)
    assert worked
    assert refused


@pytest.mark.parametrize(
    ("outer", "inner"),
    [("publish", "get"), ("get", "publish"), ("get", "close broadcast"), ("wait", "set")],
)
def test_reading_and_writing_may_come_inside_each_other(outer: str, inner: str) -> None:
    worked, refused = call_at_each_line(outer, inner)
    assert worked
    assert not refused


@contextmanager
def alarms(handler: Callable[[], None]) -> Iterator[None]:
    """Have a function called by a signal again and again."""
    before = signal.getsignal(signal.SIGALRM)
    on = True

    def handle(*_: Any) -> None:
        if on:
            # Each sets the next: on a busy machine there would be no time left otherwise.
            signal.setitimer(signal.ITIMER_REAL, 3e-4)
            handler()

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 2e-4)
    try:
        yield
    finally:
        on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@own_alarm
@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(),
    reason="handlers run in the main thread, and this one is not it",
)
def test_a_handler_that_calls_the_same_objects(where: Any) -> None:
    """Publishing, setting and reading, while the handler does so, too; nothing torn, none twice."""
    done = refused = 0
    with Broadcast.create(where, 1 << 14) as broadcast, Latest.create(None, 100) as latest:
        subscription = broadcast.subscribe()

        def handler() -> None:
            nonlocal done, refused
            for call in (lambda: broadcast.publish(b"h"), subscription.get_nowait, write):
                try:
                    call()
                    done += 1
                except RuntimeError:
                    refused += 1
                except Empty:
                    pass

        def write() -> None:
            latest.set(b"%d" % latest.version * 3)

        end = time.monotonic() + 2
        with alarms(handler):
            while time.monotonic() < end:
                broadcast.publish(b"m")
                with suppress(Empty):
                    assert subscription.get(0) in (b"m", b"h")
                latest.set(b"7" * 50)
                data = latest.get()
                assert data == data[: len(data) // 3] * 3 or data == b"7" * 50
        with suppress(Empty):
            while True:
                subscription.get(0)
        seen = subscription.statistics()
        assert seen.received + seen.lost == broadcast.statistics().published
    assert done
