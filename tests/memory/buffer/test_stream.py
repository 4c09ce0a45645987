"""File objects, lines and chunks on every kind of memory."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmkit import SharedBuffer
from shmkit.memory.buffer import stream as module
from tests.contracts.buffer import SIZE, Case, pattern
from tests.contracts.buffer_stream import READ_ONLY, READING, WRITING


def by_name(case: Case) -> str:
    return case.__name__


@pytest.mark.parametrize("case", READING, ids=by_name)
def test_reading(make_buffer, access: str, case: Case) -> None:
    content = pattern(SIZE)
    with SharedBuffer.attach(make_buffer(content), access=access) as buffer:
        case(buffer, bytearray(content))


@pytest.mark.parametrize("case", WRITING, ids=by_name)
@pytest.mark.parametrize("access", ["rw", "cow"])
def test_writing(make_buffer, access: str, case: Case) -> None:
    content = pattern(SIZE)
    made = make_buffer(content)
    with SharedBuffer.attach(made, access=access) as buffer:
        case(buffer, bytearray(content))
        assert buffer.closed or made[:] == (buffer[:] if access == "rw" else content)


@pytest.mark.parametrize("case", READ_ONLY, ids=by_name)
def test_read_only(make_buffer, case: Case) -> None:
    content = pattern(SIZE)
    with SharedBuffer.attach(make_buffer(content), access="r") as buffer:
        case(buffer, bytearray(content))


@pytest.mark.parametrize("case", READING + WRITING, ids=by_name)
def test_part_at_odd_offset(where, case: Case) -> None:
    content = pattern(SIZE)
    with SharedBuffer.create(where, SIZE + 9000) as made:
        made[4099 : 4099 + SIZE] = content
        around = made[:4099], made[4099 + SIZE :]
        with SharedBuffer.attach(made, offset=4099, length=SIZE) as buffer:
            case(buffer, bytearray(content))
        assert (made[:4099], made[4099 + SIZE :]) == around
        made.unlink()


# ------------------------------------------------------------------ sizes


def test_truncate_resizes(make_buffer) -> None:
    buffer = make_buffer(b"one\ntwo\n")
    with buffer.open() as stream:
        stream.seek(6)
        assert stream.truncate(10_000) == 10_000
        assert (len(buffer), stream.tell()) == (10_000, 6)
        stream.seek(9_999)
        assert stream.write(b"!") == 1
        stream.seek(4)
        assert stream.truncate() == 4
        assert (len(buffer), buffer[:], stream.read()) == (4, b"one\n", b"")
        for size in (0, -1):
            with pytest.raises(io.UnsupportedOperation, match="'size' must be at least 1"):
                stream.truncate(size)
        assert (buffer[:], stream.seek(0), stream.read()) == (b"one\n", 0, b"one\n")
        view = buffer.view("B")
        with pytest.raises(BufferError, match=r"views of it are in use: .*view"):
            stream.truncate(2)
        del view
        buffer.close()
        with pytest.raises(io.UnsupportedOperation, match="was closed"):
            stream.truncate(2)
        assert (stream.seek(0), stream.read()) == (0, b"one\n")


def test_a_part_is_not_truncated(make_buffer) -> None:
    with SharedBuffer.attach(make_buffer(b"0123456789"), length=5) as part, part.open() as stream:
        with pytest.raises(io.UnsupportedOperation, match="on all of the memory"):
            stream.truncate(3)
        assert stream.read() == b"01234"


def test_text_written_late_arrives(make_buffer) -> None:
    """A TextIOWrapper writes what it held back, even if the buffer was closed before it."""
    made = make_buffer(b"........")
    buffer = SharedBuffer.attach(made)
    text = io.TextIOWrapper(buffer.open())
    text.write("late")
    buffer.close()
    text.close()
    assert made[:] == b"late...."


def test_streams_have_positions_of_their_own(make_buffer) -> None:
    with (buffer := make_buffer(b"one\ntwo\n")).open() as one, buffer.open() as two:
        assert one.readline() == two.readline() == b"one\n"
        one.seek(0)
        assert two.read() == b"two\n"


def test_an_empty_file_has_an_empty_stream(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with SharedBuffer.attach(tmp_path / "empty") as buffer, buffer.open() as stream:
        assert (stream.read(), stream.readline(), list(stream)) == (b"", b"", [])
        assert list(buffer.chunks(5)) == []
        with pytest.raises(OSError, match="do not fit"):
            stream.write(b"a")


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"bc\r", b"longer than a piece"])), st.data())
def test_lines_meet_anywhere(parts, data) -> None:
    content = b"".join(parts) or b"x"
    with pytest.MonkeyPatch.context() as patch, SharedBuffer.create(size=len(content)) as buffer:
        patch.setattr(module, "_READ_AT_ONCE", data.draw(st.integers(1, 9)))
        buffer[:] = content
        assert list(buffer.lines()) == io.BytesIO(content).readlines()


texts = st.binary(min_size=1, max_size=40).map(lambda raw: bytes(b"a\nb"[c % 3] for c in raw))
position = st.tuples(st.integers(-30, 30), st.sampled_from([0, 1, 2]))
operation = st.one_of(
    st.tuples(st.sampled_from(["read", "read1", "readline"]), st.integers(-1, 12)),
    st.tuples(st.just("seek"), position),
    st.tuples(st.just("readinto"), st.integers(0, 9)),
    st.tuples(st.just("write"), st.binary(max_size=5)),
    st.tuples(st.just("step of a loop"), st.booleans()),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=150,
)
@given(content=texts, operations=st.lists(operation, max_size=15))
def test_stream_is_like_a_file(make_where, backend, content, operations) -> None:
    """A stream answers any calls as a BytesIO does, up to its end."""
    theirs = io.BytesIO(content)
    with SharedBuffer.create(make_where(backend), len(content)) as buffer:
        buffer[:] = content
        with buffer.open() as ours, pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_READ_FIRST", 4)
            loop = iter(ours)
            for name, value in operations:
                if name == "step of a loop":
                    loop = iter(ours) if value else loop
                    assert next(loop, b"") == next(theirs, b"")
                    loop = loop if theirs.tell() < len(content) else iter(ours)
                elif name == "seek":
                    offset, whence = value
                    if offset + (0, theirs.tell(), len(content))[whence] >= 0:
                        assert ours.seek(offset, whence) == theirs.seek(offset, whence)
                elif name == "readinto":
                    one, two = bytearray(value), bytearray(value)
                    assert ours.readinto(one) == theirs.readinto(two)
                    assert one == two
                elif name == "write":
                    if theirs.tell() + len(value) <= len(content):
                        assert ours.write(value) == theirs.write(value)
                else:
                    assert getattr(ours, name)(value) == getattr(theirs, name)(value)
                assert ours.tell() == theirs.tell()
            assert buffer[:] == theirs.getvalue()
        buffer.unlink()


def test_reading_into_nothing(make_buffer) -> None:
    """Reading into an empty buffer of any shape is fine, as with a BytesIO."""
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    with make_buffer(b"abc").open() as stream:
        for nothing in (bytearray(), np.ones((0, 3)), np.ones((3, 0), "u1")[::2]):
            assert stream.readinto(nothing) == 0
        assert stream.tell() == 0
        with pytest.raises(TypeError):
            stream.readinto(b"")
        into = np.zeros((1, 3), "u1")
        assert stream.readinto(into) == 3
        assert into.tobytes() == b"abc"


def test_a_loop_over_lines_is_at_home_in_other_calls(make_buffer) -> None:
    """The position is behind the line that the loop has, and other calls go on from there."""
    text = b"".join(b"line %d\n" % number for number in range(5000)) + b"x" * 9000 + b"\nend"
    ours, theirs = make_buffer(text).open(), io.BytesIO(text)
    for number, (line, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert line == expected
        if number % 7 == 0:
            assert ours.tell() == theirs.tell()
        if number % 11 == 0:
            assert ours.readline() == theirs.readline()
        if number % 501 == 0:
            assert ours.read(5) == theirs.read(5)
            assert ours.seek(3, os.SEEK_CUR) == theirs.seek(3, os.SEEK_CUR)
        if number % 777 == 0:
            assert ours.write(b"NEW\n") == theirs.write(b"NEW\n")
    assert ours.readlines() == theirs.readlines() == []
    ours.seek(0)
    with pytest.raises(ValueError, match="closed"):
        for _ in ours:
            ours.close()


# ------------------------------------------------------------------ pages given back

LARGE = 1 << 25
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is resident")


def resident() -> int:
    """Bytes of files and shared memory that this process has in its map."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(s.split()[1]) for s in lines if s.startswith(("RssFile", "RssShmem"))) * 1024


@on_linux
@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1000])
def test_chunks_that_are_released_leave_nothing_resident(make_buffer, access: str, size) -> None:
    made = make_buffer(LARGE)
    view = made.buf
    for at in range(0, LARGE, 4096):
        view[at] = at >> 12 & 255
    made.advise("dontneed")
    with SharedBuffer.attach(made, access=access, offset=100) as buffer:
        before = resident()
        if access == "cow":
            with pytest.raises(ValueError, match="release=True would throw its private changes"):
                buffer.chunks(size, release=True)
            return
        found, first = 0, memoryview(b"")
        for chunk in buffer.chunks(size, release=True):
            first = first or chunk  # the first one
            found += chunk.tobytes().count(b"\7")
            assert resident() - before < LARGE / 4
        assert found == LARGE >> 20
        assert resident() - before < LARGE / 16
        assert first[3996] == 1  # it is there all the same
        assert sum(chunk.tobytes().count(b"\7") for chunk in buffer.chunks(size)) == found
        assert resident() - before > LARGE / 2


@on_linux
def test_a_part_is_given_back(make_buffer) -> None:
    buffer = make_buffer(LARGE)
    buffer[:] = bytes(LARGE)
    before = resident()
    buffer.advise("dontneed", 1 << 20)
    assert before - resident() > LARGE * 3 / 4
    buffer.advise("willneed", 5000, 10_000)
    for arguments in ((-1,), (LARGE + 1,), (0, LARGE + 1), (0, -1)):
        with pytest.raises(ValueError, match=r"outside|negative"):
            buffer.advise("random", *arguments)
    buffer.advise("dontneed", LARGE)
