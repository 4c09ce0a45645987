"""Ring: byte frames from producers to consumers."""

from __future__ import annotations

from shmkit.channels.ring.ring import Ring, RingStatistics

__all__ = ["Ring", "RingStatistics"]
