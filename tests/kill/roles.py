"""What the children of the kill matrix do: put and get in every way there is, till told to stop."""

from __future__ import annotations

import random
import time
from contextlib import suppress

from shmkit import Full, PeerDied, Ring, ShutDown
from shmkit.errors import Empty
from tests.kill.ledger import Ledger, make_frame

__all__ = ["CAPACITY", "LAST", "consume", "consumer", "produce", "producer"]

CAPACITY = 4096
LAST = 12  # frames a producer still puts when it is told to stop
ALIKE = 90  # frames of one size, enough to be taken with one call
_SIZES = (0, 1, 16, 40, 200, 700)


class _Discard(Exception):
    pass


def linger(dice: random.Random) -> None:
    """Keep the others waiting, now and then."""
    if dice.random() < 0.2:
        time.sleep(0.001)


def producer(ring: Ring, ledger: Ledger, me: int) -> None:
    """A child that produces."""
    try:
        produce(ring, ledger, me)
    finally:
        ring.close()


def consumer(ring: Ring, ledger: Ledger, me: int, only: str = "") -> None:
    """A child that consumes."""
    try:
        consume(ring, ledger, me, only)
    finally:
        ring.close()


def produce(ring: Ring, ledger: Ledger, me: int) -> None:
    """Put frames of all sizes in all ways, now and then with a pause, until told to stop."""
    dice = random.Random(me)
    left = LAST
    while left > 0:
        before = ledger.done(me)
        with suppress(PeerDied):  # is told once per death; a successor comes
            _put_some(ring, ledger, me, dice)
        if ledger.stopping:
            left -= max(1, ledger.done(me) - before)
        linger(dice)


def _put_some(ring: Ring, ledger: Ledger, me: int, dice: random.Random) -> None:
    way = dice.randrange(13)
    size = dice.choice(_SIZES)
    if way < 5:
        for _ in range(3):
            number = ledger.begin(me)
            ring.put(make_frame(me, number, size))
            ledger.end(me)
    elif way < 8:
        count = dice.randrange(1, 9)
        number = ledger.begin(me, count)
        sizes = [size % 100 if way == 6 else dice.choice(_SIZES[:5]) for _ in range(count)]
        frames = [make_frame(me, number + n, size) for n, size in enumerate(sizes)]
        ledger.end(me, ring.put_many(frames))
    elif way < 10:
        frame = make_frame(me, ledger.begin(me), size)
        with ring.reserve(len(frame) + 30) as room:
            room[: len(frame)] = frame
            linger(dice)
            room.truncate(len(frame))
        ledger.end(me)
    elif way == 10:
        with suppress(_Discard), ring.reserve(dice.choice((100, 2500))):
            raise _Discard
    elif way == 11:
        number = ledger.begin(me, ALIKE)
        ledger.end(me, ring.put_many([make_frame(me, number + n, 0) for n in range(ALIKE)]))
    else:
        number = ledger.begin(me)
        frame = make_frame(me, number, 2500)
        try:
            ring.put(frame, timeout=0.02)
        except Full:
            ring.put(frame)
        ledger.end(me)


def consume(ring: Ring, ledger: Ledger, me: int, only: str = "") -> None:
    """Get frames in all ways, or in one, until the ring is shut down and empty."""
    dice = random.Random(100 + me)
    while True:
        try:
            _get_some(ring, ledger, me, dice, only)
        except (PeerDied, Empty):
            continue  # a successor comes
        except ShutDown:
            return
        linger(dice)


def _get_some(ring: Ring, ledger: Ledger, me: int, dice: random.Random, only: str) -> None:
    way = only or dice.choice(("get", "get", "peek", "get_many", "get_into", "patience"))
    if way == "get":
        for _ in range(3):
            ledger.note(me, ring.get())
    elif way == "peek":
        with ring.peek() as frame:
            ledger.note(me, frame)
            linger(dice)
    elif way == "get_many":
        for taken in ring.get_many(dice.choice((None, 1, 3))):
            ledger.note(me, taken)
    elif way == "get_into":
        room = bytearray(CAPACITY)
        ledger.note(me, memoryview(room)[: ring.get_into(room)])
    else:
        ledger.note(me, ring.get(timeout=0.02))
