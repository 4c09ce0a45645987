"""SharedDict: a dict that any number of processes share.

Reading takes no lock and never waits; generation.py says why it is sound. Writing takes a lock
between processes, and commits by one store: writing.py. Values are copied in and out: what comes
out is the reader's own, and changing it changes nothing here.
"""

from __future__ import annotations

import errno
import operator
import os
import threading
import weakref
from collections import Counter
from collections.abc import ItemsView, Iterator, KeysView, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from shmkit.channels.handle import Handle
from shmkit.channels.mapping.generation import Broken, Entry, Generation, hash_of
from shmkit.channels.mapping.keys import Key, decode_key, encode_key
from shmkit.channels.mapping.store import NOTHING, Store, fields_at
from shmkit.channels.mapping.values import (
    ARRAY,
    FLOAT,
    INT,
    decode_value,
    encode_value,
    view_array,
)
from shmkit.channels.mapping.writing import Writer, slots_for
from shmkit.deadline import Deadline
from shmkit.segment.fences import STRONG_ORDER, fence, join_fence_all
from shmkit.segment.header import data_offset
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.segment import PARTICIPANTS
from shmkit.segment.words import (
    DICT_CAPACITY,
    DICT_COMPACTIONS,
    DICT_DEAD,
    DICT_KIND,
    DICT_LIVE,
    DICT_ROOT,
    DICT_WRITES,
    GROWS,
    LEAST_DATA,
    PAGE,
    PINNED,
    VERIFIED,
)

if TYPE_CHECKING:
    from shmkit.memory.url import Where
    from shmkit.segment.segment import Segment

__all__ = ["SharedDict"]

_TRIES: Final = 10  # of a look at everything beside writers, before it takes the lock
_MISSING: Final[Any] = object()


class SharedDict(Handle, MutableMapping[Key, Any]):
    """A dict that any number of processes share.

    `create`, `attach` and `ensure` are the ways to make one. Keys are str, bytes, int, and tuples
    of these; values anything that pickles. bytes, str, int, float and numpy arrays are kept
    without a pickle. A value is copied in and out: to change one, set it again.

    A writer that is killed leaves the old value or the new one. Reading never waits. On a file it
    is durable: it is there when every process was killed, and `flush` brings it to the disk.
    """

    _KIND: ClassVar = DICT_KIND.number
    _NOUN: ClassVar = DICT_KIND.noun
    _FLAGS: ClassVar = GROWS | VERIFIED

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make a handle."""
        owner = os.fstat(segment.membership.presence.descriptor).st_uid
        if owner != os.geteuid():
            raise PermissionError(
                errno.EPERM,
                f"belongs to user {owner}; values may be pickles, pickles are code, and only your "
                "own is run",
                str(segment.buffer.url),
            )
        super().__init__(segment)
        self._store = Store(segment)
        self._writer = Writer(self._store, self._title)
        self._verified = bool(segment.header.flags & VERIFIED)
        self._pop_at = 0
        self._begin()
        membership = segment.membership
        membership.presence.call_after_fork(self._begin_in_child)
        membership.watch(self, segment.close, f"unclosed {self._title}")

    def _begin(self) -> None:
        self._pins: Counter[int] = Counter()
        self._pinning = threading.Lock()
        self._may_sleep = False

    def _begin_in_child(self) -> None:
        self._writer.start_anew()
        self._begin()

    @classmethod
    def create(
        cls,
        where: Where = None,
        *,
        capacity: int = 1 << 20,
        grow: bool = False,
        keep: bool = False,
        mode: int = 0o600,
        participants: int = PARTICIPANTS,
    ) -> Self:
        """Make an empty one.

        Args:
            where: its memory: None, "NAME", "shm:NAME", "file:PATH" or a Path.
            capacity: bytes for keys, values and the index; as much again while it is compacted.
            grow: become larger when it is full.
            keep: leave the name in place when its creator goes.
            mode: permissions, less the umask.
            participants: how many handles there may be at a time.

        Raises:
            FileExistsError: it is there.
            ValueError: a bad name, or a capacity that is no number of bytes.
            OSError: ENOSPC, no room for it.
        """
        return cls._new(where, capacity, grow, keep, mode, participants, ensure=False)

    @classmethod
    def ensure(
        cls,
        where: Where,
        *,
        capacity: int = 1 << 20,
        grow: bool = False,
        keep: bool = False,
        mode: int = 0o600,
        participants: int = PARTICIPANTS,
    ) -> Self:
        """Join the one that exists, which keeps its own options, or make it; else as `create`.

        Args:
            where: as of `create`, and so are the rest.
            capacity: bytes.
            grow: become larger when it is full.
            keep: leave the name in place when its creator goes.
            mode: permissions, less the umask.
            participants: how many handles there may be at a time.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
            OSError: as `create`.
        """
        return cls._new(where, capacity, grow, keep, mode, participants, ensure=True)

    @classmethod
    def _new(
        cls,
        where: Where,
        capacity: int,
        grow: bool,
        keep: bool,
        mode: int,
        participants: int,
        *,
        ensure: bool,
    ) -> Self:
        from shmkit.memory.url import Url

        capacity = operator.index(capacity)
        if not 0 < capacity < 1 << 47:
            raise ValueError(f"capacity={capacity}: a dict takes 1 byte to 128 TiB")
        size = max(LEAST_DATA, capacity + -capacity % PAGE)
        start, slots = data_offset(participants), slots_for(size)
        is_file = Url.parse(where).scheme == "file"

        def fill(words: memoryview[int]) -> None:
            at = fields_at(1)
            words[at : at + 4] = memoryview(_words(start, size, slots, start + 8 * slots))
            words[DICT_CAPACITY] = size
            words[DICT_ROOT] = 1

        return cls._create(
            where,
            1 << (size - 1).bit_length(),
            ensure=ensure,
            fill=fill,
            flags=(GROWS if grow else 0) | (VERIFIED if is_file else 0),
            keep=keep,
            mode=mode,
            participants=participants,
        )

    # -- reading -----------------------------------------------------------------------------------

    def _read(self, key: object) -> tuple[Entry, Generation, bytes] | None:
        """An entry and the bytes of its value, as they were at one moment."""
        self._check_open()
        spelled = encode_key(key)
        hashed, store = hash_of(spelled), self._store
        while True:
            generation, content, problem = store.current(), b"", ""
            try:
                entry = generation.find(spelled, hashed)
                if entry is not None:
                    content = generation.content_of(entry)
                    if self._verified and not generation.is_whole(entry):
                        problem = f"the entry of {key!r} does not fit its checksum"
            except Broken as error:
                problem = str(error)
            if not STRONG_ORDER:
                fence()
            if store.is_current(generation):
                if problem:
                    raise store.corrupt(problem)
                if generation.number == NOTHING:
                    self._check_open()
                return None if entry is None else (entry, generation, content)
            self._check_open()

    def __getitem__(self, key: Key) -> Any:
        found = self._read(key)
        if found is None:
            raise KeyError(key)
        return decode_value(found[0].kind, found[2])

    def get(self, key: Key, default: Any = None, *, view: bool = False) -> Any:
        """The value of a key.

        Args:
            key: the key.
            default: what to give if it is not there.
            view: give an array as a read-only view of the shared memory, without a copy. It keeps
                its value: the memory is not used for anything else while the view is there.

        Raises:
            ClosedError: this handle was closed.
            CorruptSegment: it was overwritten; on a file, a page of it may be torn.
        """
        found = self._view(key) if view else self._read(key)
        if found is None:
            return default
        entry, generation, content = found
        if view and entry.kind == ARRAY:
            return self._array_at(entry, generation)
        return decode_value(entry.kind, content)

    def version(self, key: Key) -> int:
        """The number of the write that set a key; 0 if it is not there. It only grows."""
        found = self._read(key)
        return found[0].version if found else 0

    def __contains__(self, key: object) -> bool:
        try:
            return self._read(key) is not None
        except TypeError:
            hash(key)  # what no dict can have is an error, as in a dict
            return False

    def __len__(self) -> int:
        return self._open_words()[DICT_LIVE]

    def wait(self, key: Key, newer_than: int = 0, timeout: float | None = None) -> tuple[Any, int]:
        """Wait until a key has a value newer than one that is known.

        Args:
            key: the key.
            newer_than: the version of the known one, as of `version` or an earlier call; 0: any.
            timeout: seconds to wait; None for ever, 0 or less not at all.

        Returns:
            The value, and its version.

        Raises:
            TimeoutError: there was none in that time.
            ClosedError, CorruptSegment: as `get`.
        """
        deadline = Deadline(timeout)
        while True:
            seen = self._open_words()[DICT_WRITES]
            found = self._read(key)
            if found is not None and found[0].version > newer_than:
                return decode_value(found[0].kind, found[2]), found[0].version
            if not self._may_sleep:
                self._segment.membership.register()  # a forked child opens the semaphores here
                join_fence_all()
                self._may_sleep = True
            words = self._open_words()
            if not self._writer.bell.wait(DICT_WRITES, seen, deadline, self._check_open):
                raise TimeoutError(
                    f"no value of {key!r} newer than version {newer_than} within {timeout} s"
                )
            if words[DICT_WRITES] == seen:  # a state that ends every wait
                raise self._store.corrupt("its state was overwritten")

    # -- looking at all ----------------------------------------------------------------------------

    def _snapshot(self, *, values: bool) -> list[tuple[bytes, int, bytes]]:
        """Key, kind and bytes of each entry, as they all were at one moment."""
        for _ in range(_TRIES):
            words = self._open_words()
            writes, generation = words[DICT_WRITES], self._store.current()
            slots, problem = generation.words(), ""
            if words[DICT_WRITES] != writes:
                continue
            try:
                found = self._copy(generation, slots, values)
            except Broken as error:
                problem = str(error)
            if self._store.is_current(generation):
                if problem:
                    raise self._store.corrupt(problem)
                return found
        return self._writer.alone(self._copy_alone, values)

    def _copy(
        self, generation: Generation, slots: list[int], values: bool
    ) -> list[tuple[bytes, int, bytes]]:
        entries = sorted(map(generation.entry, slots))
        return [
            (generation.key_of(each), each.kind, generation.content_of(each) if values else b"")
            for each in entries
        ]

    def _copy_alone(self, values: bool) -> list[tuple[bytes, int, bytes]]:
        generation = self._store.current()
        try:
            return self._copy(generation, generation.words(), values)
        except Broken as error:
            raise self._store.corrupt(str(error)) from error

    def __iter__(self) -> Iterator[Key]:
        return iter([decode_key(key) for key, _, _ in self._snapshot(values=False)])

    def keys(self) -> KeysView[Key]:
        """The keys; an iteration sees those of one moment."""
        return KeysView(self)

    def items(self) -> ItemsView[Key, Any]:
        """Keys and values; an iteration sees those of one moment."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """The values; an iteration sees those of one moment."""
        return _Values(self)

    def copy(self) -> dict[Key, Any]:
        """A dict of this process with what is there at one moment."""
        return dict(self.items())

    def __or__(self, other: MutableMapping[Key, Any]) -> dict[Key, Any]:
        return self.copy() | dict(other)

    def __ror__(self, other: MutableMapping[Key, Any]) -> dict[Key, Any]:
        return dict(other) | self.copy()

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]
        self.update(other)
        return self

    # -- writing -----------------------------------------------------------------------------------

    def __setitem__(self, key: Key, value: Any) -> None:
        self._check_open()
        self._writer.alone(self._writer.put, encode_key(key), *encode_value(value))

    def __delitem__(self, key: Key) -> None:
        self._check_open()
        if not self._writer.alone(self._writer.delete, encode_key(key)):
            raise KeyError(key)

    def _replace(self, key: Key, value: Any, expected: int) -> bool:
        """Set a key if it has the version expected; 0: if it is not there."""
        self._check_open()
        put, spelled = self._writer.put, encode_key(key)
        return bool(self._writer.alone(put, spelled, *encode_value(value), expected))

    def setdefault(self, key: Key, default: Any = None) -> Any:
        """The value of a key; if it is not there, it is set to `default` first."""
        while True:
            found = self._read(key)
            if found is not None:
                return decode_value(found[0].kind, found[2])
            if self._replace(key, default, 0):
                return default

    def pop(self, key: Key, default: Any = _MISSING) -> Any:
        """Remove a key, and give its value; of several that pop it, one gets it.

        Raises:
            KeyError: it is not there, and there is no default.
        """
        while True:
            found = self._read(key)
            if found is None:
                if default is _MISSING:
                    raise KeyError(key)
                return default
            value = decode_value(found[0].kind, found[2])
            if self._writer.alone(self._writer.delete, encode_key(key), found[0].version):
                return value

    def popitem(self) -> tuple[Key, Any]:
        """Remove one key, any, and give it and its value.

        Raises:
            KeyError: there is none.
        """
        while True:
            self._check_open()
            key = self._writer.alone(self._any_key)
            if key is None:
                raise KeyError("the dict is empty")
            value = self.pop(key, _GONE)
            if value is not _GONE:
                return key, value

    def _any_key(self) -> Key | None:
        generation = self._store.current()
        slots, mask = generation.slots, generation.mask
        for step in range(mask + 1):
            at = self._pop_at + step & mask
            if slots[at] > 1:
                self._pop_at = at
                return decode_key(generation.key_of(generation.entry(slots[at])))
        return None

    def increment(self, key: Key, by: float = 1) -> Any:
        """Add to a number; several processes may do so, and nothing is lost.

        Args:
            key: the key; if it is not there, it counts as 0.
            by: what to add, an int or a float.

        Returns:
            The sum.

        Raises:
            TypeError: the value is no number.
        """
        self._check_open()
        if not isinstance(by, int | float):
            raise TypeError(f"by={by!r}: an int or a float is added")
        return self._writer.alone(self._increment, key, by)

    def _increment(self, key: Key, by: float) -> Any:
        found, value = self._read(key), 0
        if found is not None:
            if found[0].kind not in (INT, FLOAT):
                raise TypeError(f"the value of {key!r} is no number, and can not be incremented")
            value = decode_value(found[0].kind, found[2])
        total = value + by
        self._writer.put(encode_key(key), *encode_value(total))
        return total

    def compare_and_set(self, key: Key, old: Any, new: Any) -> bool:
        """Set a key if its value equals another one; no write of others comes between.

        Args:
            key: the key; if it is not there, nothing equals it.
            old: the value it has to have.
            new: the value it gets.

        Returns:
            Whether it was set.
        """
        while True:
            found = self._read(key)
            if found is None or decode_value(found[0].kind, found[2]) != old:
                return False
            if self._replace(key, new, found[0].version):
                return True

    def clear(self) -> None:
        """Remove every key, at one moment."""
        self._check_open()
        self._writer.alone(self._writer.clear)

    # -- views -------------------------------------------------------------------------------------

    def _view(self, key: Key) -> tuple[Entry, Generation, bytes] | None:
        """As `_read`, with the entry's generation pinned if it is an array."""
        self._segment.membership.register()
        while True:
            found = self._read(key)
            if found is None or found[0].kind != ARRAY:
                return found
            number = found[1].number
            self._pin(number, 1)
            fence()  # between the pin and the look at the root
            if self._store.is_current(found[1]):
                return found
            self._pin(number, -1)

    def _pin(self, number: int, change: int) -> None:
        with self._pinning:
            self._pins[number] += change
            if not self._pins[number]:
                del self._pins[number]
            if not self._closed:
                line = self._segment.membership.line()
                self._words[line + PINNED] = 1 + min(self._pins) if self._pins else 0

    def _array_at(self, entry: Entry, generation: Generation) -> Any:
        content = memoryview(generation.memory)[entry.value_at : entry.end].toreadonly()
        unpin = weakref.WeakMethod(self._pin)

        def let_go(number: int, pid: int = os.getpid()) -> None:
            pin = unpin()
            if pin is not None and pid == os.getpid():
                pin(number, -1)

        array = view_array(content)
        # Not the array: slices of it may outlive it, and keep this.
        weakref.finalize(array.base, let_go, generation.number)
        return array

    # -- the rest ----------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Bytes for keys, values and the index, as of now."""
        return self._open_words()[DICT_CAPACITY]

    def statistics(self) -> dict[str, int]:
        """Entries, bytes of several kinds, capacity, writes and compactions, as of now."""
        words, generation = self._open_words(), self._store.current()
        dead = words[DICT_DEAD]
        return {
            "entries": words[DICT_LIVE],
            "live_bytes": max(0, words[self._store.tail_word(generation)] - generation.log - dead),
            "dead_bytes": dead,
            "index_bytes": generation.log - generation.start,
            "capacity": words[DICT_CAPACITY],
            "writes": words[DICT_WRITES],
            "compactions": words[DICT_COMPACTIONS],
        }

    def flush(self) -> None:
        """Have what was written on the disk when this returns, if it is on a file."""
        self._check_open()
        self._store.flush()

    def close(self) -> None:
        """Leave. The dict goes on for every other handle. Idempotent.

        Views of arrays stay readable; their memory may be used again from now on.
        """
        if self._closed:
            return
        self._closed = True
        self._writer.retire()
        self._store.close()
        self._segment.close()
        self._words, self._map = NO_WORDS, self._segment.map

    def __repr__(self) -> str:
        if self._closed:
            return f"<SharedDict {self._name} closed>"
        return f"<SharedDict {self._name} {len(self)} entries>"


_GONE: Final[Any] = object()


class _Items(ItemsView[Key, Any]):
    """Items of one moment at each iteration."""

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        shared: Any = self._mapping  # type: ignore[attr-defined]
        return (
            (decode_key(key), decode_value(kind, content))
            for key, kind, content in shared._snapshot(values=True)
        )


class _Values(ValuesView[Any]):
    """Values of one moment at each iteration."""

    def __iter__(self) -> Iterator[Any]:
        shared: Any = self._mapping  # type: ignore[attr-defined]
        return (decode_value(kind, content) for _, kind, content in shared._snapshot(values=True))


def _words(*numbers: int) -> Any:
    from array import array

    return array("Q", numbers)
