"""Memory is made in one step, waited for, and raced for; memory that is there stays as it is."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

from shmkit import IncompatibleSegment, SharedBuffer
from shmkit.memory import creation
from shmkit.memory.backends import backend_for
from shmkit.memory.backends.named import NamedBackend
from shmkit.memory.backends.posix import PosixBackend
from shmkit.memory.url import Url
from shmkit.tools.testing import kill_points, run_until

MAGIC = b"MAGIC\0\1\0"
NAMED = pytest.mark.parametrize("kind", ["shm", "file"])
SIZES = [0, 1, 4096, 8192, 16384, 65536, 1 << 20]


@pytest.fixture
def name(make_where) -> Any:
    return make_where("shm")


@pytest.fixture(params=["one step", "two steps", "two steps by posix_ipc"])
def steps(request: pytest.FixtureRequest, monkeypatch) -> str:
    """Each way to make memory: in one step as Linux can, in two as every system can."""
    if request.param != "one step":
        monkeypatch.setattr(creation, "ONE_STEP", False)
    if request.param == "two steps by posix_ipc":
        posix = PosixBackend()
        find = backend_for
        monkeypatch.setattr(
            creation, "backend_for", lambda scheme: posix if scheme == "shm" else find(scheme)
        )
    return str(request.param)


def path_of(where: str) -> Path:
    scheme, _, rest = where.partition(":")
    return Path("/dev/shm", rest) if scheme == "shm" else Path(rest)


def empty_segment(where: str) -> Any:
    """A segment whose creator has not got further than its name."""
    return posix_ipc.SharedMemory("/" + where.removeprefix("shm:"), posix_ipc.O_CREX).fd


def at_first_pause(monkeypatch, action: Any) -> None:
    """Call `action` while an attach waits."""
    actions = [action]

    def sleep(seconds: float) -> None:
        if actions:
            actions.pop()()
        time.sleep(seconds)

    monkeypatch.setattr(creation, "time", type("T", (), {"sleep": staticmethod(sleep)}))


# ------------------------------------------------------------------ content before the name


def filled(where: str | None, *, ensure: bool = False, fill: Any = None) -> SharedBuffer:
    def write(view: memoryview) -> None:
        assert bytes(view) == bytes(100)
        view[:8], view[50:53] = MAGIC, b"abc"

    make = SharedBuffer._ensure_filled if ensure else SharedBuffer._create_filled
    return make(Url.parse(where), 100, fill or write, keep=False)


def content() -> bytes:
    return (MAGIC + bytes(42) + b"abc").ljust(100, b"\0")


@pytest.mark.parametrize("ensure", [False, True])
def test_content_is_there_before_the_name(where, steps: str, ensure: bool) -> None:
    seen: list[bool] = []

    def write(view: memoryview) -> None:
        if where is not None:
            seen.append(path_of(where).exists())
        view[:] = content()

    with filled(where, ensure=ensure, fill=write) as buffer:
        assert buffer.created
        assert buffer[:] == content()
        if where is not None:
            assert seen == [steps != "one step"]
            with SharedBuffer.attach(where) as again:
                assert again[:] == content()
        buffer.unlink()


@pytest.mark.parametrize("ensure", [False, True])
def test_a_fill_that_fails_leaves_nothing(where, steps: str, ensure: bool) -> None:
    def fail(view: memoryview) -> None:
        view[:8] = MAGIC
        raise Interrupted

    with pytest.raises(Interrupted):
        filled(where, ensure=ensure, fill=fail)
    if where is not None:
        assert not path_of(where).exists()
        with pytest.raises(FileNotFoundError):
            SharedBuffer.attach(where)


@NAMED
def test_ensure_finds_what_was_filled(make_where, steps: str, kind: str) -> None:
    where = make_where(kind)
    with filled(where) as first, filled(where, ensure=True) as second:
        assert (first.created, second.created) == (True, False)
        assert second[:] == content()
        first.unlink()


def test_the_magic_comes_last_in_two_steps(make_where, monkeypatch) -> None:
    """The name is there already, and an attacher may look at any time."""
    monkeypatch.setattr(creation, "ONE_STEP", False)
    size = (2 << 20) + 5
    target = memoryview(bytearray(size))
    source = MAGIC + b"x" * 100 + bytes((1 << 20) + 77)
    source = source.ljust(size, b"y")

    class Watched:
        """A view that tells what is there when the magic comes."""

        before = b""

        def __len__(self) -> int:
            return size

        def __setitem__(self, key: slice, value: Any) -> None:
            if key.start is None:
                self.before = bytes(target)
            else:
                assert key.start >= 8
            target[key] = value

    def write(view: memoryview) -> None:
        view[:] = source

    watched = Watched()
    creation._fill_magic_last(watched, write)  # type: ignore[arg-type]
    assert bytes(target) == source
    assert watched.before == bytes(8) + source[8:]


@NAMED
def test_the_creators_map_is_shown_by_its_name(make_where, kind: str, steps: str) -> None:
    """People and tools look into /proc/*/maps for the processes that use a segment."""
    where = make_where(kind)
    with filled(where) as buffer:
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert [line for line in maps if line.endswith(str(path_of(where)))]
        buffer.unlink()


@NAMED
@pytest.mark.parametrize("mode", [0o400, 0o000])
def test_a_mode_without_writing_does_not_stop_the_creator(make_where, kind: str, mode: int) -> None:
    with SharedBuffer.create(make_where(kind), 3, mode=mode) as buffer:
        buffer[:] = b"abc"
        assert buffer[:] == b"abc"
        buffer.unlink()


def test_unlinked_before_it_is_mapped(name: str, monkeypatch) -> None:
    """Another process may remove the name, or take it, between two system calls."""
    link = NamedBackend.link
    for successor in (False, True):

        def link_and_lose(self: NamedBackend, fd: int, name: str) -> bool:
            done = link(self, fd, name)
            Path("/dev/shm", name).unlink()
            if successor:  # noqa: B023
                Path("/dev/shm", name).write_bytes(b"another's")
            return done

        with monkeypatch.context() as patch:
            patch.setattr(NamedBackend, "link", link_and_lose)
            buffer = SharedBuffer.create(name, 9)
        assert buffer[:] == bytes(9)
        buffer[0] = 1
        with buffer:
            pass
        assert path_of(name).exists() == successor
    assert path_of(name).read_bytes() == b"another's"
    path_of(name).unlink()


# ------------------------------------------------------------------ killed at every step


def make_filled(where: str, ensure: bool) -> None:
    filled(where, ensure=ensure)


STEPS = ("open", "reserve", "fill", "link", "track")


def test_every_step_is_known() -> None:
    assert kill_points("shmkit.memory.creation") == tuple(sorted(f"create.{s}" for s in STEPS))


@NAMED
@pytest.mark.parametrize("ensure", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_creator_leaves_nothing_half_made(
    make_where, kind: str, step: str, ensure: bool
) -> None:
    where = make_where(kind)
    with run_until(f"create.{step}", make_filled, where, ensure, method="fork") as victim:
        if kind == "file" and step == "track":
            assert not victim.reached, "a file has no owner"
            path_of(where).unlink()
            return
        assert victim.reached
        assert path_of(where).exists() == (step == "track")
    with filled(where, ensure=True) as buffer:
        assert buffer.created == (step != "track")
        assert buffer[:] == content()
        buffer.unlink()


def test_a_killed_creator_of_a_fresh_name_leaves_nothing(name: str, monkeypatch) -> None:
    """The resource tracker is told of a fresh name before it exists."""
    monkeypatch.setattr(NamedBackend, "fresh_name", lambda _: name.removeprefix("shm:"))
    for step in STEPS[:-1]:
        with run_until(f"create.{step}", make_filled, "shm:", False, method="fork") as victim:
            assert victim.reached
        assert not path_of(name).exists()


# ------------------------------------------------------------------ what is there stays


@pytest.fixture(params=["SharedMemory", "open in /dev/shm", "open"])
def foreign(request: pytest.FixtureRequest, make_where) -> Iterator[Any]:
    """Make memory that is not ours; gives its `where`."""
    made: list[shared_memory.SharedMemory] = []
    written: list[Path] = []

    def make(content: bytes) -> str:
        where: str = make_where("file" if request.param == "open" else "shm")
        if request.param == "SharedMemory" and content:
            segment = shared_memory.SharedMemory(where.removeprefix("shm:"), True, len(content))
            made.append(segment)
            assert segment.buf is not None
            segment.buf[: len(content)] = content
        else:
            path_of(where).write_bytes(content)
            written.append(path_of(where))
        return where

    yield make
    for segment in made:
        segment.close()
        segment.unlink()
    for path in written:
        path.unlink()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("byte", ["zero", "random"])
def test_what_is_there_is_never_changed(foreign, size: int, byte: str, steps: str) -> None:
    before = bytes(size) if byte == "zero" else os.urandom(size)
    where = foreign(before)
    status = path_of(where).stat()
    use = [
        lambda: SharedBuffer.create(where, 4096),
        lambda: SharedBuffer.create(where, 4096, keep=True),
        lambda: filled(where),
    ]
    for refused in use:
        with pytest.raises(FileExistsError):
            refused()
    if size < 4096:
        if size or steps == "one step":  # in two steps an empty one is waited for
            with pytest.raises(IncompatibleSegment, match=f"has {size} bytes, and 4096"):
                SharedBuffer.ensure(where, 4096)
    else:
        with SharedBuffer.ensure(where, 4096) as buffer:
            assert not buffer.created
            assert buffer[:] == before
    try:
        with SharedBuffer.attach(where) as buffer:
            assert buffer[:] == before
    except IncompatibleSegment:
        assert size == 0
    after = path_of(where).stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns, after.st_mode) == (
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_mode,
    )
    assert path_of(where).read_bytes() == before


@NAMED
def test_nothing_but_a_segment_is_opened(make_where, kind: str) -> None:
    """A FIFO, a directory or a link in the place of a segment: refused, and not waited for."""
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd")):
        where = make_where(kind)
        make(path_of(where))
        if kind == "file":
            path_of(where).parent.chmod(0o1777)  # where others can plant links
        with pytest.raises(FileExistsError):
            SharedBuffer.create(where, 10)
        if kind == "shm":
            for access in ("r", "rw"):
                with pytest.raises((IncompatibleSegment, OSError)):
                    SharedBuffer.attach(where, access=access)
        with pytest.raises((IncompatibleSegment, OSError)):
            SharedBuffer.ensure(where, 10)
        path = path_of(where)
        path.rmdir() if path.is_dir() else path.unlink()


# ------------------------------------------------------------------ waiting


@NAMED
@pytest.mark.parametrize("timeout", [20, None])
def test_attach_waits_for_the_name(make_where, monkeypatch, kind: str, timeout) -> None:
    where = make_where(kind)
    made: list[SharedBuffer] = []
    at_first_pause(monkeypatch, lambda: made.append(SharedBuffer.create(where, 3)))
    with SharedBuffer.attach(where, timeout=timeout) as buffer, made.pop() as creator:
        creator[:] = b"abc"
        assert buffer[:] == b"abc"
        creator.unlink()


def test_attach_waits_for_the_size(name: str, monkeypatch) -> None:
    """Of a segment of the standard library, which is made in two steps."""
    fd = empty_segment(name)
    at_first_pause(monkeypatch, lambda: os.pwrite(fd, b"abc", 0))
    with SharedBuffer.attach(name, timeout=20) as buffer:
        assert buffer[:] == b"abc"
        buffer.unlink()
    os.close(fd)


@NAMED
def test_attach_gives_up(make_where, kind: str) -> None:
    start = time.monotonic()
    with pytest.raises(FileNotFoundError):
        SharedBuffer.attach(make_where(kind), timeout=0.05)
    assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_an_empty_segment_is_told(name: str, timeout: float) -> None:
    fd = empty_segment(name)
    with pytest.raises(IncompatibleSegment, match=r"no size yet.*unlink it") as caught:
        SharedBuffer.attach(name, timeout=timeout)
    assert caught.value.where == name
    assert os.fstat(fd).st_size == 0
    assert os.fstat(fd).st_nlink == 1
    os.close(fd)
    posix_ipc.unlink_shared_memory("/" + name.removeprefix("shm:"))


def test_impossible_timeout(name: str) -> None:
    with pytest.raises(ValueError, match="timeout"):
        SharedBuffer.attach(name, timeout=float("nan"))


def test_attach_never_resizes(name: str) -> None:
    with SharedBuffer.create(name, 10_001) as made:
        for access in ("r", "rw", "cow"):
            SharedBuffer.attach(name, access=access, length=5).close()
        fd = made.descriptor()
        assert os.fstat(fd).st_size == 10_001
        os.close(fd)


# ------------------------------------------------------------------ two steps


@NAMED
def test_ensure_waits_for_the_second_step(make_where, monkeypatch, kind: str) -> None:
    """It waits for the size, and then for the magic."""
    monkeypatch.setattr(creation, "ONE_STEP", False)
    where = make_where(kind)
    path = path_of(where)
    path.touch()
    at_first_pause(monkeypatch, lambda: path.write_bytes(content()))
    with filled(where, ensure=True) as buffer:
        assert not buffer.created
    path.write_bytes(bytes(8) + content()[8:])
    at_first_pause(monkeypatch, lambda: path.write_bytes(content()))
    with filled(where, ensure=True) as buffer:
        assert (buffer.created, buffer[:]) == (False, content())
        buffer.unlink()


def test_ensure_does_not_wait_for_ever(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(creation, "ONE_STEP", False)
    monkeypatch.setattr(creation, "PATIENCE", 0.05)
    path = tmp_path / "x"
    path.touch()
    with pytest.raises(IncompatibleSegment, match="has 0 bytes, and 100"):
        SharedBuffer.ensure(path, 100)
    path.write_bytes(bytes(100))
    with filled(f"file:{path}", ensure=True) as buffer:
        assert buffer[:] == bytes(100), "it is the caller that refuses it"
    assert path.read_bytes() == bytes(100)


def test_nothing_is_waited_for_where_one_step_is_enough(make_where, monkeypatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError

    monkeypatch.setattr(creation, "time", type("T", (), {"sleep": staticmethod(sleep)}))
    for kind in ("shm", "file"):
        where = make_where(kind)
        path_of(where).write_bytes(bytes(100))
        with filled(where, ensure=True) as buffer:
            assert not buffer.created
            buffer.unlink()
        path_of(where).touch()
        with pytest.raises(IncompatibleSegment):
            SharedBuffer.ensure(where, 1)
        path_of(where).unlink()


@pytest.mark.parametrize("reason", ["no O_TMPFILE", "no /proc", "not this filesystem", "no link"])
def test_what_makes_it_two_steps(make_where, monkeypatch, reason: str) -> None:
    from shmkit.memory.backends import unnamed

    made: list[str] = []
    create = NamedBackend.create

    def note(self: NamedBackend, name: str, mode: int) -> int:
        made.append(name)
        return create(self, name, mode)

    monkeypatch.setattr(NamedBackend, "create", note)
    unnamed._can_link.cache_clear()
    with monkeypatch.context() as patch:
        if reason == "no O_TMPFILE":
            patch.delattr(os, "O_TMPFILE")
        elif reason == "no /proc":
            patch.setattr(os.path, "isdir", lambda path: path != "/proc/self/fd")
        elif reason == "no link":

            def no_link(*paths: str, **options: Any) -> None:
                raise OSError(errno.EXDEV, "not across filesystems", *paths)

            patch.setattr(os, "link", no_link)
        else:

            def refuse(path: str, flags: int, mode: int = 0o777, **options: Any) -> int:
                if flags & os.O_TMPFILE == os.O_TMPFILE:
                    raise OSError(errno.EOPNOTSUPP, "not supported", path)
                return os_open(path, flags, mode, **options)

            os_open = os.open
            patch.setattr(os, "open", refuse)
        with filled(make_where("shm")) as buffer:
            assert buffer[:] == content()
    unnamed._can_link.cache_clear()
    assert len(made) == 1


# ------------------------------------------------------------------ racing


def overtaken(monkeypatch, overtake: Any) -> None:
    """Call `overtake` just before the name is given."""
    link = NamedBackend.link
    calls = [overtake]

    def first(self: NamedBackend, fd: int, name: str) -> None:
        if calls:
            calls.pop()()
        link(self, fd, name)

    monkeypatch.setattr(NamedBackend, "link", first)


@pytest.mark.parametrize("keep", [False, True])
def test_a_creator_that_is_overtaken_was_second(name: str, monkeypatch, keep: bool) -> None:
    quicker: list[SharedBuffer] = []
    overtaken(monkeypatch, lambda: quicker.append(SharedBuffer.create(name, 50)))
    with pytest.raises(FileExistsError):
        SharedBuffer.create(name, 100, keep=keep)
    with quicker.pop() as buffer:
        assert buffer.created
        with SharedBuffer.attach(name) as again:
            assert len(again) == 50


def test_an_ensure_that_is_overtaken_attaches(name: str, monkeypatch) -> None:
    quicker: list[SharedBuffer] = []
    overtaken(monkeypatch, lambda: quicker.append(SharedBuffer.create(name, 150)))
    with SharedBuffer.ensure(name, 100) as buffer, quicker.pop() as first:
        assert (buffer.created, len(buffer)) == (False, 150)
        assert first.created


def test_an_ensure_that_is_overtaken_by_one_that_goes(name: str, monkeypatch) -> None:
    def come_and_go() -> None:
        quicker = SharedBuffer.create(name, 50, keep=True)
        calls.append(quicker)

    calls: list[SharedBuffer] = []
    overtaken(monkeypatch, come_and_go)
    open_named = NamedBackend.open

    def gone(self: NamedBackend, name: str, *, writable: bool) -> int:
        while calls:
            quicker = calls.pop()
            quicker.unlink()
            quicker.close()
        return open_named(self, name, writable=writable)

    monkeypatch.setattr(NamedBackend, "open", gone)
    with SharedBuffer.ensure(name, 100) as buffer:
        assert buffer.created
        with SharedBuffer.attach(name) as again:
            assert len(again) == 100


def ensure_many(names: list[str], number: int, arrived: SharedBuffer, link: Any) -> None:
    created = []
    for meeting, name in enumerate(names, 1):
        arrived[number] = meeting
        end = time.monotonic() + 20
        while min(arrived) < meeting:  # no sleep: they have to meet at the same moment
            assert time.monotonic() < end
            os.sched_yield()
        with SharedBuffer.ensure(name, 100, keep=True) as buffer:
            created.append(buffer.created)
            assert len(buffer) == 100
    link.send(created)


@pytest.mark.parametrize("start_method", ["fork"], indirect=True)
@NAMED
def test_of_many_exactly_one_creates(make_where, start_process, kind: str, steps: str) -> None:
    names = [make_where(kind) for _ in range(50)]
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, SharedBuffer.create(None, 3) as arrived:
        processes = [
            start_process(ensure_many, names, number, arrived, theirs) for number in range(3)
        ]
        for process in processes:
            process.join(30)
            assert process.exitcode == 0
        rows = [ours.recv() for _ in processes]
    assert [sum(column) for column in zip(*rows, strict=True)] == [1] * len(names)
    for name in names:
        with SharedBuffer.attach(name) as buffer:
            buffer.unlink()


# ------------------------------------------------------------------ failures leave nothing


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *itertools.product(["shm", "file", "anon"], ["reserve", "map_region"]),
        ("shm", "Ownership"),  # files and anonymous memory have no owner
    ],
)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), Interrupted()])
@pytest.mark.parametrize("make", [SharedBuffer.create, SharedBuffer.ensure])
def test_failed_creation_leaves_nothing(
    make_where, monkeypatch, kind: str, error, step: str, make, steps: str
) -> None:
    """No name stays, and no descriptor: those are looked for after every test."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    where = make_where(kind)
    monkeypatch.setattr(creation, step, fail)
    with pytest.raises(type(error)):
        make(where, 10)
    monkeypatch.undo()
    if where is not None:
        with pytest.raises(FileNotFoundError):
            SharedBuffer.attach(where)


@pytest.mark.parametrize("make", [SharedBuffer.create, SharedBuffer.ensure])
@NAMED
def test_no_room_leaves_nothing(make_where, make, kind: str, steps: str) -> None:
    where = make_where(kind)
    with pytest.raises(OSError, match="no room"):
        make(where, 1 << 46)
    assert not path_of(where).exists()


@NAMED
def test_failed_attach_leaves_the_name(make_where, monkeypatch, kind: str) -> None:
    where = make_where(kind)
    with SharedBuffer.create(where, 10) as made:
        with pytest.raises(ValueError, match="10 bytes"):
            SharedBuffer.attach(where, offset=11)

        def fail(*_: Any) -> None:
            raise OSError(errno.ENOMEM, "no addresses")

        monkeypatch.setattr("shmkit.memory.buffer.handle.attach_region", fail)
        with pytest.raises(OSError, match="no addresses"):
            SharedBuffer.attach(where)
        monkeypatch.undo()
        SharedBuffer.attach(where).close()
        made.unlink()


@NAMED
def test_the_umask_counts(make_where, kind: str, steps: str) -> None:
    before = os.umask(0o026)
    try:
        with SharedBuffer.create(make_where(kind), 1, mode=0o666) as buffer:
            assert path_of(str(buffer.url)).stat().st_mode & 0o777 == 0o640
            buffer.unlink()
    finally:
        os.umask(before)


def test_a_file_of_the_name_is_told(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        SharedBuffer.attach(name)
    assert "file:" not in str(caught.value)
    Path(name.removeprefix("shm:")).touch()
    with pytest.raises(FileNotFoundError, match=f"use 'file:{name.removeprefix('shm:')}'"):
        SharedBuffer.attach(name)


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    for make in (SharedBuffer.create, SharedBuffer.ensure):
        with pytest.raises(FileNotFoundError, match="missing/x"):
            make(tmp_path / "missing/x", 10)
