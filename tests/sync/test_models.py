"""Any order of calls on a lock and on an event, by handles and threads, against simple models."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shmkit import Acquired, ClosedError, Event, Lock
from shmkit.segment.words import RESCUE_BYTE
from tests.processes import wait_until
from tests.sync.peers import Telling, again

YES, NO, AFTER_DEATH = Acquired.YES, Acquired.NO, Acquired.AFTER_DEATH
MOST_HANDLES, MOST_WAITING = 4, 3
WHICH = st.integers(0, 59)  # divided by how many there are


class Interrupted(Exception):
    """What a handler raises."""


class Machine(RuleBasedStateMachine):
    """Handles in one process, and threads that wait by them."""

    handles: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.handles = []
        self.waiting: list[tuple[Any, Future[Any]]] = []  # handle, what its thread waits for
        self.threads = ThreadPoolExecutor(MOST_WAITING + 1)

    def pick(self, which: int) -> Any:
        return self.handles[which % len(self.handles)]

    @precondition(lambda self: 0 < len(self.handles) < MOST_HANDLES)
    @rule(which=WHICH)
    def one_more(self, which: int) -> None:
        self.handles.append(again(self.pick(which)))

    @invariant()
    def who_waits_is_still_waiting(self) -> None:
        for handle, future in self.waiting:
            assert not future.done(), (handle, future.result())

    def refuse(self, handle: Any) -> None:
        """Those who wait by a handle that was closed are told."""
        for _, future in [pair for pair in self.waiting if pair[0] is handle]:
            with pytest.raises(ClosedError):
                future.result(20)
        self.waiting = [pair for pair in self.waiting if pair[0] is not handle]


class LockMachine(Machine):
    """Who has it, and whether somebody who had it has died and nobody was told."""

    holder: Lock | None = None
    died = False

    @initialize(name=st.sampled_from([None, "named"]))
    def create(self, name: str | None) -> None:
        self.handles.append(Lock(name and f"t-model-{threading.get_native_id()}-{id(self)}"))

    def got(self, handle: Lock, how: Acquired) -> None:
        assert how is (AFTER_DEATH if self.died else YES)
        self.holder, self.died = handle, False

    def pass_on(self) -> None:
        """It is free: one of those who wait gets it."""
        self.holder = None
        if self.waiting:
            wait([future for _, future in self.waiting], 20, "FIRST_COMPLETED")
            done = [pair for pair in self.waiting if pair[1].done()]
            assert len(done) == 1, "more than one is inside, or none"
            self.waiting.remove(done[0])
            self.got(done[0][0], done[0][1].result())

    @rule(which=WHICH, how=st.sampled_from(["no block", "at once", "soon", "with"]))
    def acquire(self, which: int, how: str) -> None:
        handle = self.pick(which)
        if how == "with" and self.holder is None:
            with handle as acquired:
                self.got(handle, acquired)
                assert handle.held
            self.holder = None
            return
        timeout = 0.002 if how == "soon" else 0
        acquired = handle.acquire(False) if how == "no block" else handle.acquire(timeout=timeout)
        if self.holder is None:
            self.got(handle, acquired)
        else:
            assert acquired is NO

    @rule(which=WHICH, by_thread=st.booleans())
    def release(self, which: int, by_thread: bool) -> None:
        handle = self.pick(which)

        def call() -> None:
            if by_thread:  # of which one is free
                self.threads.submit(handle.release).result(20)
            else:
                handle.release()

        if handle is self.holder:
            call()
            self.pass_on()
        else:
            with pytest.raises(RuntimeError, match="not hold"):
                call()

    @precondition(lambda self: self.holder is not None and len(self.waiting) < MOST_WAITING)
    @rule(which=WHICH)
    def start_waiting(self, which: int) -> None:
        handle = self.pick(which)
        self.waiting.append((handle, self.threads.submit(handle.acquire, True, 20)))

    @precondition(lambda self: len(self.handles) > 1)
    @rule(which=WHICH)
    def close(self, which: int) -> None:
        handle = self.handles.pop(which % len(self.handles))
        handle.close()
        self.refuse(handle)
        if handle is self.holder:
            self.pass_on()
        assert not handle.held
        with pytest.raises(ClosedError):
            handle.acquire(False)

    @precondition(lambda self: len(self.handles) > 1)
    @rule(which=WHICH)
    def die(self, which: int) -> None:
        """A handle goes without a word; what it had is with it."""
        handle = self.pick(which)
        if any(handle is waiting for waiting, _ in self.waiting):
            return
        self.handles.remove(handle)
        held = handle is self.holder
        if held:
            self.holder = None
        del handle
        gc.collect()
        if held:
            self.died = True
            self.pass_on()

    @precondition(lambda self: self.died and not self.waiting)
    @rule(which=WHICH)
    def interrupted_rescue(self, which: int) -> None:
        """A handler raises when it has just become the heir: the next is told."""
        handle = self.pick(which)
        presence = handle._segment.membership.presence
        unlocks = presence.unlocks

        def interrupted() -> Iterator[object]:
            for _ in unlocks(RESCUE_BYTE):
                del presence.unlocks
                raise Interrupted
            yield None

        presence.unlocks = lambda byte: interrupted() if byte == RESCUE_BYTE else unlocks(byte)
        with pytest.raises(Interrupted):
            handle.acquire()

    @invariant()
    def it_is_told_who_has_it(self) -> None:
        for handle in self.handles:
            assert handle.held == (handle is self.holder)
            assert ("not held" in repr(handle)) != handle.held

    def teardown(self) -> None:
        while self.holder is not None:
            self.holder.release()
            self.pass_on()
        self.threads.shutdown()
        if self.handles and self.died:  # or the page of a named one stays, to tell of it
            assert self.handles[0].acquire(False) is AFTER_DEATH
            self.handles[0].release()
        for handle in self.handles:
            assert handle.acquire(False) is YES
            handle.release()
        for handle in self.handles:
            handle.close()


class EventMachine(Machine):
    """Whether it is set."""

    is_set = False

    @initialize(name=st.sampled_from([None, "named"]))
    def create(self, name: str | None) -> None:
        self.handles.append(Event(name and f"t-model-{threading.get_native_id()}-{id(self)}"))

    @rule(which=WHICH)
    def set(self, which: int) -> None:
        self.pick(which).set()
        self.is_set = True
        self.all_are_woken()

    @rule(which=WHICH, other=WHICH)
    def set_and_clear(self, which: int, other: int) -> None:
        """Whoever waits is woken, though it sees it unset when it wakes."""
        self.pick(which).set()
        self.pick(other).clear()
        self.is_set = False
        self.all_are_woken()

    def all_are_woken(self) -> None:
        for _, future in self.waiting:
            assert future.result(20) is True
        self.waiting.clear()

    @rule(which=WHICH)
    def clear(self, which: int) -> None:
        self.pick(which).clear()
        self.is_set = False

    @rule(which=WHICH, timeout=st.sampled_from([0, 0.001]))
    def wait(self, which: int, timeout: float) -> None:
        assert self.pick(which).wait(timeout) is self.is_set

    @precondition(lambda self: not self.is_set and len(self.waiting) < MOST_WAITING)
    @rule(which=WHICH)
    def start_waiting(self, which: int) -> None:
        handle, looked = self.pick(which), threading.Event()
        handle._bell = Telling(handle._bell, looked.set)
        self.waiting.append((handle, self.threads.submit(handle.wait, 20)))
        wait_until(looked.is_set)

    @precondition(lambda self: len(self.handles) > 1)
    @rule(which=WHICH)
    def close(self, which: int) -> None:
        handle = self.handles.pop(which % len(self.handles))
        handle.close()
        self.refuse(handle)
        for call in (handle.set, handle.clear, handle.is_set, handle.wait):
            with pytest.raises(ClosedError):
                call()

    @invariant()
    def all_see_it(self) -> None:
        for handle in self.handles:
            assert handle.is_set() is self.is_set
            assert ("not set" in repr(handle)) != self.is_set

    def teardown(self) -> None:
        if self.handles:
            self.handles[0].set()
            self.all_are_woken()
        self.threads.shutdown()
        for handle in self.handles:
            handle.close()


@pytest.mark.slow
@pytest.mark.parametrize("machine", [LockMachine, EventMachine])
def test_any_order_of_calls(machine: type[Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("core", "sync.mutex", "segment.recovery"):  # so that deaths are seen soon
        monkeypatch.setattr(f"shmkit.{module}.SLICE", 0.02)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            phases=(Phase.reuse, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
