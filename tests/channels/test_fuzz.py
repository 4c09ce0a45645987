"""Words flipped under live handles: an exception that says so, or it works; and far positions.

Each seed makes a channel, uses it, changes some words of its memory, and then does all that can be
done. It runs in a process of its own, so that a crash is seen as one; its last line is the seed.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from shmkit import (
    Broadcast,
    CorruptSegment,
    Empty,
    Full,
    Latest,
    PeerDied,
    Queue,
    Ring,
    RoleTaken,
    ShutDown,
    wait,
)
from shmkit.segment.words import HEAD, TAIL
from tests.processes import run_python

ANSWERS = (CorruptSegment, Empty, Full, ShutDown, PeerDied, RoleTaken)
VALUES = [0, 1, 2, 3, 4, 5, 7, 15, 16, 31, 4080, 4096, 1 << 20, 1 << 31, 1 << 32, (1 << 48) + 3]
VALUES += [1 << 62, 1 << 63, (1 << 64) - 16, (1 << 64) - 1]
BUSY = 5  # seconds of one call, after which it is a busy loop or a hang
KINDS = ["one", "many", "drop", "latest", "broadcast", "queue"]
SEEDS = 40

Calls = list[Callable[[], Any]]


def make(kind: str) -> tuple[Any, Any, Calls]:
    """A channel that was used, the handle that has its segment, and what can be done with it."""
    if kind == "latest":
        latest = Latest.create(size=100)
        for data in (b"a" * 50, b"b"):
            latest.set(data)
            latest.get()
        return (
            latest,
            latest,
            [
                lambda: repr(latest),
                latest.get,
                lambda: latest.wait(latest.version, 0.001),
                lambda: latest.set(b"c" * 70),
                latest.statistics,
                lambda: wait([latest], 0),
                latest.get,
                latest.shutdown,
            ],
        )
    if kind == "broadcast":
        broadcast = Broadcast.create(capacity=4096)
        subscription = broadcast.subscribe()
        for n in range(9):
            broadcast.publish(bytes([n]) * (n * 137 % 900))
            if n < 6:
                subscription.get()
        return (
            broadcast,
            broadcast,
            [
                lambda: (repr(broadcast), repr(subscription)),
                lambda: subscription.get(0),
                lambda: broadcast.subscribe("oldest").get(0),
                lambda: broadcast.publish(b"z" * 300),
                lambda: [subscription.get(0) for _ in range(20)],
                broadcast.statistics,
                subscription.statistics,
                lambda: wait([subscription], 0),
                lambda: subscription.get(0.001),
                broadcast.shutdown,
            ],
        )
    if kind == "queue":
        queue = Queue[Any](3, capacity=4096)
        for n in range(5):
            queue.put(n)
            queue.get()
        queue.put("x")
        return (
            queue,
            queue._ring,
            [
                lambda: repr(queue),
                queue.qsize,
                queue.full,
                lambda: queue.put(1, True, 0.001),
                queue.statistics,
                lambda: wait([queue], 0),
                queue.shutdown,
            ],
        )
    return make_ring(kind)


def make_ring(kind: str) -> tuple[Any, Any, Calls]:
    many, policy = "one" if kind == "one" else "many", "drop-oldest" if kind == "drop" else "block"
    ring = Ring.create(capacity=4096, producers=many, consumers=many, when_full=policy)
    for n in range(9):
        ring.put(bytes([n]) * (n * 137 % 900))
        if n < 6:
            ring.get()

    def peek() -> None:
        with ring.peek(0) as view:
            bytes(view)

    def peek_many() -> None:
        with ring.peek_many(timeout=0) as views:
            for view in views:
                bytes(view)

    def reserve() -> None:
        with ring.reserve(700, 0) as frame:
            frame[:] = bytes(700)

    return (
        ring,
        ring,
        [
            lambda: repr(ring),
            ring.qsize,
            ring.full,
            ring.empty,
            ring.statistics,
            peek,
            peek_many,
            lambda: ring.get(0.001),
            lambda: ring.put(b"z" * 40, 0.001),
            reserve,
            lambda: ring.put_many([b"y" * 500] * 9, 0),
            lambda: ring.get_many(timeout=0),
            lambda: ring.get_into(bytearray(4096), 0),
            lambda: wait([ring], 0),
            lambda: ring.get(0),
            ring.shutdown,
        ],
    )


def exercise(what: str, made: Any, calls: Calls) -> None:
    """Do it all, and close; a wrong kind of exception ends the process, so does a busy loop."""
    print(what, flush=True)
    for call in [*calls, made.close]:
        signal.alarm(BUSY)
        try:
            call()
        except ANSWERS:
            pass
        signal.alarm(0)


def flip_words(kind: str, first: int) -> None:
    for seed in range(first, first + SEEDS):
        dice = random.Random(seed)
        made, handle, calls = make(kind)
        words, base = handle._segment.words, handle._base
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            word = dice.choice(
                [
                    dice.randrange(0x68, 0x480, 8),
                    dice.randrange(0x68, base, 8),
                    dice.randrange(base, base + 4096, 8),
                    dice.choice([0x68, 0x80, 0x88, 0x180]),
                ]
            )
            flipped = words[word >> 3] ^ 1 << dice.randrange(64)
            words[word >> 3] = dice.choice([*VALUES, dice.getrandbits(64), flipped])
        if dice.random() < 0.5:
            dice.shuffle(calls)
        exercise(f"seed {seed}", made, calls)


def poke_own_line(kind: str) -> None:
    """Every word of the line that the handle itself writes, phases at the locks among them."""
    for offset in range(12):
        for value in (2, 3, (1 << 64) - 1):
            made, handle, calls = make(kind)
            handle._segment.words[handle._segment.membership.line() + offset] = value
            exercise(f"own word {offset} = {value}", made, calls)


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_are_flipped(kind: str) -> None:
    result = run_python(flip_words, kind, 1000 * KINDS.index(kind), timeout=60)
    assert len(result.stdout.splitlines()) == SEEDS


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_words_in_ones_own_line(kind: str) -> None:
    result = run_python(poke_own_line, kind, timeout=60)
    assert len(result.stdout.splitlines()) == 12 * 3


@pytest.mark.parametrize("far", [31, 32, 33, 40, 47, 48, 52, 53, 63])
@pytest.mark.parametrize("before", [0, 16, 4096])
def test_positions_may_be_far(far: int, before: int) -> None:
    """In plain steps and careful ones, over the bit; at the last of all it is told."""
    with Ring.create(capacity=4096) as ring:
        start = (1 << far) - 4096 - before
        ring._words[HEAD] = ring._words[TAIL] = start
        sent = [bytes([n]) * (n * 37 % 300) for n in range(60)]
        got = list[bytes]()
        try:
            for n in range(0, 60, 4):
                ring.put(sent[n])
                assert ring.put_many(sent[n + 1 : n + 3]) == 2
                with ring.reserve(len(sent[n + 3])) as room:
                    room[:] = sent[n + 3]
                assert ring.qsize() == 4
                got.append(ring.get(0))
                with ring.peek(0) as view:
                    got.append(bytes(view))
                got += ring.get_many(timeout=0)
        except CorruptSegment:
            assert far == 63
        assert got == sent[: len(got)]
        assert (len(got) == 60) == (far != 63)
        assert len(got) >= 12
