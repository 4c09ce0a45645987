"""SharedMemory: the standard library's class, by signature and behaviour, over this floor.

What is the same: names, sizes, `buf`, who removes a name and when, what a closed or unlinked one
says. A name is told to the standard library's resource tracker when memory is made. The tracker
removes it when the last process of the family (a program, and what it starts by multiprocessing)
has gone.

What differs, on purpose:

- attaching registers nothing: a reader that ends never removes the memory of others
- `close()` never raises BufferError, and never unmaps what an array still uses: the memory goes
  with its last view
- room is taken when memory is made: a full /dev/shm is an OSError at once, not a SIGBUS later
- `unlink()` removes the memory it was made for, and never a successor of the same name
"""

from __future__ import annotations

import errno
import operator
import os
from typing import TYPE_CHECKING, Any, Final, SupportsIndex

from shmkit.memory import ownership
from shmkit.memory.allocation import checked_size
from shmkit.memory.backends import backend_for
from shmkit.memory.buffer import SharedBuffer
from shmkit.memory.told import told
from shmkit.memory.url import Url, checked_name

if TYPE_CHECKING:
    from shmkit.memory.identity import Exact

__all__ = ["SharedMemory"]

_PREFIX: Final = "psm_"  # as the standard library's names begin
_MODE: Final = 0o600


class SharedMemory:
    """A block of shared memory that has a name, as `multiprocessing.shared_memory.SharedMemory`.

    Either class attaches to the blocks of the other by their names.

    Args:
        name: of the block; None for a fresh one, with `create`.
        create: make the block; otherwise it is attached to.
        size: bytes, at least 1, with `create`; otherwise it is ignored.
        track: with `create`: have the block removed when the last process of this program and of
            its children by multiprocessing has ended, also if they are killed. False: it stays
            until it is unlinked. A block that is attached to is never tracked.

    Raises:
        FileExistsError: `create`, and the name is taken.
        FileNotFoundError: not `create`, and there is no such block.
        IncompatibleSegment: a block without a size, which its creator has not given one yet.
        OSError: ENOSPC: no room for it; nothing stays behind.
        PermissionError: it is another user's.
        TypeError: a size or name that is none.
        ValueError: a size below 1, a name that cannot be, or none without `create`.
    """

    _memory: SharedBuffer | None

    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: SupportsIndex = 0,
        *,
        track: bool = True,
    ) -> None:
        self._memory = None
        _check(name, create, size)
        self._track = track
        self._is_attached = not create
        if create:
            memory = _made(name, checked_size(size), self._fresh_name, track=track)
        else:
            assert name is not None
            memory = _attached(name)
        memory._pid = 0  # dropping it open is no mistake here: no ResourceWarning
        self._memory = memory
        self._identity: Exact = memory._identity
        self._size = memory.size
        self._name = memory.name if name is None else name

    @staticmethod
    def _fresh_name() -> str:
        """A name that cannot be guessed."""
        return f"{_PREFIX}{os.urandom(8).hex()}"

    name: str = told("_name", "Of the block: another process attaches to it by this.")
    size: int = told("_size", "Bytes of the block.")

    @property
    def buf(self) -> memoryview:
        """The bytes, as a memoryview; None after `close`, as in the standard library."""
        memory = self._memory
        return memory.buf if memory is not None else None  # type: ignore[return-value]

    def close(self) -> None:
        """Let go of the memory in this process. It stays mapped while a view of it is in use."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()

    def unlink(self) -> None:
        """Remove the name. Processes that have the memory mapped keep it. Works after `close`.

        Raises:
            FileNotFoundError: the name is gone already, or leads to another block by now.
            PermissionError: the name is another user's.
        """
        name, backend = _plain(self._name), backend_for("shm")
        gone = "the name was removed already: unlink() is for one process, once"
        try:
            found = backend.identify(name)
            if found == self._identity[:2]:
                backend.unlink(name)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, gone, self._name) from None
        if found != self._identity[:2]:
            gone = "was unlinked, and the name leads to another block now, which stays"
            raise FileNotFoundError(errno.ENOENT, gone, self._name)
        if self._track or self._is_attached:
            ownership.forget(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (type(self), self._name, self._size, self._identity)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r}, size={self._size})"


def _check(name: object, create: object, size: SupportsIndex) -> None:
    """What only the standard library's signature can get wrong."""
    if name is not None and not isinstance(name, str):
        raise TypeError(
            f"'name' must be a str or None, not {type(name).__name__}: a fresh block is "
            "SharedMemory(create=True, size=...)"
        )
    number = operator.index(size)
    if number < 0:
        raise ValueError(f"'size' must be a positive integer, not {number}")
    if create and number == 0:
        raise ValueError("'size' must be a positive number of bytes with create=True, and is 0")
    if name is None and not create:
        raise ValueError(
            "'name' can only be None if create=True: give the name of the block to attach to"
        )


def _plain(name: str) -> str:
    """A name without the slash before it that the C library takes, too."""
    return checked_name(name.removeprefix("/"), name)


def _made(name: str | None, size: int, fresh: Any, *, track: bool) -> SharedBuffer:
    if name is not None:
        plain = _plain(name)
        try:
            memory = SharedBuffer.create(Url("shm", plain), size, keep=True, mode=_MODE)
        except FileExistsError:
            raise FileExistsError(
                errno.EEXIST,
                "there is a block of this name already: leave create=True out to attach to it, or "
                "take another name",
                name,
            ) from None
        if track:
            ownership.remember(plain)
        return memory
    while True:
        chosen = fresh()
        if track:  # first: a fresh name is nobody else's, and a kill leaves nothing
            ownership.remember(chosen)
        try:
            return SharedBuffer.create(Url("shm", chosen), size, keep=True, mode=_MODE)
        except BaseException as error:
            if track:
                ownership.forget(chosen)
            if not isinstance(error, FileExistsError):
                raise


def _attached(name: str) -> SharedBuffer:
    try:
        return SharedBuffer.attach(Url("shm", _plain(name)))
    except FileNotFoundError:
        raise FileNotFoundError(
            errno.ENOENT, "there is no shared memory of this name: create=True makes one", name
        ) from None


def _received(kind: type[SharedMemory], name: str, size: int, identity: Exact) -> SharedMemory:
    """What came by pickle, if the name still leads to the block that was sent."""
    self = kind(name, False, size)
    if self._identity != identity:
        self.close()
        gone = "was unlinked, and the name leads to another block now"
        raise FileNotFoundError(errno.ENOENT, gone, name)
    return self
