"""Gong: a doorbell that wakes everybody who sleeps at it.

A semaphore wakes one sleeper for each token. So the ringer leaves one token, and whoever takes it
leaves one for the next. Those who have been woken may come back to sleep before the others have got
theirs, and must not take it from them: a gong counts how often it was rung, and has two semaphores,
for the even times and for the odd. (The two turnstiles of the reusable barrier, Downey, "The Little
Book of Semaphores", 3.6.)

    sleeper: n = rung; flag = 1; fence; look again; sleep on semaphore n & 1;
             rung != n? then leave a token there for the next one; look
    ringer:  publish; fence; flag? flag = 0; rung = n + 1; post semaphore n & 1

The last sleeper leaves a token that nobody takes, until somebody does who sleeps two times later,
finds that it has not been rung since, and sleeps on. A sleeper that is killed with the token, or a
ringer before it left one, costs the others the rest of a slice, as at a doorbell (waiting.py).

Words: the flag, and behind it how often it was rung.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmkit.segment.fences import fence_all
from shmkit.sync.doorbell import OPEN, Doorbell
from shmkit.sync.semaphore import SLICE, NoSemaphore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shmkit.deadline import Deadline
    from shmkit.sync.semaphore import Semaphore

__all__ = ["Gong"]

_MASK: Final = (1 << 64) - 1


class Gong(Doorbell):
    """Where any number sleep until a word changes, and whoever changes it wakes them all.

    Args:
        words: the segment as 8-byte words.
        flag: index of the word that says that someone may be asleep here; the next is the gong's.
        state: index of the word that ends every wait when it is not OPEN.
        semaphores: those of the segment's membership, by name.
        names: the two that sleepers sleep on, in turns.
    """

    __slots__ = ("_names",)

    def __init__(
        self,
        words: memoryview[int],
        flag: int,
        state: int,
        semaphores: Mapping[str, Semaphore],
        names: tuple[str, str],
    ) -> None:
        super().__init__(words, flag, state, semaphores, names[0])
        self._names = names

    def wait(self, word: int, seen: int, deadline: Deadline, look: Callable[[], object]) -> bool:
        """As of a `Doorbell`."""
        if self.glance(word, seen):
            return True
        words, state, rung = self._words, self._state, self._flag + 1
        while words[word] == seen and words[state] == OPEN:
            times = words[rung]
            words[self._flag] = 1  # step: gong.flag
            fence_all()  # step: gong.fence
            if words[word] != seen or words[state] != OPEN:
                break
            left = deadline.remaining()
            if left > 0:
                self.sleeps += 1
                semaphore = self._semaphore_at(times)
                if semaphore.acquire_within(min(left, SLICE)):  # step: gong.sleep
                    if words[rung] != times:
                        semaphore.raw.release()  # step: gong.pass_on
                    continue
            if words[word] == seen and words[state] == OPEN:
                look()
                if left == 0:
                    return False
        return True

    def ring(self) -> None:
        """Wake all sleepers, if there may be any; the caller has published, and fenced after it."""
        words = self._words
        if words[self._flag]:
            words[self._flag] = 0  # step: gong.clear
            rung = self._flag + 1
            times = words[rung]
            words[rung] = times + 1 & _MASK  # step: gong.count
            # Also when this handle was closed meanwhile.
            self._semaphore_at(times).raw.release()  # step: gong.post

    def ring_always(self) -> None:
        """Wake all, whether or not anyone is known to sleep."""
        self._words[self._flag] = 1
        self.ring()

    def _semaphore_at(self, times: int) -> Semaphore | NoSemaphore:
        return self._semaphores.get(self._names[times & 1]) or NoSemaphore()
