"""Any order of calls on a small ring against a deque: what hypothesis comes up with."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections import deque
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

from shmkit import ClosedError, Empty, Full, Ring, RoleTaken, ShutDown

CAPACITY = 4096
LIMIT = CAPACITY - 16
# Small ones, to have many; large ones, to come around the end often.
SIZES = st.one_of(st.integers(0, 60), st.integers(0, LIMIT), st.integers(LIMIT - 40, LIMIT))
FRAMES = st.tuples(st.integers(0, 255), SIZES).map(lambda pair: bytes([pair[0]]) * pair[1])


def step(data: bytes) -> int:
    """Bytes a frame takes."""
    return 16 + -(-len(data) // 16) * 16


class RingMachine(RuleBasedStateMachine):
    """Two handles, sometimes replaced by their successors, and what has to come out."""

    kind = "anon"

    def __init__(self) -> None:
        super().__init__()
        self.model: deque[bytes] = deque()
        self.state = "open"
        self.folder = tempfile.mkdtemp() if self.kind == "file" else None

    @initialize(many=st.sampled_from(["one", "many"]))
    def create(self, many: Any) -> None:
        where = {"anon": None, "shm": "shm:", "file": f"file:{self.folder}/ring"}[self.kind]
        self.producer = Ring.create(
            where, capacity=CAPACITY, producers=many, consumers=many, keep=self.kind == "shm"
        )
        self.consumer = self.another(self.producer)

    @staticmethod
    def another(ring: Ring) -> Ring:
        return pickle.loads(pickle.dumps(ring))  # type: ignore[no-any-return]

    # -- putting

    def put_by(self, put: Any, data: bytes) -> None:
        """Put, and see that the ring takes it exactly when it may."""
        used = self.producer.statistics().used
        try:
            put(data)
        except Full:
            # Room in two pieces may be too small on either side, but not if it is twice as much.
            assert self.model, "an empty ring took nothing"
            assert used + 2 * step(data) > CAPACITY
            assert self.state == "open"
        except ShutDown:
            assert self.state != "open"
        else:
            assert self.state == "open"
            assert used + step(data) <= CAPACITY
            self.model.append(data)

    @rule(data=FRAMES)
    def put(self, data: bytes) -> None:
        self.put_by(self.producer.put_nowait, data)

    @rule(data=FRAMES)
    def put_a_view(self, data: bytes) -> None:
        self.put_by(lambda it: self.producer.put(memoryview(it), timeout=0), data)

    @rule(data=FRAMES, more=st.integers(0, 100))
    def reserve(self, data: bytes, more: int) -> None:
        more = min(more, LIMIT - len(data))
        used = self.producer.statistics().used
        try:
            with self.producer.reserve(len(data) + more, timeout=0) as frame:
                frame.truncate(len(data))
                frame[:] = data
        except Full:
            assert self.model
            assert used + 2 * step(data + bytes(more)) > CAPACITY
        except ShutDown:
            assert self.state != "open"
        else:
            self.model.append(data)

    @rule(size=SIZES)
    def discard(self, size: int) -> None:
        with pytest.raises((KeyError, Full, ShutDown)):
            self.discarded(size)

    def discarded(self, size: int) -> None:
        with self.producer.reserve(size, timeout=0) as frame:
            frame[:] = b"\xff" * size
            raise KeyError

    @rule(batch=st.lists(FRAMES, max_size=8))
    def put_many(self, batch: list[bytes]) -> None:
        try:
            done = self.producer.put_many(batch, timeout=0)
        except ShutDown:
            assert self.state != "open"
        else:
            assert done == 0 or self.state == "open"
            assert done or not batch or self.model, "an empty ring took nothing"
            self.model.extend(batch[:done])

    # -- getting

    def get_by(self, get: Any) -> list[bytes]:
        """Get, and see that it is what is there."""
        try:
            got: list[bytes] = get()
        except Empty:
            assert not self.model
            assert self.state == "open"
            return []
        except ShutDown:
            assert self.state == "shut down at once" or not self.model
            assert self.state != "open"
            return []
        assert got == [self.model.popleft() for _ in got]
        return got

    @rule()
    def get(self) -> None:
        self.get_by(lambda: [self.consumer.get_nowait()])

    @rule(most=st.one_of(st.none(), st.integers(1, 6)))
    def get_many(self, most: int | None) -> None:
        there = len(self.model)
        got = self.get_by(lambda: self.consumer.get_many(most, timeout=0))
        if self.state != "shut down at once":
            assert len(got) == min(there, most or there)

    @rule(size=SIZES)
    def get_into(self, size: int) -> None:
        room = bytearray(b"\xee" * size)
        if self.model and len(self.model[0]) > size and self.state != "shut down at once":
            with pytest.raises(ValueError, match="it stays"):
                self.consumer.get_into(room, timeout=0)
            assert room == b"\xee" * size
            return

        def get() -> list[bytes]:
            length = self.consumer.get_into(room, timeout=0)
            assert set(room[length:]) <= {0xEE}
            return [bytes(room[:length])]

        self.get_by(get)

    @rule()
    def peek(self) -> None:
        def get() -> list[bytes]:
            with self.consumer.peek(timeout=0) as view:
                return [bytes(view)]

        self.get_by(get)

    @precondition(lambda self: self.model and self.state != "shut down at once")
    @rule()
    def peek_and_leave(self) -> None:
        seen = []
        with pytest.raises(KeyError):
            self.peeked(seen)
        assert seen == [self.model[0]]

    def peeked(self, seen: list[bytes]) -> None:
        with self.consumer.peek(timeout=0) as view:
            seen.append(bytes(view))
            raise KeyError

    # -- handles

    @rule()
    def replace_the_producer(self) -> None:
        successor = self.another(self.producer)
        self.producer.close()
        with pytest.raises(ClosedError):
            self.producer.put_nowait(b"")
        self.producer = successor

    @rule()
    def replace_the_consumer(self) -> None:
        successor = self.another(self.consumer)
        self.consumer.close()
        self.consumer = successor

    @precondition(lambda self: self.producer.statistics().producers)
    @rule()
    def change_sides(self) -> None:
        """The other puts, where a role can be had twice; else it is refused."""
        try:
            self.consumer.put_nowait(b"across")
        except RoleTaken as error:
            assert error.role == "producer"
        except Full:
            assert self.model
        except ShutDown:
            assert self.state != "open"
        else:
            self.model.append(b"across")

    @precondition(lambda self: len(self.model) > 3)
    @rule(immediate=st.booleans())
    def shutdown(self, immediate: bool) -> None:
        self.producer.shutdown(immediate)
        if immediate:
            self.state = "shut down at once"
        elif self.state == "open":
            self.state = "shut down"

    # -- what always holds

    @invariant()
    def sizes_are_told(self) -> None:
        if not hasattr(self, "producer"):
            return
        for ring in (self.producer, self.consumer):
            told = ring.statistics()
            assert ring.qsize() == told.frames == len(self.model)
            assert ring.empty() == (not self.model)
            least = sum(map(step, self.model))
            assert least <= told.used <= CAPACITY
            assert told.state == self.state
            assert ring.full() == (told.used + 16 > CAPACITY)

    def teardown(self) -> None:
        try:
            if hasattr(self, "producer"):
                with self.producer, self.consumer:
                    if self.state == "open":
                        self.producer.shutdown()
                        assert list(self.consumer) == list(self.model)
        finally:
            if self.kind == "shm" and hasattr(self, "producer"):
                self.producer.unlink()
            if self.folder is not None:
                shutil.rmtree(self.folder)


class SegmentRingMachine(RingMachine):
    """The same in a segment with a name."""

    kind = "shm"


class FileRingMachine(RingMachine):
    """The same on a file, whose frames are checked."""

    kind = "file"


@pytest.mark.parametrize("machine", [RingMachine, SegmentRingMachine, FileRingMachine])
def test_any_order_of_calls(machine: type[RingMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=50,
            stateful_step_count=50,
            deadline=None,
            phases=(Phase.reuse, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
