"""ProcessPoolExecutor: calls that are cancelled, workers that are stopped, and a Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmkit import ProcessPoolExecutor, WorkerDied
from tests.processes import wait_until
from tests.work.functions import SECONDS, double, echo, wait_for

pytestmark = [
    pytest.mark.usefixtures("forkserver"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


@pytest.fixture
def one() -> Iterator[Any]:
    """A pool with one forked worker."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        yield executor


def record(path: Path, number: int, *_: Any) -> int:
    with path.open("a") as log:
        log.write(f"{number}\n")
    return number


def recorded(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


@pytest.mark.parametrize("size", [0, 300_000, 40 << 20], ids=["small", "encoded", "overflow"])
def test_a_call_in_the_ring_is_cancelled(one, gate, tmp_path, size) -> None:
    log = tmp_path / "log"
    log.touch()
    held = one.submit(wait_for, gate)
    wait_until(held.running)
    load = np.zeros(size, np.uint8)
    one.submit(record, log, 0)
    futures = [one.submit(record, log, number, load) for number in (1, 2)]
    one.submit(record, log, 3)
    assert not any(future.running() or future.done() for future in futures)
    assert [future.cancel() for future in futures] == [True, True]
    assert [future.cancel() for future in futures] == [True, True]
    assert all(future.cancelled() for future in futures)
    assert set(as_completed(futures, SECONDS)) == set(futures)
    gate.touch()
    last = one.submit(record, log, 4)
    assert last.result(SECONDS) == 4
    assert recorded(log) == [0, 3, 4]


def test_the_room_of_cancelled_calls_is_free_again(one, gate) -> None:
    """Although no worker takes anything meanwhile."""
    held = one.submit(wait_for, gate)
    wait_until(held.running)
    load = np.zeros(12 << 20, np.uint8)  # the ring takes two of these
    for _ in range(8):
        futures = [one.submit(echo, load) for _ in range(2)]
        assert all(future.cancel() for future in futures)
    gate.touch()
    assert one.submit(double, 4).result(SECONDS) == 8


def test_a_call_that_a_worker_has_is_not_cancelled(one, gate) -> None:
    held = one.submit(wait_for, gate)
    wait_until(held.running)
    assert not held.cancel()
    assert held.running()
    gate.touch()
    assert held.result(SECONDS)
    assert not held.cancel()
    assert not held.running()


def test_threads_cancel_while_workers_take(quick, tmp_path) -> None:
    """A call is cancelled, or it runs: not both, and not neither."""
    log = tmp_path / "log"
    log.touch()
    count = 3000
    futures = [quick.submit(record, log, number) for number in range(count)]

    def cancel(start: int) -> None:
        for future in futures[start::4]:
            future.cancel()

    threads = [threading.Thread(target=cancel, args=(start,)) for start in (0, 0, 2, 3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    ran = []
    for number, future in enumerate(futures):
        try:
            ran.append(future.result(SECONDS))
            assert ran[-1] == number
        except CancelledError:
            pass
    quick.shutdown()
    assert sorted(recorded(log)) == ran
    assert len(ran) < count


def test_shutdown_cancels_whatever_no_worker_has(one, gate) -> None:
    held = one.submit(wait_for, gate)
    futures = [one.submit(double, number) for number in range(50)]
    wait_until(held.running)
    thread = one._executor_manager_thread
    one.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: all(future.cancelled() for future in futures))
    assert not held.done()
    gate.touch()
    assert held.result(SECONDS)
    thread.join(SECONDS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_ctrl_c_in_the_with_does_not_run_what_waits(gate, error) -> None:
    with (
        pytest.raises(error),
        ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool,
    ):
        held = pool.submit(wait_for, gate)
        futures = [pool.submit(double, number) for number in range(50)]
        wait_until(held.running)
        futures[-1].add_done_callback(lambda _: gate.touch())
        raise error
    assert held.result(0)
    assert all(future.cancelled() for future in futures)


def test_another_error_in_the_with_runs_what_waits(one) -> None:
    with pytest.raises(LookupError), one:
        futures = [one.submit(double, number) for number in range(50)]
        raise LookupError
    assert [future.result(0) for future in futures] == list(range(0, 100, 2))


@pytest.mark.parametrize("how", ["kill_workers", "terminate_workers"])
def test_workers_are_stopped(ours, gate, how) -> None:
    held = [ours.submit(wait_for, gate) for _ in range(2)]
    wait_until(lambda: all(future.running() for future in held))
    futures = [ours.submit(double, number) for number in range(50)]
    processes = list(ours._processes.values())
    thread = ours._executor_manager_thread
    getattr(ours, how)()
    for future in held:
        error = future.exception(SECONDS)
        assert isinstance(error, BrokenProcessPool)
        assert type(error) is WorkerDied
        number = signal.SIGKILL if how == "kill_workers" else signal.SIGTERM
        assert error.exitcode == -number
    wait_until(lambda: all(future.cancelled() for future in futures))
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert not any(process.is_alive() for process in processes)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        ours.submit(double, 1)
    getattr(ours, how)()


@pytest.mark.parametrize("how", ["kill_workers", "terminate_workers"])
def test_a_pool_without_workers_is_stopped(how) -> None:
    pool = ProcessPoolExecutor(1)
    getattr(pool, how)()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(double, 1)


def test_workers_are_stopped_while_they_take_calls() -> None:
    for _ in range(5):
        pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
        futures = [pool.submit(double, number) for number in range(2000)]
        futures[20].result(SECONDS)
        thread: Any = pool._executor_manager_thread
        pool.kill_workers()
        thread.join(SECONDS)
        assert not thread.is_alive()
        for number, future in enumerate(futures):
            assert future.done()
            if not future.cancelled():
                error = future.exception()
                assert type(error) is WorkerDied or future.result() == 2 * number


def test_map_reads_only_so_far_ahead(quick) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(30):
            read.append(number)
            yield number

    results = quick.map(double, numbers(), buffersize=4)
    assert len(read) == 4
    assert [next(results), next(results)] == [0, 2]
    assert len(read) == 6
    assert list(results) == list(range(4, 60, 2))
    assert len(read) == 30
    chunked = quick.map(double, range(30), chunksize=4, buffersize=2)
    assert list(chunked) == list(range(0, 60, 2))


def test_a_map_that_is_left_runs_no_more(one, gate, tmp_path) -> None:
    log = tmp_path / "log"
    log.touch()
    results: Any = one.map(record, [log] * 50, range(50))
    assert next(results) == 0
    one.submit(wait_for, gate)
    results.close()
    gate.touch()
    one.shutdown()
    assert len(recorded(log)) < 50


def test_a_signal_handler_that_submits_is_told(one) -> None:
    """While its own thread submits: it would wait for that, for ever."""
    one.submit(double, 1).result(SECONDS)
    told: list[str] = []

    def handle(*_: Any) -> None:
        for call in (lambda: one.submit(double, 1), one.shutdown, future.cancel):
            with pytest.raises(RuntimeError, match="a call inside another one") as caught:
                call()
            told.append(str(caught.value))

    future = one.submit(double, 1)
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with one._pool.lock:
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: told)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(told) == 3
    assert one.submit(double, 2).result(SECONDS) == 4
