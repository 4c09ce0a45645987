"""Event: set, clear, wait; by fork, by pickle and by name; and those who are killed at it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shmkit import ClosedError, CorruptSegment, Event, SharedBuffer, core
from tests.processes import run_python, wait_until
from tests.sync.peers import Family, Peer, Telling, again, names_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /dev/shm")
STATE, FLAG = 0x068 // 8, 0x080 // 8


@pytest.fixture
def event(name: str | None) -> Iterator[Event]:
    made = Event(name)
    yield made
    made.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def start_waiting(threads: ThreadPoolExecutor, event: Event, *args: Any) -> Future[Any]:
    """Have a thread wait; it has looked when this returns."""
    looked = threading.Event()
    event._bell = Telling(event._bell, looked.set)  # type: ignore[assignment]
    task = threads.submit(event.wait, *args)
    assert looked.wait(20)
    return task


def wait_and_tell(event: Event, where: str) -> bool:
    """In another process: wait, and say in shared memory when it has looked."""
    with SharedBuffer.attach(where) as buffer:

        def tell() -> None:
            buffer[0] = 1

        event._bell = Telling(event._bell, tell)  # type: ignore[assignment]
        return event.wait(20)


def ask_to_wait(mate: Peer, where: str) -> None:
    """Have another process wait; it has looked when this returns."""
    with SharedBuffer.create(f"shm:{where}", 1) as told:
        mate.ask(wait_and_tell, str(told.url))
        wait_until(lambda: told[0])


# ------------------------------------------------------------------ set, clear, wait


def test_it_is_set_and_cleared(family: Family) -> None:
    event = family.event()
    mate = family.start(event)
    assert event.is_set() is mate.do("is_set") is False
    for _ in range(3):
        for setter, clearer in ((event.set, "clear"), (event.set, "clear")):
            setter()
            setter()
            assert event.is_set() is mate.do("is_set") is True
            assert event.wait() is event.wait(0) is mate.do("wait") is mate.do("wait", 0) is True
            assert mate.do(clearer) is mate.do(clearer) is None
            assert event.is_set() is mate.do("is_set") is False
            assert event.wait(0) is mate.do("wait", timeout=0) is False
        assert mate.do("set") is None
        assert event.wait(20) is True
        event.clear()
        assert mate.do("is_set") is False
    mate.end()
    assert event.is_set() is False


def test_one_waits_for_the_other(family: Family, unique_name: Callable[[], str]) -> None:
    event = family.event()
    mate = family.start(event)
    for _ in range(3):
        ask_to_wait(mate, unique_name())
        assert not mate.answered()
        event.set()
        assert mate.answer() is True
        event.clear()
        mate.ask("set")
        assert event.wait(20) is True
        assert mate.answer() is None
        event.clear()


def test_all_who_wait_are_woken(family: Family, unique_name: Callable[[], str], threads) -> None:
    """By a set that is taken back at once, too."""
    event = family.event()
    other = again(event)
    mates = [family.start(event) for _ in range(3)]
    for setter in (event.set, lambda: mates[0].do("set")):
        # The first of the others sets, for it is not to wait.
        others = mates[1:]
        for mate in others:
            ask_to_wait(mate, unique_name())
        tasks = [start_waiting(threads, handle) for handle in (event, other, event)]
        setter()
        event.clear()
        assert [mate.answer() for mate in others] == [True, True]
        assert [task.result(20) for task in tasks] == [True, True, True]
        assert event.is_set() is False
    other.close()


def test_who_waits_again_takes_nothing_from_the_others(event: Event, threads) -> None:
    """The first to be woken is back at once, and the token goes on to the rest all the same."""
    handles = [again(event) for _ in range(4)]

    def keep_waiting(handle: Event) -> int:
        count = 0
        while not done.is_set():
            assert handle.wait(20)
            count += 1
        return count

    done = threading.Event()
    tasks = [threads.submit(keep_waiting, handle) for handle in handles]
    for _ in range(20):
        event.set()
        event.clear()
    done.set()
    event.set()
    assert all(task.result(20) for task in tasks)
    for handle in handles:
        handle.close()


@pytest.mark.parametrize("back", [False, True], ids=["set", "set and cleared"])
def test_each_wakes_the_next(event: Event, threads, monkeypatch: Any, back: bool) -> None:
    """They are woken: with slices so long nobody just looks up."""
    monkeypatch.setattr(core, "SLICE", 60.0)
    handles = [again(event) for _ in range(4)]
    tasks = [threads.submit(handle.wait, 20) for handle in handles]
    wait_until(lambda: all(handle._bell.sleeps for handle in handles))
    event.set()
    if back:
        event.clear()
    assert [task.result(10) for task in tasks] == 4 * [True]
    for handle in handles:
        handle.close()


def test_a_wait_ends_with_its_time(event: Event) -> None:
    for timeout in (0, 0.001, 0.12):
        assert event.wait(timeout) is False
        assert event.wait(timeout=timeout) is False
    event.set()
    assert event.wait(0.001) is True


def test_a_negative_timeout_is_none(event: Event) -> None:
    for timeout in (-1, -0.001, float("-inf")):
        assert event.wait(timeout) is False
    event.set()
    assert event.wait(-1) is True


def test_what_is_no_timeout_is_refused(event: Event) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="timeout"):
            event.wait(float("nan"))
        with pytest.raises(TypeError, match="timeout"):
            event.wait("1")  # type: ignore[arg-type]
        event.set()


def test_a_parents_and_its_childs_are_one(event: Event) -> None:
    """A forked child that has only inherited it."""
    other = again(event)
    pid = os.fork()
    if pid == 0:
        sound = event.wait(20)
        other.set()
        event.close()
        os._exit(0 if sound else 1)
    event.set()
    assert os.waitpid(pid, 0)[1] == 0
    event.clear()
    assert not other.is_set()
    other.close()


# ------------------------------------------------------------------ those who die


def test_what_a_dead_one_has_set_stays_set(kin: Family) -> None:
    event = kin.event()
    setter = kin.start(event)
    setter.do("set")
    setter.kill()
    assert event.wait(0) is True
    clearer = kin.start(event)
    clearer.do("clear")
    clearer.kill()
    assert event.wait(0) is False


def test_those_who_are_killed_while_they_wait(
    kin: Family, unique_name: Callable[[], str], threads
) -> None:
    """Whether or not the token was theirs: the others are woken."""
    event = kin.event()
    for kill_first in (True, False):
        victims = [kin.start(event) for _ in range(2)]
        mates = [kin.start(event) for _ in range(2)]
        for mate in victims + mates:
            ask_to_wait(mate, unique_name())
        task = start_waiting(threads, event)
        if not kill_first:
            event.set()
        for victim in victims:
            victim.kill()
        event.set()
        assert task.result(20) is True
        assert [mate.answer() for mate in mates] == [True, True]
        event.clear()
        assert event.wait(0) is False


@linux
def test_those_who_are_stopped_while_they_wait(kin: Family, unique_name, threads) -> None:
    event = kin.event()
    sleeper, mate = kin.start(event), kin.start(event)
    for peer in (sleeper, mate):
        ask_to_wait(peer, unique_name())
    sleeper.stop()
    task = start_waiting(threads, event)
    event.set()
    event.clear()
    assert task.result(20) is True
    assert mate.answer() is True
    sleeper.go_on()
    assert sleeper.answer() is True  # it was set while it waited


def kill_at_line(line: int) -> Any:
    """A trace function that kills this process at a line of the library."""
    left = line

    def trace(frame: Any, what: str, _: Any) -> Any:
        nonlocal left
        if f"{os.sep}shmkit{os.sep}" not in frame.f_code.co_filename:
            return None
        if what == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), 9)
        return trace

    return trace


def call_and_die(event: Event, method: str, line: int) -> str:
    """Call it and be killed at a line of it, if it has so many."""
    event.wait(0)  # so it is a participant
    sys.settrace(kill_at_line(line))
    try:
        getattr(event, method)(*([0.2] if method == "wait" else []))
    finally:
        sys.settrace(None)
    return "alive"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["set", "clear", "wait"])
def test_killed_at_every_line(method: str, unique_name: Callable[[], str], threads) -> None:
    """Somebody waits meanwhile; afterwards all is as if the call had been made, or not."""
    family = Family("fork", unique_name)
    event = family.event()
    # A wait has no last line: it looks again and again.
    for line in range(1, 60):
        victim = family.start(event)
        if method == "clear":
            event.set()
        task = start_waiting(threads, event, 20) if method != "clear" else None
        victim.ask(call_and_die, method, line)
        try:
            alive = victim.answer() == "alive"
        except EOFError:
            alive = False
        if method == "wait":
            assert not event.is_set()
            event.set()
        elif event.is_set() != (method == "set"):
            assert not alive  # it did not get that far
            event.set()
        if task is not None:
            assert task.result(20) is True
        event.clear()
        assert event.wait(0) is False
        victim.close()
        if alive:
            break
    assert alive == (method != "wait")
    assert line > 4
    family.close()


# ------------------------------------------------------------------ closing


def test_a_closed_one_says_so(event: Event) -> None:
    event.set()
    assert " set" in repr(event)
    event.clear()
    assert "not set" in repr(event)
    event.close()
    event.close()
    for call in (event.is_set, event.set, event.clear, event.wait, lambda: event.wait(0)):
        with pytest.raises(ClosedError):
            call()
    assert "closed" in repr(event)


def test_closing_under_threads_that_wait(event: Event, threads) -> None:
    other = again(event)
    tasks = [start_waiting(threads, other) for _ in range(3)]
    witness = start_waiting(threads, event)
    other.close()
    for task in tasks:
        with pytest.raises(ClosedError):
            task.result(20)
    assert not witness.done()
    event.set()
    assert witness.result(20) is True


def test_closing_where_others_wait(family: Family, unique_name: Callable[[], str]) -> None:
    event = family.event()
    waiter, setter = family.start(event), family.start(event)
    ask_to_wait(waiter, unique_name())
    event.close()
    assert not waiter.answered()
    setter.do("set")
    assert waiter.answer() is True
    setter.end()
    assert waiter.do("is_set") is True
    waiter.end()


@linux
def test_the_last_one_out_removes_the_name(unique_name: str) -> None:
    first, second = Event(unique_name), Event(unique_name)
    left = names_of(first)
    assert left
    first.set()
    first.close()
    assert all(path.exists() for path in left)
    third = Event(unique_name)
    second.close()
    assert third.is_set()
    third.close()
    assert not any(path.exists() for path in left)
    fourth = Event(unique_name)
    assert not fourth.is_set()
    fourth.close()


@linux
def test_a_process_that_ends_closes_it(unique_name: str) -> None:
    for end in ("", "event.set()", "raise SystemExit", "del event"):
        result = run_python(
            f"from shmkit import Event; event = Event(args[0]); {end}", unique_name, check=False
        )
        assert result.stderr == ""
        assert not Path("/dev/shm", unique_name).exists()


@linux
def test_what_the_killed_leave_goes_with_the_next(unique_name: str) -> None:
    result = run_python(
        "import os; from shmkit import Event; event = Event(args[0]); event.set()\n"
        "os.kill(os.getpid(), 9)",
        unique_name,
        check=False,
    )
    assert result.exitcode == -9
    event = Event(unique_name)
    assert event.is_set()  # its death changes nothing
    left = names_of(event)
    event.close()
    assert not any(path.exists() for path in left)


# ------------------------------------------------------------------ overwritten


def test_one_that_says_it_is_shut_ends_no_wait_as_set(unique_name: str, threads) -> None:
    event = Event(unique_name)
    task = start_waiting(threads, event)
    with SharedBuffer.attach(unique_name) as buffer:
        buffer.view("Q")[STATE] = 2
        with pytest.raises(CorruptSegment, match=unique_name):
            task.result(20)
        with pytest.raises(CorruptSegment, match=unique_name):
            event.wait(0)
    event.close()


class Stopped:
    """The words of an event; what is to happen happens just before something is written."""

    def __init__(self, words: Any, act: Callable[[], None]) -> None:
        self._words, self._act = words, act

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        self._act()
        self._words[index] = value


def test_a_late_clear_holds_up_nobody_who_waited_for_a_set(
    threads: ThreadPoolExecutor, unique_name: str
) -> None:
    late, event = Event(unique_name), Event(unique_name)
    late.set()
    tasks = []

    def act() -> None:
        event.clear()
        tasks.append(start_waiting(threads, event))
        event.set()

    words = late._words
    late._words = Stopped(words, act)  # type: ignore[assignment]
    late.clear()
    late._words = words
    assert tasks[0].result(20) is True
    assert not event.is_set()
    event.close()
    late.close()


def test_a_set_that_was_killed_half_way_wakes_them(
    threads: ThreadPoolExecutor, event: Event
) -> None:
    task = start_waiting(threads, event)
    event._words[FLAG] = 1  # and no mark, and no bell
    assert task.result(20) is True
