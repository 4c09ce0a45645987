"""Sampling: what goes through each channel, from one look to the next.

A look reads the header of each segment. Which processes have which memory is asked once in a while
only: it means to read the maps of all processes.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shmkit.tools.inspection import Holders, scan, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shmkit.tools.inspection import Inspection, Segment

__all__ = ["Row", "Sampler"]

_SCAN: Final = 15.0  # seconds from one look at all processes to the next
_FRAMES: Final = 16  # of a ring that are looked at, for how large they are
_PIDS: Final = 32  # of a segment whose CPU time is added up
_MEGABYTE: Final = 1e6


@dataclass(frozen=True)
class Row:
    """A channel, lock or other segment, since the last look.

    Attributes:
        where: as `Segment.where`.
        kind: what it is.
        status: "live", "orphan", "idle" or "unknown".
        rate: frames, objects or values that were put in a second; None if it is not told.
        rate_is_exact: False if it was guessed from the size of the frames that wait.
        megabytes: 10**6 bytes that were put in a second; None if bytes are not counted.
        depth: how full it is, from 0 to 1; None if there is no such thing.
        history: the same of the last looks, the oldest first.
        waits: threads asleep there.
        lost: frames that were dropped since it was created.
        dead: participants that died without leaving.
        cpu: per cent of a core that its processes take; None if it is not told.
        pids: its processes.
        wrong: what is wrong, a sentence each.
    """

    where: str
    kind: str
    status: str
    rate: float | None
    rate_is_exact: bool
    megabytes: float | None
    depth: float | None
    history: tuple[float, ...]
    waits: int
    lost: int
    dead: int
    cpu: float | None
    pids: tuple[int, ...]
    wrong: tuple[str, ...]


class Sampler:
    """Looks at all segments again and again.

    Args:
        everybody: other users' segments, too.
        history: how many looks are remembered.
        cpu: gives the per cent of a core that a process took since it was asked last, or None.
    """

    def __init__(
        self,
        *,
        everybody: bool = False,
        history: int = 60,
        cpu: Callable[[int], float | None] | None = None,
    ) -> None:
        self._everybody = everybody
        self._length = history
        self._cpu = cpu
        self._holders = Holders()
        self._scanned = -_SCAN
        self._before: dict[tuple[int, int], tuple[float, int]] = {}
        self._steps: dict[tuple[int, int], float] = {}  # bytes of a frame, when some were there
        self._histories: dict[tuple[int, int], deque[float]] = {}

    def sample(self) -> list[Row]:
        """Look, and say what happened since the last look."""
        now = time.monotonic()
        if now - self._scanned >= _SCAN:
            self._holders, self._scanned = scan(), now
        looks = survey(everybody=self._everybody, holders=self._holders, frames=0, count=_FRAMES)
        looks = [look for look in looks if look.segment.ours]
        cpu = self._cpu_of({pid for look in looks for pid in _pids(look)[:_PIDS]})
        rows = [self._row(look, now, cpu) for look in looks]
        alive = {look.segment.identity for look in looks}
        for memory in (self._before, self._steps, self._histories):
            for gone in memory.keys() - alive:
                del memory[gone]
        return rows

    def _cpu_of(self, pids: Iterable[int]) -> dict[int, float]:
        if self._cpu is None:
            return {}
        found = ((pid, self._cpu(pid)) for pid in pids)
        return {pid: share for pid, share in found if share is not None}

    def _row(self, look: Inspection, now: float, cpu: dict[int, float]) -> Row:
        segment, pids = look.segment, _pids(look)
        rate, exact, megabytes = self._rates(look, now)
        depth = _share(segment)
        history = self._histories.setdefault(segment.identity, deque(maxlen=self._length))
        if depth is not None:
            history.append(depth)
        shares = [cpu[pid] for pid in pids[:_PIDS] if pid in cpu]
        return Row(
            where=segment.where,
            kind=segment.kind,
            status=segment.status,
            rate=rate,
            rate_is_exact=exact,
            megabytes=megabytes,
            depth=depth,
            history=tuple(history),
            waits=segment.waiting or 0,
            lost=segment.lost or 0,
            dead=segment.dead,
            cpu=sum(shares) if shares else None,
            pids=pids,
            wrong=segment.wrong,
        )

    def _rates(self, look: Inspection, now: float) -> tuple[float | None, bool, float | None]:
        """Frames or objects in a second, whether that is exact, and megabytes in a second."""
        segment = look.segment
        if segment.passed is None:
            return None, True, None
        then, passed = self._before.get(segment.identity, (now, segment.passed))
        self._before[segment.identity] = now, segment.passed
        if look.frame_count:
            self._steps[segment.identity] = look.frame_bytes / look.frame_count
        if now == then:
            return None, True, None
        speed = max(0, segment.passed - passed) / (now - then)
        step = self._steps.get(segment.identity)
        if segment.passed_unit == "bytes":
            return (speed / step if step else None), False, speed / _MEGABYTE
        # A queue counts objects; how large they are is seen of those that wait.
        is_ring = segment.passed_unit == "objects" and step is not None
        return speed, True, (speed * step / _MEGABYTE if is_ring and step else None)


def _pids(look: Inspection) -> tuple[int, ...]:
    """Its processes: known participants, and those that map it."""
    alive = {person.pid for person in look.participants if person.alive}
    return tuple(sorted(alive | set(look.segment.pids)))


def _share(segment: Segment) -> float | None:
    if segment.depth is None or not segment.capacity:
        return None
    return min(1.0, segment.depth / segment.capacity)
