"""Processes killed at the steps of an eventcount: the other sleepers go on within a slice."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shmkit import Broadcast
from shmkit.tools.testing import run_until, start_until
from tests.contracts.broadcast import asleep

SECONDS = 10.0  # far more than a slice, and far less than for ever


def publish(broadcast: Broadcast) -> None:
    broadcast.publish(b"news")


def take(broadcast: Broadcast) -> None:
    with broadcast, broadcast.subscribe() as subscription:
        subscription.get()


@pytest.mark.parametrize("step", ["bell.clear", "bell.count", "bell.post"])
def test_a_publisher_killed_as_it_rings(where: Any, step: str) -> None:
    """The frame was published: both readers get it, though neither may have been woken."""
    with Broadcast.create(where, capacity=4096) as ours, ThreadPoolExecutor(2) as threads:
        other = pickle.loads(pickle.dumps(ours))
        with other, ours.subscribe() as first, other.subscribe() as second:
            waiting = [threads.submit(one.get, SECONDS) for one in (first, second)]
            asleep(ours)
            with run_until(f"{step}@BellCore.ring", publish, ours, method="fork") as victim:
                assert victim.reached
            assert [task.result() for task in waiting] == [b"news"] * 2


@pytest.mark.parametrize("step", ["bell.flag", "bell.fence", "bell.sleep", "bell.pass_on"])
def test_a_reader_killed_as_it_sleeps(where: Any, step: str) -> None:
    """Also with the token that it was to hand on."""
    with (
        Broadcast.create(where, capacity=4096) as ours,
        ThreadPoolExecutor(1) as threads,
        ours.subscribe() as subscription,
    ):
        # A sleep that ends by its own slice as it is rung does not come to `pass_on`: once more.
        for _ in range(10):
            with start_until(f"{step}@BellCore.doze", take, ours, method="fork") as victim:
                if step == "bell.pass_on":
                    asleep(ours)
                    ours.publish(b"rings")
                    assert subscription.get() == b"rings"
                if victim.await_point(SECONDS):
                    break
        assert victim.reached
        waiting = threads.submit(subscription.get, SECONDS)
        asleep(ours)
        ours.publish(b"news")
        assert waiting.result() == b"news"
