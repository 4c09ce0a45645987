"""Lock, when somebody dies inside, stands still there, or is interrupted in the rescue."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shmkit import Acquired, Lock
from shmkit.segment.words import RESCUE_BYTE
from shmkit.tools.testing import run_until
from tests.processes import run_python, wait_until
from tests.sync.peers import Family, Peer, again, at_it, waiting

NO, YES, AFTER_DEATH = Acquired.NO, Acquired.YES, Acquired.AFTER_DEATH
MOMENT = 0.15  # seconds: more than a slice, for what must not happen

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /dev/shm")


def test_a_death_inside_is_told_once(family: Family) -> None:
    lock = family.lock()
    victim, mate = family.start(lock), family.start(lock)
    assert victim.do("acquire")
    assert lock.acquire(timeout=0.06) is NO
    mate.ask("acquire", timeout=20)
    wait_until(lambda: waiting(lock) == 1)
    victim.kill()
    assert mate.answer() is AFTER_DEATH
    assert lock.acquire(False) is NO
    mate.do("release")
    assert at_it(lock) == 0  # the dead one neither
    assert lock.acquire() is YES
    lock.release()
    assert mate.do("acquire") is YES


def take_and_give(lock: Lock) -> None:
    lock.acquire()
    lock.release()


def test_a_token_that_died_is_found_by_who_does_not_wait(name: str | None) -> None:
    lock = Lock(name)
    for step in ("mutex.post", "mutex.inside"):
        with run_until(step, take_and_give, lock, method="fork") as victim:
            assert victim.reached
        wait_until(lambda: lock.acquire(block=False))
        lock.release()
    lock.close()


def test_who_only_tries_does_not_hold_up_who_waits(kin: Family) -> None:
    lock = kin.lock()
    with run_until("mutex.post", take_and_give, lock, method="fork") as victim:
        assert victim.reached
    trying, mate = [kin.start(lock) for _ in range(3)], kin.start(lock)
    mate.ask("acquire", timeout=20)
    for one in trying:
        one.ask(try_until_had, 20)
    assert mate.answer()
    mate.do("release")
    assert all(one.answer() for one in trying)


def try_until_had(lock: Lock, seconds: float) -> bool:
    """Without waiting, as fast as it goes; and leave it."""
    end = time.monotonic() + seconds
    while not lock.acquire(block=False):
        if time.monotonic() > end:
            return False
    lock.release()
    return True


@linux
def test_a_death_is_told_also_when_a_bystander_leaves_last(unique_name: str) -> None:
    bystander, passed_on = Lock(unique_name), Lock(unique_name)
    with run_until("mutex.leaving", take_and_give, passed_on, method="fork") as victim:
        assert victim.reached
    passed_on.close()
    bystander.close()
    lock = Lock(unique_name)
    assert lock.acquire() is AFTER_DEATH
    lock.release()
    assert lock.acquire() is YES
    lock.release()
    lock.close()
    assert not Path("/dev/shm", unique_name).exists()


def test_a_death_is_told_to_who_does_not_wait(kin: Family) -> None:
    lock = kin.lock()
    for options in ({"block": False}, {"timeout": 0}, {"timeout": 0.001}, {}):
        victim = kin.start(lock)
        assert victim.do("acquire")
        victim.kill()
        assert lock.acquire(**options) is AFTER_DEATH
        lock.release()
        assert lock.acquire(**options) is YES
        lock.release()


def test_a_death_is_told_by_with(kin: Family) -> None:
    lock = kin.lock()
    victim = kin.start(lock)
    assert victim.do("acquire")
    victim.kill()
    with lock as how:
        assert how is AFTER_DEATH
    with lock as how:
        assert how is YES


def test_of_many_that_wait_one_is_told(kin: Family) -> None:
    lock = kin.lock()
    victim = kin.start(lock)
    mates = [kin.start(lock) for _ in range(3)]
    assert victim.do("acquire")
    for mate in mates:
        mate.ask("acquire", timeout=20)
    wait_until(lambda: waiting(lock) == 3)
    victim.kill()
    got = []
    while mates:
        wait_until(lambda: any(mate.answered() for mate in mates))
        inside = [mate for mate in mates if mate.answered()]
        assert len(inside) == 1
        got.append(inside[0].answer())
        inside[0].do("release")
        mates.remove(inside[0])
    assert got == [AFTER_DEATH, YES, YES]


def test_a_heir_that_dies_too(kin: Family) -> None:
    lock = kin.lock()
    for _ in range(3):
        heir = kin.start(lock)
        assert heir.do("acquire")
        heir.kill()
        heir = kin.start(lock)
        assert heir.do("acquire") is AFTER_DEATH
        heir.kill()
        assert lock.acquire() is AFTER_DEATH
        lock.release()
        assert lock.acquire() is YES
        lock.release()


def test_a_death_outside_is_nobodys_business(kin: Family) -> None:
    lock = kin.lock()
    victim = kin.start(lock)
    assert victim.do("acquire")
    victim.do("release")
    victim.kill()
    assert lock.acquire(False) is YES
    victim = kin.start(lock)
    victim.ask("acquire")
    wait_until(lambda: waiting(lock) == 1)
    victim.kill()
    lock.release()
    assert lock.acquire() is YES


def test_the_end_of_a_process_inside_is_a_death(unique_name: str) -> None:
    """It has not released: what the lock guards may be half-changed."""
    with Lock(unique_name) as how:
        assert how is YES
    lock = Lock(unique_name)
    for end in ("", "raise SystemExit", "import os; os._exit(0)"):
        run_python(
            f"from shmkit import Lock; lock = Lock(args[0]); assert lock.acquire(); {end}",
            unique_name,
        )
        assert lock.acquire() is AFTER_DEATH
        lock.release()
    lock.close()


def test_a_handle_dropped_inside_is_a_death(name: str | None) -> None:
    lock = Lock(name)
    other = again(lock)
    assert other.acquire()
    del other
    gc.collect()
    assert lock.acquire() is AFTER_DEATH
    lock.close()


@linux
def test_a_stopped_holder_is_waited_for(family: Family) -> None:
    lock = family.lock()
    holder, mate = family.start(lock), family.start(lock)
    assert holder.do("acquire")
    holder.stop()
    mate.ask("acquire", timeout=20)
    assert lock.acquire(timeout=4 * MOMENT) is NO
    assert not mate.answered()
    holder.go_on()
    holder.do("release")
    assert mate.answer() is YES
    mate.do("release")
    assert lock.acquire() is YES


@linux
def test_a_stopped_holder_that_is_killed(kin: Family) -> None:
    lock = kin.lock()
    holder = kin.start(lock)
    assert holder.do("acquire")
    holder.stop()
    assert lock.acquire(timeout=MOMENT) is NO
    holder.kill()
    assert lock.acquire() is AFTER_DEATH


@linux
def test_one_that_is_stopped_while_it_waits_holds_nobody_up(kin: Family) -> None:
    lock = kin.lock()
    sleeper, mate = kin.start(lock), kin.start(lock)
    assert lock.acquire()
    sleeper.ask("acquire")
    wait_until(lambda: waiting(lock) == 1)
    sleeper.stop()
    lock.release()
    for _ in range(5):
        assert mate.do("acquire", timeout=20) is YES
        mate.do("release")
        assert lock.acquire(timeout=20) is YES
        lock.release()
    sleeper.go_on()
    assert sleeper.answer() is YES
    assert lock.acquire(False) is NO


def test_threads_are_told_of_a_death_once(kin: Family) -> None:
    lock = kin.lock()
    victim = kin.start(lock)
    assert victim.do("acquire")
    got = []

    def visit() -> None:
        with lock as how:
            got.append(how)

    with ThreadPoolExecutor(3) as threads:
        tasks = [threads.submit(visit) for _ in range(3)]
        wait_until(lambda: waiting(lock) == 1)
        victim.kill()
        for task in tasks:
            task.result(20)
    assert sorted(got) == [YES, YES, AFTER_DEATH]


def test_a_death_is_told_to_who_comes_after_all_are_gone(unique_name: str) -> None:
    """Nobody was there when the holder died: what it guards is half-changed all the same."""
    for holder in ("a", "b"):
        run_python(
            "import os; from shmkit import Lock; a = Lock(args[0]); b = Lock(args[0])\n"
            f"{holder}.acquire(); os.kill(os.getpid(), 9)",
            unique_name,
            check=False,
        )
        lock = Lock(unique_name)
        got = []
        for _ in range(2):
            got.append(lock.acquire())
            lock.release()
        lock.close()
        assert got == [AFTER_DEATH, YES]


@pytest.mark.parametrize("nth", [1, 2])
def test_a_death_is_told_though_the_next_one_dies_on_the_way_in(nth: int, unique_name: str) -> None:
    """By whoever comes then, also if the line that was inside is another by now."""
    for holder in ("a", "b"):
        run_python(
            "import os; from shmkit import Lock; a = Lock(args[0]); b = Lock(args[0])\n"
            f"{holder}.acquire(); os.kill(os.getpid(), 9)",
            unique_name,
            check=False,
        )
        for _ in range(nth):
            with run_until("place.inside", Lock, unique_name) as victim:
                assert victim.reached
        with Lock(unique_name) as how:
            assert how is AFTER_DEATH
        Lock(unique_name).close()


def test_a_death_is_told_to_a_child_that_comes_late(name: str | None) -> None:
    """A forked child uses the lock for the first time when all others are dead."""
    told, tell = os.pipe()
    go, start = os.pipe()
    parent = os.fork()
    if parent == 0:
        lock = Lock(name)
        if os.fork() == 0:
            os.close(start)
            os.read(go, 1)  # until the test closes it
            how = lock.acquire(timeout=20)
            lock.close()
            os.write(tell, bytes([how]))
            os._exit(0)
        lock.acquire()
        os.kill(os.getpid(), 9)
    os.close(tell)
    os.waitpid(parent, 0)
    os.close(start)
    got = os.read(told, 1)
    os.close(told)
    os.close(go)
    assert got == bytes([AFTER_DEATH])


# ------------------------------------------------------------------ an interrupted rescue


class Interrupted(Exception):
    """What a handler raises."""


def raise_after_rescue(lock: Lock) -> None:
    """Have an exception come out of the call that ends a rescue, once, when that is done."""
    presence = lock._segment.membership.presence
    unlocks = presence.unlocks

    def interrupted() -> Iterator[object]:
        for _ in unlocks(RESCUE_BYTE):
            del presence.unlocks
            raise Interrupted
        yield None

    presence.unlocks = lambda byte: interrupted() if byte == RESCUE_BYTE else unlocks(byte)


def end_of_a_holder(lock: Lock, kin: Family) -> Peer:
    victim = kin.start(lock)
    assert victim.do("acquire")
    victim.kill()
    return victim


@pytest.mark.parametrize("heir", ["the same", "another", "a process"])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_rescue_that_is_interrupted(kin: Family, used: bool, heir: str) -> None:
    """The news of the death that it had is not lost with it."""
    lock = kin.lock()
    other = again(lock)
    if used:
        assert lock.acquire() is YES  # from now on it takes the short way in
        lock.release()
    end_of_a_holder(other, kin)
    raise_after_rescue(lock)
    with pytest.raises(Interrupted):
        lock.acquire()
    assert not lock.held
    with pytest.raises(RuntimeError, match="not hold"):
        lock.release()
    if heir == "a process":
        mate = kin.start(lock)
        assert mate.do("acquire", timeout=20) is AFTER_DEATH
        mate.do("release")
    else:
        handle = lock if heir == "the same" else other
        assert handle.acquire(timeout=20) is AFTER_DEATH
        handle.release()
    for handle in (lock, other, lock):
        assert handle.acquire() is YES
        handle.release()
    other.close()


def test_a_rescue_that_is_interrupted_while_a_thread_waits(kin: Family) -> None:
    lock = kin.lock()
    end_of_a_holder(lock, kin)
    raise_after_rescue(lock)
    got: list[Any] = []

    def visit() -> None:
        try:
            with lock as how:
                got.append(how)
        except Interrupted as error:
            got.append(type(error))

    with ThreadPoolExecutor(3) as threads:
        for task in [threads.submit(visit) for _ in range(3)]:
            task.result(30)
    assert sorted(map(str, got)) == sorted(map(str, [Interrupted, AFTER_DEATH, YES]))


def test_an_interrupted_rescue_that_is_killed_next(kin: Family) -> None:
    """Its process ends at once: two dead, one token, one word about it."""
    lock = kin.lock()
    end_of_a_holder(lock, kin)
    mate = kin.start(lock)
    assert mate.do(interrupted_rescue) == "interrupted"
    mate.kill()
    assert lock.acquire(timeout=20) is AFTER_DEATH
    lock.release()
    assert lock.acquire() is YES


def interrupted_rescue(lock: Lock) -> str:
    raise_after_rescue(lock)
    try:
        lock.acquire()
    except Interrupted:
        return "interrupted"
    return "not interrupted"
