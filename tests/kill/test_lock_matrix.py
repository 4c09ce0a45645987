"""A Lock whose users are killed, and stopped, at every step: the rest stay apart, and go on.

Three contenders. The first victim is killed at one step. Where a step is only come to by one who
looks for the dead, a second victim is killed there, having found the first. What they guard is kept
in memory that has nothing to do with the lock: who is inside, and two numbers that are equal
whenever nobody is.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from shmkit.segment.words import LINE_WORDS, PARTICIPANTS_AT, PHASES, PID, TICKS
from shmkit.sync.lock import Acquired, Lock
from shmkit.tools.testing import deadline, kill_points, start_until
from tests.processes import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a stopped child is asked for by waitid"),
    pytest.mark.slow,
]

TIMEOUT = 30.0
ROUNDS = 20
MOMENT = 0.2
MODULES = ("shmkit.core", "shmkit.sync.mutex", "shmkit.segment.recovery")
POINTS = [point for point in kill_points(*MODULES, paths=True) if point.startswith("mutex.")]
STEPS = {point.partition("@")[0] for point in POINTS}

# Where the victim has the token, or may have it: a stopped one is waited for.
HOLDS = {"mutex.inside", "mutex.count", "mutex.leaving", "mutex.post"}
RESCUE = {"mutex.rescue", "mutex.clear", "mutex.try", "mutex.rescued"}
# What a first victim leaves: the lock held, the token lost on the way in or out, or nothing lost.
LEFT = ("mutex.leaving", "mutex.inside", "mutex.post", "mutex.take", "mutex.idle")

# Paths that every contender comes to, and those of one that finds somebody dead.
COMMON = [
    point
    for point in POINTS
    if point.partition("@")[0] not in RESCUE | {"mutex.give_up"} and "_succeed" not in point
]
RESCUER = [
    point
    for point in POINTS
    if point.partition("@")[0] in RESCUE or "_succeed" in point or "Mutex._wait" in point
]
RESCUER.remove("mutex.give_up@Mutex._wait")  # they wait without an end


class Guarded:
    """What the lock guards."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, 4096)
        self.words = memoryview(self.map).cast("Q")

    @property
    def inside(self) -> int:
        """Pid of who is inside."""
        return self.words[0]

    def visit(self, how: Acquired) -> None:
        """Be inside; find that nobody else is, but perhaps one that died there."""
        words, me = self.words, os.getpid()
        if words[0] and how is not Acquired.AFTER_DEATH:
            words[1] += 1  # somebody is inside, or died there and it was not told
        words[0] = me
        words[2] += 1
        time.sleep(0.0002)
        if words[0] != me:
            words[1] += 1
        words[3] = words[2]
        words[0] = 0

    @property
    def broken(self) -> int:
        """How often somebody was not alone."""
        return self.words[1]

    @property
    def visits(self) -> int:
        """How often somebody was inside."""
        return self.words[2]

    def close(self) -> None:
        self.words.release()
        self.map.close()


def contend(lock: Lock, guarded: Guarded, rounds: int = ROUNDS) -> None:
    """Be inside, again and again."""
    for _ in range(rounds):
        how = lock.acquire()
        assert how
        guarded.visit(how)
        lock.release()
    lock.close()


def contend_for_ever(lock: Lock, guarded: Guarded) -> None:
    contend(lock, guarded, 1 << 40)


def give_up(lock: Lock, guarded: Guarded) -> None:
    """Want it, in vain."""
    assert not lock.acquire(timeout=0.05)
    lock.close()


@pytest.fixture
def guarded():
    guarded = Guarded()
    yield guarded
    guarded.close()


@contextmanager
def the_lock(name):
    """A lock; its name is gone at the end."""
    lock = Lock(name)
    try:
        with deadline(TIMEOUT):
            yield lock
    finally:
        lock.close()
    assert not name or not Path("/dev/shm", name).exists()


def is_stopped(pid: int) -> bool:
    """Whether a child is."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def has_waited(lock: Lock, pid: int) -> bool:
    """Whether a process has wanted a lock in vain for a moment."""
    words = lock._segment.words
    places = range(PARTICIPANTS_AT, len(words) - LINE_WORDS + 1, LINE_WORDS)
    return any(words[at + PID] == pid and words[at + PHASES + TICKS] for at in places)


def after_that(lock: Lock, guarded: Guarded, start) -> None:
    """Those who are left go on, alone inside."""
    before = guarded.visits
    others = [start(contend, lock, guarded) for _ in range(2)]
    for _ in range(ROUNDS):
        how = lock.acquire(timeout=TIMEOUT)
        assert how
        guarded.visit(how)
        lock.release()
    for other in others:
        other.join(TIMEOUT)
        assert other.exitcode == 0
    assert guarded.broken == 0
    assert guarded.visits == before + 3 * ROUNDS


@pytest.mark.parametrize("named", [False, True], ids=["anonymous", "named"])
@pytest.mark.parametrize("point", COMMON)
def test_killed_among_three(point, named, unique_name, guarded, start_process_fork):
    with the_lock(unique_name if named else None) as lock:
        mates = [start_process_fork(contend_for_ever, lock, guarded) for _ in range(2)]
        with start_until(point, contend_for_ever, lock, guarded) as victim:
            assert victim.await_point(TIMEOUT)
            go_on(guarded)
        for mate in mates:
            mate.kill()
            mate.join()
        forget_the_last(guarded, lock)
        after_that(lock, guarded, start_process_fork)


@pytest.mark.parametrize("point", COMMON)
def test_stopped_among_three(point, guarded, start_process_fork):
    """A stopped one is not robbed, and goes on as if nothing had been."""
    with the_lock(None) as lock:
        mates = [start_process_fork(contend, lock, guarded, 40) for _ in range(2)]
        assert lock.acquire(timeout=TIMEOUT)  # so that the victim comes to wait
        with start_until(point, contend, lock, guarded, 40, signal=signal.SIGSTOP) as victim:
            wait_until(lambda: is_stopped(victim.pid) or has_waited(lock, victim.pid))
            lock.release()
            assert victim.await_point(TIMEOUT)
            before, end = guarded.visits, time.monotonic() + MOMENT
            while time.monotonic() < end and any(mate.is_alive() for mate in mates):
                time.sleep(0.005)
            if point.partition("@")[0] in HOLDS - {"mutex.inside"}:
                assert guarded.visits <= before + 1
            victim.resume()
            assert victim.wait(TIMEOUT) == 0
        for mate in mates:
            mate.join(TIMEOUT)
            assert mate.exitcode == 0
        assert guarded.broken == 0
        assert guarded.visits == 3 * 40
        after_that(lock, guarded, start_process_fork)


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("point", RESCUER)
def test_a_rescuer_killed_too(left, point, guarded, start_process_fork):
    """Two die, one after the other; the second while it sees to what the first has left."""
    with the_lock(None) as lock:
        with start_until(left, contend_for_ever, lock, guarded) as first:
            assert first.await_point(TIMEOUT)
            with start_until(point, contend, lock, guarded, 3) as second:
                assert second.await_point(TIMEOUT) == comes_there(left, point)
        if guarded.inside in (first.pid, second.pid):
            assert lock.acquire(timeout=TIMEOUT) is Acquired.AFTER_DEATH
            guarded.words[0] = 0
            lock.release()
        after_that(lock, guarded, start_process_fork)


@pytest.mark.parametrize("left", ["mutex.leaving", "mutex.inside"])
@pytest.mark.parametrize("point", [point for point in RESCUER if "Mutex._wait" not in point])
def test_a_stopped_rescuer(left, point, guarded, start_process_fork):
    """A rescuer that is stopped is waited for; then all go on."""
    with the_lock(None) as lock:
        with start_until(left, contend_for_ever, lock, guarded) as first:
            assert first.await_point(TIMEOUT)
        with start_until(point, contend, lock, guarded, 3, signal=signal.SIGSTOP) as second:
            reached = second.await_point(TIMEOUT)
            third = start_process_fork(contend, lock, guarded, 3)
            if reached:
                third.join(MOMENT)
                second.resume()
            assert second.wait(TIMEOUT) == 0
            third.join(TIMEOUT)
            assert third.exitcode == 0
        after_that(lock, guarded, start_process_fork)


def comes_there(left: str, point: str) -> bool:
    """Whether what the first has left brings a rescuer to a step."""
    step = point.partition("@")[0]
    lost = left not in ("mutex.take", "mutex.idle")  # else the token is where it belongs
    if step in ("mutex.inside", "mutex.count"):
        return lost == ("_succeed" in point)
    if not lost:
        return step == "mutex.take"
    # Of one that died inside it is known to be lost, and need not be looked for.
    return step != "mutex.try" or left != "mutex.leaving"


def test_killed_giving_up(guarded, start_process_fork):
    with the_lock(None) as lock:
        assert lock.acquire()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            with start_until("mutex.give_up", give_up, lock, guarded, signal=number) as victim:
                assert victim.await_point(TIMEOUT)
                if number == signal.SIGSTOP:
                    victim.resume()
                    assert victim.wait(TIMEOUT) == 0
        lock.release()
        after_that(lock, guarded, start_process_fork)


def go_on(guarded: Guarded) -> None:
    """The survivors get in, again and again, within a generous time."""
    before = guarded.visits
    while guarded.visits < before + 10:
        time.sleep(0.002)  # the deadline around the test ends it
    assert guarded.broken == 0


def forget_the_last(guarded: Guarded, lock: Lock) -> None:
    """Whoever was killed inside has left its name there; acquire tells."""
    if guarded.inside:
        assert lock.acquire(timeout=TIMEOUT) is Acquired.AFTER_DEATH
        guarded.words[0] = 0
        lock.release()


def test_every_step_is_in_the_matrix():
    assert RESCUE | HOLDS | set(LEFT) <= STEPS
