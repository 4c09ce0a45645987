"""SharedArray: made, attached to, pickled, closed; and every way its header can be wrong."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="numpy is not installed")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from shmkit import (  # noqa: E402
    ClosedError,
    CorruptSegment,
    IncompatibleSegment,
    Ring,
    SharedArray,
    SharedBuffer,
)
from shmkit.tools.testing import run_until  # noqa: E402
from tests.processes import run_python  # noqa: E402

RECORD = np.dtype(
    [("x", "<f4", (3,)), ("name", "S5"), ("inner", [("a", "<i8"), ("b", "?")])], align=True
)
DTYPES = ["f4", ">i2", "u1", "?", "c16", "S7", "U3", "V5", "M8[ns]", "m8[D]", RECORD]


@pytest.fixture
def shared(where) -> Any:
    with SharedArray.create(where, (3, 4), "f4") as made:
        made.array[:] = np.arange(12).reshape(3, 4)
        yield made
        made.unlink()


def again(made: SharedArray, **options: Any) -> SharedArray:
    """Another handle, by name where there is one."""
    where = made.buffer if made.url.scheme == "anon" else made.url
    return SharedArray.attach(where, **options)


def test_new_arrays_are_zero(where) -> None:
    with SharedArray.create(where, (2, 3), "<i4") as made:
        assert made.array.tolist() == [[0, 0, 0], [0, 0, 0]]
        assert (made.shape, made.dtype, made.nbytes, len(made)) == ((2, 3), np.dtype("<i4"), 24, 2)
        assert made.array.flags.c_contiguous
        assert made.array.ctypes.data % 64 == 0
        assert str(made.url) == (where or "anon:")
        assert repr(made) == f"<SharedArray {made.url} shape=(2, 3) dtype=int32 rw>"
        assert (made.created, made.closed, made.access) == (True, False, "rw")
        made.unlink()
    assert repr(made).endswith("dtype=int32 closed>")


@pytest.mark.parametrize("shape", [(), 5, (0,), (3, 0, 2), (2, 3, 4), [1]])
def test_shapes(where, shape: Any) -> None:
    with SharedArray.create(where, shape, "i8") as made, again(made) as other:
        expected = np.zeros(shape, "i8")
        assert made.array.shape == other.array.shape == made.shape == expected.shape
        other.array[...] = 7
        assert (made.array == expected + 7).all()
        made.unlink()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[:6])
def test_dtypes(where, dtype: Any) -> None:
    with SharedArray.create(where, 4, dtype) as made, again(made, dtype=dtype) as other:
        raw = np.frombuffer(bytes(range(1, 1 + 4 * made.dtype.itemsize)), "u1")
        if made.dtype.kind in "?U":
            raw = raw * 0
        made.array[:] = raw.view(dtype)
        assert other.dtype == other.array.dtype == np.dtype(dtype)
        assert other.array.tobytes() == made.array.tobytes()
        assert repr(other.array.tolist()) == repr(raw.view(dtype).tolist())
        made.unlink()


def test_a_subarray_becomes_dimensions(where) -> None:
    with SharedArray.create(where, 2, ("f4", (3,))) as made, again(made) as other:
        assert (other.shape, other.dtype) == ((2, 3), np.dtype("f4"))
        made.unlink()


def test_fortran_order(where) -> None:
    with SharedArray.create(where, (3, 4), "i4", order="F") as made, again(made) as other:
        made.array[1, 2] = 5
        assert other.array.flags.f_contiguous
        assert other.array[1, 2] == 5
        made.unlink()


@pytest.mark.parametrize("order", ["C", "F"])
def test_from_array(where, order: str) -> None:
    source = np.asarray(np.arange(12.0).reshape(3, 4), order=order)
    with SharedArray.from_array(source, where) as made, again(made) as other:
        assert (other.array == source).all()
        assert other.array.strides == source.strides
        assert np.shares_memory(np.asarray(other), other.array)
        assert np.array(other, dtype="i4").tolist() == source.astype("i4").tolist()
        made.unlink()


def test_access(shared) -> None:
    with again(shared, access="r") as reader:
        assert not reader.array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            reader.array[0] = 1
    with again(shared, access="cow") as private:
        private.array[0, 0] = 99
        assert shared.array[0, 0] == 0
    with again(shared) as writer:
        writer.array[0, 0] = 99
        assert shared.array[0, 0] == 99


def test_read_only_handles(shared) -> None:
    with shared.read_only() as reader:
        assert (reader.access, reader.array.flags.writeable) == ("r", False)
        shared.array[1, 1] = -1
        assert reader.array[1, 1] == -1
        with pickle.loads(pickle.dumps(reader)) as copy:
            assert (copy.access, copy.array.flags.writeable) == ("r", False)
    assert not shared.closed


def test_what_is_asked_for_is_checked(shared) -> None:
    again(shared, shape=[3, 4], dtype="float32").close()
    with pytest.raises(
        IncompatibleSegment, match=r"shape \(3, 4\), and \(4, 3\) is asked for"
    ) as e:
        again(shared, shape=(4, 3))
    assert e.value.where == str(shared.url)
    with pytest.raises(IncompatibleSegment, match="dtype float32, and float64 is asked for"):
        again(shared, dtype=float)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "message"),
    [
        (3, object, TypeError, "Python objects"),
        (3, [("a", object)], TypeError, "Python objects"),
        (3, "S", TypeError, "has no size"),
        ((2, -1), "f4", ValueError, "negative"),
        (-1, "f4", ValueError, "negative"),
        ((1 << 40, 1 << 40), "f4", ValueError, "more than addresses reach"),
        (1.5, "f4", TypeError, ""),
        (3, "nonsense", TypeError, ""),
    ],
)
def test_arrays_that_cannot_be(where, shape: Any, dtype: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message or None):
        SharedArray.create(where, shape, dtype)
    if where is not None:
        with pytest.raises(FileNotFoundError):
            SharedArray.attach(where)
    with pytest.raises(ValueError, match="'order'"):
        SharedArray.create(where, 3, "f4", order="K")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"SharedArray\.create\(where"):
        SharedArray()


# ------------------------------------------------------------------ closing


def test_arrays_outlive_their_handle(where) -> None:
    """In a child: what goes wrong here is no exception."""
    program = """
    from shmkit import SharedArray
    with SharedArray.create(args[0], 1000, "i8") as made:
        array, part = made.array, made.array[5:]
        made.unlink()
    assert made.closed
    array[7] = 3
    assert part[2] == 3
    del array
    assert part[2] == 3
    """
    run_python(program, where)


def test_strict_close(shared) -> None:
    array = shared.array
    with pytest.raises(BufferError, match=r"array of \(3, 4\) float32"):
        shared.close(strict=True)
    assert shared.array.tolist() == array.tolist()
    del array
    shared.close(strict=True)
    shared.close()
    for use in (
        lambda: shared.array,
        lambda: len(shared),
        lambda: np.asarray(shared),
        shared.flush,
        shared.read_only,
        shared.__enter__,
        lambda: pickle.dumps(shared),
    ):
        with pytest.raises(ClosedError, match="was closed"):
            use()
    assert (shared.shape, shared.dtype) == ((3, 4), np.dtype("f4"))


def test_a_handle_dropped_open_is_a_warning(where) -> None:
    made = [SharedArray.create(where, 3, "f4")]
    made[0].unlink()
    with pytest.warns(ResourceWarning, match="unclosed <SharedBuffer"):
        made.clear()


def test_names_go_with_their_creator(unique_name) -> None:
    with SharedArray.create(f"shm:{unique_name}", 3, "f4"):
        pass
    with pytest.raises(FileNotFoundError):
        SharedArray.attach(f"shm:{unique_name}")


def test_create_refuses_what_is_there(make_where) -> None:
    for kind in ("shm", "file"):
        where = make_where(kind)
        with SharedArray.create(where, 3, "f4") as made:
            made.array[:] = 5
            with pytest.raises(FileExistsError):
                SharedArray.create(where, 3, "f4")
            with again(made) as other:
                assert other.array.tolist() == [5, 5, 5]


def test_files_stay(tmp_path: Path) -> None:
    with SharedArray.create(tmp_path / "a", (2, 2), "i4") as made:
        made.array[:] = [[1, 2], [3, 4]]
        made.flush()
    with SharedArray.attach(tmp_path / "a", access="r") as other:
        assert other.array.tolist() == [[1, 2], [3, 4]]
        assert (other.name, other.created) == (str(tmp_path / "a"), False)


# ------------------------------------------------------------------ other processes


def change(array: SharedArray, reader: SharedArray, link: Any) -> None:
    with array, reader:
        assert (array.shape, array.dtype, array.created) == ((3, 4), np.dtype("f4"), array.created)
        array.array[2, 3] = 77
        link.send((float(reader.array[2, 3]), reader.access, reader.array.flags.writeable))


def test_as_an_argument(shared, context, start_process) -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, shared.read_only() as reader:
        process = start_process(change, shared, reader, theirs)
        assert ours.poll(20)
        assert ours.recv() == (77.0, "r", False)
        process.join(20)
        assert process.exitcode == 0
    assert shared.array[2, 3] == 77


def test_pickles_are_small(where) -> None:
    with SharedArray.create(where, 1_000_000, "f8") as made:
        made.array[-1] = 1
        data = pickle.dumps(made)
        assert len(data) < 1000
        with pickle.loads(data) as copy:
            assert copy.array[-1] == 1
        made.unlink()


def test_content_comes_before_the_name(make_where) -> None:
    """A creator that is killed in between leaves no array without its items."""
    for step in ("fill", "link"):
        where = make_where("file")
        source = np.arange(100_000)
        with run_until(
            f"create.{step}", SharedArray.from_array, source, where, method="fork"
        ) as victim:
            assert victim.reached
        with pytest.raises(FileNotFoundError):
            SharedArray.attach(where)


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_waits_for_an_array_to_be_finished(make_where, monkeypatch, kind: str) -> None:
    """Only where memory is made in two steps."""
    where = make_where(kind)
    with SharedArray.create(where, 3, "f4") as made:
        magic = made.buffer[:8]
        made.buffer[:8] = bytes(8)
        with pytest.raises(IncompatibleSegment, match="holds no shared array"):
            SharedArray.attach(where, timeout=1000)
        monkeypatch.setattr("shmkit.memory.creation.ONE_STEP", False)
        for timeout in (0, 0.05):
            with pytest.raises(IncompatibleSegment, match="holds no shared array"):
                SharedArray.attach(where, timeout=timeout)
        found: list[Any] = []

        def wait() -> None:
            with SharedArray.attach(where, timeout=20) as other:
                found.append(other.shape)

        waiting = threading.Thread(target=wait)
        waiting.start()
        made.buffer[:8] = magic
        waiting.join(20)
        assert found == [(3,)]
        made.unlink()


# ------------------------------------------------------------------ wrong bytes


@pytest.mark.parametrize("size", [0, 1, 4096, 8192, 16384, 65536, 1 << 20])
@pytest.mark.parametrize("kind", ["shm", "file"])
def test_what_is_there_is_never_changed(make_where, kind: str, size: int) -> None:
    for content in (bytes(size), os.urandom(size)):
        where = make_where(kind)
        name = where.partition(":")[2]
        path = Path("/dev/shm", name) if kind == "shm" else Path(name)
        path.write_bytes(content)
        with pytest.raises(FileExistsError):
            SharedArray.create(where, 3, "f4")
        with pytest.raises(IncompatibleSegment):
            SharedArray.ensure(where, 3, "f4")
        with pytest.raises(IncompatibleSegment):
            SharedArray.attach(where)
        assert path.read_bytes() == content
        path.unlink()


@pytest.mark.parametrize("one_step", [True, False])
def test_ensure(where, monkeypatch, one_step: bool) -> None:
    monkeypatch.setattr("shmkit.memory.creation.ONE_STEP", one_step)
    with SharedArray.ensure(where, (2, 3), "i4") as first:
        assert first.created
        first.array[:] = 7
        if where is not None:
            with SharedArray.ensure(where, (2, 3), "i4") as second:
                assert not second.created
                assert (second.array == 7).all()
            with pytest.raises(IncompatibleSegment, match="shape"):
                SharedArray.ensure(where, (3, 2), "i4")
            with pytest.raises(IncompatibleSegment, match="dtype"):
                SharedArray.ensure(where, (2, 3), "f4")
            with pytest.raises(IncompatibleSegment, match=r"shape \(2, 3\), and \(3000, 2\)"):
                SharedArray.ensure(where, (3000, 2), "i4")
        assert (first.array == 7).all()
        first.unlink()


def test_something_else_is_incompatible(make_where) -> None:
    for kind in ("shm", "file"):
        for size in (1, 7, 100, 10_000):
            with SharedBuffer.create(make_where(kind), size) as buffer:
                for content in (bytes(size), b"x" * size):
                    buffer[:] = content
                    with pytest.raises(IncompatibleSegment, match="holds no shared array"):
                        SharedArray.attach(buffer.url)
                buffer.unlink()
    with (
        Ring.create(make_where("shm")) as ring,
        pytest.raises(
            IncompatibleSegment, match=r"\(ring, kind 1\), not a shared array \(kind 65\)"
        ),
    ):
        SharedArray.attach(ring.url)


def test_an_empty_file_is_incompatible(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(IncompatibleSegment, match="holds no shared array"):
        SharedArray.attach(tmp_path / "empty", timeout=1)


def described(text: bytes, shape: tuple[int, ...] = (3,), dtype: str = "<f4") -> bytes:
    """A whole segment whose description is `text`, with its checksums in order."""
    from shmkit.segment.array_header import plan

    header, write = plan(shape, np.dtype(dtype), fortran=False)
    body = bytearray(header.offset + header.size)
    write(memoryview(body))
    body[0x80:0x88] = struct.pack("<II", len(text), zlib.crc32(text))
    body[0x88 : 0x88 + len(text)] = text
    return bytes(body)


def fixed(body: bytes, at: int, code: str, value: int) -> bytes:
    """A segment with another fixed field, its checksum in order."""
    changed = bytearray(body)
    struct.pack_into(code, changed, at, value)
    struct.pack_into("<I", changed, 0x60, zlib.crc32(changed[8:0x60]))
    return bytes(changed)


GOOD = b"((3,), '<f4')"
WRONG: dict[str, tuple[bytes, type[Exception], str]] = {
    "cut off": (described(GOOD)[:4100], CorruptSegment, "has 4100 bytes, and its header speaks"),
    "cut off in the header": (described(GOOD)[:100], CorruptSegment, "less than its header"),
    "version": (fixed(described(GOOD), 8, "<H", 9), IncompatibleSegment, "layout version 9"),
    "kind": (fixed(described(GOOD), 10, "<H", 1), IncompatibleSegment, r"kind 1\)"),
    "offset": (fixed(described(GOOD), 0x18, "<Q", 8192), CorruptSegment, "offset of 8192"),
    "odd offset": (fixed(described(GOOD), 0x18, "<Q", 4097), CorruptSegment, "offset of 4097"),
    "size": (fixed(described(GOOD), 0x20, "<Q", 8), CorruptSegment, "data size of 8"),
    "checksum": (
        described(GOOD).replace(b"\x41\0", b"\x41\1", 1),
        CorruptSegment,
        "checksum of the",
    ),
    "larger": (described(b"((300,), '<f4')"), CorruptSegment, r"1200 bytes for \(300,\)"),
    "negative": (described(b"((-3,), '<f4')"), CorruptSegment, "cannot be"),
    "object": (described(b"((3,), '|O')"), CorruptSegment, "cannot be"),
    "shape": (described(b"([3], '<f4')"), CorruptSegment, "cannot be"),
    "floats": (described(b"((3.0,), '<f4')"), CorruptSegment, "cannot be"),
    "no dtype": (described(b"((3,), 'nonsense')"), CorruptSegment, "means nothing"),
    "no literal": (described(b"((3,), open('x'))"), CorruptSegment, "means nothing"),
    "no pair": (described(b"(3,)"), CorruptSegment, "means nothing"),
    "no text": (described(b"\xff\xfe"), CorruptSegment, "means nothing"),
    "no shape": (described(b"(3, '<f4')"), CorruptSegment, "means nothing"),
    "deep": (described(b"(" * 3000), CorruptSegment, "means nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_headers(tmp_path: Path, name: str) -> None:
    body, kind, message = WRONG[name]
    path = tmp_path / "array"
    path.write_bytes(body)
    with pytest.raises(kind, match=message) as caught:
        SharedArray.attach(path)
    assert caught.value.where == f"file:{path}"  # type: ignore[attr-defined]
    path.write_bytes(described(GOOD))
    SharedArray.attach(path).close()


def test_a_description_that_was_changed_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "array"
    path.write_bytes(described(GOOD).replace(b"<f4", b"<i4"))
    with pytest.raises(CorruptSegment, match="checksum of the description"):
        SharedArray.attach(path)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=200,
)
@given(st.lists(st.tuples(st.integers(0, 0xA0), st.integers(0, 255)), min_size=1, max_size=4))
def test_random_headers_are_errors_or_arrays(tmp_path: Path, changes) -> None:
    body = bytearray(described(GOOD))
    for at, value in changes:
        body[at] = value
    path = tmp_path / "array"
    path.write_bytes(body)
    try:
        with SharedArray.attach(path, access="r") as array:
            assert array.array.nbytes == 12
    except (IncompatibleSegment, CorruptSegment):
        pass


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=200,
)
@given(st.binary(max_size=5000))
def test_random_bytes_are_errors(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "array"
    for content in (body, b"SHMKIT\x01\0" + body):
        path.write_bytes(content)
        with pytest.raises((IncompatibleSegment, CorruptSegment)):
            SharedArray.attach(path)


def test_without_numpy_it_says_so() -> None:
    program = """
    import sys
    sys.modules["numpy"] = None
    from shmkit import SharedArray
    try:
        SharedArray.create(None, 3, "f4")
    except ImportError as error:
        assert "numpy" in str(error)
    else:
        raise AssertionError
    """
    run_python(program)
    assert os.getpid()
