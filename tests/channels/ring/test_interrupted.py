"""Calls that come between: threads that switch at any moment, signal handlers, finalizers.

The fast paths have no lock, so this is what they have to live with. Whatever comes between is done
before, after, or refused with an error; no frame is torn, lost or doubled.
"""

from __future__ import annotations

import gc
import pickle
import random
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from shmkit import Acquired, Empty, Full, Lock, Ring, ShutDown
from tests.processes import run_python

# These take SIGALRM for themselves, which pytest-timeout has else.
own_alarm = pytest.mark.timeout(60, method="thread")
main_thread = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(),
    reason="handlers run in the main thread, and this one is not it",
)


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads switch as often as they can, and garbage is collected all the time."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(7, 3, 2)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


def sealed(number: int, size: int) -> bytes:
    """A frame that tells whether it is whole."""
    body = number.to_bytes(8, "little") + bytes([number % 251]) * size
    return zlib.crc32(body).to_bytes(4, "little") + body


def opened(frame: bytes) -> int:
    """Its number."""
    assert zlib.crc32(frame[4:]) == int.from_bytes(frame[:4], "little"), f"torn: {frame[:40]!r}"
    return int.from_bytes(frame[4:12], "little")


@pytest.mark.parametrize("many", ["one", "many"])
def test_threads_that_switch_all_the_time(where: Any, many: str, restless: None) -> None:
    """Three put and three get, on one handle, in every way."""
    count = 400
    with Ring.create(where, capacity=4096, producers=many, consumers=many) as ring:

        def put(first: int) -> None:
            dice = random.Random(first)
            number = first
            while number < first + count:
                way = dice.randrange(4)
                if way == 0:
                    size = min(3, first + count - number)
                    batch = [sealed(number + n, dice.randrange(60)) for n in range(size)]
                    assert ring.put_many(batch, 20) == size
                    number += size
                    continue
                frame = sealed(number, dice.randrange(200))
                if way == 1:
                    with ring.reserve(len(frame), 20) as room:
                        room[:] = frame
                else:
                    ring.put(frame, 20)
                number += 1

        def get(seed: int) -> list[int]:
            dice = random.Random(seed)
            got: list[int] = []
            while True:
                way = dice.randrange(4)
                try:
                    if way == 0:
                        got += map(opened, ring.get_many(4, 20))
                    elif way == 1:
                        with ring.peek(20) as view:
                            got.append(opened(bytes(view)))
                    else:
                        got.append(opened(ring.get(20)))
                except ShutDown:
                    return got

        with ThreadPoolExecutor(6) as threads:
            getting = [threads.submit(get, seed) for seed in range(3)]
            putting = [threads.submit(put, 10_000 * n) for n in range(3)]
            for task in putting:
                task.result(50)
            ring.shutdown()
            got = [task.result(50) for task in getting]
    expected = [10_000 * n + number for n in range(3) for number in range(count)]
    assert sorted(number for numbers in got for number in numbers) == expected
    for numbers in got:  # and each thread's in its order
        for n in range(3):
            own = [number for number in numbers if number // 10_000 == n]
            assert own == sorted(own)


def test_threads_that_wait_together(where: Any, restless: None) -> None:
    """Many at once at an empty ring, and then at a full one: each gets its own."""
    with Ring.create(where, capacity=4096) as ring, ThreadPoolExecutor(8) as threads:
        for turn in range(15):
            waiting = [threads.submit(ring.get, 20) for _ in range(5)]
            for number in range(5):
                ring.put(sealed(5 * turn + number, 9), 20)
            got = sorted(opened(task.result(20)) for task in waiting)
            assert got == list(range(5 * turn, 5 * turn + 5))
        for _ in range(15):
            ring.put(bytes(4080), 20)
            putting = [threads.submit(ring.put, sealed(number, 700), 20) for number in range(5)]
            assert ring.get(20) == bytes(4080)
            assert sorted(opened(ring.get(20)) for _ in range(5)) == list(range(5))
            for done in putting:
                done.result(20)
        assert ring.empty()


@contextmanager
def alarms(handler: Callable[[], None]) -> Iterator[None]:
    """Have a function called by a signal again and again, with some time between."""
    before = signal.getsignal(signal.SIGALRM)
    dice = random.Random(3)
    on = True

    def handle(*_: Any) -> None:
        if on:
            try:
                handler()
            finally:
                # Each sets the next: on a busy machine there would be no time left else.
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(5e-5, 4e-4))

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 2e-4)
    try:
        yield
    finally:
        on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@own_alarm
@main_thread
def test_a_handler_that_puts(where: Any) -> None:
    """On the same handle: its frame goes in, or it is told that it cannot."""
    put, got, by_handler, refused = list[int](), list[int](), list[int](), list[int]()
    dice = random.Random(2)
    with Ring.create(where, capacity=8192) as ring:

        def handler() -> None:
            number = 1_000_000 + len(by_handler) + len(refused)
            try:
                ring.put(sealed(number, 40), 0)
            except (Full, RuntimeError):
                refused.append(number)
            else:
                by_handler.append(number)

        end = time.monotonic() + 30
        with alarms(handler):
            while len(put) < 8_000 or (len(by_handler) < 30 and time.monotonic() < end):
                frame = sealed(len(put), dice.randrange(300))
                try:
                    if len(put) % 9:
                        ring.put(frame, 0)
                    else:
                        with ring.reserve(len(frame), 0) as room:
                            room[:] = frame
                    put.append(len(put))
                except Full:
                    got += map(opened, ring.get_many(dice.randrange(1, 20), 0))
        while not ring.empty():
            got += map(opened, ring.get_many(timeout=0))
    assert by_handler
    assert [number for number in got if number < 1_000_000] == put
    assert [number for number in got if number >= 1_000_000] == by_handler


@own_alarm
@main_thread
def test_a_handler_that_gets(where: Any) -> None:
    got, by_handler, number = list[int](), list[int](), 0
    with Ring.create(where, capacity=8192) as ring:

        def handler() -> None:
            try:
                by_handler.append(opened(ring.get(0)))
            except (Empty, RuntimeError):
                pass

        end = time.monotonic() + 30
        with alarms(handler):
            while number < 8_000 or (len(by_handler) < 30 and time.monotonic() < end):
                try:
                    ring.put(sealed(number, number % 290), 0)
                    number += 1
                except Full:
                    for _ in range(number % 17 + 1):
                        try:
                            got.append(opened(ring.get(0)))
                        except Empty:
                            break
        while not ring.empty():
            got.append(opened(ring.get(0)))
    assert by_handler
    assert sorted(got + by_handler) == list(range(number))
    assert got == sorted(got)
    assert by_handler == sorted(by_handler)


def warm(ring: Ring) -> None:
    """Have everything imported: an import that is interrupted leaves its file open."""
    ring.put(b"warm")
    with ring.reserve(4) as room:
        room[:] = b"warm"
    assert [ring.get(), *ring.get_many()] == [b"warm"] * 2
    with pytest.raises(Empty):
        ring.get(0.06)


class Interrupted(Exception):
    """What a handler raises."""


class Raiser:
    """A handler that raises while it is armed."""

    armed = False

    def __call__(self) -> None:
        if self.armed:
            self.armed = False
            raise Interrupted


each_side = pytest.mark.parametrize("many", ["one", "many"])


@own_alarm
@main_thread
@each_side
def test_a_handler_that_raises(where: Any, many: str) -> None:
    """A put that is left by an exception put its frame whole, or not at all; the ring goes on."""
    put, got, unsure = list[int](), list[int](), list[int]()
    handler = Raiser()
    with Ring.create(where, capacity=4096, producers=many, consumers=many) as ring:
        warm(ring)
        with alarms(handler):
            for number in range(8_000):
                frame = sealed(number, number * 7 % 400)
                try:
                    handler.armed = True
                    if number % 3:
                        ring.put(frame, 0)
                    else:
                        with ring.reserve(len(frame), 0) as room:
                            room[:] = frame
                    handler.armed = False
                    put.append(number)
                except Full:
                    handler.armed = False
                    got += map(opened, ring.get_many(timeout=0))
                except Interrupted:
                    unsure.append(number)
        while not ring.empty():
            got += map(opened, ring.get_many(timeout=0))
        ring.put(b"fine", 0)
        assert ring.get(0) == b"fine"
        ring.put(bytes(4080), 0)
        assert ring.get(0) == bytes(4080)
    assert unsure, "no handler came between"
    assert got == sorted(set(got))
    assert set(put) <= set(got) <= set(put) | set(unsure)


@own_alarm
@main_thread
@each_side
def test_a_handler_that_raises_in_a_get(where: Any, many: str) -> None:
    """A frame may be gone with the exception, for what get returned is gone; no more than that."""
    got, interrupted, number = list[int](), 0, 0
    handler = Raiser()
    with Ring.create(where, capacity=4096, producers=many, consumers=many) as ring:
        warm(ring)
        with alarms(handler):
            for turn in range(8_000):
                try:
                    handler.armed = True
                    got.append(opened(ring.get(0) if turn % 2 else ring.get_many(1, 0)[0]))
                    handler.armed = False
                except Empty:
                    handler.armed = False
                    ring.put_many([sealed(number + n, n * 31) for n in range(8)], 0)
                    number += 8
                except Interrupted:
                    interrupted += 1
        while not ring.empty():
            got += map(opened, ring.get_many(timeout=0))
        ring.put(b"fine", 0)
        assert ring.get(0) == b"fine"
    assert interrupted, "no handler came between"
    assert got == sorted(set(got))
    assert number - len(got) <= interrupted


@own_alarm
@main_thread
def test_a_handler_that_raises_at_a_lock() -> None:
    """Whoever is interrupted has the lock or not, and `held` says which; others get in after."""
    handler = Raiser()
    held = interrupted = 0
    lock = Lock()
    others = pickle.loads(pickle.dumps(lock))
    with alarms(handler):
        for _ in range(20_000):
            try:
                handler.armed = True
                lock.acquire()
                lock.release()
                handler.armed = False
            except Interrupted:
                interrupted += 1
                if lock.held:
                    held += 1
                    lock.release()
    assert interrupted, "no handler came between"
    assert others.acquire(timeout=10)
    assert not lock.acquire(timeout=0)
    others.release()
    assert lock.acquire(timeout=10) is Acquired.YES
    lock.close()
    others.close()


@own_alarm
@main_thread
@each_side
def test_a_handler_that_raises_in_a_wait(where: Any, many: str) -> None:
    """It ends the wait, at whatever moment, and the next one works."""
    handler = Raiser()
    with Ring.create(where, capacity=4096, producers=many, consumers=many) as ring:
        warm(ring)
        with alarms(handler):
            for number in range(25):
                with pytest.raises(Interrupted):
                    handler.armed = True
                    ring.get(20)
                ring.put(b"%d" % number)
                assert ring.get(20) == b"%d" % number
            ring.put(bytes(4080))
            for _ in range(25):
                with pytest.raises(Interrupted):
                    handler.armed = True
                    ring.put(b"x", 20)
        assert ring.get(5) == bytes(4080)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_finalizer_that_puts(where: Any) -> None:
    """The garbage collector runs it wherever it likes, also inside a put on the same handle."""
    with Ring.create(where, capacity=1 << 16) as ring:
        by_finalizer: list[int] = []
        refused = 0

        class Cycle:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                nonlocal refused
                number = 1_000_000 + len(by_finalizer) + refused
                try:
                    ring.put(sealed(number, 40), 0)
                except (Full, RuntimeError):
                    refused += 1
                else:
                    by_finalizer.append(number)

        threshold = gc.get_threshold()
        gc.set_threshold(11, 2, 2)
        put, got = list[int](), list[int]()
        try:
            for number in range(4000):
                Cycle()
                try:
                    ring.put(sealed(number, number % 100), 0)
                    put.append(number)
                except Full:
                    got += map(opened, ring.get_many(timeout=0))
        finally:
            gc.set_threshold(*threshold)
            gc.collect()
        while not ring.empty():
            got += map(opened, ring.get_many(timeout=0))
        assert by_finalizer
    assert [number for number in got if number < 1_000_000] == put
    assert [number for number in got if number >= 1_000_000] == by_finalizer


def test_a_trace_function_is_no_trouble(where: Any) -> None:
    """A debugger, a profiler: Python between any two lines of who puts and who gets."""
    assert run_python(put_and_get_traced, where, timeout=50).stdout == "1200\n"


def put_and_get_traced(where: str | None) -> None:
    def trace(frame: Any, event: str, argument: Any) -> Any:
        return trace

    sys.setswitchinterval(1e-6)
    threading.settrace(trace)
    got: list[int] = []
    with Ring.create(where, capacity=4096) as ring:

        def put() -> None:
            for number in range(1200):
                ring.put(sealed(number, 30), 20)
            ring.shutdown()

        def get() -> None:
            got.extend(map(opened, ring))

        threads = [threading.Thread(target=target) for target in (put, get)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if got != list(range(1200)):
        raise AssertionError(f"{len(got)} frames came, {len(set(got))} different ones")
    print(len(got))
