"""ProcessPoolExecutor: the contract, beside the standard library's executor.

Tests that take `pool` run under every start method, and against the standard library's executor.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from shmkit import ProcessPoolExecutor
from tests.processes import wait_until
from tests.work.functions import (
    SECONDS,
    Unpicklable,
    divide,
    double,
    echo,
    fail,
    leave,
    make_unpicklable,
    prepare,
    state,
    wait_for,
)

pytestmark = [
    pytest.mark.usefixtures("forkserver"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


EXECUTORS = {"stdlib": concurrent.futures.ProcessPoolExecutor, "shmkit": ProcessPoolExecutor}


@pytest.fixture(params=["stdlib-fork", "shmkit-fork", "shmkit-spawn", "shmkit-forkserver"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Executor]]:
    """Make an executor of either kind; it is shut down at the end."""
    made: list[Executor] = []
    kind, _, method = request.param.partition("-")

    def new(workers: int = 2, **options: Any) -> Executor:
        executor = EXECUTORS[kind](workers, multiprocessing.get_context(method), **options)
        made.append(executor)
        return executor  # type: ignore[no-any-return]

    yield new
    for executor in made:
        executor.shutdown(cancel_futures=True)


@pytest.fixture
def pool(make: Callable[..., Executor]) -> Executor:
    """An executor of either kind."""
    return make()


def test_a_call_has_its_result(pool) -> None:
    assert pool.submit(echo, 1, b="c").result(SECONDS) == ((1,), {"b": "c"})
    assert pool.submit(echo, self=1, fn=2).result(SECONDS) == ((), {"self": 1, "fn": 2})
    with pytest.raises(TypeError):
        pool.submit()


def test_many_calls_have_their_own_results(pool) -> None:
    futures = [pool.submit(double, number) for number in range(300)]
    assert [future.result(SECONDS) for future in futures] == list(range(0, 600, 2))
    assert all(isinstance(future, Future) and future.done() for future in futures)


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_keeps_the_order(pool, chunksize) -> None:
    assert list(pool.map(divide, range(20), range(1, 30), chunksize=chunksize)) == [
        one / other for one, other in zip(range(20), range(1, 30), strict=False)
    ]
    results = pool.map(divide, [4, 1, 3], [2, 0, 1])
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(pool.map(double, [])) == []


def test_map_gives_up_at_its_timeout(make, gate) -> None:
    pool = make(1, initializer=wait_for, initargs=(gate,))
    with pytest.raises(TimeoutError):
        list(pool.map(double, range(3), timeout=0.05))
    gate.touch()
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(double, [1], chunksize=0)


def test_an_exception_comes_back_with_its_traceback(pool) -> None:
    future = pool.submit(divide, 1, 0)
    error = future.exception(SECONDS)
    assert type(error) is ZeroDivisionError
    assert type(error.__cause__).__name__ == "_RemoteTraceback"
    assert "return one / other" in str(error.__cause__)
    assert type(pool.submit(fail, SystemExit(3)).exception(SECONDS)) is SystemExit
    assert pool.submit(double, 4).result(SECONDS) == 8


def test_what_does_not_pickle_fails_its_future(pool) -> None:
    assert type(pool.submit(echo, Unpicklable()).exception(SECONDS)) is pickle.PicklingError
    assert pool.submit(lambda: 1).exception(SECONDS) is not None
    error = pool.submit(make_unpicklable).exception(SECONDS)
    assert type(error) is pickle.PicklingError
    assert "not this one" in str(error.__cause__)
    assert pool.submit(double, 4).result(SECONDS) == 8


def test_the_initializer_runs_first_in_each_worker(make) -> None:
    pool = make(2, initializer=prepare, initargs=("ready",))
    assert {pool.submit(state).result(SECONDS) for _ in range(10)} == {"ready"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("failure", [(fail, ValueError("no")), (leave, 3)])
def test_a_failing_initializer_breaks_the_pool(make, failure, capfd) -> None:
    pool = make(2, initializer=failure[0], initargs=failure[1:])
    with pytest.raises(BrokenProcessPool):
        pool.submit(double, 1).result(SECONDS)

    def is_broken() -> bool:
        try:
            pool.submit(double, 1)
        except BrokenProcessPool:
            return True
        return False

    wait_until(is_broken)
    pool.shutdown()


def test_shutdown_runs_what_was_submitted(pool) -> None:
    futures = [pool.submit(double, number) for number in range(50)]
    pool.shutdown()
    assert [future.result(0) for future in futures] == list(range(0, 100, 2))
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(double, 1)
    pool.shutdown()


def test_shutdown_of_a_pool_that_was_never_used(pool) -> None:
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(double, 1)


def test_shutdown_may_cancel_what_waits(make, gate) -> None:
    pool = make(1)
    futures = [pool.submit(wait_for, gate), *(pool.submit(double, n) for n in range(1, 50))]
    wait_until(futures[0].running)
    thread = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True})
    thread.start()
    wait_until(futures[-1].cancelled)
    gate.touch()
    thread.join()
    assert all(future.done() for future in futures)
    cancelled = [future for future in futures if future.cancelled()]
    assert 30 <= len(cancelled) < 50
    for number, future in enumerate(futures[1:], 1):
        if future.cancelled():
            with pytest.raises(CancelledError):
                future.result(0)
        else:
            assert future.result(0) == 2 * number


def test_a_waiting_call_can_be_cancelled_and_a_running_one_not(make, gate) -> None:
    pool = make(1)
    futures = [pool.submit(wait_for, gate), *(pool.submit(double, n) for n in range(1, 50))]
    wait_until(futures[0].running)
    assert not futures[0].cancel()
    assert futures[-1].cancel()
    assert futures[-1].cancelled()
    gate.touch()
    assert [future.result(SECONDS) for future in futures[1:-1]] == list(range(2, 98, 2))


def test_a_future_calls_back_and_is_waited_for(pool) -> None:
    called = threading.Event()
    futures = [pool.submit(double, number) for number in range(10)]
    futures[3].add_done_callback(lambda future: called.set())
    assert {future.result() for future in concurrent.futures.as_completed(futures, SECONDS)} == {
        2 * number for number in range(10)
    }
    assert called.wait(SECONDS)
    assert not concurrent.futures.wait(futures, SECONDS).not_done


def test_it_is_an_executor_of_asyncio(pool) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(pool, double, n) for n in range(20)))

    assert asyncio.run(main()) == list(range(0, 40, 2))


@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
def test_what_is_refused_at_once(executor) -> None:
    for number in 0, -1:
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            executor(number)
    with pytest.raises(TypeError, match="callable"):
        executor(1, initializer=3)
    with pytest.raises(TypeError, match="integer"):
        executor(1, max_tasks_per_child=1.5)
    with pytest.raises(ValueError, match=">= 1"):
        executor(1, max_tasks_per_child=0)
    with pytest.raises(ValueError, match="fork"):
        executor(1, multiprocessing.get_context("fork"), max_tasks_per_child=1)


@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_is_replaced_after_its_calls(executor, method) -> None:
    context = multiprocessing.get_context(method)
    with executor(1, context, max_tasks_per_child=2) as pool:
        pids = [pool.submit(os.getpid).result(SECONDS) for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
def test_workers_are_started_as_they_are_needed(executor) -> None:
    with executor(3, multiprocessing.get_context("forkserver")) as pool:
        for _ in range(3):
            pool.submit(double, 1).result(SECONDS)
            wait_until(lambda: len(pool._processes) == 1)
