"""A writer killed at every step: the old value or the new one, and the rest go on."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from shmkit import Full, SharedDict
from shmkit.tools.testing import kill_points, run_until
from tests.processes import wait_until

STEPS = sorted(
    point
    for point in kill_points("shmkit.channels.mapping", "shmkit.core", "shmkit.sync", paths=True)
    if point.startswith(("dict.", "mutex.")) and ".recovery" not in point
)


def put_new(shared: SharedDict) -> None:
    shared["new"] = b"N" * 50


def replace(shared: SharedDict) -> None:
    shared["old"] = b"R" * 50


def delete(shared: SharedDict) -> None:
    del shared["old"]


def fill_up(shared: SharedDict) -> None:
    """Until it was compacted, twice."""
    before = shared.statistics().compactions
    while shared.statistics().compactions < before + 2:
        shared["again"] = b"A" * 500


def clear(shared: SharedDict) -> None:
    shared.clear()


def grow(shared: SharedDict) -> None:
    for number in range(200):
        shared[number] = b"G" * 50


# What each does, and what may be there after it was killed: old and new.
OLD = {"old": b"O" * 50, "kept": [1, 2]}
ACTS: dict[Callable[[SharedDict], None], Callable[[dict[Any, Any]], bool]] = {
    put_new: lambda now: now in (OLD, OLD | {"new": b"N" * 50}),
    replace: lambda now: now in (OLD, OLD | {"old": b"R" * 50}),
    delete: lambda now: now in (OLD, {"kept": [1, 2]}),
    fill_up: lambda now: now in (OLD, OLD | {"again": b"A" * 500}),
    clear: lambda now: now in (OLD, {}),
    grow: lambda now: now == OLD | dict.fromkeys(range(len(now) - 2), b"G" * 50),
}


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("step", STEPS)
def test_a_writer_killed_at_a_step(
    step: str, act: Callable[[SharedDict], None], make_where: Any
) -> None:
    kind = random.Random(step).choice(["anon", "shm", "file"])
    with SharedDict.create(make_where(kind), capacity=8192, grow=act is grow) as shared:
        shared.update(OLD)
        with run_until(step, act, shared, method="fork", timeout=20) as victim:
            if not victim.reached:
                assert victim.exitcode == 0
        assert ACTS[act](shared.copy()), (step, shared.copy())
        assert len(shared) == len(shared.copy()) or not victim.reached or settled(shared)
        shared["after"] = 1
        shared["old"] = b"again"
        assert (shared["after"], shared["old"], shared.get("kept", [1, 2])) == (1, b"again", [1, 2])
        assert len(shared) == len(shared.copy())
        fill_up(shared)
        assert shared["old"] == b"again"


def settled(shared: SharedDict) -> bool:
    """The count is right again as soon as the next writer has come."""
    shared["settles"] = 1
    del shared["settles"]
    return len(shared) == len(shared.copy())


def count_up(shared: SharedDict, ledger: SharedDict, number: int) -> None:
    """Note what is begun, do it, note that it was done; and disturb the rest meanwhile."""
    step = 0
    dice = random.Random(os.getpid())
    while True:
        step += 1
        ledger[number, "begun"] = step
        shared["own", number] = step.to_bytes(4, "little") * dice.randrange(1, 50)
        ledger[number, "done"] = step
        shared.increment("together")
        if not step % 7:
            shared.pop(("own", dice.randrange(3)), None)
            shared["own", number] = step.to_bytes(4, "little")


def test_writers_killed_at_random_moments(
    make_where: Any, backend: str, context: Any, start_process: Callable[..., BaseProcess]
) -> None:
    with (
        SharedDict.create(make_where(backend), capacity=1 << 15, grow=True) as shared,
        SharedDict.create(None, capacity=1 << 15, grow=True) as ledger,
    ):
        dice = random.Random(5)
        for number in range(4):
            writers = [start_process(count_up, shared, ledger, each) for each in range(2)]
            before = [ledger.get((each, "done"), 0) for each in range(2)]
            for each in range(2):
                wait_until(lambda: ledger.get((each, "done"), 0) not in (0, before[each]))  # noqa: B023
            together = shared.get("together", 0)
            wait_until(lambda: shared.get("together", 0) > together + 20)  # noqa: B023
            victim = dice.randrange(2)
            writers[victim].kill()
            writers[victim].join()
            together = shared["together"]
            wait_until(lambda: shared["together"] > together + 5)  # noqa: B023
            value = shared.get(("own", victim), b"")
            begun, done = ledger[victim, "begun"], ledger.get((victim, "done"), 0)
            if value:
                step = int.from_bytes(value[:4], "little")
                assert value == value[:4] * (len(value) // 4), "torn"
                assert done <= step <= begun or number
            writers[1 - victim].kill()
            writers[1 - victim].join()
        assert len(shared) == len(shared.copy()) or settled(shared)


def test_full_is_told_and_nothing_is_lost(where: Any) -> None:
    with SharedDict.create(where, capacity=8192) as shared:
        shared.update(OLD)
        with pytest.raises(Full, match="its capacity is 8192"):
            shared.update((number, bytes(100)) for number in range(1000))
        there = shared.copy()
        assert there.keys() == {*OLD, *range(len(there) - 2)}
        assert len(there) > 40
        del shared[0]
        shared["fits again"] = bytes(50)
        with pytest.raises(Full):
            shared["old"] = bytes(10_000)
        assert shared["old"] == OLD["old"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate here")
def test_no_room_to_grow(make_where: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with SharedDict.create(make_where("shm"), capacity=8192, grow=True) as shared:
        shared.update(OLD)

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            with pytest.raises(OSError, match="no room"):
                grow(shared)
        there = shared.copy()
        assert there == OLD | dict.fromkeys(range(len(there) - 2), b"G" * 50)
        grow(shared)
        assert len(shared) == 202
