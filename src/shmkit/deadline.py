"""A point in time until which a call may wait."""

from __future__ import annotations

import math
import time

__all__ = ["Deadline"]


class Deadline:
    """A point on the monotonic clock. A public call takes a timeout, a loop inside it a deadline.

    Args:
        timeout: seconds from now: None for never, 0 or less for now.

    Attributes:
        at: seconds on the clock of `time.monotonic()`; infinity for never.
        is_now: whether the timeout was 0 or less: the call must not wait at all.

    Raises:
        TypeError: `timeout` is neither None nor a number.
        ValueError: `timeout` is NaN.
    """

    __slots__ = ("at", "is_now")

    def __init__(self, timeout: float | None) -> None:
        self.is_now = False
        if timeout is None:
            self.at = math.inf
            return
        try:
            waits = timeout > 0
            self.at = time.monotonic() + (timeout if waits else 0)
        except OverflowError:
            self.at, waits = math.inf, True  # an int beyond all floats
        except TypeError:
            raise TypeError(
                "'timeout' is a number of seconds, or None for ever, not "
                f"{timeout!r}, which is of type {type(timeout).__name__!r}"
            ) from None
        if not waits:
            if timeout != timeout:
                raise ValueError(
                    f"'timeout' is a number of seconds, or None for ever, not {timeout!r}"
                )
            self.is_now = True

    def remaining(self) -> float:
        """Seconds left: 0 when it has passed, infinity when it never passes."""
        return max(0.0, self.at - time.monotonic())

    def expired(self) -> bool:
        """Whether the point in time has passed."""
        return time.monotonic() >= self.at

    def __repr__(self) -> str:
        return f"Deadline(remaining={self.remaining():.3f})"
