"""CallFuture behaves as a Future of the standard library in every state, waited for or not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor

import pytest

from shmkit.work import future as module
from shmkit.work.future import CallFuture
from tests.processes import wait_until

SECONDS = 20


@pytest.fixture(params=[Future, CallFuture])
def future(request: pytest.FixtureRequest) -> Future[int]:
    """A future of the standard library, and a CallFuture."""
    return request.param()  # type: ignore[no-any-return]


@pytest.fixture(params=["fresh", "waited for"])
def running(request: pytest.FixtureRequest, future: Future[int]) -> Future[int]:
    """A future that runs: untouched so far, or after a wait that timed out."""
    assert future.set_running_or_notify_cancel()
    if request.param == "waited for":
        with pytest.raises(TimeoutError):
            future.result(0)
        assert (future.running(), future.done(), future.cancel()) == (True, False, False)
    return future


def test_a_result_is_there_for_good(running) -> None:
    running.set_result(7)
    for again in running.set_result, running.set_exception:
        with pytest.raises(InvalidStateError):
            again(ValueError("late"))
    assert (running.result(0), running.exception(0), running.done()) == (7, None, True)
    assert (running.cancel(), running.running()) == (False, False)


def test_an_exception_is_there_for_good(running) -> None:
    running.set_exception(KeyError("this"))
    assert (type(running.exception(0)), running.done()) == (KeyError, True)
    with pytest.raises(KeyError, match="this"):
        running.result(0)
    with pytest.raises(InvalidStateError):
        running.set_result(7)
    assert type(running.exception()) is KeyError


def test_callbacks_are_called_once(running) -> None:
    seen: list[object] = []
    running.add_done_callback(seen.append)
    assert seen == []
    running.set_result(7)
    running.add_done_callback(seen.append)
    assert seen == [running, running]


def test_a_waiting_thread_is_woken(running) -> None:
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(running.result(SECONDS)))
    thread.start()
    running.set_result(7)
    thread.join(SECONDS)
    assert got == [7]


def asleep(future: Future[int], count: int = 1) -> bool:
    """Whether so many threads wait for it."""
    if isinstance(future, CallFuture) and future._made is None:
        return len(future._sleepers) == count
    return len(future._condition._waiters) == count  # type: ignore[attr-defined]


ENDS = {
    "result": lambda future: future.set_result(7),
    "exception": lambda future: future.set_exception(KeyError()),
    "callback, result": lambda future: (future.add_done_callback(id), future.set_result(7)),
}


@pytest.mark.parametrize("timeout", [None, SECONDS])
@pytest.mark.parametrize("end", ENDS)
def test_all_threads_that_wait_are_woken(running, end: str, timeout: float | None) -> None:
    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(running.result, timeout) for _ in range(3)]
        wait_until(lambda: asleep(running, 3))
        ENDS[end](running)
        got = [each.result(SECONDS) if end != "exception" else each.exception() for each in ends]
    assert [value if value == 7 else type(value) for value in got] == (
        [KeyError] * 3 if end == "exception" else [7] * 3
    )
    assert not getattr(running, "_sleepers", ())


def test_a_thread_that_waits_hears_of_a_cancel(future) -> None:
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(future.result, SECONDS)
        wait_until(lambda: asleep(future))
        assert future.cancel()
        with pytest.raises(CancelledError):
            end.result(SECONDS)


def test_a_thread_that_waits_with_a_timeout_gives_up_in_time(future) -> None:
    assert future.set_running_or_notify_cancel()
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            future.result(0.05)
    assert 0.15 <= time.monotonic() - start < SECONDS
    assert not getattr(future, "_sleepers", ())
    with ThreadPoolExecutor(1) as pool:
        # It goes on to wait with the condition, for what is left of its time.
        end = pool.submit(future.result, 0.2)
        wait_until(lambda: asleep(future))
        future.add_done_callback(id)
        with pytest.raises(TimeoutError):
            end.result(SECONDS)
    future.set_result(7)
    assert future.result(SECONDS) == 7


def test_a_handler_that_raises_ends_a_wait() -> None:
    future = CallFuture[int]()

    def handler(*_: object) -> None:
        raise KeyError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyError):
            future.result()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not future._sleepers
    assert future.cancel()


def test_a_finalizer_that_cancels_as_a_wait_begins_is_heard() -> None:
    future = CallFuture[int]()

    # Stands for an allocation that runs a finalizer while the guard is held.
    class Tuple(tuple[threading.Lock, ...]):
        def __iter__(self) -> Iterator[threading.Lock]:
            assert future.cancel()
            return super().__iter__()

    future._sleepers = Tuple()
    with ThreadPoolExecutor(1) as pool, pytest.raises(CancelledError):
        pool.submit(future.result).result(SECONDS)


def test_a_cancelled_one_does_not_run(future) -> None:
    seen: list[object] = []
    future.add_done_callback(seen.append)
    assert future.cancel()
    assert future.cancel()
    assert (future.cancelled(), future.done(), seen) == (True, True, [future])
    assert not future.set_running_or_notify_cancel()
    with pytest.raises(CancelledError):
        future.result(0)


def test_none_runs_twice(running) -> None:
    with pytest.raises(RuntimeError, match="unexpected state"):
        running.set_running_or_notify_cancel()
    running.set_result(7)
    with pytest.raises(RuntimeError, match="unexpected state"):
        running.set_running_or_notify_cancel()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_while_one_is_set_leaves_the_child_able_to() -> None:
    """A lock that another thread holds at the fork is never released in the child."""
    with module._guard:
        child = os.fork()
        if not child:
            made = CallFuture[int]()
            made.set_running_or_notify_cancel()
            made.set_result(7)
            os._exit(made.result(0))
    ended: list[int] = []

    def has_ended() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        ended.append(status)
        return pid == child

    try:
        wait_until(has_ended)
    except AssertionError:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise
    assert os.waitstatus_to_exitcode(ended[-1]) == 7


def test_a_finalizer_that_asks_for_another_future_holds_nobody_up() -> None:
    """It may run wherever an object is made, so also in a thread that holds the futures' lock."""
    with module._guard:
        future: CallFuture[int] = CallFuture()
        assert future.cancel()
    assert future.cancelled()
