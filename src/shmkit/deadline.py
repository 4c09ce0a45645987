"""A point in time until which a call may wait."""

from __future__ import annotations

import math
import time

__all__ = ["Deadline"]


class Deadline:
    """A point on the monotonic clock. A public call takes a timeout, a loop inside it a deadline.

    Args:
        timeout: seconds from now, 0 or less for now, None for never.

    Attributes:
        at: seconds on the clock of `time.monotonic()`; infinity for never.
        is_now: whether the timeout was 0 or less: the call must not wait at all.

    Raises:
        ValueError: `timeout` is NaN.
        TypeError: `timeout` is no number.
    """

    __slots__ = ("at", "is_now")

    def __init__(self, timeout: float | None) -> None:
        self.is_now = False
        if timeout is None:
            self.at = math.inf
            return
        try:
            self.at = time.monotonic() + timeout
        except TypeError:
            kind = type(timeout).__name__
            raise TypeError(
                f"'timeout' is a number of seconds or None, not {timeout!r} of type {kind}"
            ) from None
        if self.at != self.at:
            raise ValueError("'timeout' is a number of seconds or None, not NaN")
        self.is_now = timeout <= 0

    def remaining(self) -> float:
        """Seconds left: 0 when it has passed, infinity when it never passes."""
        return max(0.0, self.at - time.monotonic())

    def expired(self) -> bool:
        """Whether the point in time has passed."""
        return time.monotonic() >= self.at

    def __repr__(self) -> str:
        return f"Deadline(remaining={self.remaining():.3f})"
