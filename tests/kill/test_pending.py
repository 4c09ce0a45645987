"""Places of participants that were killed at a lock: they do not run out, and keep no one out.

A place that a dead participant left ENTERING or LEAVING is pending until the lock's token is seen
elsewhere. Here all places come to be pending, with the token in its semaphore or lost; newcomers
are killed while they settle that; and a forked child comes in when all others have died or left.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from shmkit import Acquired, Lock, Ring
from shmkit.tools.testing import deadline, kill_points, run_until
from tests.processes import wait_until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="names of semaphores are looked for in /dev/shm"
)

TIMEOUT = 30.0
PLACES = 4
# Where a newcomer settles them.
SETTLE = [p for p in kill_points("shmkit.segment.recovery") if p.startswith("settle.")]
FORK = multiprocessing.get_context("fork")


def put_one(ring: Ring) -> None:
    ring.put(b"of a victim")


def attach(where: str) -> None:
    Ring.attach(where).close()


@contextmanager
def full_of_pending(where, *, lost=False):
    """A ring with one live participant; all other places are of some that died at its put lock.

    Args:
        where: its memory.
        lost: whether the token is lost with one of them.
    """
    with Ring.create(where, producers="many", participants=PLACES) as ring:
        for point in ["mutex.post" if lost else "mutex.take", "mutex.take", "mutex.take"]:
            with run_until(point, put_one, ring) as victim:
                assert victim.reached
        yield ring


def works(ring: Ring, by: Ring | None = None) -> None:
    (by or ring).put(b"frame", timeout=TIMEOUT)
    assert ring.get_many(timeout=TIMEOUT)[-1] == b"frame"


@pytest.mark.parametrize("point", ["mutex.take", "mutex.leaving", "mutex.idle"])
def test_places_of_the_dead_do_not_run_out(point):
    """More die than there are places, each leaving its own pending, or the lock held."""
    with deadline(TIMEOUT), Ring.create(producers="many", participants=PLACES) as ring:
        for _ in range(10):
            with run_until(point, put_one, ring) as victim:
                assert victim.reached
        works(ring)


@pytest.mark.parametrize("backend", ["shm", "file"])
def test_who_attaches_by_name_finds_a_place(backend, make_where):
    where = make_where(backend)
    with deadline(TIMEOUT), full_of_pending(where) as ring, Ring.attach(where) as other:
        works(ring, by=other)


def test_a_holder_is_proof_enough(make_where):
    """The token is not to be had, but it is seen in the hands of one that lives."""
    where = make_where("shm")
    with deadline(TIMEOUT), full_of_pending(where) as ring:
        with ring.reserve(5) as room:
            room[:] = b"frame"
            attach(where)
        works(ring)


def test_a_lost_token_is_found_while_newcomers_wait(make_where):
    """The newcomer steps back from the door: who waits for the token has to get through it."""
    where = make_where("shm")
    with deadline(TIMEOUT), full_of_pending(where, lost=True) as ring:
        waiting = threading.Thread(target=works, args=(ring,))
        waiting.start()
        try:
            with Ring.attach(where) as other:
                waiting.join()
                works(ring, by=other)
        finally:
            waiting.join()


def test_a_lost_token_that_nobody_misses(make_where):
    """It is not made up: nobody can say that it is lost but one who waits for it."""
    where = make_where("shm")
    with deadline(TIMEOUT), full_of_pending(where, lost=True) as ring:
        with pytest.raises(OSError, match=r"4 places .* in use, 3 of them .* died") as caught:
            attach(where)
        assert caught.value.errno == errno.EUSERS
        works(ring)
        attach(where)


def test_places_of_live_ones_stay_theirs(make_where):
    where = make_where("shm")
    with deadline(TIMEOUT), ExitStack() as stack:
        ring = stack.enter_context(Ring.create(where, participants=PLACES))
        for _ in range(PLACES - 1):
            stack.enter_context(Ring.attach(where))
        with pytest.raises(OSError, match="4 places for participants are in use: close") as caught:
            attach(where)
        assert caught.value.errno == errno.EUSERS
        works(ring)


@pytest.mark.parametrize("point", SETTLE)
def test_a_newcomer_killed_while_it_settles(point, make_where):
    """Killed with the token in hand it has made nothing worse than it was."""
    where = make_where("shm")
    with deadline(TIMEOUT), full_of_pending(where) as ring:
        with run_until(point, attach, where) as victim:
            assert victim.reached
        works(ring)
        with Ring.attach(where) as other:
            works(ring, by=other)


@pytest.mark.parametrize("point", SETTLE)
def test_a_newcomer_stopped_while_it_settles(point, make_where):
    """It is waited for, and then all are in."""
    where = make_where("shm")
    with deadline(TIMEOUT), full_of_pending(where) as ring:
        with run_until(point, attach, where, signal=signal.SIGSTOP) as victim:
            assert victim.reached
            assert ring.empty()
            victim.resume()
            assert victim.wait(TIMEOUT) == 0
        with Ring.attach(where) as other:
            works(ring, by=other)


# -- a forked child is the only one left, or not the first to come back ----------------------------


def start_heir(target, *args):
    heir = FORK.Process(target=target, args=args)
    heir.start()


def make_and_die_inside(link: Connection) -> None:
    """Make a lock, have it inherited, and die inside."""
    lock = Lock()
    start_heir(inherit, lock, os.getpid(), link)
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def inherit(lock: Lock, victim: int, link: Connection) -> None:
    """Use a lock for the first time in this process, when the process that made it is dead."""
    wait_until(lambda: not Path(f"/proc/{victim}").exists(), TIMEOUT)
    link.send(lock.acquire(timeout=TIMEOUT))
    link.recv()
    lock.close()


def test_one_that_inherits_from_a_dead_one_gets_in():
    """The only one left is the first one in: the semaphore it inherited has lost its token."""
    ours, theirs = multiprocessing.Pipe()
    with deadline(TIMEOUT), ours:
        with theirs:
            victim = FORK.Process(target=make_and_die_inside, args=(theirs,))
            victim.start()
        victim.join()
        victim.close()
        assert ours.recv()
        leave(ours)


def make_and_die(name: str, link: Connection) -> None:
    lock = Lock(name)
    start_heir(try_it, lock, link)
    link.send("made")
    os.kill(os.getpid(), signal.SIGKILL)


def try_it(lock: Lock, link: Connection) -> None:
    link.recv()
    link.send(lock.acquire(timeout=0.2))
    link.recv()
    lock.close()


def test_one_that_inherits_from_a_dead_one_stays_out(unique_name):
    """Another was the first one in, and made the semaphore anew: that is the one to take."""
    ours, theirs = multiprocessing.Pipe()
    with deadline(TIMEOUT), ours:
        with theirs:
            victim = FORK.Process(target=make_and_die, args=(unique_name, theirs))
            victim.start()
        ours.recv()
        victim.join()
        victim.close()
        with Lock(unique_name) as how:
            assert how
            ours.send("acquire")
            assert ours.recv() is Acquired.NO
        leave(ours)
    assert not Path("/dev/shm", unique_name).exists()


def leave(heir: Connection) -> None:
    """Let an orphan go, and wait until it has gone."""
    heir.send("leave")
    with pytest.raises(EOFError):
        heir.recv()


def come_back(ring: Ring, link: Connection) -> None:
    link.recv()
    ring.put(b"of the heir")
    link.send("put")
    link.recv()
    ring.close()


def test_one_that_inherits_from_one_that_left(make_where):
    """The last one out took the semaphores' names along; the next to come must find some."""
    where = make_where("file")
    ours, theirs = multiprocessing.Pipe()
    with deadline(TIMEOUT), ours:
        with Ring.create(where, producers="many") as ring:
            heir = FORK.Process(target=come_back, args=(ring, theirs))
            heir.start()
            theirs.close()
        ours.send("put")
        ours.recv()
        with Ring.attach(where) as ring:
            assert ring.get(timeout=TIMEOUT) == b"of the heir"
        leave(ours)
        heir.join(TIMEOUT)
        assert heir.exitcode == 0
        heir.close()
