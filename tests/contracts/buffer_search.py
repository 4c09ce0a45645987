"""What searching, replacing and moving promise on every kind of memory; see `buffer.py`."""

from __future__ import annotations

import array
import re
from collections.abc import Callable
from typing import Any

import pytest

from shmkit import ClosedError, SharedBuffer
from tests.contracts.buffer import SIZE, Case

__all__ = ["READING", "READ_ONLY", "TEXT", "WRITING"]

READING: list[Case] = []
WRITING: list[Case] = []
READ_ONLY: list[Case] = []

# Words that repeat, overlap themselves, and lie across the edge of every page.
TEXT = (b"one two\0three aaaa\n aba ababa; \xff\xfe" * 400)[:SIZE]
NEEDLES = [
    b"o",
    b"two\0three",
    b"aa",
    b"aba",
    b"\xff\xfeone",
    b"\n",
    b"nowhere",
    TEXT[:5000],
    TEXT,
    TEXT + b"x",
]
BOUNDS: list[tuple[int | None, ...]] = [
    (),
    (0,),
    (5,),
    (None, 100),
    (4090, 4100),
    (-40,),
    (-100, -1),
    (SIZE - 1,),
    (SIZE,),
    (SIZE + 1,),
    (300, 200),
    (-SIZE - 5, SIZE + 5),
]


@READING.append
def tells_an_index_or_raises(buffer: SharedBuffer, model: bytearray) -> None:
    assert buffer.index(b"two") == model.index(b"two")
    assert buffer.index(b"two", 100) == model.index(b"two", 100)
    with pytest.raises(ValueError, match="is not in"):
        buffer.index(b"nowhere")


@READING.append
def finds_what_a_bytearray_finds(buffer: SharedBuffer, model: bytearray) -> None:
    for needle in [*NEEDLES, b""]:
        for bounds in BOUNDS:
            for way in ("find", "rfind", "count"):
                found = getattr(buffer, way)(needle, *bounds)
                assert found == getattr(model, way)(needle, *bounds), (way, needle[:20], bounds)


@READING.append
def every_part_is_found_where_it_begins(buffer: SharedBuffer, model: bytearray) -> None:
    """Each slice of the text is found at its place, and not outside of what is looked at."""
    for start in (0, 1, 4090, 4095, 4096, SIZE - 12):
        for length in range(1, 12):
            part = bytes(model[start : start + length])
            end = start + len(part)
            assert buffer.find(part, start) == start
            assert buffer.find(part, start, end) == start
            assert buffer.find(part, start, end - 1) == -1
            assert buffer.rfind(part, 0, end) == start
            assert buffer.rfind(part, start + 1, end) == -1


@READING.append
def nothing_beyond_the_end_is_seen(buffer: SharedBuffer, model: bytearray) -> None:
    last = bytes(model[-3:])
    assert buffer.find(last + b"\0") == -1
    assert buffer.rfind(last + b"\0") == -1
    assert list(buffer.finditer(re.escape(last) + b"[^x]", SIZE - 3)) == []


@READING.append
def needles_of_any_type_with_bytes(buffer: SharedBuffer, model: bytearray) -> None:
    for needle in (bytearray(b"two"), memoryview(b"xtwo")[1:], array.array("B", b"two")):
        assert buffer.find(needle) == 4
        assert buffer.count(needle) == model.count(b"two")
    assert buffer.find(ord("t")) == 4
    assert (b"two" in buffer, b"owt" in buffer, ord("t") in buffer) == (True, False, True)
    for number in (256, -1):
        with pytest.raises(ValueError, match="256"):
            buffer.find(number)
    wrong: Any
    for wrong in ("two", 1.5, None):
        with pytest.raises(TypeError):
            buffer.find(wrong)
    with pytest.raises(TypeError, match="encode 'two' first"):
        buffer.count("two")  # type: ignore[arg-type]


@READING.append
def regular_expressions_match_the_memory(buffer: SharedBuffer, model: bytearray) -> None:
    for pattern in (rb"a+", rb"\bt\w+", rb"(?s)three.{10}", rb"^one", rb"[\xf0-\xff]+", rb"x*"):
        for bounds in ((), (4090, 4200), (-50,), (200, 100)):
            first, last, _ = slice(*(bounds or (None,))).indices(SIZE)
            if len(bounds) == 1:
                first, last = SIZE + bounds[0], SIZE
            expected = [m.span() for m in re.compile(pattern).finditer(model, first, last)]
            found = list(buffer.finditer(pattern, *bounds))
            assert [match.span() for match in found] == expected
            assert [match[0] for match in found] == [bytes(model[a:b]) for a, b in expected]
    ones = buffer.finditer(re.compile(rb"ONE", re.IGNORECASE), 0, 40)
    assert [match.start() for match in ones] == [0, TEXT.find(b"one", 1)]
    with pytest.raises(TypeError, match="bytes-like"):
        buffer.finditer("two")  # type: ignore[arg-type]


@READING.append
def matches_outlive_the_buffer(buffer: SharedBuffer, model: bytearray) -> None:
    matches = buffer.finditer(rb"t(w)o")
    first = next(matches)
    buffer.close()
    second = next(matches)
    assert (first[0], first[1], second.start()) == (b"two", b"w", model.find(b"two", 5))


@READING.append
def closed_buffers_are_not_searched(buffer: SharedBuffer, model: bytearray) -> None:
    buffer.close()
    uses: list[Callable[[], Any]] = [
        lambda: buffer.find(b"a"),
        lambda: buffer.rfind(b"a"),
        lambda: buffer.count(b"a"),
        lambda: buffer.finditer(b"a"),
        lambda: buffer.replace(b"a", b"b"),
        lambda: buffer.replace_into("nowhere", b"a", b"b"),
        lambda: buffer.move(0, 1, 2),
        lambda: b"a" in buffer,
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="was closed"):
            use()


@WRITING.append
def replaces_in_place(buffer: SharedBuffer, model: bytearray) -> None:
    for old, new in ((b"two", b"2.0"), (b"aa", b"ab"), (b"aba", b"bab"), (b"\n", b"\n")):
        expected = model.count(old)
        assert expected
        assert buffer.replace(old, new) == expected
        model[:] = model.replace(old, new)
        assert buffer[:] == model, old
    assert buffer.replace(b"nowhere", b"NOWHERE") == 0
    assert buffer[:] == model


@WRITING.append
def replaces_as_often_as_asked(buffer: SharedBuffer, model: bytearray) -> None:
    for count in (0, 1, 3):
        assert buffer.replace(b"one", b"eno", count) == count
        model[:] = model.replace(b"one", b"eno", count)
        assert buffer[:] == model
    assert buffer.replace(b"one", b"eno", 10**6) == model.count(b"one")


@WRITING.append
def replaces_nothing_of_another_length(buffer: SharedBuffer, model: bytearray) -> None:
    with pytest.raises(ValueError, match=r"4 bytes do not replace 3 .*replace_into\(path\)"):
        buffer.replace(b"one", b"ones")
    with pytest.raises(ValueError, match="'old' is empty"):
        buffer.replace(b"", b"")
    assert buffer[:] == model


@WRITING.append
def replaces_all_of_it(buffer: SharedBuffer, model: bytearray) -> None:
    new = bytes(reversed(model))
    assert buffer.replace(bytes(model), new) == 1
    assert buffer[:] == new


@WRITING.append
def moves_overlapping_or_not(buffer: SharedBuffer, model: bytearray) -> None:
    for dest, src, count in ((0, 9000, 1000), (1, 0, 5000), (0, 3, SIZE - 3), (7, 7, 9), (9, 4, 0)):
        buffer.move(dest, src, count)
        model[dest : dest + count] = model[src : src + count]
        assert buffer[:] == model, (dest, src, count)
    for dest, src, count in ((SIZE, 0, 1), (0, SIZE, 1), (-1, 0, 1), (0, -1, 1), (0, 0, -1)):
        with pytest.raises(ValueError, match=r"outside|negative"):
            buffer.move(dest, src, count)
    for arguments in ((SIZE - 3, 0, 4), (0, SIZE - 3, 4), (0, 0, SIZE + 1)):
        with pytest.raises(ValueError, match="outside"):
            buffer.move(*arguments)
    assert buffer[:] == model


@READ_ONLY.append
def nothing_is_replaced_or_moved(buffer: SharedBuffer, model: bytearray) -> None:
    for use in (lambda: buffer.replace(b"one", b"two"), lambda: buffer.move(0, 1, 2)):
        with pytest.raises(TypeError, match="read-only: attach with access='rw'"):
            use()
    assert buffer[:] == model
