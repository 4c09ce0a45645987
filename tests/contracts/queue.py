"""What a Queue promises wherever its memory is: cases, each run on every kind of memory.

A case takes a function that makes a queue of the class and memory under test.
"""

from __future__ import annotations

import gc
import queue as standard
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shmkit import ClosedError, Empty, Full, Queue, ShutDown
from tests.processes import TIMEOUT, wait_until

__all__ = ["CASES"]

Make = Callable[..., Queue[Any]]
CASES: dict[str, Callable[[Make], None]] = {}

OBJECTS = [
    None,
    {"small": 1},
    b"x" * 3000,
    np.arange(700),
    b"larger than the ring" * 5000,
    np.arange(30_000),
    ["list"] * 40_000,
]


def case(function: Callable[[Make], None]) -> Callable[[Make], None]:
    CASES[function.__name__] = function
    return function


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(np.all(one == other))


@case
def objects_come_out_as_they_went_in(make: Make) -> None:
    queue = make(capacity=4096)
    for obj in OBJECTS * 2:
        queue.put(obj)
        assert queue.qsize() == 1
        assert same(queue.get(), obj)
    assert queue.empty()


@case
def first_in_first_out(make: Make) -> None:
    queue = make(100)
    for lap in range(5):
        for number in range(100):
            queue.put((lap, number))
        assert [queue.get() for _ in range(100)] == [(lap, number) for number in range(100)]


@case
def maxsize_counts_objects(make: Make) -> None:
    queue = make(3)
    assert queue.maxsize == 3
    for lap in range(4):
        for number in range(3):
            assert not queue.full()
            assert queue.qsize() == number
            queue.put(b"x" * 100 * lap)
        assert queue.full()
        assert queue.qsize() == 3
        for refused in (
            lambda: queue.put_nowait(1),
            lambda: queue.put(1, False),
            lambda: queue.put(1, True, 0.01),
            lambda: queue.put(b"x" * 100_000, timeout=0.01),
            lambda: queue.put(1, timeout=-1),
        ):
            with pytest.raises(Full):
                refused()
        assert queue.qsize() == 3
        for number in (2, 1, 0):
            queue.get(timeout=TIMEOUT)
            assert queue.qsize() == number


@case
def an_empty_queue_gives_nothing(make: Make) -> None:
    queue = make()
    for refused in (
        queue.get_nowait,
        lambda: queue.get(False),
        lambda: queue.get(False, 5),
        lambda: queue.get(True, 0.01),
        lambda: queue.get(timeout=-1),
    ):
        with pytest.raises(Empty):
            refused()
    assert queue.empty()
    assert not queue.full()
    assert queue.qsize() == 0


@case
def a_batch_goes_in_and_comes_out(make: Make) -> None:
    queue = make(capacity=1 << 14)
    objs = [*OBJECTS[:5], np.arange(50_000)]
    assert queue.put_many(objs, timeout=TIMEOUT) == len(objs)
    got = queue.get_many(3)
    assert len(got) == 3
    got += queue.get_many(timeout=0)
    assert all(same(one, other) for one, other in zip(got, objs, strict=True))
    with pytest.raises(Empty):
        queue.get_many(timeout=0)
    assert queue.put_many([]) == 0


@case
def a_batch_of_a_full_queue_goes_in_as_far_as_there_is_room(make: Make) -> None:
    queue = make(3)
    assert queue.put_many(range(9), timeout=0) == 3
    assert queue.put_many(range(9), timeout=-1) == 0
    assert queue.get_many(2) == [0, 1]
    assert queue.put_many(range(3, 9), timeout=0.01) == 2
    assert queue.get_many() == [2, 3, 4]
    assert queue.qsize() == 0


@case
def a_batch_that_does_not_pickle_does_not_go_in(make: Make) -> None:
    queue = make()
    with pytest.raises(RuntimeError, match="I do not pickle") as caught:
        queue.put_many([1, Unpicklable(), 2])
    assert "Unpicklable" in caught.value.__notes__[0]
    assert queue.empty()


@case
def what_does_not_unpickle_in_a_batch_leaves_the_others(make: Make) -> None:
    queue = make(9)
    queue.put_many([1, Unloadable(), b"x" * 300_000, 4])
    with pytest.raises(ValueError, match="not a number"):
        queue.get_many()
    queue.put(5)
    assert queue.get() == 1
    assert queue.get_many(2) == [b"x" * 300_000, 4]
    assert queue.get_many() == [5]


@case
def a_queue_is_iterated_until_it_is_shut_down(make: Make) -> None:
    queue = make(9)
    queue.put_many(range(5))
    queue.shutdown()
    assert list(queue) == [0, 1, 2, 3, 4]
    assert list(queue) == []
    with pytest.raises(ShutDown):
        queue.get_many()


@case
def errors_are_the_standard_librarys(make: Make) -> None:
    queue = make(1)
    with pytest.raises(standard.Empty):
        queue.get_nowait()
    queue.put(1)
    with pytest.raises(standard.Full):
        queue.put_nowait(2)
    queue.shutdown()
    with pytest.raises(getattr(standard, "ShutDown", EOFError)):
        queue.put(3)
    queue.close()
    with pytest.raises(ValueError, match="is closed"):
        queue.put(4)


@case
def without_maxsize_room_is_the_limit(make: Make) -> None:
    queue = make(capacity=4096)
    put = 0
    with pytest.raises(Full):
        while True:
            queue.put(b"x" * 500, False)
            put += 1
    assert 8 <= put <= 32
    assert queue.qsize() == put
    queue.get()
    queue.put(b"x" * 500, False)


@case
def a_put_waits_for_room_and_a_get_for_objects(make: Make) -> None:
    queue = make(1)
    queue.put(0)
    got: list[int] = []

    def take() -> None:
        got.extend(queue.get(timeout=TIMEOUT) for _ in range(200))

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(1, 200):
        queue.put(number, timeout=TIMEOUT)
    thread.join(TIMEOUT)
    assert got == list(range(200))


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("I do not pickle")


class Unloadable:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


@case
def what_does_not_pickle_raises_in_put(make: Make) -> None:
    queue = make(2)
    for obj in (Unpicklable(), [b"x" * 100_000, Unpicklable()]):
        with pytest.raises(RuntimeError, match="I do not pickle"):
            queue.put(obj)
        assert queue.empty()
    queue.put(1)
    assert queue.get(timeout=TIMEOUT) == 1


@case
def what_does_not_unpickle_raises_in_get_and_is_gone(make: Make) -> None:
    queue = make(5, capacity=4096)
    for obj in (Unloadable(), [Unloadable(), b"x" * 100_000], [np.zeros(300), Unloadable()]):
        queue.put(obj)
        queue.put("next")
        with pytest.raises(ValueError, match="not a number"):
            queue.get(timeout=TIMEOUT)
        assert queue.get(timeout=TIMEOUT) == "next"
        assert queue.qsize() == 0


@case
def a_shut_queue_is_drained(make: Make) -> None:
    queue = make()
    assert not queue.is_shutdown
    queue.put(1)
    queue.put(b"x" * (9 << 20))
    queue.shutdown()
    assert queue.is_shutdown
    with pytest.raises(ShutDown):
        queue.put(2)
    with pytest.raises(ShutDown):
        queue.put_nowait(2)
    assert queue.get() == 1
    assert len(queue.get()) == 9 << 20
    for _ in range(2):
        with pytest.raises(ShutDown):
            queue.get()
        with pytest.raises(ShutDown):
            queue.get_nowait()


@case
def a_queue_shut_at_once_is_empty(make: Make) -> None:
    queue = make(2, capacity=4096)
    queue.put(1)
    queue.put(b"x" * 100_000)
    queue.shutdown(immediate=True)
    assert queue.empty()
    assert queue.qsize() == 0
    with pytest.raises(ShutDown):
        queue.get()
    with pytest.raises(ShutDown):
        queue.put(2)


@case
def a_shutdown_wakes_who_waits(make: Make) -> None:
    full, empty = make(1), make(1)
    full.put(0)
    full.get()  # so that whoever waits has to know where it stood
    full.put(0)
    heard: list[str] = []

    def hear(name: str, wait: Callable[[], object]) -> None:
        with pytest.raises(ShutDown):
            wait()
        heard.append(name)

    threads = [
        threading.Thread(target=hear, args=("put", lambda: full.put(1))),
        threading.Thread(target=hear, args=("get", empty.get)),
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(queue.statistics().sleeps != (0, 0) for queue in (full, empty)))
    full.shutdown()
    empty.shutdown()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(heard) == ["get", "put"]


@case
def closing_is_for_this_handle(make: Make) -> None:
    queue = make()
    queue.put(1)
    queue.join_thread()
    queue.cancel_join_thread()
    queue.close()
    queue.close()
    assert queue.closed
    assert "closed" in repr(queue)
    for used in (lambda: queue.put(1), queue.get, queue.get_nowait, queue.qsize, queue.empty):
        with pytest.raises(ClosedError):
            used()


@case
def a_dropped_queue_is_closed_without_a_word(make: Make) -> None:
    queue = make()
    queue.put(1)
    del queue
    gc.collect()  # a ResourceWarning would be an error


@case
def threads_share_a_handle(make: Make) -> None:
    queue = make(10)
    got: list[tuple[int, int]] = []

    def put(number: int) -> None:
        for index in range(200):
            queue.put((number, index), timeout=TIMEOUT)

    def get() -> None:
        got.extend(queue.get(timeout=TIMEOUT) for _ in range(200))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(3)]
    threads += [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(got) == [(number, index) for number in range(3) for index in range(200)]
    assert queue.qsize() == 0


@case
def it_says_what_it_is(make: Make) -> None:
    queue = make(3)
    queue.put(1)
    assert repr(queue) == f"<{type(queue).__name__} '{queue.url}', 1 of 3 objects>"
    assert queue.statistics().frames == 1
