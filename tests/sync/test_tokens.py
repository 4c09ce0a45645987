"""Tokens: what a semaphore's dead held comes back, and the sum is right whichever process releases.

A holder that is killed at each step of its calls; one that is killed while it gives back what
another dead one held; releases by other processes; signals, which are taken for good.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmkit import CorruptSegment, Semaphore
from shmkit.segment.words import SEMAPHORE_COUNT
from shmkit.sync.tokens import MOST
from shmkit.tools.testing import kill_points, run_until
from tests.processes import in_child, run_python
from tests.sync.peers import WAYS, by_name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="POSIX kills")

TIMEOUT = 20.0
POINTS = kill_points("shmkit.sync.tokens")
RESCUE = ["semaphore.return", "semaphore.recount"]  # come to by a process that finds a dead one
LEAVE = ["semaphore.keep"]  # by one that closes while it holds
SPAWNED = ["semaphore.hold", "semaphore.give"]  # an interpreter takes a second to start
CALLS = [point for point in POINTS if point not in RESCUE + LEAVE]


@pytest.fixture(params=["anonymous", "named"])
def name(request: Any, unique_name: str) -> Iterator[str | None]:
    """A name for a semaphore, or None; the name may stay when its users are killed."""
    yield None if request.param == "anonymous" else unique_name
    Path("/dev/shm", unique_name).unlink(missing_ok=True)


def use(semaphore: Semaphore) -> None:
    """Acquire two, release them, and one of them by another call; again and again."""
    for _ in range(3):
        semaphore.acquire()
        semaphore.acquire()
        semaphore.release()
        semaphore.release()


def take_and_close(semaphore: Semaphore) -> None:
    semaphore.acquire()
    semaphore.close()


def acquire_four(semaphore: Semaphore) -> None:
    for _ in range(4):
        semaphore.acquire(timeout=1)


def all_are_there(semaphore: Semaphore, count: int) -> None:
    """So many can be had, and no more; afterwards they are there again."""
    for number in range(count):
        assert semaphore.acquire(timeout=TIMEOUT), f"{number} of {count}"
    assert not semaphore.acquire(timeout=0)
    for _ in range(count):
        semaphore.release()
    assert semaphore.value == count


@pytest.mark.parametrize(
    ("point", "method"),
    [(point, "fork") for point in CALLS] + [(point, "spawn") for point in SPAWNED],
)
def test_killed_at_a_step(point: str, method: str, name: str | None) -> None:
    made = Semaphore(3, name)
    for nth in (1, 2) if method == "fork" else (2,):
        with run_until(point, use, made, nth=nth, method=method, timeout=TIMEOUT) as victim:
            assert victim.reached
            all_are_there(made, 3)
    made.close()


@pytest.mark.parametrize("point", LEAVE)
def test_killed_while_it_closes(point: str, name: str | None) -> None:
    """Before that it has died, and what it held comes back."""
    made = Semaphore(3, name)
    with run_until(point, take_and_close, made, method="fork", timeout=TIMEOUT) as victim:
        assert victim.reached
        all_are_there(made, 3)
    made.close()


@pytest.mark.parametrize("point", RESCUE)
def test_killed_while_it_gives_back_what_a_dead_one_held(point: str, name: str | None) -> None:
    made = Semaphore(3, name)
    pid = os.fork()
    if pid == 0:
        made.acquire()
        made.acquire()
        os._exit(0)
    os.waitpid(pid, 0)
    nth = 2 if point == "semaphore.recount" else 1  # it counts once as it enters
    with run_until(point, acquire_four, made, nth=nth, method="fork", timeout=TIMEOUT) as victim:
        assert victim.reached
    all_are_there(made, 3)
    made.close()


def test_every_step_is_tried() -> None:
    assert {*CALLS, *RESCUE, *LEAVE} == set(POINTS)
    assert {"semaphore.hold", "semaphore.count_down", "semaphore.give"} <= set(CALLS)


@pytest.mark.parametrize("way", [way for way in WAYS if "unrelated" not in way])
def test_what_a_killed_holder_held_comes_back(
    way: str, unique_name: Any, monkeypatch: Any, start_child: Any
) -> None:
    """Under each start method, to one that waits already."""
    import multiprocessing

    if "named semaphores" in way:
        by_name(monkeypatch)
    made = Semaphore(1, unique_name if way.endswith(" named") else None)
    ours, theirs = multiprocessing.Pipe()
    process: Any = multiprocessing.get_context(way.split()[0]).Process(  # type: ignore[attr-defined]
        target=hold, args=(theirs, made)
    )
    process.start()
    assert ours.poll(TIMEOUT)
    assert not made.acquire(False)
    assert not made.acquire(timeout=0.1)
    process.kill()
    process.join(TIMEOUT)
    assert made.acquire(timeout=TIMEOUT)
    assert made.value == 0
    made.release()
    process.close()
    made.close()
    ours.close()
    theirs.close()


def hold(link: Any, semaphore: Semaphore) -> None:
    assert semaphore.acquire(timeout=TIMEOUT)
    link.send("held")
    signal.pause()


def forked(act: Callable[[], object]) -> None:
    """Have something done by a process that then dies without leaving."""

    def do() -> None:
        act()

    in_child(do)


def test_a_release_for_another_process(name: str | None) -> None:
    """It is legal. When that one dies later, its token does not come back a second time."""
    made = Semaphore(1, name)
    pid = os.fork()
    if pid == 0:
        made.acquire()
        signal.pause()
    while made.value:
        os.sched_yield()
    made.release()
    assert made.value == 1
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    all_are_there(made, 1)
    made.close()


def test_a_release_for_a_dead_one_takes_its_token(name: str | None) -> None:
    """And none of one that is alive: what both hold adds up."""
    made = Semaphore(2, name)
    other = pickle.loads(pickle.dumps(made))
    other.acquire()
    forked(made.acquire)
    made.release()
    assert made.value == 1
    other.release()
    all_are_there(made, 2)
    other.close()
    made.close()


def test_signals_that_were_taken_do_not_come_back(name: str | None) -> None:
    """One process releases, another one acquires and ends: that is not a holder's death."""
    made = Semaphore(0, name)
    for _ in range(3):
        made.release()
    forked(lambda: (made.acquire(), made.acquire()))
    assert made.value == 1
    all_are_there(made, 1)
    made.close()


def test_signals_on_top_of_permits(name: str | None) -> None:
    """What comes back does not go above the first count."""
    made = Semaphore(2, name)
    made.release()  # three can be had now
    forked(lambda: (made.acquire(), made.acquire()))
    assert made.value == 2
    all_are_there(made, 2)
    made.close()


def test_close_keeps_what_was_acquired(name: str | None) -> None:
    """As of the standard library: another process may be going to release it."""
    made = Semaphore(2, name)
    copy = pickle.loads(pickle.dumps(made))
    copy.acquire()
    copy.close()
    assert made.value == 1
    made.release()
    all_are_there(made, 2)
    made.close()


def test_a_handle_that_is_dropped_gives_back_what_it_held(name: str | None) -> None:
    made = Semaphore(1, name)
    copy = pickle.loads(pickle.dumps(made))
    copy.acquire()
    del copy
    assert made.value == 1
    made.close()


def test_a_newcomer_in_the_place_of_a_dead_holder() -> None:
    """It does not count what it found there as its own."""
    made = Semaphore(2)
    forked(made.acquire)
    count = made._count.segment.membership.participants.count  # type: ignore[union-attr]
    others = [pickle.loads(pickle.dumps(made)) for _ in range(count - 1)]
    with pytest.raises(OSError, match="in use"):
        pickle.loads(pickle.dumps(made))
    assert made._count._sums() == (0, 0)  # type: ignore[union-attr]
    for other in others:
        other.close()
    all_are_there(made, 2)
    made.close()


def test_a_name_all_of_whose_users_were_killed(unique_name: str) -> None:
    """Its next user finds what it had, less the signals that were taken."""
    source = """
import os
from shmkit import Semaphore
made = Semaphore(2, args[0])
made.acquire(); made.acquire()
os.kill(os.getpid(), 9)
"""
    run_python(source, unique_name, check=False)
    assert Path("/dev/shm", unique_name).exists()
    made = Semaphore(7, unique_name)
    all_are_there(made, 2)
    made.close()
    assert not Path("/dev/shm", unique_name).exists()


def test_a_posix_one_cannot_know(unique_name: str) -> None:
    """The kernel keeps its count alone, as docs say."""
    made = Semaphore(1, unique_name, posix=True)
    forked(made.acquire)
    assert not made.acquire(timeout=0.1)
    made.release()
    assert made.value == 1
    made.close()
    made.unlink()


def test_an_impossible_count_is_told() -> None:
    made = Semaphore(1)
    made._count._words[SEMAPHORE_COUNT] = MOST + 1  # type: ignore[union-attr]
    for call in (made.acquire, made.release):
        with pytest.raises(CorruptSegment, match=r"this semaphore .*was overwritten"):
            call()
    made.close()


def test_a_finalizer_or_handler_may_release_in_the_middle_of_a_call() -> None:
    """It is done when that call ends."""
    made = Semaphore(1)
    tokens: Any = made._count
    assert tokens._enter(1)
    made.release()
    with pytest.raises(RuntimeError, match="inside another one"):
        made.acquire(False)
    with pytest.raises(RuntimeError, match="inside another one"):
        made.close()
    assert made.value == 1
    tokens._mutex.release()
    tokens._guard.give()
    assert made.acquire(False)
    assert made.value == 1
    made.close()
