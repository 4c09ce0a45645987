"""Making a ring and joining it: who comes first, who waits, and what a creator's death leaves."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from shmkit import IncompatibleSegment, Ring, SharedBuffer
from shmkit.memory import creation
from shmkit.segment import header
from shmkit.segment.segment import Segment
from shmkit.tools.testing import assert_no_leaks
from tests.processes import run_python, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /dev/shm")


@pytest.fixture(params=["shm", "file"])
def named(request: pytest.FixtureRequest, make_where: Any) -> str:
    """Each kind of memory that has a name, in turn."""
    return str(make_where(request.param))


def incarnation(ring: Ring) -> bytes:
    return bytes(ring.buffer[0x30:0x40])


# ------------------------------------------------------------------ who comes first


def test_attach_to_nothing_names_it(named: str) -> None:
    for timeout in (0, 0.05):
        with pytest.raises(FileNotFoundError, match=named.partition(":")[2].rpartition("/")[2]):
            Ring.attach(named, timeout=timeout)
    with pytest.raises(FileNotFoundError):
        Ring.attach(named, timeout=-1)
    with pytest.raises(ValueError, match="timeout"):
        Ring.attach(named, timeout=float("nan"))


def test_attach_waits_for_the_creator(named: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(Ring.attach, named, timeout=20)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        with Ring.create(named, capacity=4096) as ring, waiting.result(20) as other:
            other.put(b"here")
            assert ring.get() == b"here"


def test_attach_never_sees_a_ring_half_made(named: str, fork: Any) -> None:
    """However the two meet: it waits, or works."""
    child = fork(make_and_break, named, 150)
    for number in range(150):
        with Ring.attach(named, timeout=20) as ring:
            assert ring.get(timeout=20) == b"number %d" % number
            ring.shutdown()
            assert child.receive() == number
    child.finish()


def make_and_break(link: Any, where: str, count: int) -> None:
    for number in range(count):
        with Ring.create(where, capacity=4096) as ring:
            ring.put(b"number %d" % number)
            wait_until(partial(was_shut_down, ring))
            ring.unlink()
        link.send(number)


def was_shut_down(ring: Ring) -> bool:
    return ring.statistics().state != "open"


def test_create_does_not_touch_what_exists(named: str) -> None:
    with Ring.create(named, capacity=4096) as ring:
        ring.put(b"mine")
        for _ in range(2):
            with pytest.raises(FileExistsError):
                Ring.create(named, capacity=1 << 16)
        with Ring.attach(named) as other:
            assert other.get() == b"mine"
            ring.put(b"still there")
            assert other.get() == b"still there"


def test_create_does_not_touch_what_is_no_ring(named: str) -> None:
    with SharedBuffer.create(named, 8192) as buffer:
        buffer[:5] = b"hello"
        for make in (Ring.create, Ring.attach, Ring.ensure):
            with pytest.raises((FileExistsError, IncompatibleSegment)):
                make(named)
        assert bytes(buffer[:6]) == b"hello\0"
        assert bytes(buffer[6:]) == bytes(8186)


def test_ensure_creates_or_joins(named: str) -> None:
    with (
        Ring.ensure(named, capacity=8192) as ring,
        Ring.ensure(named, capacity=4096, when_full="raise") as other,
    ):
        assert other.capacity == 8192  # what exists keeps its own
        assert incarnation(other) == incarnation(ring)
        ring.put(b"x")
        assert other.get() == b"x"
    if named.startswith("file"):
        with Ring.attach(named) as ring:
            assert ring.capacity == 8192


def test_exactly_one_of_many_creates(named: str, fork: Any) -> None:
    """Of processes that ensure at the same time, all get the same ring."""
    children = [fork(ensure_many, [f"{named}-{n}" for n in range(25)]) for _ in range(4)]
    assert [child.receive() for child in children] == ["ready"] * 4
    for child in children:
        child.link.send("go")
    found = [child.receive() for child in children]
    assert all(len(rings) == 25 for rings in found)
    assert found == [found[0]] * 4
    for child in children:
        child.link.send("enough")
        child.finish()
    for number in range(25) if named.startswith("file") else ():
        Path(f"{named.removeprefix('file:')}-{number}").unlink()


def ensure_many(link: Any, wheres: list[str]) -> None:
    link.send("ready")
    link.recv()
    rings = [Ring.ensure(where, capacity=4096) for where in wheres]
    link.send([incarnation(ring) for ring in rings])
    link.recv()
    for ring in rings:
        ring.close()


def test_a_ring_in_use_is_joined_by_another_incarnation_of_the_name(named: str) -> None:
    first = Ring.create(named, capacity=4096)
    first.unlink()
    with Ring.create(named, capacity=4096) as second, Ring.attach(named) as third:
        first.put(b"old")
        second.put(b"new")
        assert third.get() == b"new"
        assert first.get() == b"old"
        first.close()
        with Ring.attach(named) as fourth:
            assert incarnation(fourth) == incarnation(second)
        second.unlink()


# ------------------------------------------------------------------ its owner leaves


def leaving_meanwhile(owner: Ring, monkeypatch: Any) -> None:
    """Have an owner leave when another has opened the memory, and has not entered yet."""
    bind = Segment._bind

    def leave(self: Segment) -> None:
        monkeypatch.setattr(Segment, "_bind", bind)
        owner.unlink()
        owner.close()
        bind(self)

    monkeypatch.setattr(Segment, "_bind", leave)


def test_an_owner_that_leaves_while_another_attaches(named: str, monkeypatch: Any) -> None:
    """Between opening the memory and entering: there is nothing to join any more."""
    leaving_meanwhile(Ring.create(named, capacity=4096), monkeypatch)
    with pytest.raises(FileNotFoundError):
        Ring.attach(named)


def test_an_owner_that_leaves_while_another_ensures(named: str, monkeypatch: Any) -> None:
    """It makes the ring."""
    leaving_meanwhile(Ring.create(named, capacity=4096), monkeypatch)
    with Ring.ensure(named, capacity=8192) as ring:
        assert ring.capacity == 8192
        ring.put(b"into what others find")
        with Ring.attach(named) as other:
            assert other.get(timeout=0) == b"into what others find"
        ring.unlink()


@linux
def test_the_last_one_out_removes_the_semaphores_whoever_it_is(
    named: str, semaphores: Callable[[], list[Path]]
) -> None:
    owner = Ring.create(named, capacity=4096)
    heir = Ring.attach(named)
    owner.close()
    heir.put(b"frame")
    assert semaphores()
    heir.close()
    assert not semaphores()
    with Ring.attach(named) as ring:  # and the name is still there
        assert ring.get(timeout=0) == b"frame"
    owner.unlink()


# ------------------------------------------------------------------ killed while it is made


@linux
def test_a_creator_killed_at_any_line_leaves_nothing_or_a_ring(named: str) -> None:
    """Nothing is ever half-made: attach finds no ring or a whole one, ensure one that works."""
    result = run_python(kill_creators_everywhere, named, timeout=50)
    killed, whole = map(int, result.stdout.split())
    assert killed > 100
    assert 2 < whole < killed


def kill_creators_everywhere(where: str) -> None:
    resource_tracker.ensure_running()  # one for all, not one for each
    killed = whole = 0
    for number in range(1, 10_000, 2):
        pid = os.fork()
        if pid == 0:
            sys.settrace(kill_at(number))
            Ring.create(f"{where}-{number}", capacity=4096)
            os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            whole += attach_to_what_is_left(f"{where}-{number}")
            take_what_is_left(f"{where}-{number}")
            break
        killed += 1
        whole += attach_to_what_is_left(f"{where}-{number}")
        take_what_is_left(f"{where}-{number}")
    print(killed, whole)


def attach_to_what_is_left(where: str) -> bool:
    """Whether there is a ring."""
    try:
        Ring.attach(where).close()
    except FileNotFoundError:
        return False
    return True


def take_what_is_left(where: str) -> None:
    with Ring.ensure(where, capacity=8192) as ring:
        ring.put(b"works")
        with Ring.attach(where) as other:
            if other.get(timeout=0) != b"works":
                raise AssertionError(where)
        ring.unlink()


def kill_at(number: int) -> Any:
    """A trace function that kills this process at the so many-th line of the library it gets to."""
    seen: set[tuple[str, int]] = set()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if f"{os.sep}shmkit{os.sep}" not in frame.f_code.co_filename:
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


# ------------------------------------------------------------------ where it takes two steps


@pytest.fixture
def two_steps(monkeypatch: Any) -> None:
    """As on a system without files that have no name."""
    monkeypatch.setattr(creation, "ONE_STEP", False)


@linux
def test_a_creator_at_work_is_waited_for(named: str, fork: Any, two_steps: None) -> None:
    child = fork(stop_in_the_middle, named)
    wait_until(lambda: Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "T")
    with pytest.raises(IncompatibleSegment):
        Ring.attach(named, timeout=0.1)
    with ThreadPoolExecutor(2) as threads:
        attaching = threads.submit(Ring.attach, named, timeout=20)
        ensuring = threads.submit(Ring.ensure, named, capacity=4096)
        with pytest.raises(TimeoutError):
            attaching.result(0.3)
        assert not ensuring.done()
        os.kill(child.pid, signal.SIGCONT)
        made = child.receive()
        with attaching.result(10) as first, ensuring.result(10) as second:
            assert made == incarnation(first) == incarnation(second)
            assert first.get(timeout=5) == b"made"
    child.link.send("enough")
    child.finish()


def stop_in_the_middle(link: Any, where: str) -> None:
    """Make a ring, and be stopped when it has its name and no content."""
    fill = header.fill

    def stop(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        fill(*args, **kwargs)

    vars(header)["fill"] = stop
    with Ring.create(where, capacity=4096) as ring:
        ring.put(b"made")
        link.send(incarnation(ring))
        link.recv()


def test_a_file_that_is_just_being_made_is_waited_for(tmp_path: Path, two_steps: None) -> None:
    """Between open and its first byte it is empty."""
    with Ring.create(tmp_path / "other", capacity=4096) as other:
        other.put(b"content")
    content = (tmp_path / "other").read_bytes()
    path = tmp_path / "ring"
    with path.open("xb") as creator, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(Ring.attach, path, timeout=20)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        creator.write(content)
        creator.flush()
        with waiting.result(20) as ring:
            assert ring.get(timeout=0) == b"content"


# ------------------------------------------------------------------ no room


@linux
@pytest.mark.parametrize("kind", ["anon", "shm", "file"])
def test_no_room_leaves_nothing(kind: str, make_where: Any, tmp_path: Path) -> None:
    where = make_where(kind)
    result = run_python(create_without_room, where)
    assert result.stdout.split() == ["ENOSPC", "True"]
    assert result.stderr == ""
    assert not list(tmp_path.iterdir())
    with Ring.ensure(where, capacity=4096) as ring:
        ring.put(b"x")
        assert ring.get() == b"x"


def create_without_room(where: str | None) -> None:
    resource_tracker.ensure_running()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    with assert_no_leaks(names=(where or "no name").removeprefix("shm:"), timeout=0):
        for _ in range(3):
            try:
                Ring.create(where, capacity=1 << 24)
            except OSError as error:
                code, message = error.errno, str(error)
    print(errno.errorcode[code or 0], str((1 << 24) + 8192) in message)


def test_no_directory_is_told(tmp_path: Path) -> None:
    for make in (Ring.create, Ring.attach, Ring.ensure):
        with pytest.raises(FileNotFoundError):
            make(tmp_path / "missing" / "ring")
        with pytest.raises(OSError):  # noqa: PT011 - EISDIR or EEXIST
            make(tmp_path)


def test_a_symlink_that_others_may_have_planted_is_not_followed(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with Ring.create(tmp_path / "real", capacity=4096) as ring:
        ring.put(b"x")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        for make in (Ring.attach, Ring.create, Ring.ensure):
            with pytest.raises(OSError):  # noqa: PT011 - ELOOP or EEXIST
                make(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()


def test_a_pipe_is_no_ring(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = threading.Event()

    def attach() -> str:
        try:
            Ring.attach(tmp_path / "pipe")
        except (OSError, ValueError) as error:
            return type(error).__name__
        finally:
            done.set()
        return "attached"

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(attach)
        if not done.wait(5):
            os.close(os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK))
        assert done.is_set(), "attach waits for the other end of a pipe"
        assert waiting.result(5) != "attached"
