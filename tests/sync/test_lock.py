"""Lock: who is inside, who waits, who is told of a death; by fork, by pickle and by name."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shmkit import Acquired, ClosedError, Event, Lock, SharedBuffer
from tests.processes import run_python, wait_until
from tests.sync.peers import Family, again, names_of, waiting

NO, YES, AFTER_DEATH = Acquired.NO, Acquired.YES, Acquired.AFTER_DEATH
MOMENT = 0.15  # seconds: more than a slice, for what must not happen

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /dev/shm")


@pytest.fixture
def lock(name: str | None) -> Iterator[Lock]:
    made = Lock(name)
    yield made
    made.close()


# ------------------------------------------------------------------ acquire and release


def test_one_is_inside(family: Family) -> None:
    lock = family.lock()
    mate = family.start(lock)
    assert lock.acquire() is YES
    assert lock.held
    assert mate.do("acquire", False) is NO
    assert mate.do("acquire", block=False, timeout=20) is NO
    assert mate.do("acquire", timeout=0) is NO
    assert mate.do("acquire", True, 0.06) is NO
    mate.ask("acquire", timeout=20)
    wait_until(lambda: waiting(lock) == 1)
    assert not mate.answered()
    lock.release()
    assert not lock.held
    assert mate.answer() is YES
    assert lock.acquire(False) is NO
    assert lock.acquire(timeout=0.06) is NO
    mate.do("release")
    assert lock.acquire() is YES
    lock.release()
    mate.end()


def test_what_acquire_returns_is_true_or_false() -> None:
    assert not NO
    assert YES
    assert AFTER_DEATH
    assert pickle.loads(pickle.dumps(AFTER_DEATH)) is AFTER_DEATH


def test_with_acquires_and_releases(lock: Lock) -> None:
    other = again(lock)
    with lock as how:
        assert how is YES
        assert other.acquire(False) is NO
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert other.acquire(False) is YES
    other.close()


def test_it_is_not_reentrant(lock: Lock) -> None:
    assert lock.acquire()
    assert lock.acquire(False) is NO
    assert lock.acquire(timeout=0.06) is NO
    assert lock.held
    lock.release()
    assert not lock.held
    with pytest.raises(RuntimeError, match="not hold"):
        lock.release()


def test_only_a_holder_releases(family: Family) -> None:
    lock = family.lock()
    mate = family.start(lock)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not hold"):
            lock.release()
        with pytest.raises(RuntimeError, match="not hold"):
            mate.do("release")
    assert mate.do("acquire")
    with pytest.raises(RuntimeError, match="not hold"):
        lock.release()
    assert lock.acquire(False) is NO  # it made no second token
    mate.do("release")
    assert lock.acquire(False) is YES
    assert mate.do("acquire", False) is NO


@pytest.mark.parametrize("timeout", [-1, -0.001, float("-inf")])
def test_a_negative_timeout_is_none(lock: Lock, timeout: float) -> None:
    """The same for a fresh handle, and for one that was used."""
    other = again(lock)
    for _ in range(2):
        assert lock.acquire(timeout=timeout) is YES
        for _ in range(2):
            assert other.acquire(timeout=timeout) is NO
            assert other.acquire(True, timeout) is NO
        lock.release()
    other.close()


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "warm"])
def test_what_is_no_timeout_is_refused(lock: Lock, warm: bool) -> None:
    """Also where there is nothing to wait for, and where it is not to wait."""
    if warm:
        lock.acquire()
        lock.release()
    wrong: Any = lock.acquire
    nan = float("nan")
    for block in (True, False):
        with pytest.raises(ValueError, match="'timeout' is a number of seconds"):
            wrong(block, nan)
        with pytest.raises(ValueError, match="'timeout' is a number of seconds"):
            wrong(block, timeout=nan)
        with pytest.raises(TypeError, match="'timeout' is a number of seconds"):
            wrong(block, "1")
    with pytest.raises(TypeError, match=r"acquire\(\)"):
        wrong(wait=True)
    with pytest.raises(TypeError, match=r"acquire\(\)"):
        wrong(True, 1, 1)
    with pytest.raises(TypeError, match=r"acquire\(\)"):
        wrong(True, block=1)
    assert not lock.held
    assert lock.acquire(True, timeout=1) is YES
    lock.release()


def test_what_is_no_name_is_refused() -> None:
    wrong: list[Any] = [Lock, Event]
    for kind in wrong:
        for name in (3, b"n", 1.5, ["n"]):
            with pytest.raises(TypeError, match=r"the name of an? (lock|event) is a str, or None"):
                kind(name)


def test_a_release_of_what_is_not_held(lock: Lock) -> None:
    """Is a ValueError, as of multiprocessing's, and a RuntimeError, as of threading's."""
    for error in (ValueError, RuntimeError):
        with pytest.raises(error, match="acquire it first"):
            lock.release()
    assert lock.acquire()
    lock.release()
    with pytest.raises(ValueError, match="not hold"):
        lock.release()


def count_up(lock: Lock, where: str, rounds: int) -> None:
    """Add to a number in two steps, with a pause between."""
    with SharedBuffer.attach(where) as buffer:
        words = buffer.view("Q")
        for _ in range(rounds):
            with lock:
                seen = words[0]
                os.sched_yield()
                words[0] = seen + 1
        del words


def test_nothing_that_it_guards_is_lost(family: Family, make_where: Any) -> None:
    lock, rounds = family.lock(), 300
    with SharedBuffer.create(make_where("shm"), 4096) as buffer:
        mates = [family.start(lock) for _ in range(2)]
        for mate in mates:
            mate.ask(count_up, str(buffer.url), rounds)
        count_up(lock, str(buffer.url), rounds)
        for mate in mates:
            mate.answer()
        assert buffer.view("Q")[0] == 3 * rounds


def test_what_a_parent_holds_is_not_its_childs(lock: Lock) -> None:
    assert lock.acquire()
    pid = os.fork()
    if pid == 0:
        sound = not lock.held and lock.acquire(timeout=0.06) is NO
        lock.close()
        os._exit(0 if sound else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert lock.held
    assert again_acquires(lock) is NO
    lock.release()
    assert again_acquires(lock) is YES


def again_acquires(lock: Lock) -> Acquired:
    other = again(lock)
    try:
        return Acquired(other.acquire(False))
    finally:
        other.close()


# ------------------------------------------------------------------ threads


def test_threads_of_one_handle_take_turns(lock: Lock) -> None:
    other, seen = again(lock), [0]

    def count(handle: Lock) -> None:
        for _ in range(200):
            with handle as how:
                assert how is YES
                before = seen[0]
                os.sched_yield()
                seen[0] = before + 1

    with ThreadPoolExecutor(6) as threads:
        for task in [threads.submit(count, handle) for handle in 3 * [lock, other]]:
            task.result(30)
    assert seen == [1200]
    other.close()


def test_a_thread_waits_for_another(lock: Lock) -> None:
    assert lock.acquire()
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(lock.acquire, False).result(20) is NO
        assert threads.submit(lock.acquire, True, 0.06).result(20) is NO
        last = threads.submit(lock.acquire, True, 20)
        with pytest.raises(TimeoutError):
            last.result(MOMENT)
        lock.release()
        assert last.result(20) is YES
        assert lock.held
        threads.submit(lock.release).result(20)
    assert not lock.held


# ------------------------------------------------------------------ pickling


class Named(Lock):
    """A lock of a class of its own."""

    __slots__ = ()


def test_a_copy_is_a_participant_of_its_own(lock: Lock) -> None:
    assert lock.acquire()
    copy = again(lock)
    assert not copy.held
    assert copy.name == lock.name
    assert copy.acquire(False) is NO
    with pytest.raises(RuntimeError, match="not hold"):
        copy.release()
    lock.release()
    assert copy.acquire(False) is YES
    copy.close()


def test_a_copy_is_of_the_same_class(name: str | None) -> None:
    lock = Named(name)
    copy = again(lock)
    assert type(copy) is Named
    copy.close()
    lock.close()


def test_a_pickle_may_come_too_late(unique_name: str) -> None:
    lock = Lock(unique_name)
    late = pickle.dumps(lock)
    lock.close()
    with pytest.raises(ClosedError):
        pickle.dumps(lock)
    with pytest.raises(FileNotFoundError, match=unique_name):
        pickle.loads(late)


# ------------------------------------------------------------------ closing


def test_a_closed_one_says_so(lock: Lock) -> None:
    assert "not held here" in repr(lock)
    lock.acquire()
    assert "not held" not in repr(lock)
    lock.close()
    lock.close()
    assert not lock.held
    for timeout in (None, 0, 20):
        with pytest.raises(ClosedError):
            lock.acquire(timeout=timeout)
    with pytest.raises(ClosedError):
        lock.__enter__()
    with pytest.raises((ClosedError, RuntimeError)):
        lock.release()
    assert "closed" in repr(lock)


def test_closing_inside_gives_it_back(family: Family) -> None:
    lock = family.lock()
    holder, mate = family.start(lock), family.start(lock)
    assert holder.do("acquire")
    mate.ask("acquire", timeout=20)
    wait_until(lambda: waiting(lock) == 1)
    holder.end()
    assert mate.answer() is YES  # and not after a death: it left in order
    mate.do("close")
    assert lock.acquire(timeout=20) is YES


def test_closing_under_threads_that_wait(lock: Lock) -> None:
    other = again(lock)
    assert other.acquire()
    with ThreadPoolExecutor(3) as threads:
        tasks = [threads.submit(lock.acquire) for _ in range(3)]
        wait_until(lambda: waiting(other) == 1)
        lock.close()
        for task in tasks:
            with pytest.raises(ClosedError):
                task.result(20)
    other.release()
    assert other.acquire(False) is YES
    other.close()


def test_closing_while_another_handle_waits(lock: Lock) -> None:
    other, third = again(lock), again(lock)
    assert lock.acquire()
    with ThreadPoolExecutor(2) as threads:
        tasks = [threads.submit(handle.acquire) for handle in (other, third)]
        wait_until(lambda: waiting(lock) == 2)
        lock.close()
        wait_until(lambda: any(task.done() for task in tasks))
        (first,) = (task for task in tasks if task.done())
        assert first.result() is YES
        (other if first is tasks[0] else third).close()
        for task in tasks:
            assert task.result(20) is YES
    other.close()
    third.close()


@linux
def test_the_last_one_out_removes_the_name(unique_name: str) -> None:
    first, second = Lock(unique_name), Lock(unique_name)
    left = names_of(first)
    first.close()
    assert all(path.exists() for path in left)
    third = Lock(unique_name)
    second.close()
    assert all(path.exists() for path in left)
    assert third.acquire()
    third.close()
    assert not any(path.exists() for path in left)
    with Lock(unique_name) as how:  # the next to come finds a free one
        assert how is YES


@linux
def test_a_process_that_ends_closes_it(unique_name: str) -> None:
    for end in ("", "lock.acquire()", "raise SystemExit", "del lock", "1 / 0"):
        result = run_python(
            f"from shmkit import Lock; lock = Lock(args[0]); {end}", unique_name, check=False
        )
        assert not result.stderr or "ZeroDivision" in result.stderr
        assert not Path("/dev/shm", unique_name).exists()


@linux
def test_an_unnamed_one_leaves_nothing() -> None:
    before = set(Path("/dev/shm").iterdir())
    lock = Lock()
    assert lock.acquire()
    assert not [path for path in set(Path("/dev/shm").iterdir()) - before if "shmkit" in path.name]
    lock.close()


@linux
def test_what_the_killed_leave_goes_with_the_next(unique_name: str) -> None:
    result = run_python(
        "import os; from shmkit import Lock; a = Lock(args[0]); b = Lock(args[0])\n"
        "a.acquire(); os.kill(os.getpid(), 9)",
        unique_name,
        check=False,
    )
    assert result.exitcode == -9
    assert Path("/dev/shm", unique_name).exists()
    lock = Lock(unique_name)
    left = names_of(lock)
    assert lock.acquire()
    assert lock.acquire(False) is NO
    lock.close()
    assert not any(path.exists() for path in left)
