"""Killed while making a ring, joining it, leaving it or shutting it down: the others do it all."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from shmkit import Ring, ShutDown
from shmkit.segment.membership import Membership
from shmkit.tools.testing import deadline, kill_points, run_until
from tests.sync.peers import by_name

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="names of semaphores are looked for in /dev/shm"
)

NAMED = ["shm", "file"]
TIMEOUT = 30.0
MAKE = ("create.open", "create.reserve", "create.fill", "create.link", "create.track")
SEMAPHORES = ("semaphores.reset", "semaphores.format")
PLACE = ("place.pid", "place.attached")
ALONE = ("place.inside",)  # where one died inside a lock: tests/sync/test_lock_deaths.py
NAMED_SEMAPHORES = ("named.discard", "named.names", "named.create", "named.format")
LEAVE = ("unclaim", "member.roles", "member.leave")
SHUT = ("shut.state", "shut.data", "shut.space")


def make(where):
    Ring.create(where).close()


def join(where):
    Ring.attach(where).close()


def put_and_leave(where):
    ring = Ring.attach(where)
    ring.put(b"of the victim")
    ring.close()


def shut_down(ring):
    ring.shutdown()
    ring.close()


def read_to_the_end(ring):
    assert list(ring) == [b"frame"]
    ring.close()


@pytest.fixture(params=["in memory", "by name"])
def semaphores(request, monkeypatch):
    """Semaphores of both kinds; of those that handles of this process had no name is left."""
    if request.param == "by name":
        by_name(monkeypatch)
    names = set()
    enter = Membership.enter

    def noting(self):
        enter(self)
        names.update(getattr(semaphore, "name", "none") for semaphore in self.semaphores.values())

    monkeypatch.setattr(Membership, "enter", noting)
    yield request.param
    assert not [name for name in names if Path("/dev/shm", f"sem.{name}").exists()]


def works(ring):
    ring.put(b"frame")
    assert ring.get(timeout=TIMEOUT) == b"frame"


def test_every_step_is_here():
    assert set(kill_points("shmkit.memory.creation")) >= set(MAKE)
    assert set(kill_points("shmkit.segment.membership")) == {*LEAVE[1:], "member.last"}
    assert set(kill_points("shmkit.segment.semaphores")) == set(SEMAPHORES)
    assert set(kill_points("shmkit.segment.named_semaphores")) == set(NAMED_SEMAPHORES)
    assert set(kill_points("shmkit.segment.participants")) == {*PLACE, *ALONE}
    assert set(kill_points("shmkit.channels.roles")) == {"claim", "unclaim"}
    assert set(kill_points("shmkit.channels.ring.ring")) == set(SHUT)


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.parametrize("point", [*MAKE, *PLACE, *SEMAPHORES, *NAMED_SEMAPHORES])
def test_killed_while_making_one(point, backend, make_where, semaphores):
    where = make_where(backend)
    if point in (NAMED_SEMAPHORES if semaphores == "in memory" else SEMAPHORES):
        return  # a step of the other kind
    if point == "create.track" and backend == "file":
        return  # a file stays
    with deadline(TIMEOUT), run_until(point, make, where) as victim:
        assert victim.reached
        with Ring.ensure(where) as ring:
            works(ring)
            ring.unlink()


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.parametrize("point", PLACE)
def test_killed_while_joining(point, backend, make_where, semaphores):
    where = make_where(backend)
    with deadline(TIMEOUT), Ring.create(where) as ring:
        with run_until(point, join, where) as victim:
            assert victim.reached
        with Ring.attach(where) as other:
            other.put(b"frame")
            assert ring.get(timeout=TIMEOUT) == b"frame"
            assert len(ring.statistics().participants) == 2


@pytest.mark.parametrize("backend", NAMED)
@pytest.mark.parametrize("point", ["claim", *LEAVE])
def test_killed_while_claiming_a_role_or_leaving(point, backend, make_where, semaphores):
    where = make_where(backend)
    with deadline(TIMEOUT), Ring.create(where) as ring:
        with run_until(point, put_and_leave, where) as victim:
            assert victim.reached
        with Ring.attach(where) as successor:
            successor.put(b"of the successor")
        ring.shutdown()
        came = list(ring)
        assert came == [b"of the victim"] * (point != "claim") + [b"of the successor"]


@pytest.mark.parametrize("point", [*LEAVE[1:], "member.last"])
def test_killed_as_the_last_one_out(point, make_where, semaphores):
    where = make_where("file")
    with deadline(TIMEOUT):
        Ring.create(where).close()
        with run_until(point, put_and_leave, where) as victim:
            assert victim.reached
        with Ring.attach(where) as ring:
            assert ring.get(timeout=TIMEOUT) == b"of the victim"
            works(ring)


@pytest.mark.parametrize("point", SHUT)
def test_killed_while_shutting_down(point, where, semaphores, start_process_fork):
    with deadline(TIMEOUT), Ring.create(where) as ring:
        ring.put(b"frame")
        reader = start_process_fork(read_to_the_end, ring)
        with run_until(point, shut_down, ring) as victim:
            assert victim.reached
        if point == "shut.state":
            ring.shutdown()
        with pytest.raises(ShutDown):
            ring.put(b"one more")
        reader.join(TIMEOUT)
        assert reader.exitcode == 0


@pytest.mark.parametrize("point", PLACE)
def test_stopped_while_joining(point, make_where, semaphores, start_process_fork):
    """Who is stopped at the door is waited for, and then all are in."""
    where = make_where("shm")
    with (
        deadline(TIMEOUT),
        Ring.create(where) as ring,
        run_until(point, join, where, signal=signal.SIGSTOP) as victim,
    ):
        assert victim.reached
        works(ring)  # who is in is not held up
        other = start_process_fork(join, where)
        other.join(0.1)
        assert other.exitcode is None
        victim.resume()
        assert victim.wait(TIMEOUT) == 0
        other.join(TIMEOUT)
        assert other.exitcode == 0
