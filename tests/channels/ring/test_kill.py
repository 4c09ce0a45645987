"""Processes killed with SIGKILL at random moments, 200 of each side: nothing is lost, nothing torn.

A fresh interpreter supervises: it forks the side that dies, is the other side itself, and kills
after a random number of frames and a random moment more. What the dead had done stands in a
ledger: memory outside of the ring that both map, words written with one store each.

    producer    `begun` before it puts a frame, `done` after: when it is dead, the consumer must
                have got every frame up to `done`, and none beyond `begun`
    consumer    `shown` when it has compared a frame, `released` when it has let go of it: the
                next one must begin behind `released`, with no frame later than behind `shown`
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any, NoReturn

import pytest

from shmkit import Empty, Full, PeerDied, Ring
from shmkit.tools.testing import assert_no_leaks
from tests.processes import run_python

KILLS = {"anon": 70, "shm": 70, "file": 60}  # 200 of each side
SECOND = 1.0
NOISE = random.Random(1).randbytes(1 << 16)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is left behind")


def frame(number: int, capacity: int) -> bytes:
    """Frame of a number: number, checksum, and up to half a ring of bytes."""
    dice = random.Random(number)
    size = int(dice.expovariate(8 / capacity)) % (capacity // 2)
    start = dice.randrange(len(NOISE) - size)
    body = number.to_bytes(8, "little") + NOISE[start : start + size]
    return zlib.crc32(body).to_bytes(4, "little") + body


def number_of(data: bytes | memoryview, capacity: int) -> int:
    """The number of a frame that is whole."""
    if len(data) < 12 or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
        raise AssertionError(f"a torn frame of {len(data)} bytes: {bytes(data[:40])!r}")
    number = int.from_bytes(data[4:12], "little")
    if data != frame(number, capacity):
        raise AssertionError(f"frame {number} came with another frame's bytes")
    return number


class Ledger:
    """Two numbers that outlive whoever writes them."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self.words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self.words.release()
        self._map.close()


BEGUN, DONE = 0, 1  # a frame's number + 1
SHOWN, RELEASED = 2, 3  # a frame's number + 1
TROUBLE = 4


class Supervisor:
    """Forks the side that dies, and reaps it."""

    def __init__(self, where: str | None, capacity: int, seed: int) -> None:
        self.ring = Ring.create(where, capacity=capacity)
        self.where = where
        self.capacity = capacity
        self.ledger = Ledger()
        self.dice = random.Random(seed)
        self.slowest = 0.0

    def fork(self, run: Callable[[Ring, Ledger, int], None]) -> int:
        """Start a process that dies in `run(ring, ledger, capacity)`."""
        pid = os.fork()
        if pid == 0:
            self._be_killed(run)
        return pid

    def _be_killed(self, run: Callable[[Ring, Ledger, int], None]) -> NoReturn:
        try:
            # Half of them use what they inherited, half join anew where there is a name.
            ring = self.ring
            if self.where is not None and self.dice.random() < 0.5:
                ring = Ring.attach(self.where)
            run(ring, self.ledger, self.capacity)
        except BaseException:  # noqa: BLE001 - told, and the ledger says so
            self.ledger.words[TROUBLE] = 1
            sys.excepthook(*sys.exc_info())
        os._exit(1)

    def kill(self, pid: int) -> None:
        """At a random moment, from at once to some milliseconds from now."""
        for _ in range(self.dice.choice((0, 30, 300, 3000, 30_000))):
            if self.dice.random() < 0.001:
                break
        os.kill(pid, signal.SIGKILL)
        self.killed_at = time.monotonic()

    def reap(self, pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL or self.ledger.words[TROUBLE]:
            raise AssertionError(f"process {pid} had trouble of its own, see above")

    def told(self, died: PeerDied, pid: int, role: str) -> None:
        self.reap(pid)
        if (died.pid, died.role) != (pid, role):
            raise AssertionError(f"{died.role} {died.pid} is said to have died, it was {pid}")
        self.slowest = max(self.slowest, time.monotonic() - self.killed_at)


# ------------------------------------------------------------------ a producer dies


def stream(ring: Ring, ledger: Ledger, capacity: int) -> None:
    """Put frames by every way there is, from the one after the last that came through."""
    words = ledger.words
    number = words[DONE]
    dice = random.Random(os.getpid())
    while True:
        way = dice.randrange(4)
        if way == 0:
            data = frame(number, capacity)
            words[BEGUN] = number + 1
            with ring.reserve(len(data) + 40) as room:
                half = len(data) // 2
                room[:half] = data[:half]
                room[half : len(data)] = data[half:]
                room.truncate(len(data))
            number += 1
        elif way == 1:
            batch = [frame(number + n, capacity) for n in range(dice.randrange(1, 9))]
            words[BEGUN] = number + len(batch)
            number += ring.put_many(batch)
        else:
            for _ in range(dice.randrange(1, 30)):
                data = frame(number, capacity)
                words[BEGUN] = number + 1
                ring.put(data)
                number += 1
                words[DONE] = number
        words[DONE] = number


def frames_of(ring: Ring, dice: random.Random) -> Iterator[bytes]:
    """Get by every way there is; PeerDied must come within a second of the last frame."""
    room = bytearray(ring.capacity)
    while True:
        way = dice.randrange(4)
        if way == 0:
            yield from ring.get_many(dice.choice([None, 1, 5]), timeout=SECOND)
        elif way == 1:
            with ring.peek(timeout=SECOND) as view:
                data = bytes(view)
            yield data
        elif way == 2:
            yield bytes(room[: ring.get_into(room, timeout=SECOND)])
        else:
            yield ring.get(timeout=SECOND)


def kill_producers(where: str | None, kills: int, seed: int) -> None:
    boss = Supervisor(where, 1 << (12 + seed % 3), seed)
    with boss.ring as ring:
        words, next_one = boss.ledger.words, 0
        for _ in range(kills):
            words[BEGUN] = words[DONE] = next_one
            pid = boss.fork(stream)
            patience = boss.dice.randrange(200)
            kill_at = next_one + patience
            killed = False
            if not patience:
                boss.kill(pid)
                killed = True
            got_any = False
            try:
                for data in frames_of(ring, boss.dice):
                    number = number_of(data, boss.capacity)
                    if number != next_one:
                        raise AssertionError(f"frame {number} came, {next_one} was to come")
                    next_one, got_any = next_one + 1, True
                    if next_one >= kill_at and not killed:
                        boss.kill(pid)
                        killed = True
            except PeerDied as died:
                boss.told(died, pid, "producer")
            except Empty:
                # One that was killed before its first put had no role yet, and nobody misses it.
                if got_any or not killed:
                    raise
                boss.reap(pid)
            if not words[DONE] <= next_one <= words[BEGUN]:
                raise AssertionError(
                    f"frames up to {words[DONE]} were put, up to {words[BEGUN]} begun, and up to "
                    f"{next_one} came"
                )
        ring.put(b"the end")
        ring.shutdown()
        assert list(ring) == [b"the end"]
    report(boss, kills, next_one)


# ------------------------------------------------------------------ a consumer dies


def follow(ring: Ring, ledger: Ledger, capacity: int) -> None:
    """Take frames in place, and write down which; now and then copy one out."""
    words = ledger.words
    dice = random.Random(os.getpid())
    first = True
    while True:
        way = dice.randrange(3)
        if way:
            with ring.peek() as view:
                number = number_of(view, capacity)
                check_follows(words, number, first=first)
                words[SHOWN] = number + 1
            words[RELEASED] = number + 1
        else:
            # What get() has returned is released: whether it was shown is for its reader to know.
            with ring.peek() as view:
                number = number_of(view, capacity)
                check_follows(words, number, first=first)
                words[SHOWN] = number + 1
            try:
                with ring.peek() as view:
                    check_follows(words, number_of(view, capacity), first=False)
                    raise KeyError
            except KeyError:
                pass
            words[RELEASED] = number + 1
        first = False


def check_follows(words: memoryview[int], number: int, *, first: bool) -> None:
    """Frames come in order; the first of a successor may be one that was shown already."""
    if first:
        # Released and not yet written down, or shown and not yet released.
        if not words[RELEASED] <= number <= words[SHOWN]:
            raise AssertionError(
                f"frame {number} came first, {words[RELEASED]} were released, {words[SHOWN]} shown"
            )
    elif number != words[SHOWN]:
        raise AssertionError(f"frame {number} came, {words[SHOWN]} was to come")


def kill_consumers(where: str | None, kills: int, seed: int) -> None:
    boss = Supervisor(where, 1 << (12 + seed % 3), seed)
    with boss.ring as ring:
        words, number = boss.ledger.words, 0
        for _ in range(kills):
            pid = boss.fork(follow)
            kill_at = number + boss.dice.randrange(200)
            killed = False
            while True:
                if number >= kill_at and not killed:
                    boss.kill(pid)
                    killed = True
                try:
                    if boss.dice.random() < 0.3:
                        batch = [frame(number + n, boss.capacity) for n in range(5)]
                        number += ring.put_many(batch, timeout=SECOND)
                    else:
                        ring.put(frame(number, boss.capacity), timeout=SECOND)
                        number += 1
                except PeerDied as died:
                    boss.told(died, pid, "consumer")
                    break
                except Full:
                    # As above: killed before its first get, it had no role.
                    if not killed:
                        raise
                    boss.reap(pid)
                    break
        ring.shutdown()
        rest = [number_of(data, boss.capacity) for data in ring]
        if rest and not words[RELEASED] <= rest[0] <= words[SHOWN]:
            raise AssertionError(f"{rest[0]} came first, {words[RELEASED]} were released")
        if rest != list(range(number - len(rest), number)) or words[SHOWN] + len(rest) < number:
            raise AssertionError(f"{number} were put, {rest[:1]}...{rest[-1:]} were left")
    report(boss, kills, number)


# ------------------------------------------------------------------ what is left


def report(boss: Supervisor, kills: int, frames: int) -> None:
    """Print what the test compares."""
    boss.ledger.close()
    print(kills, frames > kills, boss.slowest < SECOND)


def run_and_look(kill: Callable[[str | None, int, int], None], *args: Any) -> None:
    """Run; nothing of all those processes is left in this one."""
    resource_tracker.ensure_running()
    with assert_no_leaks(names="^$"):
        kill(*args)


@pytest.mark.parametrize("kill", [kill_producers, kill_consumers])
def test_killed_at_random_moments(kill: Any, where: str | None, backend: str) -> None:
    seed = {"anon": 3, "shm": 4, "file": 5}[backend]
    result = run_python(run_and_look, kill, where, KILLS[backend], seed, timeout=50)
    assert result.stdout.splitlines() == [f"{KILLS[backend]} True True"]
    assert result.stderr == ""
