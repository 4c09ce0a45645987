"""Searching and replacing on every kind of memory; large files; results in a new file."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmkit import ClosedError, PagedFile, SharedBuffer, open_bytes
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


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own"
    path.write_bytes(b"the fox and the dog")
    return path


def test_a_buffer_goes_with_its_own_file(own: Path, monkeypatch) -> None:
    monkeypatch.chdir(own.parent)
    (own.parent / "link").symlink_to("own")
    with SharedBuffer.attach(own) as buffer:
        for path in (own, "own", "file:own", "link", f"../{own.parent.name}/own"):
            assert buffer.replace_into(path, b"the", b"python") == 2
            assert (len(buffer), buffer[:]) == (25, b"python fox and python dog")
            assert (buffer.replace(b"dog", b"cow"), buffer.buf[0]) == (1, ord("p"))
            buffer.flush()
            assert own.read_bytes() == b"python fox and python cow"
            assert pickle.loads(pickle.dumps(buffer))[:] == own.read_bytes()
            assert buffer.replace_into(own, b"python", b"the") == 2
            buffer[-3:] = b"dog"
            assert own.read_bytes() == b"the fox and the dog" == buffer[:]
        buffer.resize(30)
        assert own.stat().st_size == 30
        assert buffer.replace_into(own, buffer[:], b"") == 1
        assert (len(buffer), own.read_bytes()) == (0, b"")
        assert (own.parent / "link").is_symlink()
        own.unlink()
        assert buffer.replace_into(own, b"a", b"b") == 0
        assert own.exists()
        buffer.unlink()
        assert not own.exists()


@pytest.mark.parametrize("small", [0, 100, "cow"])
def test_who_only_reads_goes_with_the_file_too(own: Path, small) -> None:
    way = SharedBuffer.attach(own, access="cow") if small == "cow" else open_bytes(own, small=small)
    with way as buffer:
        view = buffer.buf
        if small == "cow":
            buffer[-3:] = b"cow"
        for times in (1, 2):
            assert buffer.replace_into(own, b"the", b"the the", times) == times
            assert own.read_bytes() == buffer[:]
        assert buffer[:19] == b"the the the the fox"
        assert view[:7] == b"the fox"  # as before


def test_views_of_the_old_file_are_not_left_behind(own: Path) -> None:
    with SharedBuffer.attach(own) as buffer:
        view = buffer.view("B", 4, 3)
        with pytest.raises(
            BufferError, match=r"views of it are in use: memoryview \(\.view\('B'\)"
        ):
            buffer.replace_into(own, b"the", b"python")
        view[:] = b"FOX"
        assert own.read_bytes() == b"the FOX and the dog" == buffer[:]
        assert [path.name for path in own.parent.iterdir()] == ["own"]
        del view
        assert buffer.replace_into(own, b"the", b"python") == 2


def test_what_a_file_got_meanwhile_is_not_replaced(own: Path) -> None:
    with (
        SharedBuffer.attach(own) as buffer,
        SharedBuffer.attach(own) as other,
        open_bytes(own) as read,
        SharedBuffer.attach(own, offset=3) as part,
        SharedBuffer.attach(own, length=3) as beginning,
    ):
        for some in (part, beginning):
            with pytest.raises(ValueError, match="is on a part of this file, and the rest would"):
                some.replace_into(own, b"the", b"a")
            assert some.replace_into(own.parent / "elsewhere", b"the", b"a") == 1
        buffer[:3] = b"THE"
        with pytest.raises(OSError, match=r"has changed since .* \(19 bytes now\)"):
            read.replace_into(own, b"the", b"a")
        assert other.replace_into(own, b"the", b"python") == 1
        with pytest.raises(OSError, match=r"was replaced since .*: attach again") as caught:
            buffer.replace_into(own, b"the", b"a")
        assert (caught.value.errno, caught.value.filename) == (errno.ESTALE, str(own))
        with own.open("ab") as file:
            file.write(b" and more")
        with pytest.raises(OSError, match=r"has changed since .* \(31 bytes now\)"):
            other.replace_into(own, b"the", b"a")
        assert own.read_bytes() == b"THE fox and python dog and more"


def test_a_rename_that_fails_leaves_the_buffer_where_it_was(own: Path, monkeypatch) -> None:
    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "is busy")

    for access in ("r", "rw", "cow"):
        with SharedBuffer.attach(own, access=access) as buffer:
            if access == "cow":
                buffer[:3] = b"THE"
            before = buffer[:]
            with monkeypatch.context() as patch, pytest.raises(OSError, match="is busy"):
                patch.setattr(os, "replace", busy)
                buffer.replace_into(own, b"fox", b"python")
            assert buffer[:] == before
            if access == "rw":
                buffer[:3] = b"The"
                assert own.read_bytes()[:3] == b"The"
            assert buffer.replace_into(own, b"cat", b"dog") == 0
    assert [path.name for path in own.parent.iterdir()] == ["own"]


def test_an_exception_after_the_rename_leaves_the_buffer_on_the_new_file(own, monkeypatch) -> None:
    real = os.replace

    def interrupted(*paths: str) -> None:
        real(*paths)
        raise KeyboardInterrupt

    with SharedBuffer.attach(own) as buffer:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", interrupted)
            buffer.replace_into(own, b"the", b"python")
        buffer.replace(b"dog", b"cow")
        assert own.read_bytes() == b"python fox and python cow"


def test_into_what_is_open(make_buffer, tmp_path: Path) -> None:
    buffer = make_buffer(b"the fox and the dog")
    with (tmp_path / "new").open("wb") as file:
        file.write(b"1: ")
        buffer.replace_into(file, b"the", b"a")
        buffer.replace_into(file.fileno(), b"the", b"one")
    assert (tmp_path / "new").read_bytes() == b"1: a fox and a dogone fox and one dog"
    stream = io.BytesIO()
    buffer.replace_into(stream, b"the", b"a", 1)
    assert stream.getvalue() == b"a fox and the dog"
    with pytest.raises(TypeError, match="takes text, not bytes: open it in binary mode"):
        buffer.replace_into(io.StringIO(), b"the", b"a")
    with (tmp_path / "new").open("r+b") as file, SharedBuffer.attach(tmp_path / "new") as own:
        for given in (file, file.fileno()):
            with pytest.raises(ValueError, match=r"is on this very file.*give its path"):
                own.replace_into(given, b"a", b"b")
    for where in ("shm:x", "anon:"):
        with pytest.raises(ValueError, match="is no file, and this takes files only"):
            buffer.replace_into(where, b"a", b"b")
    with pytest.raises(TypeError, match="a file is a path"):
        buffer.replace_into(None, b"a", b"b")


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


def test_links_are_followed_unless_others_may_have_planted_them(make_buffer, tmp_path) -> None:
    buffer = make_buffer(b"abc")
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    tmp_path.chmod(0o1777)
    with pytest.raises(OSError, match="others can write to"):
        buffer.replace_into(tmp_path / "link", b"a", b"x")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    tmp_path.chmod(0o700)
    buffer.replace_into(tmp_path / "link", b"a", b"x")
    assert (tmp_path / "precious").read_bytes() == b"xbc"
    assert (tmp_path / "link").is_symlink()


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
