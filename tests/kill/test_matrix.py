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
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
# Only who looks for the dead comes there: test_lock_matrix.py. And who runs out of patience.
RESCUE = {"mutex.rescue", "mutex.clear", "mutex.rescued", "mutex.try", "mutex.give_up"}


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
    for module in (side, {"producer": "placing", "consumer": "finding"}[side]):
        yield from kill_points(f"shmkit.channels.ring.{module}", paths=True)
    yield from kill_points("shmkit.sync.doorbell", paths=True)
    if sharing == "many":
        yield from kill_points("shmkit.sync.mutex", "shmkit.sync.recovery", paths=True)


def is_reachable(case: Case) -> bool:
    """Whether this matrix brings a victim of that side there."""
    name, _, function = case.point.partition("@")
    if name in RESCUE or function == "Rescuing._succeed" or name in {"put.drop", "get.drop"}:
        return False  # see the tests below
    if name in {"bell.flag_again", "bell.fence_again"}:
        return case.many
    checked, shared = case.backend == "file", case.many
    if function in {"Producing.put", "Consuming.get"}:
        return not checked and not shared
    if function in {"Producing._put_shared", "Consuming._get_shared"}:
        return not checked and shared
    if function in {"Producing._write_run", "Producing._write_alike", "Consuming._take_alike"}:
        return not checked
    return not name.endswith("ring_on") or shared


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
    tested = {case.step for case in CASES} | RESCUE | {"put.drop", "get.drop"}
    modules = ("producer", "placing", "consumer", "finding")
    channels = [f"shmkit.channels.ring.{module}" for module in modules]
    syncs = [f"shmkit.sync.{module}" for module in ("mutex", "recovery", "doorbell")]
    assert tested == set(kill_points(*channels, *syncs))


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join((*case[:4], case.number.name)) if case else ""
)
def test_killed_or_stopped_at_a_step(case: Case, make_where, start_process_fork):
    sharing = {"producers": "one", "consumers": "one", f"{case.side}s": case.sharing}
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
        names = semaphores_of(ring)
        if case.side == "producer":
            account = producer_dies(case, ring, ledger, start_process_fork)
        else:
            account = consumer_dies(case, ring, ledger, start_process_fork)
        assert ring.empty()
    check(case, account)
    assert not [name for name in names if Path("/dev/shm", f"sem.{name}").exists()]
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
    way = "peek" if case.step in AFTER_GET and "_get_" not in case.point else ""
    if case.point.endswith((".get", "._get_shared")):
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
        got = case.step in AFTER_GET and case.point.endswith((".get", "._get_shared"))
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
        ("drop-oldest", "get.head@Finding._release"),
        ("drop-oldest", "put.tail@Placing._publish"),
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
        drop_with = Ring.__reduce__(ring)
        with drop_with[0](*drop_with[1]) as successor:
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


def semaphores_of(ring: Ring) -> list[str]:
    return [semaphore.name for semaphore in ring._segment.membership.semaphores.values()]
