"""SharedBuffer on every kind of memory and with every access."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from shmkit import ClosedError, IncompatibleSegment, SharedBuffer
from tests.contracts.buffer import READ_ONLY, READING, SIZE, WRITING, Case, pattern
from tests.processes import run_python

ADDRESSABLE = 1 << 48


def by_name(case: Case) -> str:
    return case.__name__


@pytest.mark.parametrize("case", READING, ids=by_name)
def test_reading(make_buffer, access: Any, case: Case) -> None:
    content = pattern(SIZE)
    with SharedBuffer.attach(make_buffer(content), access=access) as buffer:
        case(buffer, bytearray(content))


@pytest.mark.parametrize("case", WRITING, ids=by_name)
@pytest.mark.parametrize("access", ["rw", "cow"])
def test_writing(make_buffer, access: Any, case: Case) -> None:
    content = pattern(SIZE)
    made = make_buffer(content)
    with SharedBuffer.attach(made, access=access) as buffer:
        case(buffer, bytearray(content))
        seen = buffer[:] if access == "rw" else content
        assert made[:] == seen, "private changes stay private, shared ones are seen"


@pytest.mark.parametrize("case", READ_ONLY, ids=by_name)
def test_read_only(make_buffer, case: Case) -> None:
    content = pattern(SIZE)
    with SharedBuffer.attach(make_buffer(content), access="r") as buffer:
        case(buffer, bytearray(content))


@pytest.mark.parametrize("case", READING + WRITING, ids=by_name)
def test_part_at_odd_offset(where, case: Case) -> None:
    """The same cases hold for a part that starts in the middle of a page."""
    content = pattern(SIZE)
    with SharedBuffer.create(where, SIZE + 9000) as made:
        made[4099 : 4099 + SIZE] = content
        around = made[:4099], made[4099 + SIZE :]
        with SharedBuffer.attach(made, offset=4099, length=SIZE) as buffer:
            assert buffer.offset == 4099
            case(buffer, bytearray(content))
        assert (made[:4099], made[4099 + SIZE :]) == around
        made.unlink()


# ------------------------------------------------------------------ create


def test_new_memory_is_zero(make_buffer) -> None:
    buffer = make_buffer(SIZE)
    assert buffer[:] == bytes(SIZE)
    assert buffer.created
    assert buffer.access == "rw"
    assert buffer.mapped
    assert not buffer.closed


def test_url_and_name(make_buffer, where, backend: str) -> None:
    buffer = make_buffer(1)
    assert str(buffer.url) == (where or "anon:")
    assert buffer.name == str(buffer.url).partition(":")[2]


def test_fresh_names_differ() -> None:
    with SharedBuffer.create("shm:", 1) as one, SharedBuffer.create("shm:", 1) as other:
        assert one.name != other.name
        with SharedBuffer.attach(one.url) as again:
            again[0] = 5
        assert one[0] == 5


def test_path_objects_are_files(tmp_path: Path) -> None:
    with SharedBuffer.create(tmp_path / "a", 3) as buffer:
        buffer[:] = b"abc"
        assert buffer.name == str(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with SharedBuffer.create("file:a", 3) as buffer:
        monkeypatch.chdir("/")
        with SharedBuffer.attach(buffer.url) as again:
            assert again.name == str(tmp_path / "a")


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_create_refuses_what_is_there(make_where, kind: str) -> None:
    where = make_where(kind)
    with SharedBuffer.create(where, 3) as buffer:
        buffer[:] = b"abc"
        with pytest.raises(FileExistsError):
            SharedBuffer.create(where, 3)
        assert buffer[:] == b"abc"
        with SharedBuffer.attach(where) as again:
            assert again[:] == b"abc"
        buffer.unlink()


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_mode_is_private_unless_said(make_where, kind: str) -> None:
    umask = os.umask(0o022)
    try:
        with (
            SharedBuffer.create(make_where(kind), 1) as private,
            SharedBuffer.create(make_where(kind), 1, mode=0o666) as public,
        ):
            for buffer, mode in ((private, 0o600), (public, 0o644)):
                fd = buffer.descriptor()
                assert os.fstat(fd).st_mode & 0o777 == mode
                os.close(fd)
    finally:
        os.umask(umask)


@pytest.mark.parametrize("size", [0, -1, -(1 << 70), ADDRESSABLE + 1, sys.maxsize + 1, 1 << 80])
def test_impossible_sizes(where, size: int) -> None:
    for make in (SharedBuffer.create, SharedBuffer.ensure):
        with pytest.raises(ValueError, match="'size'"):
            make(where, size)
    assert_absent(where)


@pytest.mark.parametrize("size", [None, 1.0, "1", b"1"])
def test_sizes_of_other_types(where, size: Any) -> None:
    for make in (SharedBuffer.create, SharedBuffer.ensure):
        with pytest.raises(TypeError):
            make(where, size)
    assert_absent(where)


def assert_absent(where: str | None) -> None:
    if where is not None:
        with pytest.raises(FileNotFoundError):
            SharedBuffer.attach(where)


def test_there_is_no_constructor() -> None:
    with pytest.raises(TypeError, match=r"SharedBuffer\.create\(\)"):
        SharedBuffer()


# ------------------------------------------------------------------ attach


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_attach_to_nothing_tells_the_name(make_where, kind: str) -> None:
    where = make_where(kind)
    with pytest.raises(FileNotFoundError) as caught:
        SharedBuffer.attach(where)
    assert where.partition(":")[2] in str(caught.value)


def test_anonymous_memory_has_no_name() -> None:
    for where in (None, "anon:"):
        with pytest.raises(ValueError, match=r"inherit its handle by fork, or pickle it"):
            SharedBuffer.attach(where)
    with pytest.raises(ValueError, match="name the segment"):
        SharedBuffer.attach("shm:")


def test_unknown_access(make_buffer) -> None:
    with pytest.raises(ValueError, match="'access' must be 'r'"):
        SharedBuffer.attach(make_buffer(1), access="w")  # type: ignore[arg-type]


def test_second_handle_is_the_same_memory(make_buffer) -> None:
    one = make_buffer(SIZE)
    with SharedBuffer.attach(one) as other:
        other[5] = 77
        assert one[5] == 77
        assert other != one
        assert not other.created
    assert not one.closed


def test_part_of_a_part(make_buffer) -> None:
    one = make_buffer(pattern(SIZE))
    with SharedBuffer.attach(one, offset=5000, length=1000) as two:
        with SharedBuffer.attach(two, offset=77, length=3) as three:
            assert three[:] == one[5077:5080]
        with SharedBuffer.attach(two, offset=77) as three:
            assert three[:] == one[5077:6000]
        with pytest.raises(ValueError, match="1000 bytes"):
            SharedBuffer.attach(two, length=1001)


def test_second_handle_of_private_changes_is_on_the_memory_below(make_buffer, access) -> None:
    made = make_buffer(b"content")
    with SharedBuffer.attach(made, access="cow") as private:
        private[:3] = b"CON"
        with SharedBuffer.attach(private, access=access, offset=1) as second:
            assert (second[:], second.access) == (b"ontent", access)
        with pytest.raises(
            TypeError, match="its private changes would be lost; send the bytes, or"
        ):
            pickle.dumps(private)
    assert made[:] == b"content"


def test_copy_is_another_handle(make_buffer) -> None:
    one = make_buffer(b"abc")
    with copy.copy(one) as two:
        two[0] = ord("x")
        assert one[:] == b"xbc"
        assert not two.created


# ------------------------------------------------------------------ ensure


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_ensure_creates_then_attaches(make_where, kind: str) -> None:
    where = make_where(kind)
    with SharedBuffer.ensure(where, 100) as one:
        assert one.created
        with SharedBuffer.ensure(where, 50) as two:
            assert not two.created
            assert len(two) == 100
            two[99] = 1
        assert one[99] == 1
        with pytest.raises(IncompatibleSegment, match=r"100 bytes, and 101 are asked") as caught:
            SharedBuffer.ensure(where, 101)
        assert caught.value.where == where
        one.unlink()


def test_ensure_anonymous_creates() -> None:
    with SharedBuffer.ensure(None, 10) as buffer:
        assert buffer.created


# ------------------------------------------------------------------ descriptor


def test_descriptor_is_the_callers(make_buffer, access: Any) -> None:
    made = make_buffer(b"hello")
    with SharedBuffer.attach(made, access=access) as buffer:
        fd = buffer.descriptor()
    assert os.pread(fd, 5, 0) == b"hello"
    assert not os.get_inheritable(fd)
    if access == "rw":
        os.pwrite(fd, b"J", 0)
        assert made[:] == b"Jello"
    else:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"J", 0)
    os.close(fd)


def test_descriptors_have_descriptions_of_their_own(make_buffer) -> None:
    buffer = make_buffer(b"hello")
    one, two = buffer.descriptor(), buffer.descriptor()
    assert os.read(one, 5) == os.read(two, 5) == b"hello"
    os.close(one)
    os.close(two)


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_descriptor_of_a_replaced_name(make_where, kind: str) -> None:
    where = make_where(kind)
    with SharedBuffer.create(where, 10) as one:
        one.unlink()
        with pytest.raises(FileNotFoundError):
            one.descriptor()
        with SharedBuffer.create(where, 10) as two:
            with pytest.raises(FileNotFoundError, match="other memory"):
                one.descriptor()
            two.unlink()


def test_no_descriptor_is_kept_that_is_not_needed(make_where) -> None:
    """A handle on a segment or file keeps no descriptor, and one of anonymous memory keeps one."""

    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    for kind, own in (("shm", 0), ("file", 0), ("anon", 1)):
        with SharedBuffer.create("shm:", 1):
            pass  # the resource tracker has its pipe by now
        before = opened()
        with SharedBuffer.create(make_where(kind), 10):
            assert opened() - before == own, kind


# ------------------------------------------------------------------ threads, imports


def test_threads_share_a_handle(make_buffer) -> None:
    buffer = make_buffer(8 * 4096)

    def fill(number: int) -> None:
        for index in range(number * 4096, (number + 1) * 4096):
            buffer[index] = number + 1

    threads = [threading.Thread(target=fill, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert buffer[:] == b"".join(bytes([n + 1]) * 4096 for n in range(8))


def test_close_under_readers(make_buffer) -> None:
    """A read while another thread closes gives bytes or ClosedError, nothing else."""
    content = pattern(1 << 16)
    buffer = make_buffer(content)
    wrong: list[Any] = []
    reading = threading.Barrier(5)

    def read() -> None:
        reading.wait()
        try:
            while True:
                if buffer[:] != content:
                    wrong.append("other bytes")
        except ClosedError:
            return
        except Exception as error:  # noqa: BLE001 - reported by the test
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    reading.wait()
    buffer.close()
    for thread in threads:
        thread.join()
    assert wrong == []


class Closing:
    """The index closes the buffer while it is converted, as another thread could."""

    def __init__(self, buffer: SharedBuffer) -> None:
        self.buffer = buffer

    def __index__(self) -> int:
        self.buffer.close()
        return 0


def test_close_in_the_middle_of_a_call(make_buffer) -> None:
    made = make_buffer(10)
    buffer = SharedBuffer.attach(made)
    assert buffer[Closing(buffer)] == 0  # what is being read stays until it is
    assert buffer.closed
    for use in (
        lambda buffer: buffer.__setitem__(Closing(buffer), 1),
        lambda buffer: buffer.__setitem__(0, Closing(buffer)),
        lambda buffer: buffer.view("B", Closing(buffer)),
        lambda buffer: buffer.ndarray(Closing(buffer), "u1"),
    ):
        with pytest.raises(ClosedError):
            use(SharedBuffer.attach(made))
    assert made[:] == bytes(10)


def test_dontneed_would_throw_private_changes_away(make_buffer) -> None:
    with SharedBuffer.attach(make_buffer(b"abc"), access="cow") as buffer:
        buffer[0:1] = b"x"
        with pytest.raises(ValueError, match="private changes"):
            buffer.advise("dontneed")
        assert buffer[:] == b"xbc"


BACKENDS = """
import sys
from shmkit import SharedBuffer
def loaded():
    names = {m.rpartition(".")[2] for m in sys.modules if "memory.backends." in m}
    return names - {"base", "unnamed"}
assert loaded() == set(), loaded()
SharedBuffer.create(None, 1).close()
assert loaded() == {"anonymous"}, loaded()
SharedBuffer.create("file:" + args[0], 1).close()
assert loaded() == {"anonymous", "file"}, loaded()
assert not {"posix_ipc", "numpy", "multiprocessing.resource_tracker"} & set(sys.modules)
with SharedBuffer.create("shm:", 1): pass
assert loaded() == {"anonymous", "file", "named"}, loaded()
"""


def test_backends_are_imported_when_used(tmp_path: Path) -> None:
    run_python(BACKENDS, str(tmp_path / "x"))


def test_named_memory_without_posix_ipc_says_what_is_missing(make_where) -> None:
    program = """
    import sys, errno
    sys.modules["posix_ipc"] = None
    sys.platform = "another"
    from shmkit import SharedBuffer
    with SharedBuffer.create(None, 1): pass
    try:
        SharedBuffer.create("shm:", 1)
    except OSError as error:
        assert error.errno == errno.ENOTSUP and "posix_ipc" in str(error), error
    else:
        raise AssertionError
    """
    run_python(program)


def test_anonymous_memory_without_memfd(monkeypatch) -> None:
    """Without memfd a plain map is used, which only forked children share."""
    monkeypatch.delattr(os, "memfd_create")
    with SharedBuffer.create(None, 5000) as buffer:
        buffer[:3] = b"abc"
        pid = os.fork()
        if pid == 0:
            buffer[:3] = b"xyz"
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert buffer[:3] == b"xyz"
        with pytest.raises(TypeError, match="'fork'"):
            buffer.__reduce__()
        with pytest.raises(OSError, match="by fork"):
            SharedBuffer.attach(buffer)
        with pytest.raises(OSError, match="by fork"):
            buffer.resize(10)
