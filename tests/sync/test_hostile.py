"""Whatever is written into the page of a lock or an event: an error that says so, or it works.

No hang and no crash. Each case runs in a process of its own, so that a crash is seen as one; what
it was about stands in its last line of output.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmkit import Event, Lock, SharedBuffer, ShmkitError
from tests.processes import run_python
from tests.sync.peers import again

pytestmark = pytest.mark.slow

VALUES = [0, 1, 2, 3, 7, 120, 1 << 31, 1 << 63, (1 << 64) - 1]
PLACES, LINE = 0x800, 128
REGIONS = {
    "head": range(0x00, 0x80, 8),
    "body": [*range(0x80, 0xA0, 8), 0x100, 0x108, 0x180, *range(0x280, 0x2A0, 8), 0x300, 0x380],
    "semaphores": [*range(0x400, 0x420, 8), *range(0x500, 0x520, 8)],
    "first place": range(PLACES, PLACES + LINE, 8),
    "second place": range(PLACES + LINE, PLACES + 2 * LINE, 8),
    "free place": range(PLACES + 3 * LINE, PLACES + 4 * LINE, 8),
}
COUNTERS = (0x28, 0x30)  # of a place at the first lock: ticks, entries
SECOND = 1.0  # of work; a call that hangs is ended with its process


def calls(thing: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each thing that can be done, without waiting long."""
    yield "repr", lambda: repr(thing)
    if isinstance(thing, Lock):
        yield "acquire", lambda: thing.acquire(False)
        yield "release", thing.release
        yield "acquire", lambda: thing.acquire(timeout=0.005)
        yield "held", lambda: thing.held
        yield "acquire", lambda: thing.acquire(timeout=0)
        yield "release", thing.release
    else:
        yield "wait", lambda: thing.wait(0.001)
        yield "set", thing.set
        yield "is_set", thing.is_set
        yield "wait", lambda: thing.wait(0.001)
        yield "clear", thing.clear
        yield "wait", lambda: thing.wait(0)
        yield "set", thing.set
    yield "name", lambda: thing.name
    yield "again", lambda: again(thing).close()
    yield "newcomer", lambda: type(thing)(thing.name).close()


def attempt(call: Callable[[], Any]) -> None:
    """Do it; a wrong kind of exception, or one that takes long, ends the process."""
    began = time.process_time()
    try:
        call()
    except ShmkitError:
        pass
    except RuntimeError as error:
        assert "not hold" in str(error)
    assert time.process_time() - began < SECOND


def poke(kind: Any, name: str, words: list[int]) -> None:
    """Write each value into each word while two handles are open, and use both."""
    for at in words:
        counter = kind is Lock and at >= PLACES and at % LINE in COUNTERS
        for value in VALUES[:-1] if counter else VALUES:
            first, second = kind(name), kind(name)
            with SharedBuffer.attach(name) as buffer:
                before = bytes(buffer[at : at + 8])
                buffer[at : at + 8] = value.to_bytes(8, "little")
                for which, thing in (("first", first), ("second", second)):
                    for what, call in calls(thing):
                        print(f"0x{at:x} = {value:#x}: {what} of the {which}", flush=True)
                        attempt(call)
                print(f"0x{at:x} = {value:#x}: close", flush=True)
                # Else the last one out does not know whose semaphores they are, nor their name.
                if at < 0x80:
                    buffer[at : at + 8] = before
                attempt(first.close)
                attempt(second.close)
                try:
                    buffer.unlink()
                except FileNotFoundError:
                    pass


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("kind", [Lock, Event])
def test_a_word_is_overwritten(kind: Any, region: str, unique_name: str) -> None:
    result = run_python(poke, kind, unique_name, list(REGIONS[region]), timeout=50, check=False)
    last = result.stdout.splitlines()[-1:]
    assert result.exitcode == 0, f"{last}\n{result.stderr}"


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_counter_at_its_last_number(counter: int, unique_name: str) -> None:
    """It goes on from 0: what counts is whether it changes."""
    run_python(acquire_often, unique_name, counter, timeout=20)


def acquire_often(name: str, counter: int) -> None:
    lock, other = Lock(name), Lock(name)
    with SharedBuffer.attach(name) as buffer:
        buffer[PLACES + counter : PLACES + counter + 8] = b"\xff" * 8
    for _ in range(3):
        assert lock.acquire(timeout=20) == 1
        assert other.acquire(timeout=0.06) == 0
        lock.release()
        assert other.acquire(timeout=20) == 1
        assert lock.acquire(timeout=0.06) == 0
        other.release()
    lock.close()
    other.close()


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_an_own_phase_that_cannot_be(used: bool, unique_name: str) -> None:
    """An acquire without a timeout tells, and does not wait for ever."""
    run_python(acquire_with_a_phase, unique_name, used)


def acquire_with_a_phase(name: str, used: bool) -> None:
    def expire(*_: Any) -> None:
        raise TimeoutError

    lock = Lock(name)
    if used:
        lock.acquire()
        lock.release()
    signal.signal(signal.SIGALRM, expire)
    with SharedBuffer.attach(name) as buffer:
        buffer[PLACES + 0x20] = 7
        signal.setitimer(signal.ITIMER_REAL, 3 * SECOND)
        try:
            with pytest.raises(ShmkitError):
                lock.acquire()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            lock.close()
