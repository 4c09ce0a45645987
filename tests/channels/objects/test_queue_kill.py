"""Processes killed at each step of a queue: nothing lost, nothing twice without need, no leak."""

from __future__ import annotations

import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmkit import CorruptSegment, Empty, Full, JoinableQueue, Queue
from shmkit.channels.objects.object_ring import ENCODED, OVERFLOW
from shmkit.segment.words import HEAD
from shmkit.tools.testing import run_until
from tests.processes import TIMEOUT

COUNT_STEPS = ["count.position", "count.number", "count.switch"]
FAST_STEPS = ["put.tail@WriteCursor.put", "get.head@ReadCursor.get"]
SHM = Path("/dev/shm")


def stored(queue: Queue[Any]) -> list[tuple[int, int]]:
    """The runs of data behind the queue's own: each one is an object, or garbage."""
    return list(queue._ring._overflow._own.runs())


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


@pytest.mark.parametrize("step", ["overflow.take", "overflow.write", "object.write", "put.tail"])
def test_an_object_beside_that_was_not_sent_leaves_nothing(
    make_queue: Callable[..., Any], step: str
) -> None:
    queue = make_queue(capacity=4096)
    queue.put("before")
    with run_until(step, put, queue, LARGE, method="fork") as victim:
        assert victim.reached
    assert len(stored(queue)) == (step in ("object.write", "put.tail"))
    queue._ring.sweep()
    assert stored(queue) == []
    assert queue.qsize() == 1
    queue.put("after")
    assert queue.get(timeout=TIMEOUT) == "before"
    assert queue.get(timeout=TIMEOUT) == "after"


def test_what_a_killed_sender_left_is_written_over(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(capacity=4096)
    run_until("object.write", put, queue, LARGE, method="fork").close()
    left = stored(queue)
    assert len(left) == 1
    queue.put(LARGE + 1)
    assert stored(queue) == left
    assert (queue.get(timeout=TIMEOUT) == LARGE + 1).all()


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
    """It was in /dev/shm for good, under a name of its own."""
    queue = Queue(capacity=4096, where=unique_name)
    queue.put(LARGE)
    blocks = (SHM / unique_name).stat().st_blocks
    assert blocks * 512 > LARGE.nbytes
    queue.close()
    queue.unlink()
    assert not (SHM / unique_name).exists()


@pytest.mark.parametrize("step", ["overflow.copy", "object.release", "overflow.remove"])
def test_a_killed_batch_is_all_there_or_all_taken(
    make_queue: Callable[..., Any], step: str
) -> None:
    queue = make_queue(capacity=4096)
    assert queue.put_many([LARGE, LARGE + 1, "small"]) == 3
    with run_until(step, lambda: queue.get_many(timeout=TIMEOUT), method="fork") as victim:
        assert victim.reached
    if step == "overflow.remove":
        assert queue.qsize() == 0
        assert queue._ring.sweep() == 2
    else:
        one, two, three = queue.get_many(timeout=TIMEOUT)
        assert (one == LARGE).all()
        assert (two == LARGE + 1).all()
        assert three == "small"
    assert stored(queue) == []


def test_a_killed_batch_of_a_queue_that_counts_takes_some(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(JoinableQueue, 9)
    queue.put_many(range(6))
    with run_until(
        "object.release", lambda: queue.get_many(timeout=TIMEOUT), nth=4, method="fork"
    ) as victim:
        assert victim.reached
    assert queue.qsize() == 3
    assert queue.get_many(timeout=TIMEOUT) == [3, 4, 5]
    assert queue.unfinished_tasks == 6


def test_a_killed_put_many_has_put_a_beginning(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(capacity=4096)
    with run_until("object.write", lambda: queue.put_many(["a", LARGE]), method="fork") as victim:
        assert victim.reached
    assert queue.get_many(timeout=TIMEOUT) == ["a"]
    queue._ring.sweep()
    assert stored(queue) == []


# ------------------------------------------------------------------ objects that were tampered with


def fd_of(queue: Queue[Any]) -> int:
    return queue._ring._segment.membership.presence.descriptor


def cut_off(queue: Queue[Any]) -> None:
    os.truncate(fd_of(queue), stored(queue)[0][0] + 1000)


def write_over(queue: Queue[Any]) -> None:
    """As if another file had been restored in its place."""
    ((start, end),) = stored(queue)
    os.pwrite(fd_of(queue), bytes(end - start), start)


def make_hole(queue: Queue[Any]) -> None:
    ((start, _),) = stored(queue)
    os.truncate(fd_of(queue), start)
    os.truncate(fd_of(queue), start + (1 << 20))


def say_it_is_huge(queue: Queue[Any]) -> None:
    """No memory for it, at each try: it was in the way of what is behind it."""
    write_label(queue, size=1 << 60)


def say_it_is_elsewhere(queue: Queue[Any]) -> None:
    write_label(queue, start=1 << 50)


def say_it_is_in_the_ring(queue: Queue[Any]) -> None:
    write_label(queue, start=0)


def write_label(queue: Queue[Any], **fields: Any) -> None:
    ring = queue._ring
    (label,) = ring._labels()
    packed = label._replace(**fields).pack()
    at = ring._words[HEAD]
    start = ring._writer.payload_at(at)
    size = ring._reader.payload_of(at)[1]
    ring._map[start : start + len(packed)] = packed
    with memoryview(ring._map) as whole, whole[start : start + size] as view:
        ring._writer.seal(at, view, OVERFLOW)


@pytest.mark.parametrize(
    "tamper",
    [cut_off, write_over, make_hole, say_it_is_huge, say_it_is_elsewhere, say_it_is_in_the_ring],
)
def test_an_object_beside_that_is_not_what_it_was_is_an_error_once(
    make_queue: Callable[..., Any], tamper: Callable[[Queue[Any]], None]
) -> None:
    queue = make_queue(capacity=4096)
    queue.put(LARGE)
    queue.put("next")
    tamper(queue)
    with pytest.raises(CorruptSegment):
        queue.get(timeout=TIMEOUT)
    assert queue.get(timeout=TIMEOUT) == "next"
    assert queue.qsize() == 0
    queue._ring.sweep()
    assert stored(queue) == []
    queue.put(LARGE)
    assert (queue.get(timeout=TIMEOUT) == LARGE).all()


@pytest.mark.parametrize("word", [0, 1, 2])
def test_a_frame_with_a_huge_size_in_it_is_an_error_once(
    make_queue: Callable[..., Any], word: int
) -> None:
    queue = make_queue(capacity=1 << 20)
    queue.put([bytearray(300_000), np.arange(5000)])
    queue.put("next")
    ring = queue._ring
    at = ring._words[HEAD]
    start, size = ring._reader.payload_of(at)
    with memoryview(ring._map) as whole, whole[start : start + size] as view:
        if word < 2:  # of the table, of the pickle
            view[8 * word : 8 * word + 8] = struct.pack("<Q", (1 << 62) - 1 >> 32 * (1 - word))
        else:  # of a buffer, in the table
            table = bytes(view[16:200])
            found = table.index(struct.pack("<I", 300_000))
            view[16 + found : 20 + found] = struct.pack("<i", (1 << 31) - 1)
        ring._writer.seal(at, view, ENCODED)
    with pytest.raises(CorruptSegment, match="it is out of it"):
        queue.get(timeout=TIMEOUT)
    assert queue.get(timeout=TIMEOUT) == "next"
