"""Calls on a Lock, an Event and a Semaphore that come in the middle of another call on it.

Signal handlers that raise and that call into the same object, finalizers, and a trace function. A
call works or raises RuntimeError at once. Nothing hangs, and nothing that was taken stays taken.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shmkit import Acquired, Event, Lock, Semaphore, compiled
from shmkit.segment.words import IDLE
from tests.sync.peers import again, phases

# These take SIGALRM for themselves, which pytest-timeout has else.
pytestmark = [
    pytest.mark.timeout(60, method="thread"),
    pytest.mark.skipif(
        threading.current_thread() is not threading.main_thread(),
        reason="handlers run in the main thread, and this one is not it",
    ),
]

SECONDS = 3.0
AGAIN = 0.005  # seconds: the interpreter may forget a signal that comes as it takes the GIL


class Raised(Exception):
    """What a handler raises in these tests."""


@pytest.fixture
def alarm() -> Iterator[Any]:
    """Have a function called at any moment, again and again, until the `with` ends."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def lock(name: str | None) -> Iterator[Lock]:
    made = Lock(name)
    yield made
    made.close()


def is_free(lock: Lock) -> None:
    """No handle has it or waits for it, and it can be had."""
    assert {phase for phase, _ in phases(lock)} == {IDLE}
    other = again(lock)
    assert other.acquire(timeout=5) is Acquired.YES
    other.release()
    other.close()


def test_a_handler_that_acquires_and_releases(lock: Lock, alarm: Any) -> None:
    """Beside acquire and release of the same thread, on the same handle."""
    dice = random.Random(3)
    told = {"done": 0, "busy": 0, "refused": 0}

    def handler(*_: Any) -> None:
        try:
            if lock.acquire(False):
                lock.release()
                told["done"] += 1
            else:
                told["busy"] += 1
        except RuntimeError as error:
            assert "inside another one" in str(error)
            told["refused"] += 1
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(2e-6, 2e-4), AGAIN)

    alarm(handler)
    end = time.monotonic() + SECONDS
    signal.setitimer(signal.ITIMER_REAL, 1e-4)
    rounds = 0
    while time.monotonic() < end:
        assert lock.acquire() is Acquired.YES
        lock.release()
        rounds += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert rounds > 100
    assert told["refused"] > 0 or compiled.core is not None  # which is never inside a call
    assert sum(told.values()) > 100
    is_free(lock)


def test_a_handler_that_acquires_for_ever_inside_a_call(lock: Lock, alarm: Any) -> None:
    """A wait without an end, inside a call that would have to go on first, is refused at once."""
    dice = random.Random(4)
    refused = 0

    def handler(*_: Any) -> None:
        nonlocal refused
        if not lock.held:
            try:
                lock.acquire()
                lock.release()
            except RuntimeError:
                refused += 1
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(2e-6, 2e-4), AGAIN)

    alarm(handler)
    end = time.monotonic() + SECONDS
    signal.setitimer(signal.ITIMER_REAL, 1e-4)
    while time.monotonic() < end:
        assert lock.acquire()
        lock.release()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert refused > 0 or compiled.core is not None
    is_free(lock)


@pytest.mark.parametrize("contended", [False, True], ids=["alone", "contended"])
def test_a_handler_that_raises(lock: Lock, alarm: Any, contended: bool) -> None:
    """At any moment: then it is held by nobody, or by the code that got it."""

    def handler(*_: Any) -> None:
        raise Raised

    alarm(handler)
    dice = random.Random(5)
    stop = threading.Event()
    other = again(lock)

    def contend() -> None:
        while not stop.is_set():
            with other as how:
                assert how is Acquired.YES

    ended = 0
    with ThreadPoolExecutor(1) as threads:
        task = threads.submit(contend) if contended else None
        try:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                try:
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 1e-4))
                    while True:
                        lock.acquire()
                        lock.release()
                except Raised:
                    ended += 1
                if lock.held:  # the handler came after the acquire, or as the release began
                    lock.release()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            stop.set()
        if task is not None:
            task.result(20)
    assert ended > 100
    is_free(lock)
    other.close()


def test_a_raise_within_acquire_gives_it_back(lock: Lock, alarm: Any) -> None:
    """`with lock:` needs no more care than that of the standard library."""

    def handler(*_: Any) -> None:
        raise Raised

    alarm(handler)
    dice = random.Random(6)
    inside = 0
    # For a time, not so many times: on a busy machine each round may take a time slice.
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        entered = False
        try:
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 4e-5))
            with lock:
                entered = True
                inside += 1
                while True:
                    # 3.12 may forget, until the GIL is next taken, a signal that came as it was.
                    os.sched_yield()
        except Raised:
            pass
        assert not lock.held, entered
    assert inside > 10
    is_free(lock)


def test_a_finalizer_that_acquires(lock: Lock) -> None:
    """Run by a garbage collection at any moment of a call on the same handle."""
    told: list[str] = []

    class Finalized:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            try:
                told.append("done" if lock.acquire(False) else "busy")
                if lock.held and told[-1] == "done":
                    lock.release()
            except RuntimeError:
                told.append("refused")

    threshold = gc.get_threshold()
    gc.set_threshold(3, 2, 2)
    try:
        for _ in range(2000):
            Finalized()
            lock.acquire()
            lock.release()
    finally:
        gc.set_threshold(*threshold)
        gc.collect()
    assert len(told) == 2000
    is_free(lock)


def test_threads_under_a_trace_function(lock: Lock) -> None:
    """A debugger lets other threads run between any two lines."""
    seen = [0]

    def trace(*_: Any) -> Any:
        os.sched_yield()
        return trace

    def count() -> None:
        sys.settrace(trace)
        try:
            for _ in range(60):
                with lock as how:
                    assert how is Acquired.YES
                    before = seen[0]
                    seen[0] = before + 1
        finally:
            sys.settrace(None)

    with ThreadPoolExecutor(4) as threads:
        for task in [threads.submit(count) for _ in range(4)]:
            task.result(50)
    assert seen == [240]
    is_free(lock)


@pytest.mark.parametrize("named", [False, True])
def test_a_handler_that_uses_an_event_and_a_semaphore(
    alarm: Any, named: bool, unique_name: str
) -> None:
    """They have no call that excludes others: all calls work."""
    dice = random.Random(7)
    event, semaphore = Event(), Semaphore(0, unique_name if named else None)
    released = 0

    def handler(*_: Any) -> None:
        nonlocal released
        event.set()
        assert event.wait(0)
        semaphore.release()
        released += 1
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(2e-6, 2e-4), AGAIN)

    alarm(handler)
    end = time.monotonic() + SECONDS / 2
    signal.setitimer(signal.ITIMER_REAL, 1e-4)
    got = 0
    while time.monotonic() < end:
        got += semaphore.acquire(timeout=0.001)
        event.wait(0.001)
        event.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert got + semaphore.value == released > 10
    event.close()
    semaphore.close()
    semaphore.unlink()
