"""ProcessPoolExecutor: workers that are replaced, or cannot be started; the end of their owner."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shmkit import ProcessPoolExecutor, WorkerDied
from tests.processes import in_child, run_python, wait_until
from tests.work.functions import (
    SECONDS,
    Unpicklable,
    double,
    kill_self,
    prepare,
    state,
    wait_for,
)

pytestmark = [
    pytest.mark.usefixtures("forkserver"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


class Scarce:
    """A context in which only so many processes can be started."""

    def __init__(self, method: str, left: float) -> None:
        self._context = multiprocessing.get_context(method)
        self.get_start_method = self._context.get_start_method
        self.left = left
        self.refused = 0

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - as in a context
        process = self._context.Process(*args, **kwargs)  # type: ignore[attr-defined]
        if self.left <= 0:
            process.start = self._refuse
        self.left -= 1
        return process

    def _refuse(self) -> None:
        self.refused += 1
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.fixture(params=["fork", "spawn"])
def scarce(request: pytest.FixtureRequest) -> Any:
    """A context that may run out of processes."""
    return Scarce(request.param, 1)


def test_idle_workers_that_are_killed_are_replaced(quick) -> None:
    quick.submit(double, 1).result(SECONDS)
    before = dict(quick._processes)
    for process in before.values():
        process.kill()
    wait_until(lambda: len(quick._processes) == 2 and not set(before) & set(quick._processes))
    assert quick.submit(double, 2).result(SECONDS) == 4


def test_a_worker_that_was_replaced_ends_like_all_others(quick, tmp_path) -> None:
    """It is forked by a thread of the executor, and has to end by itself: with its own threads."""
    quick.submit(double, 1).result(SECONDS)
    before = dict(quick._processes)
    for process in before.values():
        process.kill()
    wait_until(lambda: len(quick._processes) == 2 and not set(before) & set(quick._processes))
    replaced = list(quick._processes.values())
    said = tmp_path / "said"
    quick.submit(write_later, said).result(SECONDS)
    quick.shutdown()
    assert [process.exitcode for process in replaced] == [0, 0]
    assert said.read_text() == "late words"


BESIDE_THREADS = """
import logging, multiprocessing, os, signal, sys, threading, time
import shmkit

def report():
    logging.info("from a worker")
    return os.getpid()

def work(how):
    while True:
        if how == "rings":
            shmkit.Ring.create().close()
        else:
            logging.info("from a thread")

if __name__ == "__main__":
    how, when, path = args
    logging.basicConfig(filename=path, level=logging.INFO)
    threads = [threading.Thread(target=work, args=(how,), daemon=True) for _ in range(2)]
    if when == "before":
        [thread.start() for thread in threads]
    pool = shmkit.ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
    pool.submit(report).result(10)
    if when == "after":
        [thread.start() for thread in threads]
    for _ in range(ROUNDS):
        pids = list(pool._processes)
        os.kill(pids[0], signal.SIGKILL)
        while pids[0] in pool._processes or len(pool._processes) < 2:
            time.sleep(0.002)
        futures = [pool.submit(report) for _ in range(4)]
        assert all(future.result(10) for future in futures)
    pool.shutdown()
    sys.stdout.write("all\\n")
    sys.stdout.flush()
    os._exit(0)
""".replace("ROUNDS", "200" if os.environ.get("SHMKIT_KILLMATRIX") == "whole" else "8")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["rings", "logs"])
def test_workers_are_replaced_beside_busy_threads(how, when, tmp_path) -> None:
    """A fork beside a thread that writes to a file leaves the child with a lock of that file."""
    result = run_python(BESIDE_THREADS, how, when, tmp_path / "log", timeout=100)
    assert result.stdout == "all\n"


def is_replaced(pool: Any, before: dict[int, Any]) -> bool:
    return len(pool._processes) == 2 and pool._processes != before


def kill_template(pool: Any) -> None:
    template = pool._pool._supervisor._template._process
    template.kill()
    template.join()


def test_a_pool_goes_on_without_its_template(quick) -> None:
    quick.submit(double, 1).result(SECONDS)
    for by_template in True, False:
        before = dict(quick._processes)
        quick.submit(kill_self, signal.SIGKILL)
        if not by_template:
            kill_template(quick)
        wait_until(partial(is_replaced, quick, before))
        assert [quick.submit(double, n).result(SECONDS) for n in range(9)] == [*range(0, 18, 2)]


def test_a_worker_of_a_dead_template_is_seen_to_end(quick) -> None:
    quick.submit(double, 1).result(SECONDS)
    before = dict(quick._processes)
    for process in before.values():
        process.kill()
    wait_until(lambda: len(quick._processes) == 2 and not set(before) & set(quick._processes))
    kill_template(quick)
    error = quick.submit(kill_self, signal.SIGKILL).exception(SECONDS)
    assert type(error) is WorkerDied
    assert quick.submit(double, 2).result(SECONDS) == 4


def test_what_does_not_pickle_is_there_in_a_replaced_worker(tmp_path) -> None:
    lock = threading.Lock()
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context, lambda: prepare(repr(lock))) as pool:
        for _ in range(2):
            assert pool.submit(state).result(SECONDS) == repr(lock)
            pool.submit(kill_self, signal.SIGKILL).exception(SECONDS)


def test_a_worker_gets_ctrl_c_and_its_template_does_not(quick) -> None:
    quick.submit(kill_self, signal.SIGKILL).exception(SECONDS)
    quick.submit(kill_self, signal.SIGKILL).exception(SECONDS)
    os.kill(quick._pool._supervisor._template._process.pid, signal.SIGINT)
    error = quick.submit(kill_self, signal.SIGINT).exception(SECONDS)
    assert type(error) is KeyboardInterrupt
    assert quick._pool._supervisor._template.is_alive


def write_later(path: Path) -> None:
    """Leave a thread behind, which Python waits for."""
    threading.Thread(target=lambda: (time.sleep(0.2), path.write_text("late words"))).start()


def test_a_worker_is_known_whatever_interrupts_its_start() -> None:
    context = multiprocessing.get_context("fork")
    interrupts = [KeyboardInterrupt()]

    class Interrupted:
        get_start_method = context.get_start_method

        @staticmethod
        def Process(*args: Any, **kwargs: Any) -> Any:  # noqa: N802 - as in a context
            process = context.Process(*args, **kwargs)
            start = process.start

            def interrupted() -> None:
                start()
                if interrupts:
                    raise interrupts.pop()

            process.start = interrupted
            return process

    interrupted: Any = Interrupted()
    with ProcessPoolExecutor(2, interrupted) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.submit(double, 1)
        assert pool.submit(double, 2).result(SECONDS) == 4
        alive = {process.pid for process in multiprocessing.active_children()}
        # And the process from which others would be forked.
        assert len(alive - set(pool._processes or ())) == 1
        assert len(pool._processes or ()) == 2


def submit_here(number: int) -> int:
    return inherited.submit(double, number).result(SECONDS)


def test_a_worker_that_inherited_the_executor_is_told(quick) -> None:
    global inherited
    inherited = quick
    error = quick.submit(submit_here, 1).exception(SECONDS)
    assert type(error) is RuntimeError
    assert str(error).startswith(f"this executor belongs to process {os.getpid()}")


inherited: ProcessPoolExecutor


def test_a_callback_that_raises_what_is_no_exception_ends_nothing(quick, gate, caplog) -> None:
    def leave(future: Any) -> None:
        raise SystemExit(future.result())

    futures = [quick.submit(wait_for, gate), *(quick.submit(double, n) for n in range(20))]
    for future in futures:
        future.add_done_callback(leave) if not future.done() else None
    gate.touch()
    assert [future.result(SECONDS) for future in futures[1:]] == list(range(0, 40, 2))
    assert quick.submit(double, 7).result(SECONDS) == 14
    wait_until(lambda: "a callback raised" in caplog.text)


def test_fewer_workers_than_asked_for_do(scarce, gate) -> None:
    pool: Any
    with ProcessPoolExecutor(3, scarce) as pool:
        futures = [pool.submit(double, number) for number in range(10)]
        assert [future.result(SECONDS) for future in futures] == list(range(0, 20, 2))
        assert len(pool._processes) == 1
        assert scarce.refused
        scarce.left = 2
        held = [pool.submit(wait_for, gate) for _ in range(3)]
        wait_until(lambda: len(pool._processes) == 3)  # they are started as soon as they can be
        gate.touch()
        assert set(pool._processes) >= {future.result(SECONDS) for future in held}


def test_no_worker_at_all_is_told_and_tried_again(scarce) -> None:
    scarce.left = 0
    with ProcessPoolExecutor(2, scarce) as pool:
        for _ in range(2):
            with pytest.raises(BrokenProcessPool, match="no worker process can be started"):
                pool.submit(double, 1)
        scarce.left = 10
        assert pool.submit(double, 1).result(SECONDS) == 2


def test_a_last_worker_that_can_not_be_replaced_breaks_the_pool(scarce) -> None:
    with ProcessPoolExecutor(1, scarce) as pool:
        died = pool.submit(kill_self, signal.SIGKILL)
        later = [pool.submit(double, number) for number in range(20)]
        assert type(died.exception(SECONDS)) is WorkerDied
        for future in later:
            error = future.exception(SECONDS)
            assert type(error) is BrokenProcessPool
            assert "no worker process can be started" in str(error)
        with pytest.raises(BrokenProcessPool, match="no worker process can be started"):
            pool.submit(double, 1)


def test_a_worker_that_leaves_and_can_not_be_replaced_breaks_the_pool() -> None:
    scarce: Any = Scarce("spawn", 1)
    with ProcessPoolExecutor(1, scarce, max_tasks_per_child=2) as pool:
        futures = [pool.submit(double, number) for number in range(4)]
        assert [future.result(SECONDS) for future in futures[:2]] == [0, 2]
        for future in futures[2:]:
            assert "no worker process can be started" in str(future.exception(SECONDS))


def test_an_initializer_that_does_not_pickle_raises_in_submit() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=prepare, initargs=(Unpicklable(),)) as pool:
        for _ in range(2):
            with pytest.raises(pickle.PicklingError, match="not this one"):
                pool.submit(double, 1)


def start_badly(folder: Path, bad: range) -> None:
    """An initializer that is killed in the workers of these numbers."""
    for number in itertools.count():
        try:
            os.close(os.open(folder / str(number), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        if number in bad:
            os.kill(os.getpid(), signal.SIGKILL)
        return


def test_while_a_worker_is_there_others_may_fail_to_start(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    bad = range(1, 8)  # more than would end a pool without any
    pool: Any
    with ProcessPoolExecutor(2, context, start_badly, (tmp_path, bad)) as pool:
        assert pool.submit(double, 1).result(SECONDS) == 2
        held = [pool.submit(wait_for, tmp_path / str(number)) for number in (bad.stop, bad.stop)]
        pids = {future.result(SECONDS) for future in held}
        assert pids <= set(pool._processes)
    assert len(list(tmp_path.iterdir())) == bad.stop + 1


def test_workers_that_all_fail_to_start_break_the_pool(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, context, start_badly, (tmp_path, range(1000))) as pool:
        error = pool.submit(double, 1).exception(SECONDS)
    assert type(error) is BrokenProcessPool
    assert "ended with exit code -9 before it was ready" in str(error)
    assert 6 <= len(list(tmp_path.iterdir())) <= 8  # three times each


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
    # As one of its threads may have it at any moment.
    with quick._pool.lock, pytest.raises(RuntimeError) as caught:
        in_child(lambda: quick.submit(double, 1))
    assert str(caught.value).startswith(f"this executor belongs to process {os.getpid()}")


def test_what_was_made_before_a_fork_and_not_used_is_the_childs_too(quick) -> None:
    def act() -> object:
        with quick:
            return quick.submit(double, 2).result(SECONDS)

    assert in_child(act) == 4
    assert quick.submit(double, 3).result(SECONDS) == 6


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


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
def test_workers_of_a_killed_owner_end(start_child, start_method) -> None:
    child = start_child(OWNER, start_method)
    pids = set(child.receive())
    child.kill()
    wait_until(lambda: all(map(is_gone, pids)))


def leave_before_a_call(folder: Path) -> None:
    """An owner whose first call does not pickle; its workers tell who they are."""
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(4, context, tell, (folder,))
    assert pool.submit(lambda: 1).exception(SECONDS)
    wait_until(lambda: len(list(folder.iterdir())) == 4)
    os.kill(os.getpid(), signal.SIGKILL)


def tell(folder: Path) -> None:
    (folder / str(os.getpid())).touch()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
def test_workers_of_an_owner_that_never_put_a_call_end(tmp_path) -> None:
    result = run_python(leave_before_a_call, tmp_path, check=False)
    assert result.exitcode == -signal.SIGKILL
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 4
    wait_until(lambda: all(map(is_gone, pids)))


def leave_calls(folder: Path, method: str) -> None:
    """An owner that is killed while workers run calls, and more are in the ring."""
    pool = ProcessPoolExecutor(2, multiprocessing.get_context(method))
    for number in range(40):
        pool.submit(begin, folder, number)
    wait_until(lambda: len(list(folder.iterdir())) == 2)
    os.kill(os.getpid(), signal.SIGKILL)


def begin(folder: Path, number: int) -> None:
    (folder / f"{number} {os.getpid()}").touch()
    wait_until((folder / "go").exists)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
def test_after_the_owner_was_killed_no_call_begins(tmp_path, start_method) -> None:
    result = run_python(leave_calls, tmp_path, start_method, check=False)
    assert result.exitcode == -signal.SIGKILL
    begun = sorted(path.name for path in tmp_path.iterdir())
    assert len(begun) == 2
    (tmp_path / "go").touch()
    pids = [int(name.split()[1]) for name in begun]
    wait_until(lambda: all(map(is_gone, pids)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [*begun, "go"]
