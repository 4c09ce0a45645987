"""Soak: processes put and get without end, are killed, stopped and replaced; nothing may be lost.

    python -m tests.kill.soak --seconds 300 [--where shm:NAME | file:PATH] [--seed N]

Four producers and four consumers share a ring. A hand that means no good picks one of them at a
time: SIGKILL, and another takes its place, or SIGSTOP, and SIGCONT some time later. Every frame has
a number, a size drawn at random and a checksum; what was put and what came is counted in memory
that has nothing to do with the ring.

Producers put in every way. Two consumers read in place and note a frame before they release it:
those are killed, and a frame that one was reading comes again to another. Two take frames out,
alone and in batches; killed between taking and noting they would take a frame along that the ring
has rightly let go, so those are only stopped.

It fails if a frame is lost or torn, if more came twice than consumers were killed, if nothing moves
for ten seconds although nobody is stopped, or if a name is left behind.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from shmkit import Empty, PeerDied, Ring, ShutDown
from tests.kill.ledger import make_frame, read_frame

__all__ = ["Report", "soak"]

SLOTS: Final = 4  # of producers, and of consumers
MORTAL: Final = 2  # consumers 0 to 1 are killed
MOST: Final = 1 << 26  # frames of one producer's slot: what the counts have room for
CAPACITY: Final = 1 << 16
PATIENCE: Final = 10.0  # seconds without a frame
_BATCH: Final = 8


class Counts:
    """What the children count, each in words and bytes of its own."""

    def __init__(self) -> None:
        # Sparse: only what is counted takes room.
        self._map = mmap.mmap(-1, 4096 + SLOTS * SLOTS * MOST)
        self.view = memoryview(self._map)
        self.words = self.view[:4096].cast("Q")

    def begin(self, me: int, count: int) -> int:
        """Note that frames of a producer are about to be put; gives the number of the first."""
        number = self.words[me]
        self.words[me] = number + count
        return number

    def end(self, me: int, number: int) -> None:
        """Note that all frames of a producer up to a number are in, but those that a kill hid."""
        self.words[SLOTS + me] = number

    def hide(self, me: int) -> None:
        """A producer was killed: of the frames it had begun nobody knows."""
        known, begun = self.words[SLOTS + me], self.words[me]
        hidden.extend((me, number) for number in range(known, begun))
        self.words[SLOTS + me] = begun

    def note(self, me: int, frame: bytes | memoryview) -> None:
        """Note a frame that came to a consumer."""
        found = read_frame(frame)
        if found is None:
            self.words[3 * SLOTS + me] += 1
            return
        at = self._at(me, found[0]) + found[1]
        self.view[at] += 1
        self.words[2 * SLOTS + me] += 1

    @property
    def delivered(self) -> int:
        """How many frames came, those that came again included."""
        return sum(self.words[2 * SLOTS : 3 * SLOTS])

    @property
    def torn(self) -> int:
        """How many came that were not whole."""
        return sum(self.words[3 * SLOTS : 4 * SLOTS])

    @property
    def stopping(self) -> bool:
        """Whether producers are to come to an end."""
        return bool(self.words[100])

    def stop(self) -> None:
        """Let producers come to an end."""
        self.words[100] = 1

    def came(self, producer: int) -> bytes:
        """How often each frame of a producer came, one byte for each."""
        size = self.words[producer]
        # The sum of long numbers is that of their bytes: none comes near 256.
        total = sum(
            int.from_bytes(self.view[self._at(me, producer) :][:size], "little")
            for me in range(SLOTS)
        )
        return total.to_bytes(size, "little")

    def _at(self, consumer: int, producer: int) -> int:
        return 4096 + (consumer * SLOTS + producer) * MOST


hidden: list[tuple[int, int]] = []


@dataclass
class Report:
    """What came of it."""

    seconds: float = 0
    messages: int = 0
    kills: dict[str, int] = field(default_factory=lambda: {"producer": 0, "consumer": 0})
    stops: int = 0
    lost: int = 0
    torn: int = 0
    again: int = 0
    unknown: int = 0
    stall: float = 0
    stall_beside_stopped: float = 0
    left: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        """How many were killed."""
        return sum(self.kills.values())

    @property
    def good(self) -> bool:
        """Whether nothing was lost, torn, made up, or left behind."""
        wrong = self.lost or self.torn or self.unknown or self.left
        return not wrong and self.again <= self.kills["consumer"] and self.stall < PATIENCE

    def __str__(self) -> str:
        killed = (
            f"{self.killed:,} ({self.kills['producer']:,} producers, "
            f"{self.kills['consumer']:,} consumers)"
        )
        stall = (
            f"{self.stall * 1000:.0f} ms "
            f"({self.stall_beside_stopped * 1000:.0f} ms while somebody was stopped)"
        )
        return "\n".join(
            (
                f"messages              {self.messages:,} in {self.seconds:.0f} s",
                f"kills survived        {killed}",
                f"stopped and continued {self.stops:,}",
                f"lost                  {self.lost}",
                f"torn                  {self.torn}",
                f"came again            {self.again} (at most one for each consumer killed)",
                f"never put, but came   {self.unknown}",
                f"longest stall         {stall}",
                f"left behind           {', '.join(self.left) or 'nothing'}",
            )
        )


def produce(ring: Ring, counts: Counts, me: int, seed: int) -> None:
    """Put frames of any size, in every way, until told to stop."""
    dice = random.Random(seed)
    with suppress(PeerDied):
        while not counts.stopping and counts.words[me] < MOST - _BATCH:
            _put_some(ring, counts, me, dice)
    ring.close()


def _put_some(ring: Ring, counts: Counts, me: int, dice: random.Random) -> None:
    way = dice.randrange(8)
    if way < 5:
        number = counts.begin(me, 1)
        frame = make_frame(me, number, dice.randrange(400))
        _insist(partial(ring.put, frame))
        counts.end(me, number + 1)
    elif way < 7:
        number = counts.begin(me, _BATCH)
        size = dice.randrange(200) if way == 6 else -1
        frames = [
            make_frame(me, number + n, dice.randrange(400) if size < 0 else size)
            for n in range(_BATCH)
        ]
        while frames:
            frames = frames[_insist(partial(ring.put_many, frames)) or 0 :]
        counts.end(me, number + _BATCH)
    else:
        number = counts.begin(me, 1)
        frame = make_frame(me, number, dice.randrange(3000))

        def in_place() -> None:
            with ring.reserve(len(frame)) as room:
                room[:] = frame

        _insist(in_place)
        counts.end(me, number + 1)


def _insist(put: Callable[[], int | None]) -> int | None:
    """Put again what did not go in because every consumer was dead at that moment."""
    while True:
        try:
            return put()
        except PeerDied:
            continue


def consume(ring: Ring, counts: Counts, me: int, seed: int) -> None:
    """Get frames until the ring is shut down and empty."""
    dice = random.Random(seed)
    while True:
        try:
            if me < MORTAL:
                with ring.peek() as frame:
                    counts.note(me, frame)
            else:
                _take_some(ring, counts, me, dice)
        except (PeerDied, Empty):
            continue
        except ShutDown:
            break
    ring.close()


def _take_some(ring: Ring, counts: Counts, me: int, dice: random.Random) -> None:
    way = dice.randrange(4)
    if way == 0:
        for frame in ring.get_many(dice.choice((None, 5))):
            counts.note(me, frame)
    elif way == 1:
        counts.note(me, ring.get(timeout=0.01))
    else:
        counts.note(me, ring.get())


class Supervisor:
    """Starts the children, kills and stops them, and watches that things move."""

    def __init__(self, ring: Ring, counts: Counts, report: Report, seed: int) -> None:
        self._ring = ring
        self._counts = counts
        self._report = report
        self._dice = random.Random(seed)
        self._context = multiprocessing.get_context("fork")
        self._children: dict[tuple[str, int], BaseProcess] = {}
        self._stopped: dict[tuple[str, int], float] = {}  # and when each is to go on
        self._seen = 0
        self._moved = time.monotonic()
        self._free = self._moved  # since when nobody is stopped
        for slot in range(SLOTS):
            self._start("producer", slot)
            self._start("consumer", slot)

    def _start(self, role: str, slot: int) -> None:
        target = produce if role == "producer" else consume
        process = self._context.Process(
            target=target, args=(self._ring, self._counts, slot, self._dice.getrandbits(32))
        )
        process.start()
        self._children[role, slot] = process

    def run(self, seconds: float, pace: float) -> None:
        """Do harm for some time, about every `pace` seconds."""
        end = time.monotonic() + seconds
        following = time.monotonic() + pace
        while (now := time.monotonic()) < end:
            self._let_go_on(now)
            self._watch(now)
            if now >= following:
                self._harm(now)
                following = now + self._dice.uniform(0, 2 * pace)
            time.sleep(0.002)

    def finish(self) -> None:
        """Let everybody come to an end, and see that they do so well."""
        self._let_go_on(float("inf"))
        self._counts.stop()
        self._join("producer")
        self._ring.shutdown()
        self._join("consumer")

    def _harm(self, now: float) -> None:
        role = self._dice.choice(("producer", "consumer"))
        slot = self._dice.randrange(SLOTS)
        child = self._children[role, slot]
        if (role, slot) in self._stopped:
            return
        if self._dice.random() < 0.25 or (role == "consumer" and slot >= MORTAL):
            os.kill(child.pid or 0, signal.SIGSTOP)
            self._stopped[role, slot] = now + self._dice.choice((0.002, 0.02, 0.1, 0.3))
            self._report.stops += 1
            return
        if child.exitcode is not None:
            raise AssertionError(f"{role} {slot} ended by itself with {child.exitcode}")
        child.kill()
        child.join()
        child.close()
        self._report.kills[role] += 1
        if role == "producer":
            self._counts.hide(slot)
        self._start(role, slot)

    def _let_go_on(self, now: float) -> None:
        for key in [key for key, until in self._stopped.items() if until <= now]:
            os.kill(self._children[key].pid or 0, signal.SIGCONT)
            del self._stopped[key]
            self._free = time.monotonic()

    def _watch(self, now: float) -> None:
        delivered = self._counts.delivered
        if delivered != self._seen or self._counts.stopping:
            self._seen, self._moved = delivered, now
        report, still = self._report, now - self._moved
        report.stall_beside_stopped = max(report.stall_beside_stopped, still)
        if not self._stopped:
            report.stall = max(report.stall, now - max(self._moved, self._free))
        if report.stall > PATIENCE:
            raise AssertionError(f"nothing has moved for {report.stall:.1f} s: {self._ring!r}")

    def _join(self, role: str) -> None:
        for (kind, slot), child in self._children.items():
            if kind == role:
                child.join(30)
                if child.exitcode != 0:
                    raise AssertionError(f"{role} {slot} ended with {child.exitcode}")

    def kill_all(self) -> None:
        """Whatever happened: leave nobody behind."""
        for child in self._children.values():
            if child.is_alive():
                child.kill()
                os.kill(child.pid or 0, signal.SIGCONT)
            child.join()
            child.close()


def soak(seconds: float, where: str | None = None, seed: int = 0, pace: float = 0.03) -> Report:
    """Run it; gives the report.

    Args:
        seconds: how long to do harm.
        where: the memory of the ring.
        seed: of the hand that does harm; timing makes every run different all the same.
        pace: seconds between two of its deeds, on average.

    Raises:
        AssertionError: a child ended by itself, or not when it should, or nothing moved.
    """
    report, counts = Report(), Counts()
    hidden.clear()
    started = time.monotonic()
    with Ring.create(where, capacity=CAPACITY, producers="many", consumers="many") as ring:
        name = ring.url.name if ring.url.scheme == "shm" else ""
        supervisor = Supervisor(ring, counts, report, seed)
        try:
            supervisor.run(seconds, pace)
            supervisor.finish()
        finally:
            supervisor.kill_all()
    report.seconds = time.monotonic() - started
    report.left = [name] if name and Path("/dev/shm", name).exists() else []
    _account(report, counts)
    return report


def _account(report: Report, counts: Counts) -> None:
    report.torn = counts.torn
    report.messages = counts.delivered
    perhaps = set(hidden)
    for producer in range(SLOTS):
        came = counts.came(producer)
        put = counts.words[SLOTS + producer]
        at = came.find(0)
        while at >= 0:
            report.lost += at < put and (producer, at) not in perhaps
            at = came.find(0, at + 1)
        report.again += len(came) - came.count(0) - came.count(1)
        report.unknown += sum(count > 0 for count in came[put:])


@contextmanager
def _memory(where: str | None) -> Iterator[str | None]:
    """A name or path of this run's own, if only the kind is given."""
    with tempfile.TemporaryDirectory(prefix="shmkit-soak-") as home:
        if where == "file":
            yield f"file:{home}/ring"
        elif where == "shm":
            yield f"shm:shmkit-soak-{os.getpid()}"
        else:
            yield where


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument(
        "--where", help='"anon:", "shm[:NAME]" or "file[:PATH]"; anonymous if not given'
    )
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--pace", type=float, default=0.03, help="seconds between two deeds")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}, {options.seconds:g} s, {options.where or 'anon:'}", flush=True)
    with _memory(options.where) as where:
        report = soak(options.seconds, where, options.seed, options.pace)
    print(report)
    print("ok" if report.good else "NOT GOOD")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
