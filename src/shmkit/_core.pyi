# The compiled core: what _core.c gives to compiled.py. Each type but Semaphore and Exporter is the
# base of a class in Python that has its methods in plain Python; core.py is the reference.

from typing import Any, Final

from typing_extensions import Buffer

NUMBERS: Final[str]  # the constants it was built with: `NAME=value`, separated by blanks

def copy(to: Buffer, source: Buffer, /) -> None: ...
def copied(source: Buffer, /) -> bytes: ...
def close_in_children(descriptor: int, /) -> None: ...
def keep_in_children(descriptor: int, device: int, inode: int, /) -> None: ...
def python_forks(whether: bool, /) -> None: ...

class Semaphore:
    _memory: Any
    _at: int
    def _reset(self, count: int, /) -> int: ...
    def _try(self) -> int: ...
    def _post(self) -> int: ...
    def _wait(self, seconds: float, /) -> int: ...
    def _value(self) -> int: ...

class MutexCore:
    _place: Any
    _semaphore: Any
    _yes: Any
    def acquire(self, block: bool = True, timeout: float | None = None) -> Any: ...
    def release(self) -> None: ...

class LockCore:
    _mutex: Any
    _call: object
    _inside: bool
    _waiting: int
    def acquire(self, block: bool = True, timeout: float | None = None) -> Any: ...
    def release(self) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *error: object) -> None: ...

class BellCore:
    _words: Any
    _flag: int
    _state: int
    _semaphores: dict[str, Any]
    _names: tuple[str, ...]
    _shared: bool
    _counts: bool
    sleeps: int
    def glance(self, word: int, seen: int, /) -> bool: ...
    def doze(self, word: int, seen: int, seconds: float, /) -> bool: ...
    def ring(self) -> None: ...

class _Cursor:
    data: Any
    mark: Any
    mutex: Any
    bell: Any
    base: int
    size: int
    mask: int
    largest: int
    seen: int
    notes: int
    most: int
    passed: int
    state: int
    idle: int

class WriteCursor(_Cursor):
    def put(self, frame: bytes | memoryview, /) -> bool: ...
    def put_many(self, frames: list[bytes | memoryview], first: int, /) -> int: ...

class ReadCursor(_Cursor):
    def get(self) -> bytes | None: ...
    def get_many(self, most: int, /) -> list[bytes] | None: ...

class RingCore:
    _writer: Any
    _reader: Any
    _data_bell: Any
    def put(self, data: Buffer, timeout: float | None = None) -> None: ...
    def get(self, timeout: float | None = None) -> bytes: ...

class Exporter:
    def __buffer__(self, flags: int, /) -> memoryview: ...
