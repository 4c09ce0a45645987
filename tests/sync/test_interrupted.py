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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from shmkit import Acquired, Event, Lock, Semaphore, compiled
from shmkit.segment.fences import fence
from shmkit.segment.words import IDLE, TOKENS_HELD
from tests.processes import in_child
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
ROUNDS = 15  # a debugger is slow
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


@contextmanager
def between_lines(how: str) -> Iterator[None]:
    """Let other threads run between any two lines of this one, as a debugger does."""

    def trace(*_: Any) -> Any:
        os.sched_yield()
        return trace

    if how == "trace":
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(None)
        return
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    monitoring.use_tool_id(monitoring.DEBUGGER_ID, "between lines")
    monitoring.register_callback(monitoring.DEBUGGER_ID, monitoring.events.LINE, trace)
    monitoring.set_events(monitoring.DEBUGGER_ID, monitoring.events.LINE)
    try:
        yield
    finally:
        monitoring.set_events(monitoring.DEBUGGER_ID, 0)
        monitoring.free_tool_id(monitoring.DEBUGGER_ID)


@pytest.mark.parametrize("what", ["lock", "semaphore"])
@pytest.mark.parametrize(
    "how",
    [
        "trace",
        pytest.param(
            "monitoring",
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="from Python 3.12 on"),
        ),
    ],
)
def test_threads_under_a_debugger(lock: Lock, how: str, what: str) -> None:
    """It lets other threads run between any two lines."""
    seen = [0]
    semaphore = Semaphore(1)
    guard: Any = lock if what == "lock" else semaphore

    def count() -> None:
        with between_lines(how) if how == "trace" else nullcontext():
            for _ in range(ROUNDS):
                with guard:
                    before = seen[0]
                    seen[0] = before + 1

    with between_lines(how) if how != "trace" else nullcontext(), ThreadPoolExecutor(4) as threads:
        for task in [threads.submit(count) for _ in range(4)]:
            task.result(50)
    assert seen == [4 * ROUNDS]
    assert semaphore.value == 1
    is_free(lock)
    semaphore.close()


def raising_at(act: Callable[[], object], *moments: int) -> bool:
    """Call `act`, and raise at the entry of some of the library's functions; whether it raised."""
    seen = 0

    def profile(frame: Any, event: str, _: object) -> None:
        nonlocal seen
        if event == "call" and f"{os.sep}shmkit{os.sep}" in frame.f_code.co_filename:
            seen += not is_in_finalizer(frame)
            if seen in moments and not is_in_finalizer(frame):
                raise Raised

    def is_in_finalizer(frame: Any) -> bool:  # from which no exception gets to the caller
        while frame.f_code is not raising_at.__code__:
            if frame.f_code.co_name in ("__del__", "__call__", "<genexpr>"):
                return True
            frame = frame.f_back
        return False

    def start() -> None:  # raised by a profiler, an exception ends the profiling
        sys.setprofile(profile)

    try:
        start()
        try:
            act()
        finally:
            sys.setprofile(None)
    except Raised:
        return True
    return False


def use_lock(handle: Any) -> None:
    assert handle.acquire(timeout=5)
    handle.release()


def use_event(handle: Any) -> None:
    handle.set()
    handle.wait(0)
    handle.clear()


USES: dict[str, Callable[[Any], None]] = {
    "Lock": use_lock,
    "Lock after a death": use_lock,
    "Semaphore": use_lock,
    "Semaphore after a death": use_lock,
    "Event": use_event,
}


@pytest.mark.parametrize("what", USES)
def test_an_exception_at_the_entry_of_any_function(what: str) -> None:
    """In a fresh handle's first calls and its end: then another one can be used, and nothing hangs.

    What is raised there, a signal handler may raise: its first moment in a function is its entry.
    In a child, for a descriptor is lost that was opened and has no owner yet.
    """
    in_child(lambda: raise_at_each_entry(what), seconds=50)


def raise_at_each_entry(what: str) -> None:
    made: Any = {"Lock": Lock, "Semaphore": Semaphore, "Event": Event}[what.split()[0]]()
    segment = made._count.segment if what.startswith("Semaphore") else made._segment
    # There are some hundred moments: every so many of them is tried.
    step = 29 if what.endswith("death") else 7
    moment, raised = -random.Random(what).randrange(step), True
    while raised:
        moment += step
        if what.endswith("death"):
            dying = again(made)
            assert dying.acquire(timeout=5)
            del dying
        handles: list[Any] = []

        def act(handles: list[Any] = handles) -> None:
            handles.append(again(made))
            USES[what](handles[0])
            handles[0].close()

        raised = raising_at(act, moment)
        for handle in handles:
            give_back(handle)
            handle.close()
        handles.clear()
        gc.collect()
        assert segment.membership.members() == [os.getpid()], moment
        if what.startswith("Event"):
            made.set()
            assert made.wait(5)
            made.clear()
        else:
            assert made.acquire(timeout=5), moment
            made.release()
    assert moment > 20
    made.close()


def give_back(handle: Any) -> None:
    """What an interrupted `release` did not: it may be interrupted before its first line."""
    if isinstance(handle, Lock) and handle.held:
        handle.release()
    if isinstance(handle, Semaphore):
        tokens: Any = handle._count
        if not tokens._closed and tokens._own >= 0 and tokens._words[tokens._own] & TOKENS_HELD:
            handle.release()


@pytest.mark.parametrize("what", ["Lock", "Semaphore", "Event"])
@pytest.mark.parametrize("seed", range(2))
def test_alarms_that_raise(what: str, seed: int, alarm: Any) -> None:
    """One or two at any moment of any call: afterwards the next call works, and others' do."""
    made: Any = {"Lock": Lock, "Semaphore": Semaphore, "Event": Event}[what]()
    other, dice = again(made), random.Random(seed)

    def handler(*_: Any) -> None:
        if dice.random() < 0.5:  # another one soon, into what the first is ending
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 3e-5))
        raise Raised

    def rounds() -> None:
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 1e-4))
        while True:
            if what == "Event":
                use_event(made)
                made.wait(1e-5)
            else:
                use_lock(made)
                made.acquire(timeout=0)
                made.acquire(timeout=1e-5) if what == "Semaphore" else None
                made.release()

    alarm(handler)
    ended, end = 0, time.monotonic() + 0.4
    while time.monotonic() < end:
        try:
            rounds()
        except Raised:
            ended += 1
        while True:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                time.sleep(0)
                give_back(made)
                break
            except Raised:
                continue
        if what == "Event":
            other.set()
            assert made.wait(5)
            other.clear()
        else:
            assert other.acquire(timeout=5)
            other.release()
    assert ended > 20
    if what == "Semaphore":
        assert made.value == 1
    other.close()
    made.close()


def test_a_fence_that_is_interrupted_leaves_no_lock() -> None:
    """By a trace function that raises at any line of it."""

    def trace(frame: Any, event: str, _: object) -> Any:
        if event == "line" and frame.f_code is fence.__code__:
            raise Raised
        return trace

    sys.settrace(trace)
    try:
        with pytest.raises(Raised):
            fence()
    finally:
        sys.settrace(None)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(fence).result(10)


@pytest.mark.parametrize("named", [False, True])
def test_a_handler_that_uses_an_event_and_a_semaphore(
    alarm: Any, named: bool, unique_name: str
) -> None:
    """All calls work: a release in the middle of another call is done at the end of that."""
    dice = random.Random(7)
    event, semaphore = Event(), Semaphore(0, unique_name if named else None, posix=named)
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
