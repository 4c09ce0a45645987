"""Processes killed at each step of a queue: nothing lost, nothing twice without need, no leak."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmkit import CorruptSegment, Empty, Full, JoinableQueue, Queue
from shmkit.channels.objects.orphans import PREFIX, leftovers
from shmkit.tools.testing import run_until
from tests.processes import TIMEOUT, wait_until

COUNT_STEPS = ["count.position", "count.number", "count.turn"]
FAST_STEPS = ["put.tail@Producing._put_shared", "get.head@Consuming._get_shared"]
SHM = Path("/dev/shm")


def parcels(queue: Queue[Any]) -> list[str]:
    return queue._ring._parcels.names()


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


# ------------------------------------------------------------------ parcels

LARGE = np.arange(100_000)


@pytest.mark.parametrize(
    "step", ["parcel.create", "parcel.lock", "parcel.write", "parcel.forget", "object.write"]
)
def test_a_parcel_that_was_not_sent_leaves_no_name(
    make_queue: Callable[..., Any], step: str
) -> None:
    queue = make_queue(capacity=4096)
    queue.put("before")
    with run_until(step, put, queue, LARGE, method="fork") as victim:
        anonymous = queue.url.scheme == "anon"
        assert victim.reached != (step == "parcel.forget" and anonymous)
    if victim.reached:
        assert len(parcels(queue)) == (step != "parcel.create")
        queue._ring.sweep()
        assert parcels(queue) == []
        assert queue.qsize() == 1
    queue.put("after")
    assert queue.get(timeout=TIMEOUT) == "before"


def put_and_die(queue: Queue[Any]) -> None:
    queue.put(LARGE)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_parcel_that_was_sent_survives_its_sender(
    make_queue: Callable[..., Any], fork: Callable[..., Any]
) -> None:
    queue = make_queue(capacity=4096)
    fork(lambda _: put_and_die(queue)).process.join(TIMEOUT)
    assert queue.qsize() == 1
    assert queue._ring.sweep() == 0
    assert (queue.get(timeout=TIMEOUT) == LARGE).all()
    assert parcels(queue) == []


@pytest.mark.parametrize("step", ["parcel.copy", "object.release"])
def test_a_parcel_that_was_not_taken_is_there_for_the_next(
    make_queue: Callable[..., Any], step: str
) -> None:
    queue = make_queue(capacity=4096)
    queue.put(LARGE)
    with run_until(step, get, queue, method="fork") as victim:
        assert victim.reached
    assert queue.qsize() == 1
    assert (queue.get(timeout=TIMEOUT) == LARGE).all()
    assert parcels(queue) == []


def test_a_parcel_that_was_taken_and_not_removed_is_swept(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(capacity=4096)
    queue.put(LARGE)
    queue.put(LARGE + 1)
    with run_until("parcel.remove", get, queue, method="fork") as victim:
        assert victim.reached
    assert queue.qsize() == 1
    assert len(parcels(queue)) == 2
    assert queue._ring.sweep() == 1
    assert (queue.get(timeout=TIMEOUT) == LARGE + 1).all()
    assert parcels(queue) == []


def test_a_parcel_being_sent_is_not_swept(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(capacity=4096)
    with run_until("object.write", put, queue, LARGE, signal=signal.SIGSTOP, method="fork") as it:
        assert it.reached
        assert queue._ring.sweep() == 0
        assert len(parcels(queue)) == 1
    queue._ring.sweep()
    assert parcels(queue) == []


def test_a_sweep_before_a_parcel_is_locked_loses_nothing(
    make_queue: Callable[..., Any],
) -> None:
    queue = make_queue(capacity=4096)
    with run_until("parcel.lock", put, queue, LARGE, signal=signal.SIGSTOP, method="fork") as it:
        assert it.reached
        assert queue._ring.sweep() == 1
        os.kill(it.pid, signal.SIGCONT)
        assert (queue.get(timeout=TIMEOUT) == LARGE).all()
        wait_until(lambda: it.exitcode == 0, TIMEOUT)
    assert parcels(queue) == []


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


def test_the_last_one_out_takes_unread_parcels_along(unique_name: Any) -> None:
    for where in (None, unique_name):
        queue = Queue(capacity=4096, where=where)
        ring = queue._ring._parcels
        queue.put(LARGE)
        assert len(ring.names()) == 1
        queue.unlink()
        queue.close()
        assert ring.names() == []


def test_what_nobody_can_receive_any_more_is_found(unique_name: Any) -> None:
    queue = Queue(capacity=4096, where=unique_name)
    with run_until("parcel.write", put, queue, LARGE, method="fork") as victim:
        assert victim.reached
    (name,) = parcels(queue)
    assert name in leftovers()  # half-written: nobody's already
    with run_until("object.write", put, queue, LARGE, method="fork") as victim:
        assert victim.reached
    assert name not in parcels(queue), "who sends removes what others left"
    (name,) = parcels(queue)
    assert name not in leftovers()
    (SHM / unique_name).unlink()
    queue._ring._parcels.tidy = lambda: None
    queue.unlink()
    queue.close()
    assert name in leftovers()
    (SHM / name).unlink()


NO_RINGS = [
    b"",
    b"\xff",
    b"7",
    b"{}",
    b"[1, 2, 3]",
    b'["no url", 1, 2]',
    b'["shm:", 1, 2]',
    b'["shm:x"]',
    b'["shm:x", 1, 2, 3]',
    b'["shm:x", "a", null]',
    b'["shm:x", 1, 1e400]',
    b'["shm:x", -1, 18446744073709551616]',
    b"[" * 10_000,
    pickle.dumps(("shm:x", (1, 2))),
]


@pytest.mark.parametrize("ring", NO_RINGS)
def test_a_parcel_of_no_ring_is_left_over(tmp_path: Path, ring: bytes) -> None:
    path = SHM / f"{PREFIX}-test-{tmp_path.parent.name}-{tmp_path.name}"
    try:
        for length in (len(ring), 0, 1 << 63):
            path.write_bytes(ring + length.to_bytes(8, "little") + b"SHMKIT\x02\0")
            assert path.name in leftovers()
        path.write_bytes(ring)
        assert path.name in leftovers()
    finally:
        path.unlink()


def test_a_parcel_may_be_brought_back_from_a_copy(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(capacity=4096)
    queue.put(LARGE)
    path = path_of(queue)
    content = path.read_bytes()
    path.with_name(path.name + "-other").write_bytes(content)
    path.with_name(path.name + "-other").rename(path)
    assert (queue.get(timeout=TIMEOUT) == LARGE).all()
    assert parcels(queue) == []


# ------------------------------------------------------------------ parcels that were tampered with


def path_of(queue: Queue[Any]) -> Path:
    (name,) = parcels(queue)
    return SHM / name  # an absolute path, beside a file, stays what it is


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
def test_a_parcel_that_is_not_what_it_was_is_an_error_once(
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
    assert parcels(queue) == []
