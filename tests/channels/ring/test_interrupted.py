"""Calls that come between: threads that switch at any moment, signal handlers, finalizers.

A call that comes between is done before, after, or refused with an error at once; no frame is torn,
lost or doubled, and no lock stays taken.
"""

from __future__ import annotations

import gc
import os
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

from shmkit import Acquired, Empty, Full, Lock, Queue, Ring, RoleTaken, ShutDown
from shmkit.channels.ring import in_place
from shmkit.channels.roles import Side
from shmkit.compiled import core
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
def test_threads_that_switch_all_the_time(where: Any, many: Any, restless: None) -> None:
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
def test_a_handler_that_raises(where: Any, many: Any) -> None:
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
def test_a_handler_that_raises_in_a_get(where: Any, many: Any) -> None:
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
@each_side
@pytest.mark.parametrize("way", ["get_many", "peek_many"])
def test_a_handler_that_raises_in_a_batch(where: Any, many: Any, way: str) -> None:
    """No frame of `peek_many` is lost, nor one of the compiled `get_many`; the ring goes on."""
    got, interrupted, number = list[int](), 0, 0
    batch: list[list[bytes]] = [[]]
    with Ring.create(where, capacity=1 << 13, producers=many, consumers=many) as ring:
        warm(ring)

        def take() -> None:
            if way == "get_many":
                batch[0] = ring.get_many(timeout=0)
                return
            with ring.peek_many(timeout=0) as views:
                numbers = [opened(bytes(view)) for view in views]
                # An interrupted one comes again: it is noted once all of it was seen.
                got.extend(numbers)

        before = signal.signal(signal.SIGALRM, raise_interrupted)
        try:
            for turn in range(400):
                number += ring.put_many([sealed(number + n, 60) for n in range(100)], 0)
                batch[0] = []
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-5 + turn % 100 * 2e-6)
                    take()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Empty:
                    pass
                except Interrupted:
                    interrupted += 1
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupted:
                    interrupted += 1
                got += map(opened, batch[0])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        while not ring.empty():
            got += map(opened, ring.get_many(timeout=0))
        assert ring.put_many([b"fine"] * 200, 0) == 200
        assert ring.get_many(timeout=0) == [b"fine"] * 200
    assert interrupted, "no handler came between"
    if way == "peek_many":
        assert set(got) == set(range(number))
    else:
        assert got == sorted(set(got))
        if core is not None and not str(where).startswith("file:"):
            assert got == list(range(number))


def raise_interrupted(*_: Any) -> None:
    raise Interrupted


@each_side
@pytest.mark.parametrize("call", ["peek", "peek_many", "reserve"])
def test_a_clean_up_that_is_cut_short(
    where: Any, many: Any, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often handlers raise while a frame is left: the side does not stay lent."""

    def leave(ring: Ring) -> None:
        def cut_short(*_: Any) -> None:
            raise Interrupted

        try:
            lent = getattr(ring, call)(*[3] * (call == "reserve"), timeout=0)
            with monkeypatch.context() as patch, lent:
                patch.setattr(in_place, "give_back", cut_short)
                raise Interrupted
        except Interrupted:
            return
        pytest.fail("not interrupted")

    with Ring.create(where, capacity=4096, producers=many, consumers=many) as ring:
        warm(ring)
        ring.put(b"stays")
        leave(ring)
        ring.put(b"later", 0)
        assert ring.get_many(timeout=0) == [b"stays", b"later"]


def test_a_loan_that_an_exception_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the exception is handled the side is still lent; not after that, cycle or not."""

    def cut_short(*_: Any) -> None:
        raise Interrupted

    def leave(ring: Ring) -> None:
        try:
            with monkeypatch.context() as patch, ring.peek(0):
                patch.setattr(in_place, "give_back", cut_short)
                raise Interrupted
        except Interrupted as error:
            error.args = (error,)
            gc.collect()
            with pytest.raises(RuntimeError, match="inside another one"):
                ring.get(0)

    with Ring.create(capacity=4096) as ring:
        ring.put(b"stays")
        leave(ring)
        assert ring.get(0) == b"stays"


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
def test_a_handler_that_raises_in_a_wait(where: Any, many: Any) -> None:
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


@pytest.mark.parametrize("many", ["one", "many"])
def test_a_trace_function_is_no_trouble(where: Any, many: Any) -> None:
    """A debugger, a profiler: Python between any two lines of the threads of one handle."""
    assert run_python(put_and_get_traced, where, many, timeout=50).stdout == "1200\n"


def put_and_get_traced(where: str | None, many: Any) -> None:
    def trace(frame: Any, event: str, argument: Any) -> Any:
        return trace

    sys.setswitchinterval(1e-6)
    threading.settrace(trace)
    got: list[list[int]] = [[], []]
    with Ring.create(where, capacity=4096, producers=many, consumers=many) as ring:

        def put(first: int) -> None:
            for number in range(first, first + 600):
                ring.put(sealed(number, 30), 20)

        def get(mine: list[int]) -> None:
            mine.extend(map(opened, ring))

        putting = [threading.Thread(target=put, args=(first,)) for first in (0, 600)]
        getting = [threading.Thread(target=get, args=(mine,)) for mine in got]
        for thread in putting + getting:
            thread.start()
        for thread in putting:
            thread.join()
        ring.shutdown()
        for thread in getting:
            thread.join()
    if sorted(got[0] + got[1]) != list(range(1200)):
        raise AssertionError(f"{len(got[0] + got[1])} frames came, of 1200")
    for mine in got:
        for own in ([n for n in mine if n < 600], [n for n in mine if n >= 600]):
            if own != sorted(own):
                raise AssertionError("frames of one thread came in another order")
    print(len(got[0] + got[1]))


# ------------------------------------------------------------------ calls on the same object


class Channel:
    """A ring or a queue, by the same two calls."""

    def __init__(self, kind: str, where: Any) -> None:
        if "queue" in kind:
            maxsize = 20 if kind == "counted queue" else 0
            self.made: Any = Queue(maxsize, where=where, capacity=4000)
        else:
            many: Any = "many" if kind == "shared ring" else "one"
            self.made = Ring.create(where, capacity=8192, producers=many, consumers=many)
        self.put_numbers: list[int] = []
        self.got_numbers: list[int] = []
        self.refused = 0

    def call(self, dice: random.Random, first: int) -> None:
        """Put or get."""
        if dice.random() < 0.5:
            number = first + len(self.put_numbers)
            self.made.put_nowait(sealed(number, dice.randrange(300)))
            self.put_numbers.append(number)
        else:
            self.got_numbers.append(opened(self.made.get_nowait()))

    def call_within(self, dice: random.Random) -> None:
        """`call`, perhaps inside of another one; refused at once, if at all."""
        began = time.perf_counter()
        try:
            self.call(dice, 1_000_000)
        except (Full, Empty):
            pass
        except RuntimeError:
            self.refused += 1
        assert time.perf_counter() - began < 1

    def check(self) -> None:
        """Everything came once, and nothing is taken: another handle can do all."""
        other = pickle.loads(pickle.dumps(self.made))
        if isinstance(self.made, Ring) and self.made.statistics().producers:
            self.made.close()
        while not other.empty():
            self.got_numbers.append(opened(other.get(timeout=5)))
        assert sorted(self.got_numbers) == sorted(self.put_numbers)
        for _ in range(3):
            other.put(b"fine", timeout=5)
            assert other.get(timeout=5) == b"fine"
        other.close()


CHANNELS = pytest.mark.parametrize("kind", ["ring", "shared ring", "queue", "counted queue"])


@own_alarm
@main_thread
@CHANNELS
def test_a_handler_that_calls_what_it_interrupts(kind: str, where: Any) -> None:
    channel = Channel(kind, where)
    dice, within = random.Random(5), random.Random(6)
    with channel.made:
        with alarms(lambda: channel.call_within(within)):
            end = time.monotonic() + 3
            while time.monotonic() < end:
                try:
                    channel.call(dice, 0)
                except (Full, Empty):
                    continue
        channel.check()


@CHANNELS
def test_a_finalizer_that_calls_what_it_interrupts(kind: str, where: Any) -> None:
    channel = Channel(kind, where)
    dice, within = random.Random(7), random.Random(8)

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            channel.call_within(within)

    with channel.made:
        threshold = gc.get_threshold()
        gc.set_threshold(7, 2, 2)
        try:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                Cycle()
                try:
                    channel.call(dice, 0)
                except (Full, Empty):
                    continue
        finally:
            gc.set_threshold(*threshold)
            gc.collect()
        channel.check()


@own_alarm
@main_thread
@pytest.mark.parametrize("kind", ["ring", "shared ring"])
@pytest.mark.parametrize("what", ["put_many", "reserve", "get_many", "peek"])
def test_a_handler_that_interrupts_a_careful_call(kind: str, what: str, where: Any) -> None:
    """Inside a frame the same side is refused; the other one works."""
    channel = Channel(kind, where)
    ring: Ring = channel.made
    within = random.Random(9)
    with ring:
        with alarms(lambda: channel.call_within(within)):
            end = time.monotonic() + 1
            while time.monotonic() < end:
                try:
                    call_carefully(channel, what)
                except (Full, Empty):
                    continue
        channel.check()


def call_carefully(channel: Channel, what: str) -> None:
    ring, number = channel.made, len(channel.put_numbers)
    frames = [sealed(number + n, n * 50) for n in range(3)]
    if what == "put_many":
        done = ring.put_many(frames, 0)
        channel.put_numbers += range(number, number + done)
    elif what == "reserve":
        with ring.reserve(len(frames[0]), 0) as room:
            room[:] = frames[0]
        channel.put_numbers.append(number)
    elif what == "get_many":
        channel.got_numbers += map(opened, ring.get_many(2, 0))
    else:
        with ring.peek(0) as view:
            got = opened(bytes(view))
        channel.got_numbers.append(got)


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_a_handler_raises_between_the_claim_and_the_note_of_it(
    where: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handle has the role then: its next call is not told that it is taken."""
    claim = Side.claim

    def claim_and_be_interrupted(role: Side) -> None:
        claim(role)
        monkeypatch.setattr(Side, "claim", claim)
        raise KeyboardInterrupt

    with Ring.create(where, capacity=4096) as ring, pickle.loads(pickle.dumps(ring)) as other:
        if side == "consumer":
            other.put(b"frame")
        act = (lambda: ring.put(b"frame", 5)) if side == "producer" else (lambda: ring.get(5))
        monkeypatch.setattr(Side, "claim", claim_and_be_interrupted)
        with pytest.raises(KeyboardInterrupt):
            act()
        act()
        assert getattr(ring.statistics(), f"{side}s") == (os.getpid(),)
        with pytest.raises(RoleTaken):
            other.put(b"frame", 0) if side == "producer" else other.get(0)


@each_side
def test_a_recursion_error_leaves_the_side_and_its_lock(where: Any, many: Any) -> None:
    """At whatever depth it comes: another handle is not kept out, and this one goes on."""
    with Ring.create(where, capacity=4096, producers=many, consumers=many) as ring:
        warm(ring)

        def peek() -> None:
            with ring.peek(0):
                pass

        def reserve() -> None:
            with ring.reserve(3, 0):
                pass

        calls: list[Callable[[], object]] = [
            lambda: ring.put(b"frame", 0),
            lambda: ring.get(0),
            lambda: ring.put_many([b"frame"] * 3, 0),
            lambda: ring.get_many(timeout=0),
            lambda: ring.get(0.001),
            peek,
            reserve,
        ]
        came = 0
        for call in calls:
            for depth in range(3, 30):
                ring.put(b"frame", 0)
                came += runs_out_of_depth(call, depth)
                for cursor in ring._writer, ring._reader:
                    assert cursor.loan is None
                    assert cursor.state == cursor.idle
                    assert cursor.mutex is None or not cursor.mutex.held
                while not ring.empty():
                    ring.get_many(timeout=0)
        assert came > 7  # at each call at least once; how often depends on the interpreter


def runs_out_of_depth(call: Callable[[], object], depth: int) -> bool:
    """Whether a call has a RecursionError where only so many more may be nested."""
    before, here, frame = sys.getrecursionlimit(), 0, sys._getframe()
    while frame is not None:
        here, frame = here + 1, frame.f_back  # type: ignore[assignment]
    try:
        sys.setrecursionlimit(here + depth)
        call()
    except RecursionError:
        return True
    except Empty:
        pass
    finally:
        sys.setrecursionlimit(before)
    return False


def debugged(how: str) -> None:
    """Have every line of all threads seen by a function written in Python."""
    if how == "trace":

        def trace(*_: Any) -> Any:
            return trace

        threading.settrace(trace)
        sys.settrace(trace)
    else:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
        monitoring.use_tool_id(0, "test")
        monitoring.register_callback(0, monitoring.events.LINE, lambda *_: None)
        monitoring.set_events(0, monitoring.events.LINE)


def pass_on_under_a_debugger(how: str, kind: Any) -> None:
    """Three threads put and three get, on one handle, and switch at any line."""
    sys.setswitchinterval(1e-6)
    debugged(how)
    count = 250
    channel: Any = Queue(capacity=1 << 14) if kind == "queue" else None
    channel = channel or Ring.create(capacity=1 << 14, producers=kind, consumers=kind)

    def put(first: int) -> None:
        for number in range(first, first + count):
            channel.put(sealed(number, number % 290), timeout=20)

    def get() -> list[int]:
        got = list[int]()
        while True:
            try:
                got.append(opened(channel.get(timeout=20)))
            except ShutDown:
                return got

    with channel, ThreadPoolExecutor(6) as threads:
        getting = [threads.submit(get) for _ in range(3)]
        putting = [threads.submit(put, n * count) for n in range(3)]
        for task in putting:
            task.result(40)
        channel.shutdown()
        got = sorted(number for task in getting for number in task.result(40))
    assert got == list(range(3 * count))


@pytest.mark.parametrize("kind", ["one", "many", "queue"])
@pytest.mark.parametrize("how", ["trace", "monitoring"])
@pytest.mark.parametrize("pure", ["1", "0"])
def test_threads_under_a_debugger(kind: str, how: str, pure: str) -> None:
    """A debugger or profiler lets other threads run where none would: at every line."""
    if how == "monitoring" and not hasattr(sys, "monitoring"):
        pytest.skip("sys.monitoring came with 3.12")
    if pure == "0" and core is None:
        pytest.skip("the plain core is tried already")
    run_python(pass_on_under_a_debugger, how, kind, env={"SHMKIT_PURE": pure})
