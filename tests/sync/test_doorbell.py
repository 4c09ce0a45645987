"""Doorbell: a wait for a word to change, that ends for every reason it may, and for no other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from shmkit import SharedBuffer
from shmkit.deadline import Deadline
from shmkit.segment.named_semaphores import NamedSemaphore, remove_name
from shmkit.segment.semaphores import NoSemaphore, Semaphore, semaphore_in
from shmkit.segment.words import READY
from shmkit.sync.doorbell import Doorbell
from tests.processes import wait_until

STATE, FLAG, WORD = 0, 16, 64  # of a buffer of 8-byte words
SEMAPHORE = 1024  # byte of it


class Bell:
    """A doorbell on memory of its own."""

    def __init__(self, buffer: SharedBuffer, semaphore: Semaphore) -> None:
        self.words = buffer.view("Q")
        self.semaphore = semaphore
        self.bell = Doorbell(self.words, FLAG, STATE, {"bell": semaphore}, "bell")
        self.looks = 0

    def look(self) -> None:
        self.looks += 1

    def wait(self, seen: int, timeout: float | None) -> bool:
        return self.bell.wait(WORD, seen, Deadline(timeout), self.look)

    def asleep(self) -> bool:
        return self.words[FLAG] == 1 and self.bell.sleeps > 0


@pytest.fixture(params=["in memory", "by name"])
def bell(where: Any, unique_name: str, request: Any) -> Iterator[Bell]:
    semaphore: Semaphore
    with SharedBuffer.create(where, 4096) as buffer:
        if request.param == "by name":
            semaphore = NamedSemaphore(unique_name, 0)
        else:
            semaphore = semaphore_in(buffer.raw[0], SEMAPHORE)
            semaphore.reset(0)
        bell = Bell(buffer, semaphore)
        bell.words[STATE] = READY
        yield bell
        bell.bell.close()
        bell.words = memoryview(b"").cast("Q")
        del semaphore, bell.semaphore
    remove_name(unique_name)


def test_what_has_changed_is_not_waited_for(bell: Bell) -> None:
    bell.words[WORD] = 7
    assert bell.wait(6, 0)
    assert bell.wait(6, None)
    assert bell.bell.sleeps == bell.looks == 0
    assert bell.words[FLAG] == 0


def test_the_deadline_ends_it_after_a_last_look(bell: Bell) -> None:
    for timeout in (0, 0.001, 0.02):
        looks = bell.looks
        began = time.monotonic()
        assert bell.wait(0, timeout) is False
        assert time.monotonic() - began >= timeout
        assert bell.looks > looks


def test_it_looks_after_every_slice(bell: Bell) -> None:
    """A few times at first, then twice a second: an idle waiter costs next to nothing."""
    assert bell.wait(0, 1.6) is False
    assert 3 <= bell.looks <= 6
    assert 3 <= bell.bell.sleeps <= 5


def test_it_looks_though_every_wait_is_interrupted(bell: Bell) -> None:
    """Before a slice is over, by a signal handler that raises: then the next wait looks."""

    def interrupted(*_: Any) -> bool:
        raise KeyError

    bell.bell.doze = interrupted  # type: ignore[assignment]
    for _ in range(3):
        looks = bell.looks
        with pytest.raises(KeyError):
            bell.wait(0, 20)
        assert bell.looks == looks
        bell.bell._next_look = 0.0
        with pytest.raises(KeyError):
            bell.wait(0, 20)
        assert bell.looks == looks + 1


def test_a_look_may_end_it(bell: Bell) -> None:
    def look() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        bell.bell.wait(WORD, 0, Deadline(None), look)


def test_a_ring_wakes_it(bell: Bell) -> None:
    with ThreadPoolExecutor(1) as threads:
        for value in range(20):
            waiting = threads.submit(bell.wait, value, 10)
            wait_until(bell.asleep)
            bell.words[WORD] = value + 1
            bell.bell.ring()
            assert waiting.result(5) is True
            bell.words[FLAG] = 0
    assert bell.semaphore.value == 0


def test_a_change_is_seen_without_a_ring(bell: Bell) -> None:
    """A ringer may be killed between its store and its ring: that costs a slice, no more."""
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bell.wait, 0, 20)
        wait_until(bell.asleep)
        bell.words[WORD] = 1
        assert waiting.result(2) is True


def test_a_ring_without_a_change_is_harmless(bell: Bell) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bell.wait, 0, 20)
        for _ in range(5):
            wait_until(bell.asleep)
            bell.bell.ring()
        assert not waiting.done()
        bell.words[WORD] = 1
        assert waiting.result(5) is True


def test_tokens_left_over_are_harmless(bell: Bell) -> None:
    for _ in range(20):
        bell.bell.ring_always()
    assert bell.semaphore.value == 20
    assert bell.wait(0, 0.1) is False


class Endless(NoSemaphore):
    """A semaphore whose count was overwritten by a large one."""

    def wait(self, seconds: float) -> bool:
        return True


def test_tokens_without_end_do_not_keep_it_from_looking(bell: Bell) -> None:
    """A peer's death, or a close by another thread, is seen in a look."""
    bell.bell._semaphores = {"bell": Endless()}
    assert not bell.wait(0, 1.1)
    assert 2 <= bell.looks <= 5


@pytest.mark.parametrize("state", [0, 2, 3, 4, 1 << 63])
def test_the_state_ends_it(bell: Bell, state: int) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bell.wait, 0, 20)
        wait_until(bell.asleep)
        bell.words[STATE] = state
        bell.bell.ring_always()
        assert waiting.result(5) is True
    assert bell.wait(0, None) is True  # nor is it begun


def test_nobody_asleep_is_not_rung_for(bell: Bell) -> None:
    bell.bell.ring()
    assert bell.semaphore.value == 0
    bell.words[FLAG] = 1
    bell.bell.ring()
    bell.bell.ring()
    assert bell.semaphore.value == 1
    assert bell.words[FLAG] == 0


def ping_pong(buffer: SharedBuffer, me: int, turns: int) -> None:
    """Each waits for the other's word, and answers."""
    words = buffer.view("Q")
    semaphores = [semaphore_in(buffer.raw[0], SEMAPHORE + 128 * side) for side in range(2)]
    bells = [
        Doorbell(words, FLAG + 16 * side, STATE, {"bell": semaphores[side]}, "bell")
        for side in range(2)
    ]
    own, others = WORD + 16 * me, WORD + 16 * (1 - me)
    try:
        for turn in range(turns):
            if me == 0:
                words[own] = turn + 1
                bells[0].ring()
            if not bells[1 - me].wait(others, turn, Deadline(20), lambda: None):
                raise AssertionError(f"turn {turn} never came")
            if words[others] != turn + 1:
                raise AssertionError(f"{words[others]} came for turn {turn}")
            if me == 1:
                words[own] = turn + 1
                bells[1].ring()
    finally:
        for bell in bells:
            bell.close()
        words.release()


def test_two_processes_wake_each_other(where: Any) -> None:
    """Many times, and nobody is forgotten."""
    with SharedBuffer.create(where, 4096) as buffer:
        buffer.view("Q")[STATE] = READY
        for side in range(2):
            semaphore_in(buffer.raw[0], SEMAPHORE + 128 * side).reset(0)
        process = get_context("fork").Process(target=ping_pong, args=(buffer, 1, 1000))
        process.start()
        try:
            ping_pong(buffer, 0, 1000)
        finally:
            process.join(20)
            process.kill()
            process.join()
            exitcode = process.exitcode
            process.close()
        assert exitcode == 0
