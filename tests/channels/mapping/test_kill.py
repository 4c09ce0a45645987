"""A writer killed at every step: the old value or the new one, and the rest go on."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from shmkit import Full, SharedDict
from shmkit.tools.testing import kill_points, run_until
from tests.kill.dict_soak import soak

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


@pytest.mark.parametrize("scheme", ["anon", "file"])
def test_a_short_soak(scheme: str, make_where: Any) -> None:
    kills, writes = soak(1, make_where(scheme), seed=5)
    assert kills > 2
    assert writes > 100


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
