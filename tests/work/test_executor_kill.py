"""Workers that are killed: at every step, and 200 of them at random during 20,000 calls.

Every future gets its result or WorkerDied. A call that had not begun runs again; a call that had
begun does not.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from shmkit import ProcessPoolExecutor, WorkerDied, compiled
from shmkit.segment.words import DATA_BELL
from shmkit.tools.testing.steps import choose
from tests.processes import run_python, wait_until

SECONDS = 30

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is left behind"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

# Where a worker that dies has not begun its call, and where it has; after that, the result is in.
BEFORE = [
    ("get.mark", True),
    ("get.head@ReadCursor.get", True),
    ("get.mark", False),
    ("get.head@ReadCursor.get", False),
    ("call.started", True),
    ("call.started", False),
]
DURING = ["call.result", "put.header", "put.payload", "put.tail"]
AFTER = ["mutex.leaving", "mutex.post", "mutex.idle"]


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    """One forked worker."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        yield executor


def arm(point: str, log: str) -> None:
    """Have this process killed the next time it is about to take a step."""
    write(log)
    compiled.use_python(True)  # which has lines
    lines = choose(point, ("shmkit",))

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        at = lines.get(frame.f_code.co_filename)
        if at is None:
            return trace if frame.f_code.co_name == "_loop" else None
        if event == "line" and frame.f_lineno in at:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    frame: FrameType | None = sys._getframe()
    while frame is not None:
        frame.f_trace = trace
        frame = frame.f_back
    sys.settrace(trace)


def write(log: str) -> None:
    """Note that this ran."""
    with Path(log).open("a") as file:
        file.write(f"{os.getpid()}\n")


@pytest.mark.parametrize(("point", "queued"), BEFORE)
def test_a_call_that_has_not_begun_comes_again(pool, tmp_path, point, queued) -> None:
    """Whether the call is there when the worker looks for one, or comes while it waits."""
    log = tmp_path / "log"
    pool.submit(write, str(log)).result(SECONDS)
    armed = pool.submit(arm, point, str(tmp_path / "armed"))
    if not queued:
        armed.result(SECONDS)
        words = pool._pool._calls._words
        words[DATA_BELL] = 0  # what its last sleep may have left behind
        wait_until(lambda: words[DATA_BELL])  # the worker goes to sleep, and gets carefully
    pool.submit(write, str(log)).result(SECONDS)
    assert armed.result(SECONDS) is None
    first, second = log.read_text().split()
    assert first != second  # another worker ran it, and only that one


@pytest.mark.parametrize("point", DURING)
def test_a_call_that_has_begun_fails_alone(pool, tmp_path, point) -> None:
    died = pool.submit(arm, point, str(tmp_path / "armed"))
    later = pool.submit(os.getpid)
    with pytest.raises(WorkerDied) as caught:
        died.result(SECONDS)
    assert later.result(SECONDS) != caught.value.pid
    assert (tmp_path / "armed").read_text().split() == [str(caught.value.pid)]


@pytest.mark.parametrize("point", AFTER)
def test_a_result_that_is_committed_is_not_lost(pool, tmp_path, point) -> None:
    assert pool.submit(arm, point, str(tmp_path / "armed")).result(SECONDS) is None
    dead = int((tmp_path / "armed").read_text())
    assert pool.submit(os.getpid).result(SECONDS) != dead


STORM = """
import collections, multiprocessing, os, random, time
import shmkit

def call(path, number):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"%d\\n" % number)
    os.close(fd)
    if number % 40 == 0:
        time.sleep(0.001)
    return number

def choose_another(pool, killed):
    # One that was not killed yet; there is one soon.
    end = time.monotonic() + 20
    while time.monotonic() < end:
        workers = [pid for pid in list(pool._processes) if pid not in killed]
        if workers:
            return dice.choice(workers)
        pool.submit(int).exception(20)
    raise TimeoutError(f"no worker but {killed}")

if __name__ == "__main__":
    method, kills, calls, path = args
    dice = random.Random(7)
    died, done, killed = set(), set(), set()
    context = multiprocessing.get_context(method)
    with shmkit.ProcessPoolExecutor(3, context) as pool:
        futures = []
        each = calls // kills
        for round in range(kills):
            futures += [pool.submit(call, path, len(futures) + n) for n in range(each)]
            futures[-dice.randrange(1, each)].exception(20)
            pid = choose_another(pool, killed)
            killed.add(pid)
            os.kill(pid, 9)
        for number, future in enumerate(futures):
            try:
                assert future.result(20) == number
                done.add(number)
            except shmkit.WorkerDied as error:
                assert error.exitcode == -9 and error.pid in killed
                died.add(number)
    with open(path) as file:
        ran = collections.Counter(map(int, file))
    assert set(ran.values()) == {1}, "a call ran twice"
    assert done <= set(ran) <= done | died
    print(len(killed), len(futures), len(done) + len(died), len(done), len(died))
    assert not multiprocessing.active_children()
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("method", "kills", "calls"),
    [("fork", 200, 20_000), ("spawn", 10, 1000), ("forkserver", 10, 1000)],
)
def test_a_storm_of_kills_leaves_no_future_behind(tmp_path, method, kills, calls) -> None:
    log = tmp_path / "log"
    log.touch()
    result = run_python(STORM, method, kills, calls, str(log), timeout=150)
    *counts, done, died = map(int, result.stdout.split())
    assert counts == [kills, calls, calls]
    assert done + died == calls
    assert died <= kills
    assert died or kills < 100
    assert result.stderr == ""
