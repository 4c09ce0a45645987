"""Whatever is written into a segment: an exception that says so, or it works; no hang, no crash.

Each case runs in a process of its own, so that a crash is seen as one; what it was about stands in
its last line of output.
"""

from __future__ import annotations

import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmkit import (
    CorruptSegment,
    Empty,
    Full,
    IncompatibleSegment,
    PeerDied,
    Ring,
    SharedBuffer,
    ShutDown,
)
from shmkit.segment.words import DROPPED, TAIL
from tests.processes import run_python

VALUES = [0, 1, 2, 7, 16, 4080, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 16, (1 << 64) - 1]
ANSWERS = (CorruptSegment, IncompatibleSegment, Empty, Full, ShutDown, PeerDied)
SECOND = 1.0
CAPACITY = 4096


def words_to_poke() -> Iterator[int]:
    """Every word of the header that anything is in, and some that nothing is in."""
    yield from range(0x00, 0x480, 8)
    yield from range(0x480, 0x600, 64)
    yield 0xFF8


def calls(ring: Ring) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each thing that can be done with a ring, without waiting long."""
    room = bytearray(CAPACITY)

    def peek() -> bytes:
        with ring.peek(timeout=0) as view:
            return bytes(view)

    def reserve() -> None:
        with ring.reserve(700, timeout=0) as frame:
            frame[:] = bytes(700)

    yield "repr", lambda: repr(ring)
    yield "qsize", ring.qsize
    yield "full", ring.full
    yield "empty", ring.empty
    yield "statistics", ring.statistics
    yield "peek", peek
    yield "get", lambda: ring.get(timeout=0.0005)
    yield "put", lambda: ring.put(b"z" * 40, timeout=0.0005)
    yield "reserve", reserve
    yield "put_many", lambda: ring.put_many([b"y" * 500] * 9, timeout=0)
    yield "get_into", lambda: ring.get_into(room, timeout=0)
    yield "get_many", lambda: ring.get_many(timeout=0)
    yield "put", lambda: ring.put(b"z" * 40, timeout=0)
    yield "get", lambda: ring.get(timeout=0)
    yield "shutdown", ring.shutdown


def exercise(what: str, ring: Ring) -> None:
    """Do it all; a wrong kind of exception, or one that takes long, ends the process."""
    for name, call in calls(ring):
        began = time.process_time()
        try:
            call()
        except ANSWERS:
            pass
        except BaseException:
            print(f"{what}: {name}", flush=True)
            raise
        if time.process_time() - began > SECOND:
            raise AssertionError(f"{what}: {name} was busy for {time.process_time() - began} s")


def attempt(what: str, where: str) -> None:
    """Attach, and if that works, do it all."""
    print(what, flush=True)
    try:
        ring = Ring.attach(where)
    except (CorruptSegment, IncompatibleSegment):
        return
    with ring:
        exercise(what, ring)


def with_frames(where: str, **options: Any) -> Ring:
    """A ring that has been around its end, with some frames in it."""
    ring = Ring.create(where, capacity=CAPACITY, keep=True, **options)
    for n in range(9):
        ring.put(bytes([n]) * (n * 137 % 900))
        if n < 6:
            ring.get()
    return ring


def write(where: str, offset: int, data: bytes) -> None:
    with SharedBuffer.attach(where) as buffer:
        buffer[offset : offset + len(data)] = data


def read(where: str) -> bytes:
    with SharedBuffer.attach(where) as buffer:
        return bytes(buffer)


def remove(where: str) -> None:
    with SharedBuffer.attach(where) as buffer:
        buffer.unlink()


# ------------------------------------------------------------------ before attaching


def poke_header(where: str, many: Any) -> None:
    with with_frames(where, producers=many, consumers=many):
        pass
    content = read(where)
    for offset in words_to_poke():
        for value in VALUES if 0x68 <= offset < 0x480 else VALUES[::3]:
            if offset < 8 and value == 0:
                continue  # half-made: takes a while to be told, and is told elsewhere
            write(where, 0, content)
            write(where, offset, struct.pack("<Q", value))
            attempt(f"{offset:#x} = {value:#x}", where)
    write(where, 0, content)
    remove(where)


def poke_sealed_header(where: str, many: Any) -> None:
    """By one who knows to write a checksum that fits."""
    with with_frames(where, producers=many, consumers=many):
        pass
    content = bytearray(read(where))
    for offset in range(0x08, 0x60, 2):
        for value in (0, 1, 2, 0x10, 0x80, 0xFFFF, 0x8000):
            if 0x30 <= offset < 0x40:
                continue  # another incarnation is another ring's name, and as good
            poked = bytearray(content)
            poked[offset : offset + 2] = struct.pack("<H", value)
            poked[0x60:0x64] = struct.pack("<I", zlib.crc32(poked[8:0x60]))
            write(where, 0, bytes(poked))
            attempt(f"sealed {offset:#x} = {value:#x}", where)
    write(where, 0, bytes(content))
    remove(where)


def poke_frames(where: str, many: Any) -> None:
    with with_frames(where, producers=many, consumers=many) as ring:
        used = ring.statistics().used
        assert used > 1000
    content = read(where)
    for offset in range(4096, 8192, 32):
        for value in (0, 1, 0xFFFF, 0xFFFFFFFF, 1 << 32, 1 << 48, 1 << 49, 7 << 48, (1 << 64) - 1):
            if (offset // 16 + value) % 3 and any(content[offset : offset + 16]):
                continue  # a third of what is payload
            write(where, 0, content)
            write(where, offset, struct.pack("<Q", value))
            attempt(f"frame {offset:#x} = {value:#x}", where)
    write(where, 0, content)
    remove(where)


def poke_at_random(where: str, many: Any) -> None:
    with with_frames(where, producers=many, consumers=many):
        pass
    content = read(where)
    for seed in range(240):
        dice = random.Random(seed)
        poked = bytearray(content)
        if seed % 3 == 0:  # everything that is not fixed
            poked[0x68:0x400] = dice.randbytes(0x400 - 0x68)
            poked[0x68:0x70] = struct.pack("<Q", dice.choice([1, 1, 1, 2, 3, 4]))
        elif seed % 3 == 1:  # positions that look right, and frames of noise
            head = dice.randrange(1 << dice.randrange(5, 64)) & ~dice.choice([15, 15, 0])
            tail = head + (dice.randrange(CAPACITY + 1) & ~15)
            poked[0x180:0x188] = struct.pack("<Q", head & (1 << 64) - 1)
            poked[0x80:0x90] = struct.pack(
                "<QQ", tail & (1 << 64) - 1, dice.choice([head, 0]) % 2**64
            )
            poked[4096:] = dice.randbytes(CAPACITY)
        else:  # a few words anywhere
            for _ in range(4):
                offset = dice.randrange(0x68, len(poked) - 8) & ~7
                poked[offset : offset + 8] = struct.pack("<Q", dice.choice(VALUES))
        write(where, 0, bytes(poked))
        attempt(f"seed {seed}", where)
    write(where, 0, content)
    remove(where)


# ------------------------------------------------------------------ under a live handle


def poke_live(where: str, many: Any) -> None:
    """Both ends attached, roles taken, fast paths warm; then a word changes."""
    content = b""
    for offset in [*range(0x68, 0x480, 8), *range(4096, 8192, 512)]:
        values = VALUES if offset in (0x80, 0x88, 0x180) else VALUES[::2]
        if 0x420 <= offset < 0x450:
            values = [1]  # the own phases at the locks: a wait for oneself takes its time
        for value in values:
            if 0x70 <= offset < 0x78:
                continue  # who removes the names: wrong, it only leaves them there
            what = f"live {offset:#x} = {value:#x}"
            print(what, flush=True)
            if not content:
                with with_frames(where, producers=many, consumers=many):
                    pass
                content = read(where)
            write(where, 0, content)
            with Ring.attach(where) as ring:
                ring.put(b"a" * 30)
                ring.put(b"b" * 30)
                ring.get()
                ring.get()
                ring.buffer[offset : offset + 8] = struct.pack("<Q", value)
                exercise(what, ring)
    write(where, 0, content)
    remove(where)


def poke_while_waiting(where: str, many: Any) -> None:
    """A thread waits, and a word changes under it."""
    import threading

    for side in ("get", "put"):
        for offset in (0x68, 0x80, 0x88, 0x180, 0x280, 0x300):
            for value in (0, 2, 16, 1 << 63, (1 << 64) - 1):
                what = f"{side} waits, {offset:#x} = {value:#x}"
                print(what, flush=True)
                ends: list[Any] = []
                ring = Ring.create(where, capacity=CAPACITY, producers=many, consumers=many)

                def wait(ring: Ring = ring, side: str = side, ends: list[Any] = ends) -> None:
                    try:
                        ends.append(ring.get(0.03) if side == "get" else ring.put(b"x", 0.03))
                    except ANSWERS as answer:
                        ends.append(answer)

                with ring:
                    if side == "put":
                        ring.put(bytes(CAPACITY - 16))
                    thread = threading.Thread(target=wait)
                    thread.start()
                    flag = {"get": 0x280, "put": 0x300}[side]
                    while not ring.buffer[flag] and not ends:
                        time.sleep(0)
                    ring.buffer[offset : offset + 8] = struct.pack("<Q", value)
                    thread.join(10)
                    assert len(ends) == 1, what
                    ring.unlink()


@pytest.mark.parametrize("many", ["one", "many"])
@pytest.mark.parametrize("kind", ["shm", "file"])
@pytest.mark.parametrize(
    "poke",
    [poke_header, poke_sealed_header, poke_frames, poke_at_random, poke_live, poke_while_waiting],
)
@pytest.mark.skipif(sys.platform != "linux", reason="names are looked for in /dev/shm")
def test_hostile_bytes(poke: Any, kind: str, many: Any, make_where: Any, tmp_path: Path) -> None:
    result = run_python(poke, make_where(kind), many, timeout=45)
    assert len(result.stdout.splitlines()) > 50
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tail", [8, 1 << 20, (1 << 64) - 8, 4090])
def test_a_tail_that_changes_inside_a_put(tail: int) -> None:
    with Ring.create(capacity=CAPACITY) as ring:
        ring.put(b"x")
        with pytest.raises(CorruptSegment, match="tail"), ring.reserve(100) as frame:
            frame[:] = bytes(100)
            ring._words[TAIL] = tail
        with pytest.raises(CorruptSegment):
            ring.put(b"y")


@pytest.mark.parametrize("policy", ["drop-new", "drop-oldest"])
def test_a_count_of_dropped_frames_may_be_anything(policy: Any) -> None:
    with Ring.create(capacity=CAPACITY, when_full=policy) as ring:
        ring._words[DROPPED] = (1 << 64) - 1
        for _ in range(8):
            ring.put(bytes(1000))
        assert ring.qsize() == 4
