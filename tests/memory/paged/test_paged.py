"""PagedFile: as a bytearray, within its memory, and an error when the file changes size."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmkit import ClosedError, PagedFile
from shmkit.memory.paged import paged
from shmkit.memory.paged import pages as module
from tests.contracts.buffer import pattern
from tests.processes import run_python

SIZE = 1000
ANY_TMP = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=200,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(pattern(SIZE))
    return path


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize(("page_size", "max_pages"), [(1, 1), (7, 2), (100, 3), (4096, 1)])
def test_reading(path: Path, page_size: int, max_pages: int) -> None:
    content = pattern(SIZE)
    with PagedFile(path, page_size, max_pages) as file:
        assert len(file) == file.size == SIZE
        assert list(file) == list(content)
        assert list(reversed(file)) == list(reversed(content))
        for at in (0, 5, 99, 100, SIZE - 1, -1, -SIZE):
            assert file[at] == content[at]
        for part in (
            slice(None),
            slice(3, 5),
            slice(95, 305),
            slice(-7, None),
            slice(None, None, 3),
            slice(500, 100, -7),
            slice(5, 2),
            slice(SIZE, None),
        ):
            assert file[part] == content[part]
        for at in (SIZE, -SIZE - 1, 1 << 70):
            with pytest.raises(IndexError, match="is outside of <PagedFile"):
                file[at]
        with pytest.raises(TypeError):
            file["1"]  # type: ignore[call-overload]
        assert content[50:60] in file
        assert b"nowhere to be found" not in file
        with pytest.raises(TypeError, match="encode 'x' first"):
            file.find("x")  # type: ignore[arg-type]
        for use in (lambda: file.__setitem__(0, 1), lambda: file.__setitem__(slice(0, 1), b"a")):
            with pytest.raises(TypeError, match="read-only: open it with access='rw'"):
                use()
        file.flush()
        assert file.stats().resident <= page_size * max_pages
    assert path.read_bytes() == content


def test_it_says_what_it_is(path: Path) -> None:
    with PagedFile(str(path), access="rw") as file:
        assert (file.name, file.size, file.page_size, file.max_pages) == (
            str(path),
            SIZE,
            65536,
            16,
        )
        assert (file.access, file.closed) == ("rw", False)
        assert repr(file) == f"<PagedFile {path} size=1000 pages=16*65536 rw>"
        with pytest.raises(TypeError, match="send its path"):
            pickle.dumps(file)
    assert repr(file).endswith("closed>")


def test_the_least_recently_used_page_goes(path: Path) -> None:
    with PagedFile(path, 100, 3) as file:
        for at in (0, 100, 200):
            file[at]
        assert file.stats() == module.PagedStatistics(0, 3, 0, 0, 300, 0)
        file[5]  # page 0 is used again, so page 1 is the oldest
        file[300]
        assert file.stats() == module.PagedStatistics(1, 4, 1, 0, 300, 0)
        file[0], file[200], file[300]
        assert file.stats().faults == 4
        file[100]
        assert file.stats() == module.PagedStatistics(4, 5, 2, 0, 300, 0)
        file[950]
        assert file.stats().resident == 300
    assert file.stats().resident == 0


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with PagedFile(tmp_path / "empty", access="rw") as file:
        assert (len(file), list(file), file[:], file.find(b"a"), file.find(b"")) == (
            0,
            [],
            b"",
            -1,
            0,
        )
        file[:] = b""
        with pytest.raises(IndexError):
            file[0]


def test_what_cannot_be_opened(tmp_path: Path, path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PagedFile(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        PagedFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for stream in (tmp_path / "pipe", "/dev/zero", "/dev/null", io.BytesIO()):
        for access in ("r", "rw"):
            with pytest.raises(OSError, match=r"has no size and no positions; open_bytes\(\) read"):
                PagedFile(stream, access=access)
    (tmp_path / "link").symlink_to(path)
    tmp_path.chmod(0o777)
    with pytest.raises(OSError, match="others can write to"):
        PagedFile(tmp_path / "link", access="rw")
    for where in ("shm:x", "anon:"):
        with pytest.raises(ValueError, match="is no file"):
            PagedFile(where)
    for wrong in (None, 1.5):
        with pytest.raises(TypeError, match="a file is a path"):
            PagedFile(wrong)  # type: ignore[arg-type]
    with (
        pytest.raises(OSError, match="not open for this access: open it with 'r"),
        path.open("rb") as file,
    ):
        PagedFile(file, access="rw")
    for arguments in ({"page_size": 0}, {"max_pages": 0}, {"page_size": -1}, {"access": "cow"}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            PagedFile(path, **arguments)
    with pytest.raises(TypeError):
        PagedFile(path, 1.5)  # type: ignore[arg-type]


def test_what_can_be_given(path: Path, monkeypatch) -> None:
    monkeypatch.chdir(path.parent)
    Path("link").symlink_to(path)
    with path.open("r+b") as file:
        for given in (path.name, bytes(path), f"file:{path}", "link", file.fileno(), file):
            with PagedFile(given, access="rw") as paged:
                assert (paged[:], paged.name) == (pattern(SIZE), str(path))
        assert file.tell() == 0


# ------------------------------------------------------------------ against a bytearray

few = st.binary(max_size=6).map(lambda raw: bytes(b"ab"[c % 2] for c in raw))
index = st.none() | st.integers(-50, 50)
steps = st.none() | st.integers(-3, 3).filter(bool)
operation = st.one_of(
    st.tuples(st.just("get"), st.integers(-45, 45)),
    st.tuples(st.just("slice"), st.tuples(index, index, steps)),
    st.tuples(st.just("put"), st.tuples(st.integers(-45, 45), st.integers(0, 255))),
    st.tuples(st.just("assign"), st.tuples(index, index, steps, st.randoms(use_true_random=False))),
    st.tuples(st.sampled_from(["find", "rfind", "count", "index"]), st.tuples(few, index, index)),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("list"), st.none()),
)


@ANY_TMP
@given(
    content=st.binary(max_size=40).map(lambda raw: bytes(b"ab"[c % 2] for c in raw)),
    page_size=st.integers(1, 12),
    max_pages=st.integers(1, 4),
    operations=st.lists(operation, max_size=25),
)
def test_any_use_is_that_of_a_bytearray(
    tmp_path, content, page_size, max_pages, operations
) -> None:
    path, model = tmp_path / "file", bytearray(content)
    path.write_bytes(content)
    with PagedFile(path, page_size, max_pages, "rw") as file:
        for name, value in operations:
            if name == "get":
                assert outcome(file.__getitem__, value) == outcome(model.__getitem__, value)
            elif name == "slice":
                assert file[slice(*value)] == model[slice(*value)]
            elif name == "put":
                assert outcome(file.__setitem__, *value) == outcome(model.__setitem__, *value)
            elif name == "assign":
                part = slice(*value[:3])
                new = value[3].randbytes(len(model[part]))
                file[part] = new
                model[part] = new
            elif name == "flush":
                file.flush()
                assert path.read_bytes() == model
            elif name == "list":
                assert list(file) == list(model)
            else:
                found, expected = getattr(file, name), getattr(model, name)
                assert outcome(found, *value) == outcome(expected, *value)
            assert file.stats().resident <= page_size * max_pages
    assert path.read_bytes() == model


def outcome(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except (IndexError, ValueError) as error:
        return type(error)


# ------------------------------------------------------------------ writing


def test_changes_are_in_the_file_when_they_have_to_be(path: Path) -> None:
    model = bytearray(pattern(SIZE))
    with PagedFile(path, 100, 2, "rw") as file:
        file[5] = model[5] = 1
        file[95:205] = model[95:205] = b"x" * 110
        assert file.stats().dirty == 2
        assert path.read_bytes()[:6] == model[:6], "page 0 had to go"
        file.flush()
        assert path.read_bytes() == model
        assert file.stats().dirty == 0
        file[-1] = model[-1] = 255
        assert path.read_bytes() != model
    assert path.read_bytes() == model
    assert file.stats().written == 112


def test_only_what_was_written_is_written_back(path: Path) -> None:
    """Bytes that another writer changed on the same page are not written over."""
    with PagedFile(path, 1000, 1, "rw") as file, path.open("r+b", buffering=0) as other:
        file[10:20] = b"a" * 10
        file[500] = 7
        other.seek(15)
        other.write(b"b" * 485)
        file[20:25] = b"c" * 5
    content = path.read_bytes()
    assert content[10:25] == b"a" * 10 + b"c" * 5
    assert content[25:500] == b"b" * 475
    assert content[500] == 7
    assert content[501:] == pattern(SIZE)[501:]


def test_many_scattered_writes(path: Path) -> None:
    model = bytearray(pattern(SIZE))
    with PagedFile(path, SIZE, 1, "rw") as file:
        for at in range(0, SIZE, 3):
            file[at] = model[at] = at % 251
            assert file[:] == model
    assert path.read_bytes() == model


def test_wrong_values_change_nothing(path: Path) -> None:
    with PagedFile(path, 100, 2, "rw") as file:
        for value in (256, -1):
            with pytest.raises(ValueError, match="range"):
                file[0] = value
        with pytest.raises(TypeError):
            file[0] = b"a"  # type: ignore[call-overload]
        for new in (b"", b"1234"):
            with pytest.raises(ValueError, match=f"{len(new)} bytes do not replace 3"):
                file[0:3] = new
        with pytest.raises(IndexError):
            file[SIZE] = 1
    assert path.read_bytes() == pattern(SIZE)


def test_failed_writes_are_told_and_kept(path: Path, monkeypatch) -> None:
    real = os.pwrite

    def full(fd: int, data: Any, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with PagedFile(path, 100, 1, "rw") as file:
        file[0] = 1
        monkeypatch.setattr(os, "pwrite", full)
        for use in (lambda: file[500], file.flush):
            with pytest.raises(OSError, match="No space left"):
                use()
        assert (file[0], file.stats().dirty) == (1, 1)
        # A write that is cut short is gone on with.
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
        file[10:20] = b"0123456789"
        file.flush()
        assert path.read_bytes()[10:20] == b"0123456789"
        monkeypatch.setattr(os, "pwrite", full)
        file[0] = 2
        with pytest.raises(OSError, match="No space left"):
            file.close()
        assert file.closed
        file.close()
    assert path.read_bytes()[0] == 1


def test_an_error_on_the_way_is_not_hidden(path: Path) -> None:
    def fail() -> None:
        with PagedFile(path, access="rw") as file:
            file[0] = 1
            path.write_bytes(b"")
            raise KeyError("on its way")

    with pytest.raises(KeyError) as caught:
        fail()
    assert "could not be written: " in caught.value.__notes__[0]


# ------------------------------------------------------------------ another size underneath


def test_a_file_that_shrinks_is_an_error(path: Path) -> None:
    with PagedFile(path, 100, 2) as file:
        assert file[0] == pattern(SIZE)[0]
        os.truncate(path, 450)
        for use in (
            lambda: file[460],
            lambda: file[300],
            lambda: file.find(b"nowhere"),
        ):
            with pytest.raises(OSError, match=r"had 1000 bytes .* has 450"):
                use()
        with pytest.raises(OSError, match="had 1000 bytes") as caught:
            file[999]
        assert caught.value.errno == errno.ESTALE
        assert caught.value.filename == str(path)


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_a_file_that_grows(path: Path) -> None:
    """Also in a page that is in memory, changed or not."""
    with PagedFile(path, 300, 4, "rw") as file:
        model = bytearray(pattern(SIZE))
        file[950] = model[950] = 1
        for more in (b"a log", b"\n" * 200, b"x" * 1000):
            append(path, more)
            model += more
            assert (len(file), file.size, file[-1], file[:]) == (len(model),) * 2 + (
                model[-1],
                model,
            )
            assert file[len(model) - 1] == model[-1]
            assert file.find(more, 900) == model.find(more, 900)
            assert list(file.lines()) == io.BytesIO(model).readlines()
        append(path, b"end")
        file[-2:] = b"ND"  # it is behind the end that was known
        file[len(model)] = ord("E")
    assert path.read_bytes() == bytes(model) + b"END"
    assert file.size == len(model) + 3  # as it was


def test_a_log_is_followed(path: Path) -> None:
    with PagedFile(path, 100, 2) as file, file.open() as log:
        assert log.read() == pattern(SIZE)
        for line in (b"first\n", b"second\n"):
            append(path, line)
            assert (log.readline(), log.read()) == (line, b"")
    os.truncate(path, 10)


def test_a_file_that_shrinks_while_it_is_read(path: Path, monkeypatch) -> None:
    """It shrinks exactly between the look at its size and the read."""
    real = module._read_into

    def shrinking(fd: int, view: memoryview, offset: int) -> int:
        os.truncate(path, 950)
        return real(fd, view, offset)

    monkeypatch.setattr(module, "_read_into", shrinking)
    with PagedFile(path, 100, 2) as file, pytest.raises(OSError, match="has 950 now"):
        file[960]


def test_changes_are_not_written_behind_the_end(path: Path) -> None:
    file = PagedFile(path, 100, 2, "rw")
    file[990] = 1
    os.truncate(path, 10)
    for use in (file.flush, file.close):
        with pytest.raises(OSError, match="had 1000 bytes and has 10 now: it has shrunk"):
            use()
    assert path.read_bytes() == pattern(SIZE)[:10]
    assert file.closed


def test_changes_of_a_file_that_grew_are_written(path: Path) -> None:
    with PagedFile(path, 100, 2, "rw") as file:
        file[0] = 1
        with path.open("ab") as other:
            other.write(b"more")
    assert path.read_bytes() == b"\1" + pattern(SIZE)[1:] + b"more"


# ------------------------------------------------------------------ like a buffer


@pytest.mark.parametrize(("page_size", "max_pages"), [(1, 2), (7, 1), (64, 3), (4096, 2)])
def test_pieces_and_lines(tmp_path: Path, page_size: int, max_pages: int) -> None:
    text = b"one\n\ntwo\r\n" + b"x" * 300 + b"\nlast"
    (tmp_path / "text").write_bytes(text)
    with PagedFile(tmp_path / "text", page_size, max_pages) as file:
        for size in (1, 10, 1000):
            chunks = list(file.chunks(size))
            assert b"".join(chunks) == text
            assert {len(chunk) for chunk in chunks[:-1]} <= {size}
        assert list(file.lines()) == text.splitlines(keepends=True) == list(file.open())
        assert bytes(file) == text
        with io.TextIOWrapper(file.open()) as stream:
            assert stream.read() == text.decode().replace("\r\n", "\n")
        with pytest.raises(ValueError, match="'size' must be at least 1 byte, not 0"):
            file.chunks(0)
        assert not file.closed


def test_an_array_is_a_copy_of_the_bytes(path: Path) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    with PagedFile(path, 100, 2) as file:
        array = np.asarray(file)
        assert (array.dtype, array.tobytes()) == (np.uint8, pattern(SIZE))
        assert np.asarray(file, "f4").dtype == "f4"
        with pytest.raises(ValueError, match="is read, not mapped: an array of it is a copy"):
            file.__array__(copy=False)


def test_a_file_object(path: Path) -> None:
    with PagedFile(path, 100, 2, "rw") as file:
        stream = file.open()
        assert (stream.name, stream.mode) == (str(path), "rb+")
        stream.seek(500)
        assert stream.write(b"written") == 7
        stream.seek(-3, os.SEEK_END)
        assert stream.read(10) == pattern(SIZE)[-3:]
        stream.seek(SIZE - 3)
        with pytest.raises(OSError, match="4 bytes do not fit at position 997 of 1000"):
            stream.write(b"more")
            stream.flush()
        with pytest.raises(OSError, match="do not fit"):  # as any buffer that cannot be written
            stream.close()
        for offset, whence in ((-1, os.SEEK_SET), (0, 7)):
            with pytest.raises(ValueError, match=r"whence|before|negative"):
                file.open().seek(offset, whence)
        with pytest.raises(io.UnsupportedOperation):
            stream.fileno()
        assert file[500:507] == b"written"
    assert path.read_bytes()[500:507] == b"written"
    with PagedFile(path) as file:
        reader = file.open()
        assert (reader.mode, reader.writable(), reader.read(3)) == ("rb", False, pattern(SIZE)[:3])
    with pytest.raises(ClosedError):
        file.open()


PATTERNS = [
    rb"abbb?a",
    rb"a*",
    rb"|a",
    rb"abba|b",
    rb"(?:ab)*(b?)",
    rb"^a|b$",
    rb"(?m)^a|b$",
    rb"(?<=ab)b",
    rb"a(?=b)",
    rb"\Aa|b\Z",
    rb"a.{0,3}b",
    rb"\b",
    rb"x",
]


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=60).map(lambda raw: bytes(b"abab\n"[c % 5] for c in raw)),
    regex=st.sampled_from(PATTERNS),
    span=st.tuples(index, index),
)
def test_regular_expressions(tmp_path_factory, data: bytes, regex: bytes, span) -> None:
    """Whatever the window, if it has room for twice what the pattern has to see."""
    path = tmp_path_factory.getbasetemp() / "data"
    path.write_bytes(data)
    first, last, _ = slice(*span).indices(len(data))
    expected = [m.span() for m in re.compile(regex).finditer(data, first, last)]
    for window in (16, 20, 1000):
        with pytest.MonkeyPatch.context() as patch, PagedFile(path, 7, 2) as file:
            patch.setattr(paged, "_WINDOW", window)
            assert [m.span() for m in file.finditer(regex, *span)] == expected


def test_matches_have_what_they_have_elsewhere(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(paged, "_WINDOW", 64)
    text = b"." * 700 + b"name=value" + b"." * 700 + b"x" * 500 + b"."
    path.write_bytes(text)
    with PagedFile(path, 100, 2) as file:
        regex = re.compile(rb"(?P<key>\w+)=(\w+)(;)?")
        ours, theirs = next(file.finditer(regex)), next(regex.finditer(text))
        for use in (
            lambda m: (m.start(), m.end(), m.span("key"), m.span(3), m.start(2), m.end(2)),
            lambda m: (m[0], m["key"], m.group(1, 2), m.groups(), m.groupdict()),
            lambda m: (m.expand(rb"\2=\1"), m.lastindex, m.lastgroup, m.re),
        ):
            assert use(ours) == use(theirs)
        assert repr(ours) == "<Match span=(700, 710), match=b'name=value'>"
        with pytest.raises(AttributeError, match="a match in a file has no 'string'"):
            ours.string  # noqa: B018
        assert [m.span() for m in file.finditer(rb"x+")] == [(1410, 1910)]  # of any length
        with pytest.raises(TypeError, match="searched with a pattern of bytes"):
            file.finditer("text")  # type: ignore[arg-type]


# ------------------------------------------------------------------ life


def test_closed_files_refuse_everything(path: Path) -> None:
    file = PagedFile(path, access="rw")
    file.close()
    file.close()
    uses: list[Any] = [
        lambda: file[0],
        lambda: file[:],
        lambda: list(file),
        lambda: file.find(b"a"),
        lambda: file.rfind(b"a"),
        lambda: file.__setitem__(0, 1),
        file.flush,
        file.__enter__,
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="was closed: open it again"):
            use()
    assert len(file) == SIZE


def test_a_file_dropped_open_is_a_warning_and_written(path: Path) -> None:
    files = [PagedFile(path, access="rw")]
    files[0][0] = 1
    with pytest.warns(ResourceWarning, match="unclosed <PagedFile"):
        files.clear()
    assert path.read_bytes()[0] == 1


def test_changes_outlive_an_interpreter_that_ends_without_closing(path: Path) -> None:
    program = """
    import sys
    from shmkit import PagedFile
    file = PagedFile(args[0], access="rw")
    file[0] = 1
    sys.keep = [file]
    sys.keep.append(sys.keep)
    """
    ended = run_python(program, str(path), env={"PYTHONWARNINGS": "default"})
    assert "ResourceWarning: unclosed <PagedFile" in ended.stderr
    assert path.read_bytes()[0] == 1


def test_a_forked_child_writes_only_its_own(path: Path) -> None:
    with PagedFile(path, 100, 2, "rw") as file:
        file[0] = 1
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert file[0] == pattern(SIZE)[0], "the parent's changes are the parent's"
                file[1] = 2
                file.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert path.read_bytes()[:2] == bytes([pattern(SIZE)[0], 2])
        assert file[0] == 1
    assert path.read_bytes()[:2] == b"\1\2"


def test_threads_share_it(path: Path) -> None:
    content = pattern(SIZE)
    wrong: list[Any] = []
    with PagedFile(path, 10, 2, "rw") as file:

        def work(number: int) -> None:
            for turn in range(300):
                at = (turn * 37 + number * 11) % 850
                if file[at : at + 50] != content[at : at + 50]:
                    wrong.append(at)
                file[900 + number] = turn % 256

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert path.read_bytes()[900:904] == bytes([299 % 256] * 4)


# ------------------------------------------------------------------ memory

LARGE = """
from pathlib import Path
from shmkit import PagedFile

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

path, size, page_size, max_pages = args
with PagedFile(path, page_size, max_pages) as file:
    before = peak()
    assert file.find(b"needle") == size - 10
    assert file.rfind(b"needle") == size - 10
    assert file[size - 10 : size - 4] == b"needle"
    total = 0
    for start in range(0, size, page_size):
        total += sum(file[start : start + 8])
    assert total == 0
    stats = file.stats()
    assert stats.resident <= page_size * max_pages
    assert stats.faults >= 2 * size // page_size
grown = peak() - before
assert grown <= page_size * max_pages + (32 << 20), grown
print(grown)
"""


@pytest.mark.parametrize(("page_size", "max_pages"), [(1 << 16, 16), (1 << 22, 4)])
def test_every_byte_of_a_large_file_in_little_memory(tmp_path, page_size, max_pages) -> None:
    """Only a few pages are resident after every byte was read."""
    size = 1 << 27
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
        file.seek(size - 10)
        file.write(b"needle")
    run_python(LARGE, str(tmp_path / "large"), size, page_size, max_pages)


class Interrupted(Exception):
    """What a signal handler raises."""


def interrupt_at(line: int) -> Callable[..., Any]:
    """A trace function that raises at the n-th line of PagedFile's that runs."""
    lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        if "/memory/page" not in frame.f_code.co_filename:
            return None
        if event == "line":
            lines += 1
            if lines == line:
                raise Interrupted
        return trace

    return trace


@pytest.mark.parametrize("ranges", [0, 64])
def test_what_is_shown_is_written(tmp_path: Path, ranges: int) -> None:
    """Wherever a handler raises in a write, what is read afterwards is what gets to the file."""
    path = tmp_path / "x"
    for line in range(1, 1000):
        path.write_bytes(bytes(512))
        with PagedFile(path, page_size=256, max_pages=1, access="rw") as file:
            for at in range(ranges):
                file[100 + 2 * at] = 7
            before = sys.gettrace()
            sys.settrace(interrupt_at(line))
            try:
                file[3] = 9
            except Interrupted:
                done = False
            else:
                done = True
            finally:
                sys.settrace(before)
            shown = file[:256]
            file[300]  # the other page has to go
            assert file[:256] == shown
            assert shown[100 : 100 + 2 * ranges] == b"\7\0" * ranges
        assert path.read_bytes() == shown + bytes(256)
        if done:
            assert shown[3] == 9
            assert line > 10
            return
    raise AssertionError("it did not end")
