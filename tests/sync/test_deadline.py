"""Deadline: a point in time, made from a timeout."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from shmkit.deadline import Deadline


def test_none_is_never() -> None:
    deadline = Deadline(None)
    assert deadline.remaining() == math.inf
    assert not deadline.expired()
    assert "inf" in repr(deadline)


@pytest.mark.parametrize("timeout", [0, 0.0, -0.0, False, -1, -1e-9, -math.inf, -(10**400)])
def test_zero_or_less_is_now(timeout: float) -> None:
    deadline = Deadline(timeout)
    assert deadline.is_now
    assert deadline.expired()
    assert deadline.remaining() == 0


@pytest.mark.parametrize("timeout", [1e9, math.inf, 3600, 10**400])
def test_far_away_is_not_yet(timeout: float) -> None:
    deadline = Deadline(timeout)
    assert not deadline.expired()
    assert not deadline.is_now
    if timeout > 1e300:
        assert deadline.remaining() == math.inf
        return
    assert timeout - 60 < deadline.remaining() <= timeout


def test_it_passes() -> None:
    deadline = Deadline(0.02)
    left = deadline.remaining()
    assert 0 < left <= 0.02
    end = time.monotonic() + 5
    while not deadline.expired():
        assert deadline.remaining() <= left
        left = deadline.remaining()
        assert time.monotonic() < end
    assert deadline.remaining() == 0
    assert "0.000" in repr(deadline)


def test_what_is_no_duration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'timeout' is a number of seconds.*not nan"):
        Deadline(math.nan)


@pytest.mark.parametrize("timeout", ["1", [], b"1"])
def test_what_is_no_number_is_refused(timeout: Any) -> None:
    with pytest.raises(TypeError, match=r"'timeout' is a number of seconds.*of type"):
        Deadline(timeout)
