"""Deadlocks: processes that each hold a lock and wait for one that the next of them holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shmkit.tools.inspection.decode import Inspection

__all__ = ["Deadlock", "Wait", "find_deadlocks"]


@dataclass(frozen=True)
class Wait:
    """A process that waits for a lock.

    Attributes:
        pid: the process.
        where: the segment of the lock it waits for.
        lock: its name there.
        holder: pid of the process that holds it.
    """

    pid: int
    where: str
    lock: str
    holder: int


@dataclass(frozen=True)
class Deadlock:
    """A circle of waits: each process waits for a lock that the next one holds.

    Attributes:
        waits: in the order of the circle.
    """

    waits: tuple[Wait, ...]

    @property
    def sentence(self) -> str:
        """What it is, in words."""
        parts = [
            f"process {wait.pid} waits for {wait.where}, which process {wait.holder} holds"
            for wait in self.waits
        ]
        return "deadlock: " + "; ".join(parts)


def find_deadlocks(before: Iterable[Inspection], after: Iterable[Inspection]) -> list[Deadlock]:
    """The circles among the locks of some segments.

    A wait may just be ending. So two looks are compared, a moment apart: only who waited, and who
    held, in both of them counts. A program of many threads may wait in one thread and hold in
    another, which still moves: then a circle of processes is not yet a deadlock.

    Args:
        before: the first look.
        after: the second look at the same segments; the longer apart, the more certain.
    """
    waits = _waits(before) & _waits(after)
    found: dict[frozenset[Wait], Deadlock] = {}
    for start in sorted(waits, key=lambda wait: (wait.pid, wait.where)):
        circle = _circle(start, waits)
        if circle:
            found.setdefault(frozenset(circle), Deadlock(tuple(circle)))
    return list(found.values())


def _waits(looks: Iterable[Inspection]) -> set[Wait]:
    found = set()
    for look in looks:
        for lock in look.locks:
            for holder in lock.holders:
                found |= {Wait(pid, look.segment.where, lock.name, holder) for pid in lock.waiters}
    return found


def _circle(start: Wait, waits: set[Wait]) -> list[Wait]:
    """The shortest way from a wait back to its own process."""
    paths, seen = [[start]], {start.holder}
    while paths:
        path = paths.pop(0)
        if path[-1].holder == start.pid:
            return path
        for wait in sorted(waits, key=lambda wait: (wait.pid, wait.where)):
            if wait.pid == path[-1].holder and (
                wait.holder not in seen or wait.holder == start.pid
            ):
                seen.add(wait.holder)
                paths.append([*path, wait])
    return []
