"""The compiled core against the plain one: the same cases for both, and both on the same memory."""

from __future__ import annotations

import gc
import importlib.util
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmkit
from shmkit import CorruptSegment, Empty, Full, Lock, Ring, Semaphore, ShutDown, compiled
from shmkit.segment import words
from shmkit.tools.testing import kill_points
from tests.processes import run_python, wait_until

needs_core = pytest.mark.skipif(
    compiled.core is None, reason=f"no compiled core: {compiled.WHY_PURE}"
)
needs_steps = pytest.mark.skipif(
    compiled.core is None or importlib.util.find_spec("shmkit._core_steps") is None,
    reason="there is no build with steps: make steps",
)
SOURCE = Path(__file__).parent.parent / "src" / "shmkit" / "_core.c"
MOST = (1 << 64) - 1


@pytest.fixture(params=["compiled", "plain"])
def which(request):
    """Both; the plain methods run on the compiled classes' attributes."""
    if request.param == "compiled" and compiled.core is None:
        pytest.skip(compiled.WHY_PURE)
    compiled.use_python(request.param == "plain")
    yield request.param
    compiled.use_python(False)


@pytest.fixture(params=["one", "many"])
def ring(request, which):
    with new_ring(request.param) as ring:
        yield ring


@pytest.fixture(params=["one", "many"])
def compiled_ring(request):
    if compiled.core is None:
        pytest.skip(compiled.WHY_PURE)
    with new_ring(request.param) as ring:
        yield ring


@contextmanager
def new_ring(sides):
    with Ring.create(capacity=4096, producers=sides, consumers=sides) as ring:
        ring.put(b"roles")
        assert ring.get() == b"roles"
        yield ring


# -- the common case ---------------------------------------------------------------------------


def test_a_step_of_the_c_has_the_name_it_has_in_the_python():
    """All that core.py and sync/mutex.py do; the common case needs no more."""
    steps = set(re.findall(r"/\* step: (\S+) \*/", SOURCE.read_text()))
    in_core = set(kill_points("shmkit.core"))
    assert steps == in_core | {"mutex.tick", "mutex.give_up"}
    assert {"mutex.tick", "mutex.give_up"} <= set(kill_points("shmkit.sync"))


@pytest.mark.usefixtures("which")
@given(st.lists(st.one_of(st.integers(0, 700), st.none(), st.lists(st.integers(0, 300)))))
@settings(deadline=None, max_examples=60)
def test_it_is_a_queue(steps):
    """Puts, gets, and batches of both, in any order: what a deque does."""
    model: deque[bytes] = deque()
    many = random.Random(len(steps)).choice(["one", "many"])
    with Ring.create(capacity=4096, producers=many, consumers=many) as ring:
        for number, step in enumerate(steps):
            if step is None:
                if model:
                    assert ring.get(0) == model.popleft()
                else:
                    with pytest.raises(Empty):
                        ring.get(0)
            elif isinstance(step, list):
                batch = [bytes([number % 256]) * size for size in step]
                model.extend(batch[: ring.put_many(batch, 0)])
                if number % 2:
                    for frame in ring.get_many(3, 0) if model else []:
                        assert frame == model.popleft()
            else:
                frame = bytes([number % 256]) * step
                try:
                    ring.put(memoryview(frame) if number % 3 else frame, 0)
                except Full:
                    continue
                model.append(frame)
        while model:
            assert ring.get(0) == model.popleft()
        assert ring.empty()


def test_the_common_case_is_taken(ring):
    """Else all of this would test the careful code."""
    assert ring._writer.put(b"frame")
    assert ring._writer.put(memoryview(b"another"))
    assert ring._reader.get() == b"frame"
    assert ring._reader.get() == b"another"
    assert ring._reader.get() is None


def test_the_common_case_of_batches(compiled_ring):
    ring = compiled_ring
    assert ring._writer.put_many([b"0", memoryview(b"1")], 0) == 0
    assert ring._writer.put_many([b"0", bytes(5000)], 0) == 0
    assert ring._writer.put_many([b"0", b"1", b"2", memoryview(b"3"), b"4"], 1) == 2
    assert ring._reader.get_many(1) == [b"1"]
    assert ring._reader.get_many(9) == [b"2"]
    assert ring._reader.get_many(9) is None


@pytest.mark.usefixtures("which")
@given(st.integers(0, 3), st.lists(st.sampled_from(["take", "give", "with", "other"])))
@settings(deadline=None, max_examples=40)
def test_it_counts(initial, steps):
    """Any calls in any order, by two handles: what an int does, and every word is right."""
    made = Semaphore(initial)
    other = pickle.loads(pickle.dumps(made))
    count, held = initial, 0
    for step in steps:
        if step == "take":
            assert made.acquire(timeout=0) is (count > 0)
            held, count = held + (count > 0), max(count - 1, 0)
        elif step == "give":
            assert made.release() is None
            held, count = held - 1, count + 1
        elif step == "with" and count:
            with made as entered:
                assert entered is made
                assert made._count._words[words.SEMAPHORE_COUNT] == count - 1
        elif step == "other" and count:
            assert other.acquire() is True
            assert other.release() is None
        assert made._count._words[words.SEMAPHORE_COUNT] == count
        made_, held_ = made._count._sums()
        assert held_ - made_ == held == initial - count
    other.close()
    made.close()


@needs_core
def test_the_common_case_of_a_semaphore():
    made = Semaphore(2)
    tokens: Any = made._count
    assert [next(tokens), next(tokens), next(tokens)] == [True, True, False]
    rare = ["_plain_release", "_plain___enter__"]
    plain = {name: getattr(Semaphore, name) for name in rare}
    for name in rare:
        setattr(Semaphore, name, None)
    try:
        made.release()
        with made:
            pass
    finally:
        for name in rare:
            setattr(Semaphore, name, plain[name])
    tokens._owed = 1
    assert not next(tokens)  # Python gives it back first
    assert made.acquire()
    assert made.acquire(False)
    assert not made.acquire(False)
    made.release()
    made.release()
    tokens._own += words.LINE_WORDS
    assert not next(tokens)  # not its own place
    tokens._own -= words.LINE_WORDS
    assert next(tokens)
    made.close()
    assert not next(tokens)
    for call in (made.acquire, made.release, made.__enter__):
        with pytest.raises(shmkit.ClosedError):
            call()


# -- what is in memory is input ----------------------------------------------------------------

NUMBERS = [
    0,
    1,
    15,
    16,
    4095,
    4096,
    1 << 32,
    (1 << 63) - 16,
    1 << 63,
    (1 << 63) + 1,
    MOST - 15,
    MOST,
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ["TAIL", "SKIP", "HEAD", "STATE", "DATA_BELL", "SPACE_BELL"])
def test_any_number_in_any_word(ring, name, number):
    """An error, or a result; no crash, no hang, nothing outside of the data."""
    header = bytes(ring._map[:64])
    ring._words[getattr(words, name)] = number
    for call in (
        lambda: ring.put(b"frame", 0.01),
        lambda: ring.get(0.01),
        lambda: ring.put_many([b"x"] * 9, 0.01),
        lambda: ring.get_many(None, 0.01),
    ):
        try:
            call()
        except (CorruptSegment, Empty, Full, ShutDown):
            continue
    assert ring._map[:64] == header


@pytest.mark.parametrize("number", [*NUMBERS, *(1 << bit for bit in range(64))])
def test_any_number_in_a_frames_header(ring, number):
    ring.put(b"frame")
    at = ring._words[words.HEAD] & ring._reader.mask
    ring._words[(ring._base + at) >> 3] = number
    for call in (lambda: ring.get(0), lambda: ring.get_many(None, 0)):
        try:
            call()
        except (CorruptSegment, Empty):
            continue


@pytest.mark.usefixtures("which")
@pytest.mark.parametrize("number", NUMBERS)
def test_any_number_in_the_words_of_a_lock(number):
    with_lock = Lock()
    try:
        with_lock.acquire()
        with_lock.release()
        place = with_lock._mutex._place
        for word in range(3):
            place[word] = number
            try:
                with_lock.acquire(timeout=0.1)
                with_lock.release()
            except (CorruptSegment, RuntimeError):
                pass
            place[0] = words.IDLE
    finally:
        with_lock.close()


@pytest.mark.usefixtures("which")
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ["SEMAPHORE_COUNT", "SEMAPHORE_NEWS", "SEMAPHORE_BELL", "STATE"])
def test_any_number_in_the_words_of_a_semaphore(number, name):
    """An error, or the step as it is; never a count that cannot be."""
    made = Semaphore(3)
    made.acquire()
    made.release()
    made._count._words[getattr(words, name)] = number
    for call in (lambda: made.acquire(timeout=0), made.release):
        try:
            call()
        except (CorruptSegment, OverflowError):
            continue
    count = made._count._words[words.SEMAPHORE_COUNT]
    assert count == ((number or 1) if name == "SEMAPHORE_COUNT" else 3)
    made._count._words[words.STATE] = words.READY
    made.close()


# -- closing, threads, signals, fork -----------------------------------------------------------


def test_closing_beside_a_waiter_is_an_error_for_it(ring):
    errors: list[BaseException] = []

    def wait():
        try:
            ring.get(timeout=20)
        except shmkit.ShmkitError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: ring._data_bell.sleeps)
    ring.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert [type(error) for error in errors] == [shmkit.ClosedError] * 3
    gc.collect()


def test_threads_lose_nothing(ring):
    """Puts of some and gets of others, on one handle."""
    got: list[bytes] = []
    count, sides = 2000, 3

    def put(me):
        for number in range(count):
            ring.put(b"%d %d" % (me, number), timeout=30)

    def get():
        while True:
            try:
                got.append(ring.get(timeout=30))
            except ShutDown:
                return

    getters = [threading.Thread(target=get) for _ in range(sides)]
    putters = [threading.Thread(target=put, args=(me,)) for me in range(sides)]
    for thread in getters + putters:
        thread.start()
    for thread in putters:
        thread.join(50)
    ring.shutdown()
    for thread in getters:
        thread.join(10)
    assert sorted(got) == sorted(b"%d %d" % (me, n) for me in range(sides) for n in range(count))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("wait", ["get", "put", "acquire"])
def test_a_handler_that_raises_ends_a_wait_at_once(wait, ring):
    def raise_it(number, frame):
        raise Interrupted

    with Ring.create(producers="many", consumers="many") as other:
        lock = Lock()
        held = pickle.loads(pickle.dumps(lock))
        held.acquire()
        calls = {
            "get": lambda: ring.get(timeout=20),
            "put": lambda: [ring.put(bytes(1000), 20) for _ in range(9)],
            "acquire": lambda: lock.acquire(timeout=20),
        }
        before = signal.signal(signal.SIGALRM, raise_it)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.15)
            begin = time.monotonic()
            with pytest.raises(Interrupted):
                calls[wait]()
            assert time.monotonic() - begin < 5
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        held.release()
        assert lock.acquire(timeout=5)  # nothing was held
        lock.release()
        held.close()
        lock.close()
        other.put(b"goes on")
    while not ring.empty():
        ring.get(0)
    ring.put(b"goes on", 0)
    assert ring.get(0) == b"goes on"


@pytest.mark.parametrize("how", ["with", "acquire"])
def test_a_handler_that_raises_takes_no_token_with_it(how, which):
    """It comes before the step, or when the caller has the token."""
    if (how, which) == ("with", "plain"):
        pytest.skip("a handler may come as `__exit__` in Python begins")
    made, dice, taken = Semaphore(1), random.Random(how), False

    def raise_it(number, frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        for _ in range(300):
            try:
                # Again after a while: one that is raised in a callback of the collector is lost.
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 5e-5), 0.1)
                while True:
                    if how == "with":
                        with made:
                            pass
                    elif made.acquire(False):
                        taken = True  # no call before it
                        made.release()
                        taken = False
            except Interrupted:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if made._count._words[words.SEMAPHORE_COUNT] == 0:
                assert taken
                made.release()
            taken = False
            assert made.value == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        made.close()


def test_a_handler_that_calls_in_is_never_a_hang(ring):
    """It works, or is a RuntimeError at once."""
    outcomes = set()

    def put(number, frame):
        try:
            ring.put(b"handler", 0)
        except (RuntimeError, Full) as error:
            outcomes.add(type(error))
        else:
            outcomes.add(None)

    before = signal.signal(signal.SIGALRM, put)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    try:
        for _ in range(3000):
            ring.put(b"main", 10)
            while ring.qsize() > 20:
                ring.get(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert outcomes <= {None, RuntimeError, Full}


@pytest.mark.usefixtures("which")
def test_a_forked_child_puts_by_itself():
    with new_ring("many") as ring:
        put_in_child(ring)


def put_in_child(ring):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            ring.put(b"of the child", 5)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert ring.get(5) == b"of the child"


@pytest.mark.usefixtures("which")
def test_threads_and_a_forked_child_keep_the_count():
    made, seen = Semaphore(2), []

    def use():
        for _ in range(300):
            with made:
                seen.append(made._count._words[words.SEMAPHORE_COUNT])

    threads = [threading.Thread(target=use) for _ in range(3)]
    pid = os.fork()
    if not pid:
        status = 1
        try:
            use()
            status = 0
        finally:
            os._exit(status)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(seen) == 900
    assert set(seen) <= {0, 1}
    assert made.value == 2
    assert made._count._sums() == (0, 0)
    made.close()


@pytest.mark.usefixtures("which")
def test_a_large_frame_goes_through_beside_another_thread():
    """Of 16 MiB and more, which are copied without the GIL."""
    frame = os.urandom(1 << 20) * 17
    with Ring.create(capacity=1 << 25) as ring:
        ring.put(b"roles")
        ring.get()
        busy = threading.Thread(target=lambda: [ring.qsize() for _ in range(2000)])
        busy.start()
        ring.put(frame)
        assert ring.get() == frame
        busy.join()


def test_the_copies_of_large_frames_give_the_bytes():
    source = os.urandom(5000)
    target = bytearray(5000)
    with memoryview(target) as view:
        compiled.copy(view, source)
    assert target == source
    with memoryview(source) as view:
        assert compiled.copied(view) == source
    assert compiled.copied(memoryview(b"")) == b""
    with pytest.raises(ValueError, match=r"length|structures"):
        compiled.copy(memoryview(target), source[:-1])


# -- the two together --------------------------------------------------------------------------

PEER = """
import os, sys, pickle
from shmkit import Ring, Semaphore, compiled, Lock
where, lock_name, verb, plain = sys.argv[1:]
assert (compiled.core is None) == (plain == "1"), compiled.WHY_PURE
with Ring.attach(where) as ring:
    lock, semaphore = Lock(lock_name), Semaphore(1, lock_name + "-count")
    if verb == "put":
        for number in range(20000):
            ring.put(b"%d" % number)
            if not number % 100:
                with lock, semaphore:
                    pass
    else:
        for number in range(20000):
            assert ring.get() == b"%d" % number
            if not number % 100:
                with lock:
                    semaphore.acquire()
                    semaphore.release()
    assert semaphore.acquire(timeout=5)
    semaphore.release()
    semaphore.close()
    lock.close()
"""


@needs_core
@pytest.mark.parametrize("putter", ["0", "1"])
@pytest.mark.parametrize("many", ["one", "many"])
def test_a_compiled_and_a_plain_process_on_one_ring(many, putter, unique_name):
    name = str(unique_name)
    with Ring.create(name, capacity=1 << 14, producers=many, consumers=many) as ring:
        peers = [
            subprocess.Popen(
                [sys.executable, "-c", PEER, name, f"{name}-lock", verb, plain],
                env={**os.environ, "SHMKIT_PURE": plain},
            )
            for verb, plain in (("put", putter), ("get", str(1 - int(putter))))
        ]
        try:
            assert [peer.wait(40) for peer in peers] == [0, 0]
        finally:
            for peer in peers:
                peer.kill()
                peer.wait()
        assert ring.empty()


STEPPED = """
import mmap
from shmkit import Lock, Ring, compiled
from shmkit.tools.testing import run_until
assert hasattr(compiled.core, "arm"), compiled.WHY_PURE
side, many, point = args

def work(ring, lock):
    for number in range(400):
        if side == "put":
            ring.put(b"%d" % number)
        else:
            ring.get()
        done[0] += 1
        lock.acquire()
        lock.release()

done = mmap.mmap(-1, 1)
lock = Lock()
with Ring.create(capacity=1 << 14, producers=many, consumers=many) as ring:
    if side == "get":
        for number in range(400):
            ring.put(b"%d" % number)
        if many == "one":
            ring._writer.role.release()
    with run_until(point, work, ring, lock, nth=7, method="fork") as victim:
        assert victim.reached and victim.exitcode == -9, (point, victim)
    assert lock.acquire(timeout=10)
    lock.release()
    got = []
    while not ring.empty():
        got.append(int(ring.get(5)))
    first, end = (0, len(got)) if side == "put" else (400 - len(got), 400)
    assert got == list(range(first, end)), got
    assert (end if side == "put" else first) - done[0] in (0, 1), (got, done[0])
    ring.put(b"goes on", 5)
    assert ring.get(5) == b"goes on"
lock.close()
"""

STEPS = {
    "put": ["put.header", "put.payload", "put.tail", "put.bell"],
    "get": ["get.copy", "get.head", "get.bell"],
}
MUTEX = [
    f"mutex.{step}" for step in ["entering", "take", "inside", "count", "leaving", "post", "idle"]
]


@needs_steps
@pytest.mark.parametrize("many", ["one", "many"])
@pytest.mark.parametrize(
    ("side", "step"),
    [*((side, step) for side in STEPS for step in STEPS[side] + MUTEX)],
)
def test_killed_at_a_step_in_c(side, step, many):
    """The others go on: no frame is lost, torn or twice, and no lock stays held."""
    run_python(STEPPED, side, many, step, timeout=50, env={"SHMKIT_CORE": "steps"})


BELLS = """
from concurrent.futures import ThreadPoolExecutor
from shmkit import Broadcast, Queue, Ring, compiled
from shmkit.tools.testing import run_until, start_until
assert hasattr(compiled.core, "arm"), compiled.WHY_PURE
(step,) = args

def asleep(words, flag):
    while not words[flag]:
        pass

if step in ("bell.flag", "bell.fence", "bell.sleep"):
    with Ring.create(capacity=4096) as ring:
        with run_until(step, ring.get, method="fork") as victim:
            assert victim.reached
        ring.put(b"news")
        assert ring.get(5) == b"news"
elif step in ("bell.clear", "bell.post", "bell.flag_again", "bell.fence_again"):
    from shmkit.segment.words import DATA_BELL
    many = step.endswith("again")
    sides = "many" if many else "one"
    with Ring.create(capacity=4096, consumers=sides) as ring, ThreadPoolExecutor(1) as threads:
        if many:
            with start_until(step, ring.get, method="fork") as victim:
                asleep(ring._words, DATA_BELL)
                ring.put(b"news")
                assert victim.await_point(10)
            assert ring.get(5) == b"news"
        else:
            waiting = threads.submit(ring.get, 10)
            asleep(ring._words, DATA_BELL)
            with run_until(step, ring.put, b"news", method="fork") as victim:
                assert victim.reached
            assert waiting.result() == b"news"
elif step in ("bell.count", "bell.pass_on"):
    from shmkit.segment.words import READERS_BELL
    with Broadcast.create(capacity=4096) as cast, cast.subscribe() as reader:
        if step == "bell.count":
            with ThreadPoolExecutor(1) as threads:
                waiting = threads.submit(reader.get, 10)
                asleep(cast._words, READERS_BELL)
                with run_until(step, cast.publish, b"news", method="fork") as victim:
                    assert victim.reached
                assert waiting.result() == b"news"
        else:
            with start_until(step, reader.get, method="fork") as victim:
                asleep(cast._words, READERS_BELL)
                cast.publish(b"news")
                assert victim.await_point(10)
            assert reader.get(5) == b"news"
else:
    queue = Queue(maxsize=3)

    def work():
        for _ in range(2):  # a first call is careful: the steps in C are those of the second
            queue.put(1)
            queue.get()

    for nth, left in ((1, 0), (2, 1)):
        with run_until(step, work, nth=nth, method="fork") as victim:
            assert victim.reached
        assert queue.qsize() == left
    while queue.qsize():
        queue.get(timeout=5)
    for _ in range(3):
        queue.put(1, timeout=5)
    assert queue.full() and queue.qsize() == 3
    queue.close()
"""
TOKENS = """
import mmap
from shmkit import Semaphore, compiled
from shmkit.segment.words import SEMAPHORE_COUNT
from shmkit.tools.testing import run_until
assert hasattr(compiled.core, "arm"), compiled.WHY_PURE
step, nth = args
made = Semaphore(3)
rounds = mmap.mmap(-1, 1)

def use():
    while True:  # a first call is careful: the steps in C are those of the others
        made.acquire()
        with made:
            rounds[0] += 1
        made.release()

with run_until(step, use, nth=int(nth), method="fork") as victim:
    assert victim.reached and victim.exitcode == -9, victim
assert rounds[0], "the step of a first call"
for number in range(3):
    assert made.acquire(timeout=20), number
assert not made.acquire(timeout=0)
for _ in range(3):
    made.release()
assert made.value == made._count._words[SEMAPHORE_COUNT] == 3
assert made._count._sums()[0] == 0
made.close()
"""


@needs_steps
@pytest.mark.parametrize("nth", ["5", "6"])
@pytest.mark.parametrize(
    "step",
    [
        *(f"semaphore.{step}" for step in ["hold", "count_down", "give", "count_up", "news"]),
        *MUTEX,
    ],
)
def test_killed_at_a_step_in_c_of_a_semaphore(step, nth):
    """All that it held comes back, and the count is what the words say."""
    run_python(TOKENS, step, nth, timeout=50, env={"SHMKIT_CORE": "steps"})


RARE = ["flag", "fence", "sleep", "clear", "post", "flag_again", "fence_again", "count", "pass_on"]


@needs_steps
@pytest.mark.parametrize(
    "step",
    [*(f"bell.{step}" for step in RARE), "count.position", "count.number", "count.switch"],
)
def test_killed_at_a_step_in_c_of_a_bell_or_a_count(step):
    """The one that is left goes on, and what was counted is right."""
    run_python(BELLS, step, timeout=50, env={"SHMKIT_CORE": "steps"})


# -- no leaks ----------------------------------------------------------------------------------


@needs_core
@pytest.mark.slow
def test_a_million_calls_leave_nothing(compiled_ring):
    ring = compiled_ring
    lock, semaphore = Lock(), Semaphore(2)
    put, get, frame = ring._writer.put, ring._reader.get, b"x" * 64
    put_many, get_many = ring._writer.put_many, ring._reader.get_many
    acquire, release = lock._mutex.acquire, lock._mutex.release

    def calls(count):
        for _ in range(count):
            if not put(frame):  # at the end of a lap
                ring.put(frame)
            if get() is None:
                ring.get()
            assert get() is None
            acquire()
            release()
            assert semaphore.acquire()
            with semaphore:
                pass
            semaphore.release()
            put_many([frame, frame], 0)
            if get_many(9) is None and not ring.empty():
                ring.get_many()

    calls(1000)
    gc.collect()
    objects, memory = len(gc.get_objects()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # From 3.12 on None is immortal, and an extension that was built for 3.11 counts it all the same
    # (PEP 683 allows for it): of None the number says nothing there.
    things = [
        frame,
        ring._writer,
        semaphore,
        semaphore._count,
        *([None] if sys.version_info < (3, 12) else []),
    ]
    references = [sys.getrefcount(thing) for thing in things]
    calls(150_000)
    after = [sys.getrefcount(thing) for thing in things]
    gc.collect()
    assert abs(len(gc.get_objects()) - objects) < 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 4096  # KiB
    assert all(abs(now - then) < 100 for now, then in zip(after, references, strict=True))
    lock.close()
    semaphore.close()


@needs_core
def test_handles_that_are_dropped_leave_nothing():
    def make() -> Any:
        with Ring.create(capacity=4096, producers="many", consumers="many") as ring:
            ring.put(b"x")
            return ring.get()

    for _ in range(5):
        make()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(50):
        make()
    gc.collect()
    assert len(gc.get_objects()) - before < 200


def test_a_frame_behind_a_skip_is_not_taken_for_what_lies_there(ring):
    """Whoever looked at the tail before: a peek, a batch that stopped, or a get."""
    for look in (
        lambda: ring.get_many(1, 0),
        lambda: ring.get(0),
        lambda: peek_and_leave(ring) or ring.get(0),
        lambda: ring._reader.get_many(5) or [ring.get(0)],
    ):
        ring.put(b"old" * 900)  # what lies there, from the last lap
        assert ring.get(0) == b"old" * 900
        while ring._words[words.TAIL] % 4096 < 2800:
            ring.put(b"-" * 80)
            ring.get(0)
        ring.put(b"new" * 600)
        assert ring._words[words.SKIP] == ring._words[words.HEAD]
        got = look()
        assert got in (b"new" * 600, [b"new" * 600])
        assert ring.empty()


def peek_and_leave(ring):
    with pytest.raises(KeyError), ring.peek(0):
        raise KeyError
