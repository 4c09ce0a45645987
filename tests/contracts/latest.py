"""What a Latest promises wherever its memory is: cases, each run on one handle and on two.

A case takes the handle that sets and the one that gets; they may be the same.
"""

from __future__ import annotations

import array
import random
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shmkit import ClosedError, Empty, FrameTooLarge, Latest, RoleTaken, ShutDown
from tests.contracts.broadcast import asleep

__all__ = ["CASES", "SIZE", "checked", "value"]

SIZE = 1000
NOISE = random.Random(13).randbytes(1 << 17)
_HEAD = struct.Struct("<QI")

CASES: dict[str, Callable[[Latest, Latest], None]] = {}


def case(function: Callable[[Latest, Latest], None]) -> Callable[[Latest, Latest], None]:
    """Register a case; its latest takes values of up to 1000 bytes."""
    CASES[function.__name__] = function
    return function


def value(version: int, largest: int = SIZE) -> bytes:
    """A value that tells its version, of any size, with a checksum over all of it."""
    dice = random.Random(version)
    size = dice.randrange(largest - _HEAD.size + 1)
    start = dice.randrange(len(NOISE) - size)
    body = NOISE[start : start + size]
    return _HEAD.pack(version, zlib.crc32(body, version)) + body


def checked(data: bytes) -> int:
    """The version a value tells; it has to be whole."""
    version, crc = _HEAD.unpack_from(data)
    assert crc == zlib.crc32(data[_HEAD.size :], version), f"version {version} is torn"
    return int(version)


@case
def the_newest_value_is_there_to_get(writer: Latest, reader: Latest) -> None:
    for version in range(1, 50):
        assert writer.set(value(version)) == version
        for _ in range(2):
            assert reader.get() == writer.get() == value(version)
        assert reader.version == version
    for number, data in enumerate((b"", b"\0" * SIZE, b"x"), 50):
        writer.set(data)
        assert reader.get() == data
        assert reader.wait(timeout=0) == (number, data)


@case
def before_the_first_there_is_none(writer: Latest, reader: Latest) -> None:
    assert reader.version == 0
    with pytest.raises(Empty, match="no value yet"):
        reader.get()
    for newer_than in (None, 0, -5, 7):
        for timeout in (0, 0.001):
            with pytest.raises(Empty):
                reader.wait(newer_than, timeout)
    writer.set(b"first")
    assert reader.get() == b"first"
    assert reader.wait() == reader.wait(0) == reader.wait(-5) == (1, b"first")


@case
def any_contiguous_buffer_is_a_value(writer: Latest, reader: Latest) -> None:
    class Liar(bytes):
        def __len__(self) -> int:
            return 10_000

    for data in (
        bytearray(b"bytearray"),
        memoryview(b"--memoryview--")[2:-2],
        memoryview(bytes(range(24))).cast("B", (2, 3, 4)),
        array.array("d", [1.5, -2.25]),
        array.array("i"),
        Liar(b"abc"),
    ):
        writer.set(data)
        assert reader.get() == bytes(memoryview(data))
    for bad in ("text", 7, None, memoryview(b"abcdef")[::2]):
        with pytest.raises(TypeError):
            writer.set(bad)
    assert reader.get() == b"abc"


@case
def a_value_that_is_too_large_is_told(writer: Latest, reader: Latest) -> None:
    assert writer.size == reader.size == SIZE
    for _ in range(2):
        for size in (SIZE + 1, 4 * SIZE, 10_000):
            with pytest.raises(FrameTooLarge) as caught:
                writer.set(bytes(size))
            assert (caught.value.size, caught.value.limit) == (size, SIZE)
        writer.set(NOISE[:SIZE])
        assert reader.get() == NOISE[:SIZE]


@case
def waiting_is_for_what_is_newer(writer: Latest, reader: Latest) -> None:
    with ThreadPoolExecutor(4) as threads:
        for version in range(1, 12):
            waiting = [threads.submit(reader.wait, reader.version, 10) for _ in range(4)]
            if version % 2:
                asleep(reader)
            writer.set(value(version))
            assert [wait.result(10) for wait in waiting] == [(version, value(version))] * 4
        far = threads.submit(reader.wait, 15, 10)
        for version in range(12, 17):
            assert not far.done()
            writer.set(value(version))
        assert far.result(10) == (16, value(16))
    with pytest.raises(Empty):
        reader.wait(reader.version, -1)
    bad: Any
    for bad, error in ((float("nan"), ValueError), (True, TypeError), ("1", TypeError)):
        with pytest.raises(error, match="timeout"):
            reader.wait(timeout=bad)


@case
def shutdown_ends_waits_and_leaves_the_last(writer: Latest, reader: Latest) -> None:
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(reader.wait, 1, 10) for _ in range(3)]
        asleep(reader)
        writer.set(b"last")
        for _ in range(2):
            reader.shutdown()
        for wait in waiting:
            with pytest.raises(ShutDown):
                wait.result(10)
    with pytest.raises(ShutDown):
        writer.set(b"more")
    assert reader.get() == b"last"
    assert reader.wait(0) == (1, b"last")
    assert reader.statistics().state == "shut down"
    with pytest.raises(ShutDown):
        reader.wait(1)


@case
def there_is_one_writer_and_a_successor(writer: Latest, reader: Latest) -> None:
    for version in range(1, 7):
        writer.set(value(version))
    if writer is reader:
        return
    with pytest.raises(RoleTaken, match=r"latest .* has a writer already") as caught:
        reader.set(b"b")
    assert caught.value.pid == writer.statistics().writers[0]
    assert caught.value.role == "writer"
    writer.close()
    for version in range(7, 20):
        assert reader.get() == value(version - 1)
        assert reader.set(value(version)) == version


@case
def statistics_tell(writer: Latest, reader: Latest) -> None:
    writer.set(b"abc")
    writer.set(b"abcde")
    seen = reader.statistics()
    assert (seen.size, seen.version, seen.length, seen.state) == (SIZE, 2, 5, "open")
    assert len(seen.writers) == 1
    assert "version 2" in repr(reader)
    assert "writer here" in repr(writer)


@case
def a_closed_handle_says_so(writer: Latest, reader: Latest) -> None:
    writer.set(b"x")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(reader.wait, 1)
        asleep(reader)
        reader.close()
        with pytest.raises(ClosedError):
            waiting.result(5)
    reader.close()
    for call in (
        reader.get,
        reader.wait,
        reader.statistics,
        reader.shutdown,
        reader.__enter__,
        lambda: reader.version,
        lambda: reader.size,
        lambda: reader.set(b"x"),
        lambda: reader.set(bytes(10 * SIZE)),
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()
    assert reader.closed
    assert "closed" in repr(reader)
