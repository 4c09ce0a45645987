"""Processes killed at each step of a queue: nothing lost, nothing twice without need, no leak."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmkit import CorruptSegment, Empty, Full, JoinableQueue, Queue
from shmkit.tools.testing import run_until
from tests.processes import TIMEOUT, wait_until

COUNT_STEPS = ["count.position", "count.number", "count.switch"]
FAST_STEPS = ["put.tail@WriteCursor.put", "get.head@ReadCursor.get"]
SHM = Path("/dev/shm")


def stored(queue: Queue[Any]) -> list[str]:
    return queue._ring._overflow.names()


@pytest.fixture(params=["anon", "shm", "file"])
def make_queue(
    request: pytest.FixtureRequest, make_where: Callable[[str], Any]
) -> Iterator[Callable[..., Any]]:
    made: list[Queue[Any]] = []

    def make(kind: Any = Queue, *args: Any, **options: Any) -> Any:
        made.append(kind(*args, where=make_where(request.param), **options))
        return made[-1]

    yield make
    for queue in made:
        queue.unlink()
        queue.close()


def put(queue: Queue[Any], obj: Any, times: int = 1, done: Any = None) -> None:
    for _ in range(times):
        queue.put(obj, timeout=TIMEOUT)
        if done is not None:
            done[0] += 1


def get(queue: Queue[Any], times: int = 1, done: Any = None) -> None:
    for _ in range(times):
        queue.get(timeout=TIMEOUT)
        if done is not None:
            done[0] += 1


# ------------------------------------------------------------------ counting


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("step", [*COUNT_STEPS, FAST_STEPS[0]])
def test_a_put_killed_while_counting_is_counted_right(
    make_queue: Callable[..., Any], step: str, nth: int
) -> None:
    queue = make_queue(Queue, 5)
    queue.put("first")
    done = mmap(-1, 1)
    with run_until(step, put, queue, "victim's", 4, done, nth=nth, method="fork") as victim:
        # Frames with a checksum have no fast path.
        assert victim.reached or (queue.url.scheme == "file" and step in FAST_STEPS)
    inside = 1 + done[0]
    assert queue.qsize() == inside
    for number in range(5 - inside):
        queue.put(number, timeout=TIMEOUT)
    assert queue.full()
    with pytest.raises(Full):
        queue.put(0, timeout=0)
    for left in (4, 3, 2, 1, 0):
        queue.get(timeout=TIMEOUT)
        assert queue.qsize() == left
    with pytest.raises(Empty):
        queue.get_nowait()


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("step", [*COUNT_STEPS, FAST_STEPS[1]])
def test_a_get_killed_while_counting_is_counted_right(
    make_queue: Callable[..., Any], step: str, nth: int
) -> None:
    queue = make_queue(Queue, 5)
    for number in range(5):
        queue.put(number)
    done = mmap(-1, 1)
    with run_until(step, get, queue, 4, done, nth=nth, method="fork") as victim:
        # Frames with a checksum have no fast path.
        assert victim.reached or (queue.url.scheme == "file" and step in FAST_STEPS)
    left = 5 - done[0]
    assert queue.qsize() == left
    assert [queue.get(timeout=TIMEOUT) for _ in range(left)] == list(range(5 - left, 5))
    for number in range(5):
        queue.put(number, timeout=TIMEOUT)
    assert queue.full()
    assert queue.qsize() == 5


@pytest.mark.parametrize("step", ["task.done", "task.news"])
def test_a_task_done_that_was_killed_is_done_or_not(
    make_queue: Callable[..., Any], step: str
) -> None:
    queue = make_queue(JoinableQueue)
    queue.put(1)
    queue.get()
    joiner = threading.Thread(target=queue.join)
    joiner.start()
    with run_until(step, queue.task_done, method="fork") as victim:
        assert victim.reached
    if step == "task.done":
        assert queue.unfinished_tasks == 1
        queue.task_done()
    assert queue.unfinished_tasks == 0
    joiner.join(TIMEOUT)
    assert not joiner.is_alive()


# ------------------------------------------------------------------ objects beside the ring

LARGE = np.arange(100_000)


@pytest.mark.parametrize(
    "step",
    ["overflow.create", "overflow.lock", "overflow.write", "overflow.forget", "object.write"],
)
def test_an_object_beside_that_was_not_sent_leaves_no_name(
    make_queue: Callable[..., Any], step: str
) -> None:
    queue = make_queue(capacity=4096)
    queue.put("before")
    with run_until(step, put, queue, LARGE, method="fork") as victim:
        anonymous = queue.url.scheme == "anon"
        assert victim.reached != (step == "overflow.forget" and anonymous)
    if victim.reached:
        assert len(stored(queue)) == (step != "overflow.create")
        queue._ring.sweep()
        assert stored(queue) == []
        assert queue.qsize() == 1
    queue.put("after")
    assert queue.get(timeout=TIMEOUT) == "before"


def put_and_die(queue: Queue[Any]) -> None:
    queue.put(LARGE)
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_object_beside_that_was_sent_survives_its_sender(
    make_queue: Callable[..., Any], fork: Callable[..., Any]
) -> None:
    queue = make_queue(capacity=4096)
    fork(lambda _: put_and_die(queue)).process.join(TIMEOUT)
    assert queue.qsize() == 1
    assert queue._ring.sweep() == 0
    assert (queue.get(timeout=TIMEOUT) == LARGE).all()
    assert stored(queue) == []


@pytest.mark.parametrize("step", ["overflow.copy", "object.release"])
def test_an_object_beside_that_was_not_taken_is_there_for_the_next(
    make_queue: Callable[..., Any], step: str
) -> None:
    queue = make_queue(capacity=4096)
    queue.put(LARGE)
    with run_until(step, get, queue, method="fork") as victim:
        assert victim.reached
    assert queue.qsize() == 1
    assert (queue.get(timeout=TIMEOUT) == LARGE).all()
    assert stored(queue) == []


def test_an_object_beside_that_was_taken_and_not_removed_is_swept(
    make_queue: Callable[..., Any],
) -> None:
    queue = make_queue(capacity=4096)
    queue.put(LARGE)
    queue.put(LARGE + 1)
    with run_until("overflow.remove", get, queue, method="fork") as victim:
        assert victim.reached
    assert queue.qsize() == 1
    assert len(stored(queue)) == 2
    assert queue._ring.sweep() == 1
    assert (queue.get(timeout=TIMEOUT) == LARGE + 1).all()
    assert stored(queue) == []


def test_an_object_beside_being_sent_is_not_swept(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(capacity=4096)
    with run_until("object.write", put, queue, LARGE, signal=signal.SIGSTOP, method="fork") as it:
        assert it.reached
        assert queue._ring.sweep() == 0
        assert len(stored(queue)) == 1
    queue._ring.sweep()
    assert stored(queue) == []


def test_a_sweep_before_an_object_beside_is_locked_loses_nothing(
    make_queue: Callable[..., Any],
) -> None:
    queue = make_queue(capacity=4096)
    with run_until("overflow.lock", put, queue, LARGE, signal=signal.SIGSTOP, method="fork") as it:
        assert it.reached
        assert queue._ring.sweep() == 1
        os.kill(it.pid, signal.SIGCONT)
        assert (queue.get(timeout=TIMEOUT) == LARGE).all()
        wait_until(lambda: it.exitcode == 0, TIMEOUT)
    assert stored(queue) == []


def test_large_objects_killed_half_way_in_the_ring(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(capacity=1 << 20)
    for step in ("object.write", "object.header", "put.tail"):
        run_until(step, put, queue, LARGE, method="fork").close()
        assert queue.qsize() == 0
    queue.put(LARGE)
    for step in ("object.copy", "object.release"):
        run_until(step, get, queue, method="fork").close()
        assert queue.qsize() == 1
    assert (queue.get(timeout=TIMEOUT) == LARGE).all()


def test_the_last_one_out_takes_unread_overflow_along(unique_name: Any) -> None:
    for where in (None, unique_name):
        queue = Queue(capacity=4096, where=where)
        ring = queue._ring._overflow
        queue.put(LARGE)
        assert len(ring.names()) == 1
        queue.unlink()
        queue.close()
        assert ring.names() == []


def test_an_object_beside_may_be_brought_back_from_a_copy(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(capacity=4096)
    queue.put(LARGE)
    path = path_of(queue)
    content = path.read_bytes()
    path.with_name(path.name + "-other").write_bytes(content)
    path.with_name(path.name + "-other").rename(path)
    assert (queue.get(timeout=TIMEOUT) == LARGE).all()
    assert stored(queue) == []


# ------------------------------------------------------------------ objects that were tampered with


def path_of(queue: Queue[Any]) -> Path:
    (name,) = stored(queue)
    return (Path(queue.url.name).parent if queue.url.scheme == "file" else SHM) / name


def remove(path: Path) -> None:
    path.unlink()


def cut_off(path: Path) -> None:
    os.truncate(path, 1000)


def replace(path: Path) -> None:
    size = path.stat().st_size
    path.unlink()
    path.write_bytes(bytes(size))  # takes the inode that came free, perhaps


def give_away(path: Path) -> None:
    os.chown(path, 1234, -1)


@pytest.mark.parametrize(
    ("tamper", "error"),
    [
        (remove, FileNotFoundError),
        (cut_off, CorruptSegment),
        (replace, CorruptSegment),
        pytest.param(
            give_away,
            PermissionError,
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away"),
        ),
    ],
)
def test_an_object_beside_that_is_not_what_it_was_is_an_error_once(
    make_queue: Callable[..., Any], tamper: Callable[[Path], None], error: type[Exception]
) -> None:
    queue = make_queue(capacity=4096)
    queue.put(LARGE)
    queue.put("next")
    tamper(path_of(queue))
    with pytest.raises(error):
        queue.get(timeout=TIMEOUT)
    assert queue.get(timeout=TIMEOUT) == "next"
    assert queue.qsize() == 0
    queue._ring.sweep()
    assert stored(queue) == []
