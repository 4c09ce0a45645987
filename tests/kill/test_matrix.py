"""Everybody killed, and stopped, at every step of a ring; an outside ledger says what came of it.

A case is a step on one path, the side the victim is on, whether that side is shared, the memory,
and SIGKILL or SIGSTOP. While the victim comes to its step the others put and get beside it, in
every way there is. After it the survivors come to an end; where the victim had its side to itself,
the test succeeds it. Then the ledger has to say: every frame whose put returned came; none is torn;
none came twice, but for the one that a killed consumer may have been reading; and a stopped victim
that goes on finds its place as it left it.

`make killmatrix` runs all cases; `make test` each step on one kind of memory.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from shmkit import Empty, PeerDied, Ring, ShutDown
from shmkit.tools.testing import Victim, deadline, kill_points, start_until
from tests.conftest import KINDS
from tests.kill.ledger import Account, Ledger, make_frame
from tests.kill.roles import CAPACITY, LAST, consume, consumer, produce, producer

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a stopped child is asked for by waitid"),
    pytest.mark.slow,
]

WHOLE = os.environ.get("SHMKIT_KILLMATRIX") == "whole"
TIMEOUT = 30.0  # seconds for a case, on a machine that has other things to do
MOMENT = 0.15  # seconds the others get beside a stopped victim
VICTIM, MATE, OTHERS = 0, 1, (2, 3)  # numbers in the ledger
SUCCESSOR = 4

# Where a process is when its frame is published or released: it goes on, or has gone, with it.
AFTER = {"bell.clear", "bell.post", "mutex.leaving", "mutex.post", "mutex.idle"}
AFTER_GET = AFTER | {"get.bell", "get.ring_on"}
# Only a rescuer comes there: test_lock_matrix.py. And a waiter that gives up.
RESCUE = {"mutex.rescue", "mutex.clear", "mutex.rescued", "mutex.try", "mutex.give_up"}
# And a newcomer that finds all free places pending: test_pending.py.
SETTLE = {"settle.take", "settle.post", "settle.clear"}
# These have tests of their own below.
SPECIAL = {"put.drop", "get.drop", "put.unskip"}
# No ring of bytes comes there: tests of queues, of the pool, and of broadcasts do.
COUNTED = {"count.position", "count.number", "count.switch", "get.mark", "get.void"}
EVENTCOUNT = {"bell.count", "bell.pass_on"}
# Of a semaphore: tests/sync/test_tokens.py.
TOKENS = {f"semaphore.{step}" for step in ("hold", "count_down", "give", "count_up", "news")}
# Where the steps of a ring are, and how a side's are called.
ROOM = ("shmkit.core", *(f"shmkit.channels.ring.{name}" for name in ("write", "read", "batch")))
SIDES = {"producer": "put.", "consumer": "get."}
LOCK = ("shmkit.sync.mutex", "shmkit.segment.recovery", "shmkit.sync.doorbell")


class Case(NamedTuple):
    """One cell of the matrix."""

    point: str
    side: str
    sharing: str
    backend: str
    number: signal.Signals

    @property
    def many(self) -> bool:
        return self.sharing == "many"

    @property
    def step(self) -> str:
        return self.point.partition("@")[0]


def points_of(side: str, sharing: str) -> Iterator[str]:
    """The steps, on each of their paths, that one side of a ring comes to."""
    own = (SIDES[side], "bell.", *(["mutex."] if sharing == "many" else []))
    for point in kill_points(*ROOM, *LOCK, paths=True):
        if point.startswith(own):
            yield point


def is_reachable(case: Case) -> bool:
    """Whether this matrix brings a victim of that side there."""
    name, _, function = case.point.partition("@")
    if name in RESCUE | SPECIAL | COUNTED | EVENTCOUNT or function == "Recovery._succeed":
        return False
    if name in {"bell.flag_again", "bell.fence_again"}:
        return case.many
    checked = case.backend == "file"
    if function in {"WriteCursor.put", "ReadCursor.get"}:
        return not checked
    if name == "put.checksum":
        return checked
    return not name.endswith("ring_on") or case.many


def all_cases() -> list[Case]:
    """The whole matrix, or every step once on each side, shared and not."""
    signals = (signal.SIGKILL, signal.SIGSTOP)
    cells = [
        (side, sharing, point)
        for side in ("producer", "consumer")
        for sharing in ("one", "many")
        for point in points_of(side, sharing)
    ]
    cases = []
    for turn, (side, sharing, point) in enumerate(cells):
        cell = [
            case
            for backend, number in itertools.product(KINDS, signals)
            if is_reachable(case := Case(point, side, sharing, backend, number))
        ]
        cases += cell if WHOLE else cell[turn % len(cell) :][:1] if cell else []
    return cases


CASES = all_cases()


def test_every_step_is_in_the_matrix():
    """A step that no case brings a victim to would not be tested."""
    tested = (
        {case.step for case in CASES} | RESCUE | SETTLE | SPECIAL | COUNTED | EVENTCOUNT | TOKENS
    )
    assert tested == set(kill_points(*ROOM, *LOCK))


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join((*case[:4], case.number.name)) if case else ""
)
def test_killed_or_stopped_at_a_step(case: Case, make_where, start_process_fork):
    sharing: Any = {
        "producers": "one",
        "consumers": "one",
        f"{case.side}s": case.sharing,
    }
    ledger = Ledger()
    with (
        deadline(TIMEOUT),
        Ring.create(
            make_where(case.backend),
            capacity=CAPACITY,
            producers=sharing["producers"],
            consumers=sharing["consumers"],
        ) as ring,
    ):
        if case.side == "producer":
            account = producer_dies(case, ring, ledger, start_process_fork)
        else:
            account = consumer_dies(case, ring, ledger, start_process_fork)
        assert ring.empty()
    check(case, account)
    ledger.close()


def producer_dies(case: Case, ring: Ring, ledger: Ledger, start) -> Account:
    consumers = [start(consumer, ring, ledger, OTHERS[0])]
    mates = [start(producer, ring, ledger, MATE)] if case.many else []
    with start_until(case.point, producer, ring, ledger, VICTIM, signal=case.number) as victim:
        come_to_the_step(case, victim, ledger)
        ledger.stop()
        if case.number == signal.SIGSTOP:
            victim.resume()
            assert victim.wait(TIMEOUT) == 0
        end(mates)
        if case.number == signal.SIGKILL and not case.many:
            produce(ring, ledger, SUCCESSOR)
            assert ledger.done(SUCCESSOR) >= LAST
        ring.shutdown()
        end(consumers)
    return ledger.account()


def consumer_dies(case: Case, ring: Ring, ledger: Ledger, start) -> Account:
    producers = [start(producer, ring, ledger, OTHERS[0])]
    mates = [start(consumer, ring, ledger, MATE)] if case.many else []
    way = "peek" if case.step in AFTER_GET else ""
    if case.point.endswith("@ReadCursor.get"):
        way = "get"
    with start_until(case.point, consumer, ring, ledger, VICTIM, way, signal=case.number) as victim:
        come_to_the_step(case, victim, ledger)
        ledger.stop()
        if case.number == signal.SIGSTOP:
            victim.resume()
        elif not case.many:
            drain(ring, ledger, producers)
        end(producers)
        ring.shutdown()
        if case.number == signal.SIGSTOP:
            assert victim.wait(TIMEOUT) == 0
        end(mates)
        if not mates and case.number == signal.SIGKILL:
            consume(ring, ledger, SUCCESSOR)
    return ledger.account()


def come_to_the_step(case: Case, victim: Victim, ledger: Ledger) -> None:
    """Wait for the victim's last step; a stopped one stays so for a moment."""
    assert victim.await_point(TIMEOUT), f"{victim} did not come there"
    if case.number == signal.SIGSTOP:
        before, end = ledger.consumed(), time.monotonic() + MOMENT
        while time.monotonic() < end and ledger.consumed() < before + 50:
            time.sleep(0.005)
        assert victim.exitcode is None


def drain(ring: Ring, ledger: Ledger, producers) -> None:
    """Succeed a consumer for as long as producers need it."""
    while any(process.is_alive() for process in producers):
        try:
            ledger.note(SUCCESSOR, ring.get(timeout=0.05))
        except (Empty, PeerDied, ShutDown):
            continue


def end(processes) -> None:
    for process in processes:
        process.join(TIMEOUT)
        assert process.exitcode == 0


def check(case: Case, account: Account) -> None:
    assert account.torn == 0
    assert account.unknown == []
    assert account.delivered > 0
    taken = 0  # frames that a killed consumer may have got, and not noted
    read = 0  # frames that it may have noted, and not released
    if case.side == "consumer" and case.number == signal.SIGKILL:
        got = case.step in AFTER_GET and case.point.endswith("@ReadCursor.get")
        taken = 1 if got else 0
        read = 0 if case.step in AFTER_GET else 1
        if case.step in AFTER and not got:
            taken, read = 8, 1  # of a batch
    assert len(account.lost) <= taken, account.lost
    assert len(account.again) <= read, account.again


def drop(ring: Ring, ledger: Ledger, me: int) -> None:
    """Put more than fits."""
    for _ in range(200):
        number = ledger.begin(me)
        ring.put(make_frame(me, number, 40))
        ledger.end(me)
    ring.close()


@pytest.mark.parametrize("sharing", ["one", "many"])
@pytest.mark.parametrize("backend", KINDS)
@pytest.mark.parametrize(
    ("policy", "point"),
    [
        ("drop-new", "put.drop"),
        ("drop-oldest", "get.drop"),
        ("drop-oldest", "get.head@Reader.release"),
        ("drop-oldest", "put.tail@Writer.commit"),
    ],
)
def test_killed_while_a_full_ring_drops(policy, point, backend, sharing, make_where):
    """What is dropped is counted before it is; a successor goes on, and nothing is torn."""
    ledger = Ledger(1000)
    with (
        deadline(TIMEOUT),
        Ring.create(
            make_where(backend), capacity=CAPACITY, producers=sharing, when_full=policy
        ) as ring,
        start_until(point, drop, ring, ledger, VICTIM, nth=70) as victim,
    ):
        assert victim.await_point(TIMEOUT)
        with pickled(ring) as successor:
            drop(successor, ledger, SUCCESSOR)
        dropped = ring.statistics().dropped
        ring.shutdown()
        consume(ring, ledger, OTHERS[0])
    account = ledger.account()
    put = ledger.done(VICTIM) + ledger.done(SUCCESSOR)
    assert account.torn == 0
    assert account.unknown == []
    assert account.again == []
    assert dropped <= len(account.lost) + 2
    assert len(account.lost) <= dropped <= put
    ledger.close()


def skip(ring: Ring, ledger: Ledger, me: int) -> None:
    """Put a frame that does not fit before the end of the lap, nor behind it beside one more."""
    number = ledger.begin(me)
    ring.put(make_frame(me, number, 3000))
    ledger.end(me)
    ring.close()


@pytest.mark.parametrize("sharing", ["one", "many"])
@pytest.mark.parametrize("backend", KINDS)
@pytest.mark.parametrize("fits", [True, False])
def test_killed_between_a_skip_and_its_frame(backend, sharing, fits, make_where):
    """The next producer takes the skip back; what it puts there is not passed over."""
    ledger = Ledger(1000)
    with (
        deadline(TIMEOUT),
        Ring.create(make_where(backend), capacity=CAPACITY, producers=sharing) as ring,
    ):
        with pickled(ring) as first:
            first.put(bytes(2000))
        assert ring.get() == bytes(2000)
        for step in ("put.tail@Writer.commit", "put.unskip"):
            with start_until(step, skip, ring, ledger, VICTIM) as victim:
                assert victim.await_point(TIMEOUT)
            assert ring.empty()
        with pickled(ring) as successor:
            number = ledger.begin(SUCCESSOR)
            successor.put(make_frame(SUCCESSOR, number, 40 if fits else 3000))
            ledger.end(SUCCESSOR)
        ring.shutdown()
        consume(ring, ledger, OTHERS[0])
    account = ledger.account()
    assert (account.torn, account.unknown, account.again, account.lost) == (0, [], [], [])
    assert account.delivered == 1
    ledger.close()


def pickled(ring: Ring) -> Ring:
    """Another handle."""
    handle: Ring = pickle.loads(pickle.dumps(ring))
    return handle
