"""Handle: one process's end of a channel, of whatever kind: coming, going, and what is common.

A channel's class adds what it keeps (slots), `_begin`, which makes it a handle without a role, and
`close`.
"""

from __future__ import annotations

import operator
import reprlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment, IncompatibleSegment, ShutDown
from shmkit.segment.located import Located
from shmkit.segment.segment import Segment
from shmkit.segment.words import CUT, KINDS, POISONED, READY, SHUT, STATE

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator, Mapping

    from shmkit.memory.buffer import SharedBuffer
    from shmkit.memory.url import Url, Where

__all__ = [
    "LIMIT",
    "STATES",
    "Handle",
    "checked_shutdown",
    "checked_state",
    "deadline_of",
    "until_shut_down",
    "whole_number",
]

T = TypeVar("T")

LIMIT: Final = 1 << 63
"""No position and no version reaches this: at a terabyte a second it takes three months."""

STATES: Final[Mapping[int, str]] = {
    READY: "open",
    SHUT: "shut down",
    CUT: "shut down at once",
    POISONED: "corrupt",
}


class Handle(Located):
    """What every handle on a channel can do."""

    _KIND: ClassVar[int]
    _NOUN: ClassVar[str]  # what the channel is called in messages
    _FLAGS: ClassVar[int] = 0  # header flags that this class knows

    _words: memoryview[int]
    _map: mmap.mmap
    _base: int  # index in the map of the first byte of the data
    _closed: bool

    def __new__(cls, *given: Any, **options: Any) -> Self:
        """A handle to be initialised with a segment, and with nothing else."""
        if options or len(given) != 1 or not isinstance(given[0], Segment):
            name = cls.__name__
            shown = [reprlib.repr(one) for one in given]
            shown += [f"{key}={reprlib.repr(value)}" for key, value in options.items()]
            raise TypeError(
                f"{name}({', '.join(shown)}) makes no {cls._NOUN}: use {name}.create(where, ...), "
                f"{name}.attach(where), or {name}.ensure(where, ...) for whichever comes first"
            )
        return super().__new__(cls)

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make a handle."""
        self._segment = segment
        self._words = segment.words
        self._map = segment.map
        self._base = segment.base
        self._closed = False

    @classmethod
    def _over(cls, segment: Segment) -> Self:
        try:
            flags, where = segment.header.flags, str(segment.buffer.url)
            # A flag of a newer shmkit may change what the bytes mean: refuse it, do not guess.
            if flags & ~cls._FLAGS:
                raise IncompatibleSegment(
                    f"{cls._NOUN} {where!r} has flags {flags:#x}, which this shmkit does not know",
                    where=where,
                )
            return cls(segment)
        except BaseException:
            # Also after a KeyboardInterrupt: the segment has no other owner yet.
            segment.close()
            raise

    @classmethod
    def _create(
        cls,
        where: Where | Url,
        data_size: int,
        *,
        ensure: bool = False,
        fill: Callable[[memoryview[int]], None] | None = None,
        **options: Any,
    ) -> Self:
        """Make a segment, with what `fill` stores into its words before it has a name."""
        if "participants" in options:
            whole_number("participants", options["participants"], "handles")
        make = Segment.ensure if ensure else Segment.create
        if fill is not None:
            options["fill"] = lambda view: fill(view.cast("Q"))
        return cls._over(make(where, KINDS[cls._KIND], data_size, **options))

    @classmethod
    def attach(
        cls, where: Where | Url, *, timeout: float | None = 0, trust_owner: bool = False
    ) -> Self:
        """Join one that exists.

        Args:
            where: its memory: "NAME", "shm:NAME", "file:PATH" or a Path.
            timeout: seconds to wait for it to be there and complete; None for ever.
            trust_owner: take what another user made, too: one that you trust, for a creator can
                do with it what it likes.

        Raises:
            FileNotFoundError: there is none of that name.
            IncompatibleSegment: it is something else, or of another layout version, or half-made.
            CorruptSegment: its header is broken.
            PermissionError: it is another user's, or one without access for this user.
        """
        kind = KINDS[cls._KIND]
        return cls._over(Segment.attach(where, kind, timeout=timeout, trust_owner=trust_owner))

    def close(self) -> None:
        """Leave, and give the roles of this handle back. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *error: object) -> None:
        if self._segment.buffer.owner:
            self.unlink()
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        self._check_open()
        return _join, (type(self), self._segment.buffer)

    @property
    def buffer(self) -> SharedBuffer:
        """The memory it is in, header and all: for tools."""
        return self._segment.buffer

    @property
    def _name(self) -> str:
        return repr(str(self._segment.buffer.url))

    @property
    def _title(self) -> str:
        return f"{self._NOUN} {self._name}"

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"this handle on {self._title} is closed")

    def _open_words(self) -> memoryview[int]:
        words = self._words
        self._check_open()  # second: if close() took the words first, this raises
        return words

    @contextmanager
    def _open_all_along(self) -> Iterator[memoryview[int]]:
        """The words; what fails because another thread closes the handle is ClosedError."""
        try:
            yield self._open_words()
        except (OSError, IndexError):
            self._check_open()
            raise

    def _words_for_putting(self) -> memoryview[int]:
        """The words, while something may go in; else ClosedError, CorruptSegment or ShutDown."""
        words = self._open_words()
        if checked_state(self._segment, words) != READY:
            raise ShutDown(f"{self._title} was shut down: nothing more goes in")
        return words

    def _corrupt(self, detail: str) -> CorruptSegment:
        return self._segment.poison(detail)


def checked_state(segment: Segment, words: memoryview[int], *, damaged: bool = False) -> int:
    """READY, SHUT or CUT; CorruptSegment if it is, or was found to be, unless `damaged` is fine."""
    state = words[STATE]
    if not READY <= state <= CUT and not (damaged and state == POISONED):
        if state == POISONED:
            raise segment.corrupt("an invariant was found broken before")
        # No process stores such a value: mark the channel, so that every handle stops.
        raise segment.poison(f"state {state} is none of {READY} to {POISONED}")
    return state


def whole_number(name: str, value: Any, unit: str) -> int:
    """An argument as an int.

    Raises:
        TypeError: it is none; a bool is none, either.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(
            f"{name}={reprlib.repr(value)} of type {kind}: it is a whole number of {unit}"
        ) from None


def checked_shutdown(immediate: Any) -> None:
    """Refuse what is no bool: `shutdown("now")` would throw away what is there."""
    if immediate not in (True, False):
        raise TypeError(
            f"immediate={immediate!r}: it is True, to throw away what is there, or False"
        )


def deadline_of(timeout: float | None) -> Deadline:
    """When a call of a channel gives up.

    Raises:
        ValueError: the timeout is NaN.
        TypeError: it is no number, or a bool: `get(True)` is `queue.Queue`'s, with another meaning.
    """
    if isinstance(timeout, bool):
        raise TypeError(
            f"timeout={timeout}: it is a number of seconds, None to wait for ever, or 0 not to "
            "wait; there is no `block` here"
        )
    return Deadline(timeout)


def until_shut_down(get: Callable[[], T]) -> Iterator[T]:
    """Frame after frame, until there is a shutdown and nothing left."""
    while True:
        try:
            frame = get()
        except ShutDown:
            return
        yield frame


def _join(cls: type[Handle], buffer: SharedBuffer) -> Handle:
    return cls._over(Segment.join(buffer, KINDS[cls._KIND]))
