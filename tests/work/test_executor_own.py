"""What only shmkit's ProcessPoolExecutor does: one call lost per dead worker; large arguments."""

from __future__ import annotations

import pickle
import signal
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import pytest

import shmkit
from shmkit import WorkerDied
from tests.work.functions import (
    SECONDS,
    Broken,
    TwoArguments,
    double,
    echo,
    fail,
    kill_self,
    leave,
    make_broken,
    nest,
    raise_two_arguments,
    raise_unpicklable,
    wait_for,
)

pytestmark = [
    pytest.mark.usefixtures("forkserver"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


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
