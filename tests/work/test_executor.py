"""ProcessPoolExecutor: the contract, beside the standard library's executor; then what is its own.

Tests that take `pool` run under every start method, and against the standard library's executor.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmkit
from shmkit import ProcessPoolExecutor, WorkerDied
from tests.processes import run_python, wait_until

SECONDS = 20
EXECUTORS = {"stdlib": concurrent.futures.ProcessPoolExecutor, "shmkit": ProcessPoolExecutor}

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def forkserver() -> None:
    """Have the helper of forkserver started before a test looks at what is left behind."""
    process = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    process.start()
    process.join()


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


@pytest.fixture
def gate(tmp_path) -> Path:
    """A file to wait for; it is not there yet."""
    return Path(tmp_path) / "open"


@pytest.fixture
def ours(context: BaseContext) -> Iterator[ProcessPoolExecutor]:
    """A pool of two workers of shmkit's, under each start method."""
    with ProcessPoolExecutor(2, context) as executor:
        yield executor


@pytest.fixture
def quick() -> Iterator[ProcessPoolExecutor]:
    """A pool of two forked workers of shmkit's."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
        yield executor


# -- what workers do -------------------------------------------------------------------------------


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def double(number: int) -> int:
    return 2 * number


def divide(one: float, other: float) -> float:
    return one / other


def fail(error: BaseException) -> None:
    raise error


def wait_for(gate: Path) -> int:
    wait_until(gate.exists)
    return os.getpid()


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(status: int) -> None:
    os._exit(status)


STATE = "fresh"


def prepare(state: str) -> None:
    global STATE
    STATE = state


def state() -> str:
    return STATE


class TwoArguments(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, one, other) -> None:
        super().__init__(f"{one} and {other}")


class Unpicklable:
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("not this one")


class Broken:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return fail, (LookupError("not here"),)


def make_unpicklable() -> Unpicklable:
    return Unpicklable()


def make_broken(size: int) -> list[Any]:
    return [np.zeros(size, np.uint8), Broken()]


def raise_unpicklable() -> None:
    error = RuntimeError("it was this")
    error.attachment = Unpicklable()  # type: ignore[attr-defined]
    raise error


# -- the contract ----------------------------------------------------------------------------------


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
    pool = make(1, initializer=wait_for, initargs=(gate,))
    futures = [pool.submit(double, number) for number in range(50)]
    wait_until(futures[0].running)
    thread = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True})
    thread.start()
    wait_until(futures[-1].cancelled)
    gate.touch()
    thread.join()
    assert all(future.done() for future in futures)
    cancelled = [future for future in futures if future.cancelled()]
    assert 30 <= len(cancelled) < 50
    for number, future in enumerate(futures):
        if future.cancelled():
            with pytest.raises(CancelledError):
                future.result(0)
        else:
            assert future.result(0) == 2 * number


def test_a_waiting_call_can_be_cancelled_and_a_running_one_not(make, gate) -> None:
    pool = make(1, initializer=wait_for, initargs=(gate,))
    futures = [pool.submit(double, number) for number in range(50)]
    wait_until(futures[0].running)
    assert not futures[0].cancel()
    assert futures[-1].cancel()
    assert futures[-1].cancelled()
    gate.touch()
    assert [future.result(SECONDS) for future in futures[:-1]] == list(range(0, 98, 2))


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


# -- what is its own -------------------------------------------------------------------------------


def test_a_killed_worker_fails_its_call_alone(ours, gate) -> None:
    held = ours.submit(wait_for, gate)
    died = ours.submit(kill_self, signal.SIGKILL)
    others = [ours.submit(double, number) for number in range(20)]
    error = died.exception(SECONDS)
    assert type(error) is WorkerDied
    assert error.exitcode == -signal.SIGKILL
    assert f"worker process {error.pid} was killed by SIGKILL" in str(error)
    assert [future.result(SECONDS) for future in others] == list(range(0, 40, 2))
    gate.touch()
    assert held.result(SECONDS) != error.pid
    assert ours.submit(leave, 7).exception(SECONDS).exitcode == 7
    assert ours.submit(double, 3).result(SECONDS) == 6


def test_a_callback_may_submit_the_call_again(quick) -> None:
    done = threading.Event()
    again: list[Any] = []

    def submit_again(future: Future[Any]) -> None:
        again.append((type(future.exception()), quick.submit(double, 21)))
        done.set()

    quick.submit(kill_self, signal.SIGKILL).add_done_callback(submit_again)
    assert done.wait(SECONDS)
    assert again[0][0] is WorkerDied
    assert again[0][1].result(SECONDS) == 42


def nest() -> int:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as inner:
        return inner.submit(double, 4).result(SECONDS)


def test_a_worker_may_have_a_pool_of_its_own(quick) -> None:
    assert [quick.submit(nest).result(SECONDS) for _ in range(3)] == [8] * 3


def test_a_dead_worker_tells_how_it_died() -> None:
    copy: Any = pickle.loads(pickle.dumps(WorkerDied(12, -11)))
    assert isinstance(copy, BrokenProcessPool)
    assert isinstance(copy, shmkit.ShmkitError)
    assert (type(copy), copy.args, vars(copy)) == (
        WorkerDied,
        copy.args,
        {"pid": 12, "exitcode": -11},
    )
    assert "was killed by SIGSEGV" in str(copy)
    assert "exited with status 3" in str(WorkerDied(1, 3))
    assert "killed by signal 99" in str(WorkerDied(1, -99))
    assert shmkit.errors.WorkerDied is shmkit.WorkerDied is WorkerDied


def test_idle_workers_that_are_killed_are_replaced(quick) -> None:
    quick.submit(double, 1).result(SECONDS)
    before = dict(quick._processes)
    for process in before.values():
        process.kill()
    wait_until(lambda: len(quick._processes) == 2 and not set(before) & set(quick._processes))
    assert quick.submit(double, 2).result(SECONDS) == 4


def test_what_does_not_unpickle_fails_its_call_alone(quick) -> None:
    error = quick.submit(echo, Broken()).exception(SECONDS)
    assert type(error) is LookupError
    assert "did not unpickle in worker process" in str(error.__cause__)
    for size in 1, 100_000:  # in the pickle, and beside it
        error = quick.submit(make_broken, size).exception(SECONDS)
        assert type(error) is pickle.UnpicklingError
        assert "LookupError: not here" in str(error)
    error = quick.submit(fail, TwoArguments(1, 2)).exception(SECONDS)
    assert "did not unpickle" in str(error.__cause__)
    assert quick.submit(double, 2).result(SECONDS) == 4


def raise_two_arguments() -> None:
    raise TwoArguments(1, 2)


def test_exceptions_that_do_not_travel_are_told_of(quick) -> None:
    error = quick.submit(raise_two_arguments).exception(SECONDS)
    assert type(error) is pickle.UnpicklingError
    assert "what the call raised does not unpickle here (TypeError" in str(error)
    assert "TwoArguments: 1 and 2" in str(error.__cause__)
    error = quick.submit(raise_unpicklable).exception(SECONDS)
    assert type(error) is pickle.PicklingError
    assert "RuntimeError: it was this" in str(error.__cause__)


@pytest.mark.parametrize("size", [10, 20_000, 3 << 20, 40 << 20])
def test_arrays_of_any_size_come_and_go(quick, size) -> None:
    array = np.arange(size, dtype=np.uint8)
    (back,), _ = quick.submit(echo, array).result(SECONDS)
    assert np.array_equal(back, array)
    assert back.flags.writeable
    assert back.flags.owndata
    block = array.tobytes()
    assert quick.submit(echo, block).result(SECONDS)[0] == (block,)


def test_more_large_calls_than_the_ring_holds(quick) -> None:
    array = np.ones(9 << 20, np.uint8)
    futures = [quick.submit(np.sum, array) for _ in range(12)]
    assert [int(future.result(SECONDS)) for future in futures] == [9 << 20] * 12


def test_any_number_of_threads_submit(quick) -> None:
    results: list[list[int]] = []

    def run() -> None:
        futures = [quick.submit(double, number) for number in range(200)]
        results.append([future.result(SECONDS) for future in futures])

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(0, 400, 2))] * 4


def test_a_pool_that_is_dropped_ends_by_itself(context) -> None:
    pool: Any = ProcessPoolExecutor(2, context)
    future = pool.submit(double, 2)
    processes, thread = list(pool._processes.values()), pool._executor_manager_thread
    del pool
    assert future.result(SECONDS) == 4
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert not any(process.is_alive() for process in processes)


def test_a_fork_of_the_owner_is_refused(quick) -> None:
    quick.submit(double, 1).result(SECONDS)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            quick.submit(double, 1)
        except RuntimeError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reading, 1000).decode()
    os.close(reading)
    os.close(writing)
    assert told.startswith(f"this executor belongs to process {os.getpid()}")


EXIT = """
import multiprocessing, os, time
import shmkit

def say(number):
    time.sleep(0.02)
    os.write(1, b"%d\\n" % number)  # a print may be two writes, and another's line between them

if __name__ == "__main__":
    pool = shmkit.ProcessPoolExecutor(2, multiprocessing.get_context(args[0]))
    futures = [pool.submit(say, number) for number in range(20)]
    if args[1] == "no wait":
        pool.shutdown(wait=False)
    elif args[1] == "raise":
        raise SystemExit("the end")
"""


@pytest.mark.parametrize("how", ["fall off", "no wait", "raise"])
def test_the_interpreter_ends_with_calls_pending(start_method, how) -> None:
    result = run_python(EXIT, start_method, how, check=False, timeout=50)
    assert sorted(map(int, result.stdout.split())) == list(range(20))
    assert result.exitcode == (how == "raise")
    assert result.stderr == ("the end\n" if how == "raise" else "")


OWNER = """
import multiprocessing, os, time
import shmkit

if __name__ == "__main__":
    pool = shmkit.ProcessPoolExecutor(2, multiprocessing.get_context(args[0]))
    link.send([pool.submit(os.getpid).result() for _ in range(8)])
    link.recv()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
def test_workers_of_a_killed_owner_end(start_child, start_method) -> None:
    child = start_child(OWNER, start_method)
    pids = set(child.receive())
    child.kill()

    def is_gone(pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_until(lambda: all(map(is_gone, pids)))
