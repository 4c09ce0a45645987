"""CallFuture behaves as a Future of the standard library in every state, waited for or not."""

from __future__ import annotations

import os
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError

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
