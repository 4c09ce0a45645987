"""SharedMemory: does what the standard library's class does, and not what that one does wrong."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory as theirs
from pathlib import Path
from typing import Any

import pytest

from shmkit import IncompatibleSegment, SharedBuffer, SharedMemory
from tests.processes import Child, in_child, run_python, wait_until

SHM = Path("/dev/shm")
CLASSES = [SharedMemory, theirs.SharedMemory]

pytestmark = pytest.mark.skipif(not SHM.is_dir(), reason="/dev/shm tells what is left behind")


@pytest.fixture
def block() -> Iterator[SharedMemory]:
    made = SharedMemory(create=True, size=100)
    yield made
    made.close()
    if (SHM / made.name).exists():
        made.unlink()


# ------------------------------------------------------------------ as the standard library's


def test_the_signature_is_that_of_3_13() -> None:
    parameters = inspect.signature(SharedMemory).parameters
    assert list(parameters) == ["name", "create", "size", "track"]
    assert [p.default for p in parameters.values()] == [None, False, 0, True]
    assert parameters["track"].kind is inspect.Parameter.KEYWORD_ONLY
    for name, member in vars(theirs.SharedMemory).items():
        assert name.startswith("_") or type(getattr(SharedMemory, name)) is type(member)


@pytest.mark.parametrize("kind", CLASSES, ids=["ours", "stdlib"])
def test_the_life_of_a_block(kind: Any, unique_name) -> None:
    """The same states of both classes, at each step."""
    made = kind(unique_name, True, 10)
    assert (made.name, made.size, bytes(made.buf)) == (unique_name, 10, bytes(10))
    assert repr(made) == f"SharedMemory({unique_name!r}, size=10)"
    assert (SHM / unique_name).stat().st_mode & 0o777 == 0o600
    made.buf[:3] = b"abc"
    again = kind(unique_name)
    assert (again.size, bytes(again.buf[:3])) == (10, b"abc")
    again.close()
    again.close()
    assert again.buf is None
    assert (again.name, again.size) == (unique_name, 10)
    with pickle_of(made) as copy:
        copy.buf[0:1] = b"X"
    assert made.buf[0] == ord("X")
    made.close()
    with pytest.raises(FileExistsError):
        kind(unique_name, create=True, size=10)
    made.unlink()
    for call in (made.unlink, lambda: kind(unique_name), lambda: pickle.loads(pickle.dumps(made))):
        with pytest.raises(FileNotFoundError):
            call()


class pickle_of:  # noqa: N801 - reads as a function
    """What comes of an object by pickle; closed in the end."""

    def __init__(self, made: Any) -> None:
        self.copy = pickle.loads(pickle.dumps(made))

    def __enter__(self) -> Any:
        return self.copy

    def __exit__(self, *failure: object) -> None:
        self.copy.close()


@pytest.mark.parametrize("kind", CLASSES, ids=["ours", "stdlib"])
@pytest.mark.parametrize(
    "arguments", [(None,), (None, True), (None, True, 0), (None, True, -1), ("x", True, -1)]
)
def test_errors_of_both(kind: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"'size' must be a positive|'name' can only be None"):
        kind(*arguments)


@pytest.mark.parametrize("maker", CLASSES, ids=["ours", "stdlib"])
def test_either_class_attaches_to_the_other(maker: Any) -> None:
    """And either may be the one that unlinks; the tracker has nothing to complain of."""
    program = """
    from multiprocessing import shared_memory as theirs
    import shmkit
    first, second = (shmkit, theirs) if args[0] else (theirs, shmkit)
    for unlinker in 0, 1:
        made = first.SharedMemory(create=True, size=5)
        made.buf[:] = b"hello"
        other = second.SharedMemory(made.name)
        assert bytes(other.buf) [:5] == b"hello"
        (made, other)[unlinker].unlink()
        made.close(), other.close()
    with shmkit.SharedBuffer.create("shm:", 3) as buffer:
        other = shmkit.SharedMemory(buffer.name)
        other.unlink()
        other.close()
    """
    assert run_python(program, maker is SharedMemory).stderr == ""


def test_a_slash_before_the_name(unique_name) -> None:
    """The C library drops it; the standard library's names have it inside."""
    made = SharedMemory(f"/{unique_name}", create=True, size=1)
    assert made.name == f"/{unique_name}"
    with pickle_of(made) as copy:
        assert copy.name == made.name
    theirs.SharedMemory(unique_name).close()
    made.close()
    made.unlink()
    assert not (SHM / unique_name).exists()


def test_any_name_that_is_a_file_name(unique_name) -> None:
    name = f"a:b {unique_name} ü"
    made = SharedMemory(name, create=True, size=1)
    SharedMemory(name).close()
    made.close()
    made.unlink()


class Named(SharedMemory):
    """A user's own."""

    note = ""


def test_a_subclass_stays_one(block) -> None:
    own = Named(block.name)
    own.note = "mine"
    with pickle_of(own) as copy:
        assert type(copy) is Named
    own.close()


# ------------------------------------------------------------------ what it does better


def test_closing_is_safe_whatever_uses_the_memory(block) -> None:
    np = pytest.importorskip("numpy")
    array, part = np.ndarray(100, "u1", block.buf), block.buf[5:10]
    whole = block.buf
    block.close()
    array[5] = 7  # a crash in the standard library
    assert (part[0], whole[5]) == (7, 7)
    inode = (SHM / block.name).stat().st_ino
    assert f" {inode} " in Path("/proc/self/maps").read_text()
    del array, whole
    part.release()
    assert f" {inode} " not in Path("/proc/self/maps").read_text()


def test_a_handle_dropped_open_leaves_nothing(block) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    other = SharedMemory(block.name)
    del other  # no ResourceWarning: the standard library's programs do this
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    maps = Path("/proc/self/maps").read_text()
    assert maps.count(block.name) == 1


def test_a_reader_that_ends_removes_nothing(block) -> None:
    for end in ("", "other.close()", "import os; os._exit(0)"):
        program = f"from shmkit import SharedMemory; other = SharedMemory(args[0]); {end}"
        assert run_python(program, block.name).stderr == ""
        assert (SHM / block.name).exists()


def test_unlink_spares_a_successor(block) -> None:
    copy = pickle.dumps(block)
    (SHM / block.name).unlink()
    successor = SharedMemory(block.name, create=True, size=1)
    with pytest.raises(FileNotFoundError, match="leads to another block now, which stays"):
        block.unlink()
    with pytest.raises(FileNotFoundError, match="leads to another block now"):
        pickle.loads(copy)
    successor.unlink()
    successor.close()


def test_room_is_taken_at_once() -> None:
    if os.statvfs(SHM).f_frsize * os.statvfs(SHM).f_bavail > 1 << 40:
        pytest.skip("/dev/shm has no end")
    with pytest.raises(OSError, match="no room"):
        SharedMemory(create=True, size=1 << 44)
    made = SharedMemory(create=True, size=1 << 20)
    assert (SHM / made.name).stat().st_blocks * 512 >= 1 << 20
    made.close()
    made.unlink()


# ------------------------------------------------------------------ who removes the name


MAKE = """
from shmkit import SharedMemory
if __name__ == "__main__":
    made = SharedMemory(*args, create=True, size=10, **{options})
    link.send(made.name)
    {then}
"""


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("then", ["link.recv()", "import os, signal; os.kill(os.getpid(), 9)", ""])
def test_the_tracker_removes_what_was_left(unique_name, named: bool, then: str) -> None:
    """At a normal end, a kill, and the end of a family."""
    with Child(MAKE.format(options="{}", then=then), *([unique_name] * named)) as child:
        name = child.receive()
        assert name.startswith(unique_name if named else "psm_")
        if "recv" in then:
            assert (SHM / name).exists()
            child.signal(signal.SIGKILL)
        child.wait()
        wait_until(lambda: not (SHM / name).exists())
        wait_until(lambda: "1 leaked shared_memory objects" in child.stderr)


def test_an_untracked_block_stays(unique_name) -> None:
    with Child(MAKE.format(options="{'track': False}", then=""), unique_name) as child:
        assert child.receive() == unique_name
        assert child.finish().stderr == ""
    made = SharedMemory(unique_name)
    made.unlink()
    made.close()


def make_one(link: Any) -> None:
    made = SharedMemory(create=True, size=10)
    made.buf[:] = b"from child"
    link.send(made)
    made.close()


def test_a_child_makes_it_for_its_parent(context, start_process, block) -> None:
    """`block` has started the tracker: a child has the same one, and its end removes nothing."""
    ours, away = context.Pipe()
    with ours, away:
        process = start_process(make_one, away)
        assert ours.poll(20)
        made = ours.recv()
        process.join(20)
        assert process.exitcode == 0
        assert bytes(made.buf) == b"from child"
        made.close()
        made.unlink()
        assert not (SHM / made.name).exists()


def change(block: SharedMemory) -> None:
    block.buf[0:3] = b"abc"


def test_as_an_argument(start_process, block) -> None:
    process = start_process(change, block)
    process.join(20)
    assert process.exitcode == 0
    assert bytes(block.buf[:3]) == b"abc"


def test_over_fork(block) -> None:
    def act() -> bytes:
        block.buf[0:1] = b"f"
        block.close()
        return b"done"

    assert in_child(act) == b"done"
    assert bytes(block.buf[:1]) == b"f"


# ------------------------------------------------------------------ wrong uses


made_by: Any = SharedMemory  # with arguments of any type
WRONG: list[tuple[Callable[[], Any], type[BaseException], str]] = [
    (lambda: made_by(10), TypeError, r"'name' must be a str or None, not int.*create=True"),
    (lambda: made_by(b"x"), TypeError, "'name' must be a str or None, not bytes"),
    (lambda: SharedMemory(create=True), ValueError, "'size' must be a positive.* and is 0"),
    (lambda: made_by(create=True, size="5"), TypeError, "integer"),
    (lambda: SharedMemory(create=True, size=1 << 60), ValueError, "more than an address can reach"),
    (lambda: SharedMemory(), ValueError, "'name' can only be None if create=True: give the name"),
    (lambda: SharedMemory(""), ValueError, "the name of a segment is empty"),
    (lambda: SharedMemory("a/b", create=True, size=1), ValueError, "has no '/'"),
    (lambda: SharedMemory("a\0b"), ValueError, "no NUL byte"),
    (lambda: SharedMemory("x" * 300), ValueError, "300 bytes long"),
    (lambda: SharedMemory("there-is-none"), FileNotFoundError, "create=True makes one"),
]


@pytest.mark.parametrize(("use", "kind", "message"), WRONG)
def test_wrong_uses(use: Callable[[], Any], kind: type[BaseException], message: str) -> None:
    with pytest.raises(kind, match=message):
        use()


def test_what_is_there_is_left_alone(unique_name) -> None:
    with SharedBuffer.create(unique_name, 3):
        with pytest.raises(FileExistsError, match="leave create=True out to attach to it"):
            SharedMemory(unique_name, create=True, size=10)
        assert (SHM / unique_name).stat().st_size == 3
    (SHM / unique_name).touch()
    with pytest.raises(IncompatibleSegment, match="has no size yet"):
        SharedMemory(unique_name)
    (SHM / unique_name).unlink()
