"""Evidence: the lines of those who died ENTERING or LEAVING a lock, perhaps with its token.

It is kept until the token is seen elsewhere *after* those deaths. Forgotten earlier, a token that
died with one of them would be missed by nobody, and nobody would get in any more. There are two
proofs:

- somebody is INSIDE: it has the token;
- the token can be had. It goes back *before* anything is forgotten, and it is taken only where
  there is evidence: so whoever dies with it in hand leaves that evidence behind, and the next
  rescuer (rescue.py) finds the token lost.

Both functions are for one that is alone at the door, so that no line of the dead gets an owner
meanwhile, and that holds the lock's rescue byte, so that no rescuer clears a line after somebody
got it. `tests/model/mutex.pml` has both, and what happens when they are done otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmkit.segment.participants import ENTERING, IDLE, INSIDE, LEAVING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shmkit.segment.participants import Lines
    from shmkit.sync.semaphore import Semaphore

__all__ = ["clear_beside_holder", "clear_by_token"]


def clear_beside_holder(lines: Lines, lock: int) -> None:
    """Forget who died at a lock without its token, if somebody is INSIDE."""
    dead = _collect(lines, lock)
    if _somebody_inside(lines, lock):
        _forget(lines, dead)


def clear_by_token(lines: Lines, lock: int, token: Semaphore) -> None:
    """Forget who died at a lock without its token, if somebody is INSIDE or the token is there.

    Args:
        lines: those of the segment.
        lock: index of the lock.
        token: its semaphore.

    Raises:
        ClosedError: the handle was closed meanwhile, by another thread.
    """
    dead = _collect(lines, lock)
    if dead and (_somebody_inside(lines, lock) or _is_there(token)):
        _forget(lines, dead)


def _collect(lines: Lines, lock: int) -> list[int]:
    """Indices of the phases of those who died ENTERING or LEAVING."""
    return [
        phase
        for phase, lives in lines.phases(lock)
        # Read again after the question: the phase of a dead one does not change any more.
        if lines.words[phase] and not lives() and lines.words[phase] in (ENTERING, LEAVING)
    ]


def _somebody_inside(lines: Lines, lock: int) -> bool:
    # Alive or dead: who died INSIDE has kept the token, and those who died elsewhere have not.
    return any(lines.words[phase] == INSIDE for phase, _ in lines.phases(lock))


def _is_there(token: Semaphore) -> bool:
    if not token.acquire_within(0):  # step: evidence.take
        return False
    token.release()  # step: evidence.post
    return True


def _forget(lines: Lines, dead: Iterable[int]) -> None:
    for phase in dead:
        lines.words[phase] = IDLE  # step: evidence.forget
