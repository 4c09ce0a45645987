"""Searching and replacing on every kind of memory; large files; results in a new file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmkit import ClosedError, PagedFile, SharedBuffer
from shmkit.memory.buffer import search
from tests.contracts.buffer import SIZE, Case
from tests.contracts.buffer_search import READ_ONLY, READING, TEXT, WRITING
from tests.processes import run_python

GIGABYTE = 1 << 30


def by_name(case: Case) -> str:
    return case.__name__


@pytest.mark.parametrize("case", READING, ids=by_name)
def test_reading(make_buffer, access: str, case: Case) -> None:
    with SharedBuffer.attach(make_buffer(TEXT), access=access) as buffer:
        case(buffer, bytearray(TEXT))


@pytest.mark.parametrize("case", WRITING, ids=by_name)
@pytest.mark.parametrize("access", ["rw", "cow"])
def test_writing(make_buffer, access: str, case: Case) -> None:
    made = make_buffer(TEXT)
    with SharedBuffer.attach(made, access=access) as buffer:
        case(buffer, bytearray(TEXT))
        assert made[:] == (buffer[:] if access == "rw" else TEXT)


@pytest.mark.parametrize("case", READ_ONLY, ids=by_name)
def test_read_only(make_buffer, case: Case) -> None:
    with SharedBuffer.attach(make_buffer(TEXT), access="r") as buffer:
        case(buffer, bytearray(TEXT))


@pytest.mark.parametrize("case", READING + WRITING, ids=by_name)
def test_part_at_odd_offset(where, case: Case) -> None:
    """Bytes around the part of a handle are neither found nor changed."""
    with SharedBuffer.create(where, SIZE + 9000) as made:
        made[:4099] = (TEXT * 2)[:4099]
        made[4099 : 4099 + SIZE] = TEXT
        made[4099 + SIZE :] = TEXT[: 9000 - 4099]
        around = made[:4099], made[4099 + SIZE :]
        with SharedBuffer.attach(made, offset=4099, length=SIZE) as buffer:
            case(buffer, bytearray(TEXT))
        assert (made[:4099], made[4099 + SIZE :]) == around
        made.unlink()


def test_empty_and_read_buffers_are_searched_too(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for access in ("r", "rw", "cow"):
        with SharedBuffer.attach(tmp_path / "empty", access=access) as buffer:
            assert (buffer.find(b""), buffer.find(b"a"), buffer.rfind(b""), buffer.count(b"")) == (
                0,
                -1,
                0,
                1,
            )
            assert list(buffer.finditer(b"a")) == list(buffer.lines()) == []
            if access != "r":
                assert buffer.replace(b"a", b"b") == 0
    with SharedBuffer.attach("file:/proc/self/status", access="r") as buffer:
        assert not buffer.mapped
        assert buffer.find(b"Name:") == buffer.rfind(b"Name:") == 0
        assert buffer.count(b"Name:") == 1
        with SharedBuffer.attach("file:/proc/self/status", access="r", offset=5) as part:
            assert part.find(b"Name:") == -1
            assert part.find(b"Pid:") == buffer.find(b"Pid:") - 5


# ------------------------------------------------------------------ against a bytearray

few = st.binary(max_size=4).map(lambda raw: bytes(b"ab\n\0"[c % 4] for c in raw))
index = st.none() | st.integers(-60, 60)
content = st.binary(min_size=1, max_size=40).map(lambda raw: bytes(b"ab\n\0"[c % 4] for c in raw))
each_kind = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=150,
)


@each_kind
@given(data=content, sub=few, start=index, end=index)
def test_searches_are_those_of_a_bytearray(make_where, backend, data, sub, start, end) -> None:
    model = bytearray(data)
    with SharedBuffer.create(make_where(backend), len(data) + 3) as made:
        made[:3], made[3:] = b"aba", data
        with SharedBuffer.attach(made, offset=3) as buffer:
            for way in ("find", "rfind", "count"):
                assert getattr(buffer, way)(sub, start, end) == getattr(model, way)(sub, start, end)
            first, last, _ = slice(start, end).indices(len(data))
            pattern = re.compile(re.escape(sub) + b"a?")
            assert [m.span() for m in buffer.finditer(pattern, start, end)] == [
                m.span() for m in pattern.finditer(model, first, last)
            ]
            assert list(buffer.lines()) == data.splitlines(keepends=True)
        made.unlink()


@each_kind
@given(data=content, old=few.filter(len), new=st.binary(max_size=6), count=st.integers(-1, 5))
def test_replacing_is_that_of_a_bytearray(
    make_where, backend, tmp_path, data, old, new, count
) -> None:
    model = bytearray(data)
    with SharedBuffer.create(make_where(backend), len(data)) as buffer:
        buffer[:] = data
        times = model.count(old) if count < 0 else min(count, model.count(old))
        assert buffer.replace_into(tmp_path / "out", old, new, count) == times
        assert (tmp_path / "out").read_bytes() == model.replace(old, new, count)
        same = new[: len(old)].ljust(len(old), b"b")
        assert buffer.replace(old, same, count) == times
        assert buffer[:] == model.replace(old, same, count)
        buffer.unlink()


@given(data=content, old=few.filter(len), count=st.integers(-1, 5), size=st.integers(1, 9))
def test_parts_meet_anywhere(data, old, count, size) -> None:
    """The result does not depend on how much is read at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_SPLIT", size)
        patch.setattr(search, "_COUNTED", size)
        parts = list(search.split(memoryview(data), old, count))
        assert b"".join(old.join(pieces) for _, pieces in parts) == data
        assert b"".join(b"new".join(p) for _, p in parts) == data.replace(old, b"new", count)
        at = 0
        for start, pieces in parts:
            assert start == at
            at += len(old.join(pieces))
        with SharedBuffer.create(size=len(data)) as buffer:
            buffer[:] = data
            assert buffer.count(old) == data.count(old)


@given(st.binary(min_size=1, max_size=8).map(lambda raw: bytes(b"ab"[c % 2] for c in raw)))
def test_what_overlaps_itself(needle: bytes) -> None:
    overlapping = any(needle[n:] == needle[: len(needle) - n] for n in range(1, len(needle)))
    assert search._overlaps_itself(needle) == overlapping


# ------------------------------------------------------------------ into a file


def test_result_appears_when_it_is_whole(make_buffer, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"before")
    path.chmod(0o640)
    buffer = make_buffer(TEXT)
    assert buffer.replace_into(str(path), b"two", b"zweimal") == TEXT.count(b"two")
    assert path.read_bytes() == TEXT.replace(b"two", b"zweimal")
    assert path.stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob(".shmkit-*"))
    assert buffer[:] == TEXT


def test_new_files_have_the_mode_asked_for(make_buffer, tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        buffer = make_buffer(TEXT)
        buffer.replace_into(tmp_path / "private", b"a", b"b")
        buffer.replace_into(tmp_path / "public", b"a", b"b", mode=0o666)
    finally:
        os.umask(umask)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644


def test_buffer_stays_on_the_old_content_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    with SharedBuffer.create(path, 9) as buffer:
        buffer[:] = b"one two 3"
        assert buffer.replace_into(path, b"two", b"zwei") == 1
        assert path.read_bytes() == b"one zwei 3"
        assert buffer[:] == b"one two 3"


def test_failed_results_leave_nothing(make_buffer, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "full").mkdir()
    buffer = make_buffer(b"abc")
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        buffer.replace_into(folder / "full", b"a", b"b")
    with pytest.raises(FileNotFoundError):
        buffer.replace_into(folder / "none" / "x", b"a", b"b")
    with pytest.raises(ValueError, match="'old' is empty"):
        buffer.replace_into(folder / "x", b"", b"b")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (folder / "x").write_bytes(b"before")
    with pytest.raises(OSError, match="No space left"):
        buffer.replace_into(folder / "x", b"a", b"b")
    assert (folder / "x").read_bytes() == b"before"
    assert sorted(path.name for path in folder.iterdir()) == ["full", "x"]


def test_planted_links_are_replaced_not_followed(make_buffer, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    make_buffer(b"abc").replace_into(tmp_path / "link", b"a", b"x")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_bytes() == b"xbc"


# ------------------------------------------------------------------ large files


SEARCH_LARGE = """
import os, re
from pathlib import Path
from shmkit import SharedBuffer

def private():
    rollup = Path("/proc/self/smaps_rollup").read_text()
    fields = {line.split(":")[0]: line.split() for line in rollup.splitlines()[1:]}
    return int(fields["Anonymous"][1]) * 1024

path, size, out = args
before = private()
most = before
with SharedBuffer.attach("file:" + path) as buffer:
    assert len(buffer) == size
    for found in (
        buffer.find(b"needle"),
        buffer.rfind(b"needle"),
        next(buffer.finditer(b"ne+dle")).start(),
    ):
        assert found == size - 10, found
        most = max(most, private())
    assert buffer.count(b"needle") == 1
    most = max(most, private())
    assert buffer.replace(b"needle", b"NEEDLE") == 1
    most = max(most, private())
    assert sum(len(chunk) for chunk in buffer.chunks(1 << 20)) == size
    with buffer.open() as stream:
        stream.seek(size - 10)
        assert stream.readline() == b"NEEDLE\\0\\0\\0\\0"
    assert max(len(line) for line in buffer.lines()) == size // 4
    most = max(most, private() - size // 4)
assert most - before < 32 << 20, (before, most)
print(most - before)
"""


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size - 10)
        file.write(b"needle")
        for quarter in range(1, 5):
            file.seek(size * quarter // 4 - 1)
            file.write(b"\n" if quarter < 4 else b"\0")


def test_searching_a_large_file_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    size = 1 << 26
    sparse(tmp_path / "large", size)
    run_python(SEARCH_LARGE, str(tmp_path / "large"), size, None)


def test_beyond_four_gigabytes(tmp_path: Path) -> None:
    """Offsets need more than 32 bits, and only what is looked at is touched."""
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(4 * GIGABYTE + 4096)
        file.seek(4 * GIGABYTE - 3)
        file.write(b"needle")
    with SharedBuffer.attach(path) as buffer:
        near = 4 * GIGABYTE - 3
        assert len(buffer) == 4 * GIGABYTE + 4096
        assert buffer.find(b"needle", near - 5000) == near
        assert buffer.rfind(b"needle", near - 5000) == near
        assert buffer.replace(b"nowhere", b"NOWHERE", 0) == 0
        assert [m.start() for m in buffer.finditer(b"n", near - 10, near + 10)] == [near]
        buffer[near + 1] = ord("E")
        assert buffer.view("B", near, 6).tobytes() == b"nEedle"
        buffer.move(near + 100, near, 6)
        with buffer.open() as stream:
            stream.seek(-4096 + 97, os.SEEK_END)
            assert stream.tell() == near + 100
            assert stream.read(6) == b"nEedle"
    with SharedBuffer.attach(path, offset=4 * GIGABYTE - 1, length=10) as buffer:
        assert buffer.find(b"edle") == 0
        assert buffer[:4] == b"edle"


# ------------------------------------------------------------------ what is searched for


@pytest.fixture(params=["SharedBuffer", "PagedFile"])
def searched(request, tmp_path: Path) -> Iterator[Any]:
    """The same bytes in both; no NULs."""
    path = tmp_path / "x"
    path.write_bytes(b"..A*..A*.A*A*")
    with (
        SharedBuffer.attach(path, access="r")
        if request.param == "SharedBuffer"
        else PagedFile(path, 3, 2)
    ) as each:
        yield each


def test_numbers_are_bytes(searched) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    for star in (42, np.uint8(42), np.int64(42), np.array(42), True + 41):
        assert (searched.find(star), searched.rfind(star), searched.count(star)) == (3, 12, 4)
        assert star in searched
    assert (searched.find(0), searched.count(np.uint8(1))) == (-1, 0)
    for number in (256, -1, np.int64(300)):
        with pytest.raises(ValueError, match=r"range\(0, 256\)"):
            searched.find(number)


def test_anything_with_bytes_is_found(searched) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    letters = np.frombuffer(b"A.*.", "u1")
    for both in (b"A*", bytearray(b"A*"), memoryview(b"A*"), letters[:1:-1][:0], letters[::2]):
        model = bytearray(b"..A*..A*.A*A*")
        needle = bytes(both)
        assert searched.find(both) == model.find(needle)
        assert searched.rfind(both) == model.rfind(needle)
        assert searched.count(both) == model.count(needle)
    assert searched.find(np.frombuffer(b"*", "u1")) == 3


@pytest.mark.parametrize("other", [[65, 42], (65, 42), 1.5, None, "A*", range(3), {42}])
def test_what_has_no_bytes_is_not_searched_for(searched, other) -> None:
    for search_for in (searched.find, searched.rfind, searched.count, searched.__contains__):
        with pytest.raises(TypeError, match="bytes are searched for"):
            search_for(other)


def test_count_and_index_of_a_paged_file(tmp_path: Path) -> None:
    """It counts runs of bytes, as find does, and not items as a Sequence does."""
    path = tmp_path / "x"
    path.write_bytes(b"..A*..A*.A*A*")
    with PagedFile(path, 3, 2) as file:
        assert (file.count(b"A*"), file.index(b"A*"), file.index(b"A*", 3)) == (4, 2, 6)
        assert (file.count(42), file.index(42, -1)) == (4, 12)
        with pytest.raises(ValueError, match="b'B' is not in <PagedFile"):
            file.index(b"B")
    for call in (file.count, file.index):
        with pytest.raises(ClosedError):
            call(b"A")


@pytest.mark.parametrize("old", [b"A", 1, [65], "A", None])
@pytest.mark.parametrize("new", [b"B", 1, [66], "B", None])
def test_only_bytes_are_replaced(make_buffer, tmp_path: Path, old, new) -> None:
    """A number has no bytes here, as with a bytearray; `bytes(5)` would be five NULs."""
    buffer = make_buffer(b"\0A\0")
    if (old, new) == (b"A", b"B"):
        assert (buffer.replace(old, new), buffer[:]) == (1, b"\0B\0")
        return
    with pytest.raises(TypeError):
        buffer.replace(old, new)
    with pytest.raises(TypeError):
        buffer.replace_into(tmp_path / "result", old, new)
    assert buffer[:] == b"\0A\0"
    assert not (tmp_path / "result").exists()
