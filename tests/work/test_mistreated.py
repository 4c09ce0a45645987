"""ProcessPoolExecutor, mistreated: wrong arguments, hostile calls, forks beside busy threads.

A short form of each runs always; `SHMKIT_KILLMATRIX=whole` runs many more rounds.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmkit import ProcessPoolExecutor
from tests.processes import run_python
from tests.work.functions import SECONDS, Broken, Unpicklable, double, echo, kill_self, leave

pytestmark = [
    pytest.mark.usefixtures("forkserver"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
WHOLE = os.environ.get("SHMKIT_KILLMATRIX") == "whole"

Pool: Any = ProcessPoolExecutor

WRONG: list[tuple[Callable[[Any], object], type[Exception], list[str]]] = [
    (lambda _: Pool(0), ValueError, ["max_workers", "greater than 0", "not 0", "None"]),
    (lambda _: Pool(-3), ValueError, ["max_workers", "not -3", "None"]),
    (lambda _: Pool("x"), TypeError, ["max_workers", "integer", "'x'", "None"]),
    (lambda _: Pool(1.5), TypeError, ["max_workers", "integer", "1.5", "None"]),
    (lambda _: Pool(1, "spawn"), TypeError, ["mp_context", "'spawn'", "get_context"]),
    (lambda _: Pool(1, 3), TypeError, ["mp_context", "not 3", "get_context"]),
    (lambda _: Pool(1, None, 3), TypeError, ["initializer", "callable", "not 3", "initargs"]),
    (lambda _: Pool(1, None, print, 3), TypeError, ["initargs", "tuple", "not 3", "(3,)"]),
    (lambda _: Pool(1, max_tasks_per_child="x"), TypeError, ["max_tasks_per_child", "'x'", "None"]),
    (lambda _: Pool(1, max_tasks_per_child=0), ValueError, [">= 1", "not 0", "None"]),
    (
        lambda _: Pool(1, multiprocessing.get_context("fork"), max_tasks_per_child=1),
        ValueError,
        ["max_tasks_per_child", "'fork'", "mp_context"],
    ),
    (lambda pool: pool.submit(3), TypeError, ["fn", "callable", "not 3", "submit(fn"]),
    (lambda pool: pool.submit(), TypeError, ["fn"]),
    (lambda pool: pool.map(3, [1]), TypeError, ["fn", "callable", "not 3", "map(fn"]),
    (lambda pool: pool.map(double, 3), TypeError, ["int", "itera"]),
    (lambda pool: pool.map(double, [1], timeout="x"), TypeError, ["timeout", "'x'", "None"]),
    (lambda pool: pool.map(double, [1], timeout=float("nan")), ValueError, ["timeout", "nan"]),
    (lambda pool: pool.map(double, [1], chunksize=0), ValueError, ["chunksize", ">= 1", "not 0"]),
    (lambda pool: pool.map(double, [1], chunksize="x"), TypeError, ["chunksize", "'x'"]),
    (lambda pool: pool.map(double, [1], buffersize=0), ValueError, ["buffersize", "not 0"]),
    (lambda pool: pool.map(double, [1], buffersize=1.5), TypeError, ["buffersize", "1.5"]),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_wrong_use_says_what_is_wrong_and_what_is_right(quick, number) -> None:
    act, kind, words = WRONG[number]
    with pytest.raises(kind) as caught:
        act(quick)
    for word in words:
        assert word in str(caught.value)


def test_a_timeout_of_map_that_has_passed(quick) -> None:
    for timeout in 0, -1:
        with pytest.raises(TimeoutError):
            list(quick.map(time.sleep, [0.5], timeout=timeout))


def close_everything() -> None:
    os.closerange(3, 200)


def stop_for_a_moment() -> None:
    pid = os.getpid()
    if not os.fork():  # a grandchild wakes it
        time.sleep(0.05)
        os.kill(pid, signal.SIGCONT)
        os._exit(0)
    os.kill(pid, signal.SIGSTOP)
    os.wait()


def exit_in_a_thread() -> None:
    threading.Thread(target=os._exit, args=(3,)).start()
    time.sleep(5)


def recurse() -> None:
    recurse()


HOSTILE: list[tuple[Any, ...]] = [
    (kill_self, signal.SIGKILL),
    (kill_self, signal.SIGSEGV),
    (kill_self, signal.SIGINT),
    (leave, 0),
    (sys.exit, 3),
    (close_everything,),
    (stop_for_a_moment,),
    (exit_in_a_thread,),
    (recurse,),
    (os.chdir, "/nowhere"),
    (echo, Unpicklable()),
    (echo, Broken()),
    (np.zeros, 3 << 20),
]


def test_hostile_calls_beside_others() -> None:
    """Every call ends, whatever the others do; and the pool goes on."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    for _ in range(54 if WHOLE else 2):
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            expected: list[tuple[Any, int]] = []
            for number in range(60):
                if chance.random() < 0.2:
                    pool.submit(*chance.choice(HOSTILE))
                expected.append((pool.submit(double, number), 2 * number))
                if chance.random() < 0.05:
                    for pid in list(pool._processes or ())[:1]:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGSTOP)
                            os.kill(pid, signal.SIGCONT)
            for future, value in expected:
                assert future.result(SECONDS) == value, f"seed {seed}"


def test_pools_that_are_left_in_any_state() -> None:
    """Shut down, dropped or stopped while calls run and wait: no future stays open."""
    chance = random.Random()
    for round_ in range(100 if WHOLE else 6):
        pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
        futures = [pool.submit(double, number) for number in range(chance.randrange(200))]
        thread: Any = pool._executor_manager_thread
        [future.cancel() for future in futures[::3]]
        match round_ % 5:
            case 0:
                pool.kill_workers()
            case 1:
                pool.terminate_workers()
            case 2:
                pool.shutdown(wait=False, cancel_futures=True)
            case 3:
                pool.shutdown(wait=False)
            case 4:
                del pool
        if thread is not None:
            thread.join(SECONDS)
            assert not thread.is_alive()
        for number, future in enumerate(futures):
            assert future.done()
            with suppress(CancelledError, BrokenExecutor):
                assert future.result(0) == 2 * number


FORKS = """
import os, signal, threading, time
import shmkit
from concurrent.futures import wait

def rings():
    while True:
        shmkit.Ring.create().close()

def locks():
    lock = shmkit.Lock()
    while True:
        with lock:
            pass

def calls():
    while True:
        pool.submit(abs, -1).result()

def main():
    global pool
    import multiprocessing
    pool = shmkit.ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
    pool.submit(abs, -1).result()
    for target in (rings, locks, calls):
        threading.Thread(target=target, daemon=True).start()
    for _ in range(args[0]):
        child = os.fork()
        if not child:
            signal.alarm(20)
            with shmkit.Ring.create() as ring:
                ring.put(b"x")
                assert ring.get() == b"x"
            with shmkit.Lock():
                pass
            try:
                pool.submit(abs, -1)
            except RuntimeError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.write(1, b"all\\n")
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    main()
"""


def test_forks_beside_busy_threads() -> None:
    rounds = 3603 if WHOLE else 40
    result = run_python(FORKS, rounds, check=False, timeout=60 + rounds)
    assert (result.stdout, result.exitcode) == ("all\n", -signal.SIGKILL), result.stderr


def become_nobody() -> None:
    os.setgid(65534)
    os.setuid(65534)


def owner_of_sum(array: Any) -> tuple[int, int]:
    return os.getuid(), int(array.sum())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its privileges")
def test_a_worker_that_dropped_its_privileges_loses_nothing(context) -> None:
    with ProcessPoolExecutor(1, context, become_nobody) as pool:
        ones = np.ones(40 << 20, np.uint8)
        assert pool.submit(owner_of_sum, ones).result(SECONDS) == (65534, 40 << 20)
        assert pool.submit(np.ones, 5 << 20).result(SECONDS).sum() == 5 << 20
        assert pool.submit(owner_of_sum, ones[: 1 << 20]).result(SECONDS) == (65534, 1 << 20)


def large_calls(method: str) -> None:
    with ProcessPoolExecutor(4, multiprocessing.get_context(method)) as pool:
        ones = np.ones(10 << 20)
        assert pool.submit(np.sum, ones).result(SECONDS) == 10 << 20
        assert pool.submit(np.ones, 10 << 20).result(SECONDS).nbytes == 80 << 20
        futures = [pool.submit(np.ones, 5 << 20) for _ in range(4)]
        assert [future.result(SECONDS).nbytes for future in futures] == [40 << 20] * 4


def in_a_small_dev_shm(method: str) -> None:
    """In a mount namespace of its own, with docker's /dev/shm of 64 MB."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    private, namespace = 1 << 18 | 1 << 14, 0x20000  # MS_PRIVATE | MS_REC, CLONE_NEWNS
    if (
        libc.unshare(namespace)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(b"shm", b"/dev/shm", b"tmpfs", 0, b"size=64m")
    ):
        print("not allowed")
        return
    large_calls(method)
    print([path.name for path in Path("/dev/shm").iterdir()])


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_small_dev_shm_is_no_reason_to_lose_a_call_or_a_result(method) -> None:
    output = run_python(in_a_small_dev_shm, method, timeout=100).stdout
    if output == "not allowed\n":
        pytest.skip("this user may not mount anything")
    assert output == "[]\n"
