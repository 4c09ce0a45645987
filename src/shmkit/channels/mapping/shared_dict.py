"""SharedDict: a dict that any number of processes share.

Reading takes no lock and never waits; generation.py says why it is sound. Writing takes a lock
between processes, and commits by one store: writing.py. Values are copied in and out: what comes
out is the reader's own, and changing it changes nothing here.
"""

from __future__ import annotations

import operator
import reprlib
import weakref
from collections import Counter, deque
from collections.abc import ItemsView, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

from shmkit.channels.handle import Handle, deadline_of, whole_number
from shmkit.channels.mapping.generation import Broken, Entry, Generation, hash_of
from shmkit.channels.mapping.keys import Key, decode_key, encode_key
from shmkit.channels.mapping.store import LIMIT, NOTHING, Store, fields_at
from shmkit.channels.mapping.values import (
    ARRAY,
    FLOAT,
    INT,
    Damaged,
    base_of,
    decode_value,
    encode_value,
    view_array,
)
from shmkit.channels.mapping.writing import Writer, pin_of, slots_for
from shmkit.deadline import Deadline
from shmkit.errors import Empty
from shmkit.memory.process import this_process
from shmkit.segment.fences import STRONG_ORDER, fence, join_fence_all
from shmkit.segment.header import data_offset
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.segment import PARTICIPANTS
from shmkit.segment.words import (
    DICT_COMPACTIONS,
    DICT_DEAD,
    DICT_KIND,
    DICT_LIVE,
    DICT_MOST,
    DICT_ROOT,
    DICT_WRITES,
    GROWS,
    LEAST_DATA,
    PAGE,
    PINNED,
    SLOT_DELETED,
    VERIFIED,
)
from shmkit.sync.threads import ThreadGuard

if TYPE_CHECKING:
    from shmkit.memory.url import Where
    from shmkit.segment.segment import Segment

__all__ = ["DictStatistics", "SharedDict"]

_TRIES: Final = 10  # of a look at everything beside writers, before it takes the lock
_MISSING: Final[Any] = object()


class DictStatistics(NamedTuple):
    """What a dict looked like at one moment.

    Attributes:
        capacity: bytes for keys, values and the index.
        entries: how many keys there are.
        live_bytes: bytes of their entries.
        dead_bytes: bytes of entries that were replaced or deleted; the next compaction frees them.
        index_bytes: bytes of the index.
        writes: the number of the last write.
        compactions: how often the live entries were copied together.
        participants: pids of all that are attached.
    """

    capacity: int
    entries: int
    live_bytes: int
    dead_bytes: int
    index_bytes: int
    writes: int
    compactions: int
    participants: tuple[int, ...]


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
        super().__init__(segment)
        self._store = Store(segment)
        self._writer = Writer(self._store, self._title)
        self._pop_at = 0
        self._begin()
        membership = segment.membership
        membership.presence.call_after_fork(self._begin_in_child)
        membership.watch(self, segment.close, f"unclosed {self._title}")

    def _begin(self) -> None:
        self._pins: Counter[tuple[int, int]] = Counter()
        self._pin_changes: deque[tuple[tuple[int, int], int]] = deque()
        self._pinning = ThreadGuard()
        self._may_sleep = False

    def _begin_in_child(self) -> None:
        self._store.start_anew()
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
            capacity: bytes for keys, values and the index, up to 8 TiB. The first compaction takes
                as much again.
            grow: become larger when it is full.
            keep: leave the name in place when its creator goes.
            mode: permissions, less the umask.
            participants: how many handles there may be at a time.

        Raises:
            FileExistsError: it is there.
            TypeError: `capacity` or `participants` is no whole number.
            ValueError: a bad name; a number that is too small or too large.
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

        capacity = whole_number("capacity", capacity, "bytes")
        if not 0 < capacity <= LIMIT:
            raise ValueError(f"capacity={capacity}: a dict takes 1 byte to 8 TiB")
        size = max(LEAST_DATA, capacity + -capacity % PAGE)
        start, slots = data_offset(participants), slots_for(size)
        is_file = Url.parse(where).scheme == "file"

        def fill(words: memoryview[int]) -> None:
            at = fields_at(1)
            for step, number in enumerate((start, size, slots, start + 8 * slots)):
                words[at + step] = number
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

    def _find(self, key: object, *, copy: bool = True) -> tuple[Entry, Generation, bytes] | None:
        """An entry and the bytes of its value, as they were at one moment."""
        self._check_open()
        spelled = encode_key(key)
        hashed, store = hash_of(spelled), self._store
        while True:
            generation, content, problem = store.current(), b"", ""
            try:
                entry = generation.find(spelled, hashed)
                if entry is not None and copy:
                    content = generation.content_of(entry)
            except Broken as error:
                problem = f"{error}, where {reprlib.repr(key)} is looked for"
            if not STRONG_ORDER:
                fence()
            if store.is_current(generation):
                if generation.number == NOTHING:
                    self._check_open()
                if problem:
                    raise store.corrupt(problem)
                return None if entry is None else (entry, generation, content)

    def _decode(self, key: object, kind: int, content: bytes) -> Any:
        try:
            return decode_value(kind, content)
        except Damaged as error:
            raise self._store.corrupt(f"{error}, that of {reprlib.repr(key)}") from error

    def _decode_key(self, spelled: bytes) -> Key:
        try:
            return decode_key(spelled)
        except ValueError as error:
            raise self._store.corrupt(str(error)) from error

    def _read(self, key: object) -> tuple[Any, int] | None:
        """A value and its version; None if the key is not there."""
        found = self._find(key)
        if found is None:
            return None
        return self._decode(key, found[0].kind, found[2]), found[0].version

    def __getitem__(self, key: Key) -> Any:
        """The value of a key.

        Raises:
            KeyError: it is not there.
            TypeError, ClosedError, CorruptSegment: as `get`.
        """
        found = self._read(key)
        if found is None:
            raise KeyError(key)
        return found[0]

    def get(self, key: Key, default: Any = None, *, view: bool = False) -> Any:
        """The value of a key.

        Args:
            key: the key.
            default: what to give if it is not there.
            view: give an array as a read-only view of the shared memory, without a copy. It keeps
                its value: the memory is not used for anything else while the view is there, and
                this handle is open, in this process.

        Raises:
            TypeError: no such key can be in a shared dict.
            ClosedError: this handle was closed.
            CorruptSegment: it was overwritten; on a file, a page of it may be torn.
            Exception: what unpickling the value raises.
        """
        if view:
            array = self._view(key)
            if array is not None:
                return array
        found = self._read(key)
        return default if found is None else found[0]

    def version(self, key: Key) -> int:
        """The number of the write that set a key; 0 if it is not there. It only grows.

        Raises:
            TypeError, ClosedError, CorruptSegment: as `get`.
        """
        found = self._find(key, copy=False)
        return found[0].version if found else 0

    def __contains__(self, key: object) -> bool:
        try:
            return self._find(key, copy=False) is not None
        except TypeError:
            hash(key)  # what no dict can have is an error, as in a dict
            return False

    def __len__(self) -> int:
        words = self._open_words()
        live, generation = words[DICT_LIVE], self._store.current()
        if live > generation.mask and generation.number != NOTHING:
            raise self._store.corrupt(f"it counts {live} entries")
        return live

    def wait(self, key: Key, newer_than: int = 0, timeout: float | None = None) -> tuple[Any, int]:
        """Wait until a key has a value newer than one that is known.

        Args:
            key: the key.
            newer_than: the version of the known one, as of `version` or an earlier call; 0: any.
            timeout: seconds to wait; None for ever, 0 or less not at all.

        Returns:
            The value, and its version.

        Raises:
            Empty: there was none in that time.
            TypeError: a timeout that is no number.
            ValueError: a timeout of NaN.
            ClosedError, CorruptSegment: as `get`.
        """
        deadline = deadline_of(timeout)
        while True:
            words = self._open_words()
            seen = words[DICT_WRITES]
            found = self._find(key)
            if found is not None and found[0].version > newer_than:
                return self._decode(key, found[0].kind, found[2]), found[0].version
            if not self._may_sleep:
                self._segment.membership.register()  # a forked child opens the semaphores here
                join_fence_all()
                self._may_sleep = True
            if not self._writer.bell.wait(DICT_WRITES, seen, deadline, self._check_open):
                raise Empty(
                    f"{self._title} has no value of {reprlib.repr(key)} newer than version "
                    f"{newer_than}"
                )
            if words[DICT_WRITES] == seen:  # a state that ends every wait
                self._check_open()
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
            found: list[tuple[bytes, int, bytes]] = []
            try:
                found = _copy(generation, slots, values)
            except Broken as error:
                problem = str(error)
            if not STRONG_ORDER:
                fence()
            if self._store.is_current(generation):
                self._check_open()
                if problem:
                    raise self._store.corrupt(problem)
                return found
        return self._writer.alone(self._copy_alone, values)

    def _copy_alone(self, values: bool) -> list[tuple[bytes, int, bytes]]:
        generation = self._store.current()
        try:
            return _copy(generation, generation.words(), values)
        except Broken as error:
            raise self._store.corrupt(str(error)) from error

    def __iter__(self) -> Iterator[Key]:
        return iter([self._decode_key(key) for key, _, _ in self._snapshot(values=False)])

    def _pairs(self) -> Iterator[tuple[Key, Any]]:
        for spelled, kind, content in self._snapshot(values=True):
            key = self._decode_key(spelled)
            yield key, self._decode(key, kind, content)

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

    def __or__(self, other: Any) -> dict[Key, Any]:
        return self.copy() | dict(other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Any) -> dict[Key, Any]:
        return dict(other) | self.copy() if isinstance(other, Mapping) else NotImplemented

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    # -- writing -----------------------------------------------------------------------------------

    def __setitem__(self, key: Key, value: Any) -> None:
        """Set a key, by one commit.

        Raises:
            TypeError: no such key can be in a shared dict.
            ValueError: the key or the value takes 4 GiB or more.
            Full: there is no room; what is there is as it was. Not with `grow=True`.
            OSError: ENOSPC: it was to grow, or to be compacted, and the system has no room.
            RuntimeError: it is called from inside another write of the same thread and handle.
            ClosedError: this handle was closed.
            CorruptSegment: it was overwritten.
            Exception: what pickling the value raises.
        """
        self._put(key, value, None)

    def _put(self, key: Key, value: Any, expected: int | None) -> int:
        """Set a key if it has the version expected; 0: if it is not there."""
        self._check_open()
        spelled, (kind, content) = encode_key(key), encode_value(value)
        if max(len(spelled), len(content)) > DICT_MOST:
            raise ValueError(
                f"the key takes {len(spelled)} bytes, and its value {len(content)}: a shared dict "
                f"takes up to {DICT_MOST} of each"
            )
        return self._writer.alone(self._writer.put, spelled, kind, content, expected)

    def __delitem__(self, key: Key) -> None:
        """Remove a key.

        Raises:
            KeyError: it is not there.
            TypeError, RuntimeError, ClosedError, CorruptSegment: as setting it.
        """
        self._check_open()
        if not self._writer.alone(self._writer.delete, encode_key(key)):
            raise KeyError(key)

    def setdefault(self, key: Key, default: Any = None) -> Any:
        """The value of a key; if it is not there, it is set to `default` first.

        Raises:
            Exception: as `get`, and as setting it.
        """
        while True:
            found = self._read(key)
            if found is not None:
                return found[0]
            if self._put(key, default, 0):
                return default

    def pop(self, key: Key, default: Any = _MISSING) -> Any:
        """Remove a key, and give its value; of several that pop it, one gets it.

        Raises:
            KeyError: it is not there, and there is no default.
            Exception: as `get`, and as removing it.
        """
        while True:
            found = self._read(key)
            if found is None:
                if default is _MISSING:
                    raise KeyError(key)
                return default
            value, version = found
            if self._writer.alone(self._writer.delete, encode_key(key), version):
                return value

    def popitem(self) -> tuple[Key, Any]:
        """Remove one key, any, and give it and its value.

        Raises:
            KeyError: there is none.
            Exception: as `pop`.
        """
        while True:
            self._check_open()
            found = self._writer.alone(self._any_entry)
            if found is None:
                raise KeyError("the dict is empty")
            place, spelled, content = found
            key = self._decode_key(spelled)
            value = self._decode(key, place[-1].kind, content)
            if self._writer.alone(self._writer.delete_at, *place):
                return key, value

    def _any_entry(self) -> tuple[tuple[Generation, int, int, Entry], bytes, bytes] | None:
        generation = self._store.current()
        slots, mask = generation.slots, generation.mask
        for step in range(mask + 1):
            at = self._pop_at + step & mask
            word = slots[at]
            if word > SLOT_DELETED:
                self._pop_at = at
                try:
                    (entry,) = generation.entries([(at, word)])
                except Broken as error:
                    raise self._store.corrupt(str(error)) from error
                place = generation, at, word, entry
                return place, generation.key_of(entry), generation.content_of(entry)
        return None

    def increment(self, key: Key, by: float = 1) -> Any:
        """Add to a number; several processes may do so, and nothing is lost.

        Args:
            key: the key; if it is not there, it counts as 0.
            by: what to add, an int or a float.

        Returns:
            The sum.

        Raises:
            TypeError: the value, or `by`, is no int or float.
            Exception: as setting it.
        """
        self._check_open()
        given: Any = by  # a subclass, as numpy's, would be kept as a pickle
        number = float(given) if isinstance(given, float) else operator.index(given)
        return self._writer.alone(self._increment, key, number)

    def _increment(self, key: Key, by: float) -> Any:
        found, value = self._find(key), 0
        if found is not None:
            if found[0].kind not in (INT, FLOAT):
                raise TypeError(
                    f"the value of {reprlib.repr(key)} is no int or float: increment adds to these"
                )
            value = self._decode(key, found[0].kind, found[2])
        total = value + by
        self._writer.put(encode_key(key), *encode_value(total))
        return total

    def compare_and_set(self, key: Key, old: Any, new: Any) -> bool:
        """Set a key if its value equals another one; no write of others comes between.

        Args:
            key: the key; if it is not there, nothing equals it: `setdefault` sets it then.
            old: the value it has to have.
            new: the value it gets.

        Returns:
            Whether it was set.

        Raises:
            Exception: as `get`, and as setting it; what comparing the values raises.
        """
        while True:
            found = self._read(key)
            if found is None or not found[0] == old:  # noqa: SIM201 - `!=` may be another thing
                return False
            if self._put(key, new, found[1]):
                return True

    def drop_damaged(self) -> int:
        """Remove the entries that were overwritten, or that a crash of the machine left torn.

        Returns:
            How many there were. Of a dict on a file each is told by its checksum; elsewhere only
            those are found that can not be entries.
        """
        self._check_open()
        return self._writer.alone(self._writer.drop_damaged)

    def clear(self) -> None:
        """Remove every key, at one moment."""
        self._check_open()
        self._writer.alone(self._writer.clear)

    # -- views -------------------------------------------------------------------------------------

    def _view(self, key: Key) -> Any | None:
        """A view of an array; None if the value is none, or there is none."""
        self._check_open()
        self._segment.membership.register()
        while True:
            found = self._find(key, copy=False)
            if found is None or found[0].kind != ARRAY:
                return None
            entry, generation, _ = found
            region = generation.start, generation.end
            if self._pinning.is_mine():
                raise RuntimeError(
                    f"a view inside another call on {self._title}: a signal handler or a "
                    "finalizer needs a handle of its own"
                )
            self._pin(region, 1)
            try:
                fence()  # between the pin and the look at the root
                if self._store.is_current(generation):
                    return self._array_at(key, entry, generation)
            finally:
                self._pin(region, -1)  # the array has one of its own

    def _pin(self, region: tuple[int, int], change: int) -> None:
        """Pin a region once more, or once less.

        From inside another call of this thread, as by a finalizer, the outer call does it.
        """
        self._pin_changes.append((region, change))
        while self._pin_changes and not self._pinning.is_mine():
            try:
                self._pinning.take(Deadline(None))
                self._write_pins()
            finally:
                self._pinning.leave()

    def _write_pins(self) -> None:
        pins = self._pins
        while self._pin_changes:
            region, change = self._pin_changes.popleft()
            pins[region] += change
            if not pins[region]:
                del pins[region]
        if not self._closed:
            pinned = pin_of(min(pins)[0], max(end for _, end in pins)) if pins else 0
            self._words[self._segment.membership.line() + PINNED] = pinned

    def _array_at(self, key: Key, entry: Entry, generation: Generation) -> Any:
        content = memoryview(generation.memory)[entry.value_at : entry.end].toreadonly()
        try:
            array = view_array(content)
        except Damaged as error:
            raise self._store.corrupt(f"{error}, that of {reprlib.repr(key)}") from error
        base = base_of(array)
        if base is not None:
            region = generation.start, generation.end
            self._pin(region, 1)
            # Not the array: slices of it may outlive it, and keep this.
            let_go = weakref.finalize(base, _unpin, weakref.ref(self), region, this_process())
            let_go.atexit = False
        return array

    # -- the rest ----------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Bytes for keys, values and the index, as of now."""
        self._check_open()
        generation = self._store.current()
        return generation.end - generation.start

    def statistics(self) -> DictStatistics:
        """The dict at this moment.

        Raises:
            ClosedError: this handle was closed.
            CorruptSegment: it was overwritten.
        """
        with self._open_all_along() as words:
            generation, dead = self._store.current(), words[DICT_DEAD]
            used = words[self._store.tail_word(generation)] - generation.log
            self._check_open()
            return DictStatistics(
                capacity=generation.end - generation.start,
                entries=words[DICT_LIVE],
                live_bytes=max(0, used - dead),
                dead_bytes=dead,
                index_bytes=generation.log - generation.start,
                writes=words[DICT_WRITES],
                compactions=words[DICT_COMPACTIONS],
                participants=tuple(self._segment.membership.members()),
            )

    def flush(self) -> None:
        """Have what was written on the disk when this returns, if it is on a file.

        Raises:
            ClosedError: this handle was closed.
            OSError: the disk could not be written.
        """
        self._check_open()
        self._store.flush()

    def close(self) -> None:
        """Leave. The dict goes on for every other handle. Idempotent.

        Views of arrays stay readable; their memory may be used again from now on.

        Raises:
            RuntimeError: it is called from inside a write of the same thread and handle.
        """
        self._writer.refuse_inside()
        self._closed = True
        self._writer.retire()
        self._store.close()
        self._segment.close()
        self._words, self._map = NO_WORDS, self._segment.map

    def __repr__(self) -> str:
        if self._closed:
            return f"<SharedDict {self._name} closed>"
        return f"<SharedDict {self._name} {self._open_words()[DICT_LIVE]} entries>"


class _Items(ItemsView[Key, Any]):
    """Items of one moment at each iteration."""

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        shared: Any = self._mapping  # type: ignore[attr-defined]
        return iter(shared._pairs())


class _Values(ValuesView[Any]):
    """Values of one moment at each iteration."""

    def __iter__(self) -> Iterator[Any]:
        shared: Any = self._mapping  # type: ignore[attr-defined]
        return (value for _, value in shared._pairs())


def _copy(
    generation: Generation, slots: list[tuple[int, int]], values: bool
) -> list[tuple[bytes, int, bytes]]:
    return [
        (generation.key_of(each), each.kind, generation.content_of(each) if values else b"")
        for each in generation.entries(slots)
    ]


def _unpin(shared: weakref.ref[SharedDict], region: tuple[int, int], process: int) -> None:
    """The end of a view; in a forked child it is the parent's, and nothing to do."""
    one = shared()
    if one is not None and process == this_process():
        one._pin(region, -1)
