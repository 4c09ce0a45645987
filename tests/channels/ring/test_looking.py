"""Calls that only look at a ring, or come late to its lock, while other handles move it on."""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from shmkit import Broadcast, ClosedError, Latest, Queue, Ring, ShmkitError
from shmkit.channels.objects.codec import Encoded
from shmkit.segment.words import HEAD, READY, SKIP, STATE, TAIL
from tests.processes import TIMEOUT, wait_until


class Words:
    """The words of a segment; something happens just before one of them is read."""

    def __init__(self, words: Any, index: int, act: Callable[[], None]) -> None:
        self._words, self._index, self._act = words, index, [act]

    def __getitem__(self, index: int) -> int:
        if index == self._index and self._act:
            self._act.pop()()
        return int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = value


def move_to(ring: Ring, position: int) -> None:
    """Have head and tail near a position of the first lap, with frames of before there."""
    while ring._words[TAIL] + 80 <= position:
        ring.put(b"o" * 64)
        ring.get()


LOOKS: list[Callable[[Ring], object]] = [Ring.qsize, Ring.full, Ring.statistics]


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_while_laps_end_breaks_nothing(look: Callable[[Ring], object]) -> None:
    with Ring.create(capacity=8192, producers="many", consumers="many") as ring:
        move_to(ring, 3000)
        with pickle.loads(pickle.dumps(ring)) as other:
            ring.put(b"a" * 6000)
            words = ring._words
            assert words[SKIP] == words[HEAD], "it begins at the next lap"

            def go_on() -> None:
                for _ in range(2):
                    other.get()
                    other.put(b"b" * 6000)

            ring._words = Words(words, SKIP, go_on)  # type: ignore[assignment]
            try:
                look(ring)
            finally:
                ring._words = words
            assert words[STATE] == READY
            assert other.get() == b"b" * 6000


class Late:
    """A mutex that a thread named "late" only asks for when it may."""

    def __init__(self, mutex: Any) -> None:
        self.mutex = mutex
        self.asks, self.may = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mutex, name)

    def acquire(self, *args: Any) -> Any:
        if threading.current_thread().name == "late":
            self.asks.set()
            assert self.may.wait(TIMEOUT)
        return self.mutex.acquire(*args)


@contextlib.contextmanager
def late(call: Callable[[], object], mutex: Late) -> Iterator[list[object]]:
    """Inside, another thread is in the common case of a call, and has not yet the lock."""
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(call()), name="late")
    thread.start()
    assert mutex.asks.wait(TIMEOUT)
    try:
        yield answers
    finally:
        mutex.may.set()
        thread.join(TIMEOUT)


def test_a_get_behind_one_that_failed_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    queue: Queue[Any] = Queue(capacity=4000)
    ring = queue._ring
    move_to(ring, 6700)
    other: Queue[Any] = pickle.loads(pickle.dumps(queue))
    queue.put(np.arange(750.0))  # does not fit before the end of the lap
    assert ring._words[SKIP] == ring._words[HEAD]
    mutex = ring._reader.mutex = Late(ring._reader.mutex)

    def fail(_: object) -> None:
        raise MemoryError

    with late(lambda: queue.get(timeout=TIMEOUT), mutex) as answers:
        monkeypatch.setattr("shmkit.channels.objects.object_ring.decode", fail)
        with pytest.raises(MemoryError):
            other.get()
        monkeypatch.undo()
    assert np.array_equal(answers[0], np.arange(750.0))  # type: ignore[arg-type]
    assert queue.empty()
    other.close()
    queue.close()


def test_a_put_behind_one_that_failed_overwrites_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queue: Queue[Any] = Queue(capacity=4000)
    ring = queue._ring
    move_to(ring, 5800)
    other: Queue[Any] = pickle.loads(pickle.dumps(queue))
    mutex = ring._writer.mutex = Late(ring._writer.mutex)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    put = [b"c" * 1000 for _ in range(5)]
    with late(lambda: queue.put(b"l" * 4000), mutex) as answers:
        monkeypatch.setattr(Encoded, "write", fail)
        with pytest.raises(KeyboardInterrupt):
            other.put(np.ones(800))  # passes the end of the lap
        monkeypatch.undo()
        for content in put:
            other.put(content)
        sleeps = ring._space_bell.sleeps
        mutex.may.set()
        wait_until(lambda: answers or ring._space_bell.sleeps > sleeps)
        assert [other.get(timeout=TIMEOUT) for _ in put] == put
    assert answers == [None]
    assert other.get(timeout=TIMEOUT) == b"l" * 4000
    assert other.empty()
    other.close()
    queue.close()


@pytest.mark.parametrize("kind", ["ring", "latest", "broadcast"])
def test_looking_while_another_thread_closes(kind: str) -> None:
    """A ClosedError, and nothing that a closed descriptor or lost words say."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    ends = list[type[Exception]]()
    try:
        for _ in range(25):
            made: Any
            if kind == "ring":
                made = Ring.create(capacity=4096)
            else:
                made = Latest.create() if kind == "latest" else Broadcast.create(capacity=4096)

            def look(made: Any = made) -> None:
                try:
                    while True:
                        made.statistics()
                except (ShmkitError, OSError, IndexError, RuntimeError) as error:
                    ends.append(type(error))

            thread = threading.Thread(target=look)
            thread.start()
            made.close()
            thread.join(TIMEOUT)
    finally:
        sys.setswitchinterval(interval)
    assert ends == [ClosedError] * 25
