"""A name goes with its creator, however the creator ends; an attacher never removes it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shmkit import SharedBuffer, open_bytes
from shmkit.memory.identity import generation_at
from tests.processes import run_python, wait_until

SHM = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHM.is_dir(), reason="names are looked up in /dev/shm")


def exists(where: str) -> bool:
    return (SHM / where.removeprefix("shm:")).exists()


@pytest.fixture
def name(make_where) -> Any:
    return make_where("shm")


# ------------------------------------------------------------------ in one process


def test_with_unlinks(name: str) -> None:
    with SharedBuffer.create(name, 1):
        assert exists(name)
    assert not exists(name)


def test_with_unlinks_on_exceptions(name: str) -> None:
    with pytest.raises(KeyError), SharedBuffer.create(name, 1):
        raise KeyError
    assert not exists(name)


def test_close_leaves_the_name(name: str) -> None:
    buffer = SharedBuffer.create(name, 1)
    buffer.close()
    with SharedBuffer.attach(name):
        pass
    buffer.unlink()
    assert not exists(name)
    buffer.unlink()


def test_keep_keeps(name: str) -> None:
    with SharedBuffer.create(name, 3, keep=True) as buffer:
        buffer[:] = b"abc"
    with SharedBuffer.attach(name) as buffer:
        assert buffer[:] == b"abc"
        buffer.unlink()
        assert not exists(name)
        buffer.unlink()


def test_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with SharedBuffer.create(path, 3) as buffer:
        buffer[:] = b"abc"
    assert path.read_bytes() == b"abc"
    buffer.unlink()
    buffer.unlink()
    assert not path.exists()


def test_attachers_leave_the_name(name: str) -> None:
    with SharedBuffer.create(name, 1):
        with SharedBuffer.attach(name), SharedBuffer.ensure(name, 1):
            pass
        assert exists(name)


def test_attacher_may_unlink(name: str) -> None:
    with SharedBuffer.create(name, 1) as buffer:
        with SharedBuffer.attach(name) as other:
            other.unlink()
        assert not exists(name)
        buffer[0] = 1
    assert not exists(name)


@pytest.mark.parametrize("by", ["exit", "unlink", "attacher"])
def test_successor_of_the_name_is_left_alone(name: str, by: str) -> None:
    with SharedBuffer.create(name, 1) as first:
        observer = SharedBuffer.attach(name)
        SharedBuffer.attach(name).__enter__().close()
        (SHM / name.removeprefix("shm:")).unlink()
        second = SharedBuffer.create(name, 1)
        if by == "unlink":
            first.unlink()
        if by == "attacher":
            observer.unlink()
        observer.close()
    assert exists(name)
    second.close()
    second.unlink()


@pytest.mark.parametrize("text", ["a:b", "é", "a\nb"])
def test_names_that_the_tracker_cannot_take(unique_name, text: str) -> None:
    """The tracker's protocol is a line of ASCII with colons; other names would make it fail."""
    program = """
    from multiprocessing import resource_tracker
    from shmkit import SharedBuffer
    with SharedBuffer.create("shm:", 1), SharedBuffer.create(args[0], 1):
        SharedBuffer.attach(args[0]).close()
    resource_tracker._resource_tracker._stop()  # and wait for it
    """
    where = f"shm:{unique_name()}{text}"
    assert run_python(program, where).stderr == ""
    assert not exists(where)


HEIRS = """
import os, signal
from shmkit import SharedBuffer
with SharedBuffer.create(args[0], 1):
    SharedBuffer.attach(args[0]).__enter__().unlink()
    heir = SharedBuffer.create(args[0], 1)
{then}
"""


def test_an_heir_of_the_name_keeps_its_tracker(name: str) -> None:
    """Both segments share one entry of the tracker. It goes with the last of them."""
    program = HEIRS.format(then="os.kill(os.getpid(), signal.SIGKILL)")
    result = run_python(program, name, check=False)
    assert result.exitcode == -signal.SIGKILL
    wait_until(lambda: not exists(name))


@pytest.mark.parametrize("then", ["heir.unlink(); heir.close()", "heir.close()"])
def test_an_heir_of_the_name_is_told_of_once(name: str, then: str) -> None:
    program = (
        HEIRS.format(then=then)
        + """
from multiprocessing import resource_tracker, util
util._exit_function()
resource_tracker._resource_tracker._stop()  # and wait for it
"""
    )
    assert run_python(program, name).stderr == ""
    assert not exists(name)


# ------------------------------------------------------------------ the process ends

END = """
import os, sys
from shmkit import SharedBuffer
buffer = SharedBuffer.create(args[0], 1)
{then}
"""


@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("buffer.close()", 0),
        ("pass", 0),
        ("del buffer", 0),
        ("box = [buffer]; box.append(box); del buffer, box", 0),
        ("raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("import atexit; atexit.register(buffer.close)", 0),
    ],
)
def test_end_of_the_process_unlinks(name: str, then: str, status: int) -> None:
    result = run_python(END.format(then=then), name, check=False)
    assert result.exitcode == status, result
    assert not exists(name)
    assert "leaked" not in result.stderr
    assert "resource_tracker" not in result.stderr


def test_open_handle_is_told_at_the_end(name: str) -> None:
    result = run_python(END.format(then="pass"), name, env={"PYTHONWARNINGS": "always"})
    told = [line for line in result.stderr.splitlines() if "ResourceWarning: unclosed" in line]
    assert len(told) == 1, result
    assert f"unclosed <SharedBuffer {name} size=1 rw>" in told[0]


@pytest.mark.parametrize(
    "make", ["create(None, 1)", "attach(args[0])", "attach(args[0], access='r')"]
)
def test_open_handle_without_a_name_to_remove_is_told_too(name: str, make: str) -> None:
    program = f"from shmkit import SharedBuffer; buffer = SharedBuffer.{make}"
    with SharedBuffer.create(name, 1):
        result = run_python(program, name, env={"PYTHONWARNINGS": "always"})
        assert result.stderr.count("ResourceWarning: unclosed <SharedBuffer") == 1
        assert exists(name)


def test_open_handle_as_an_error_still_unlinks(name: str) -> None:
    result = run_python(END.format(then="pass"), name, env={"PYTHONWARNINGS": "error"})
    assert "ResourceWarning: unclosed" in result.stderr
    assert not exists(name)


def test_closed_handle_is_not_told(name: str) -> None:
    result = run_python(END.format(then="buffer.close()"), name, env={"PYTHONWARNINGS": "always"})
    assert result.stderr == ""


def test_kept_name_survives_the_process(name: str) -> None:
    program = """
    from shmkit import SharedBuffer
    SharedBuffer.create(args[0], 1, keep=True).close()
    """
    run_python(program, name)
    with SharedBuffer.attach(name) as buffer:
        buffer.unlink()


CREATE_AND_WAIT = """
import signal
from shmkit import SharedBuffer
buffer = SharedBuffer.create(args[0], 1)
link.send("made")
link.recv()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_creator(name: str, start_child, number: int) -> None:
    child = start_child(CREATE_AND_WAIT, name)
    child.receive()
    assert exists(name)
    child.signal(number)
    assert child.wait() == -number
    wait_until(lambda: not exists(name))


def test_os_exit_of_the_creator(name: str) -> None:
    run_python(END.format(then="os._exit(0)"), name)
    wait_until(lambda: not exists(name))


# ------------------------------------------------------------------ children


def create_in_child(name: str, how: str) -> None:
    buffer = SharedBuffer.create(name, 1)
    if how == "raise":
        raise SystemExit(5)
    if how == "close":
        buffer.close()


@pytest.mark.parametrize("how", ["close", "leave", "raise"])
def test_child_that_creates(name: str, start_process, how: str) -> None:
    process = start_process(create_in_child, name, how)
    process.join(20)
    assert process.exitcode == (5 if how == "raise" else 0)
    assert not exists(name)


def test_forked_child_does_not_unlink(name: str) -> None:
    """It does not when it leaves the `with`, ends, or drops the handle."""
    program = """
    import os, sys
    from shmkit import SharedBuffer
    def forked(what):
        pid = os.fork()
        if pid == 0:
            what()
        assert os.waitpid(pid, 0)[1] == 0
        with SharedBuffer.attach(args[0]):
            pass
    with SharedBuffer.create(args[0], 1) as buffer:
        forked(lambda: (buffer.__exit__(None, None, None), os._exit(0)))
        forked(sys.exit)
        forked(lambda: (buffer.close(), sys.exit()))
        def drop():
            global buffer
            del buffer
            sys.exit()
        forked(drop)
        def unlink_and_end():
            assert buffer[0] == 0
            raise SystemExit
        forked(unlink_and_end)
    """
    result = run_python(program, name, env={"PYTHONWARNINGS": "always::ResourceWarning"})
    assert result.stderr == ""
    assert not exists(name)


def test_forked_child_may_unlink_by_hand(name: str) -> None:
    with SharedBuffer.create(name, 1) as buffer:
        pid = os.fork()
        if pid == 0:
            buffer.unlink()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert not exists(name)


# ------------------------------------------------------------------ the tracker

ATTACH = """
import sys
from shmkit import SharedBuffer
{how}
tracker = sys.modules.get("multiprocessing.resource_tracker")
assert tracker is None or tracker._resource_tracker._fd is None, "a tracker was started"
children = open("/proc/self/task/%d/children" % __import__("os").getpid()).read()
assert children == "", children
"""


@pytest.mark.parametrize(
    "how",
    [
        "SharedBuffer.attach(args[0])",
        "SharedBuffer.attach(args[0]).close()",
        "buffer = SharedBuffer.attach(args[0], access='r')",
        "import pickle; buffer = pickle.loads(args[1])",
        "with SharedBuffer.attach(args[0]) as one, SharedBuffer.attach(one) as two: pass",
        "with SharedBuffer.ensure(args[0], 1) as buffer: assert not buffer.created",
        "SharedBuffer.create(None, 1).close()",
        "SharedBuffer.create('shm:' + args[2], 1, keep=True).unlink()",
    ],
)
def test_attaching_never_touches_the_tracker(name: str, how: str, unique_name) -> None:
    import pickle

    with SharedBuffer.create(name, 1) as buffer:
        run_python(ATTACH.format(how=how), name, pickle.dumps(buffer), unique_name())
        assert exists(name)
        buffer[0] = 1


def test_attacher_in_the_creators_family_leaves_the_tracker_alone(name: str, start_process) -> None:
    """A child shares its parent's tracker, so it would change the parent's entries."""
    with SharedBuffer.create(name, 1):
        process = start_process(attach_and_end, name)
        process.join(20)
        assert process.exitcode == 0
        assert exists(name)
    assert not exists(name)


def attach_and_end(name: str) -> None:
    with SharedBuffer.attach(name) as buffer:
        buffer[0] = 1


TRACKED = """
import multiprocessing, os, sys
from shmkit import SharedBuffer
def child(name):
    SharedBuffer.create(name, 1)
    os.kill(os.getpid(), 9)
if __name__ == "__main__":
    context = multiprocessing.get_context(args[1])
    with SharedBuffer.create(args[0] + "-parent", 1):
        process = context.Process(target=child, args=(args[0],))
        process.start()
        process.join()
        assert process.exitcode == -9
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_killed_child_is_cleaned_up_after(name: str, method: str) -> None:
    """The tracker that parent and child share removes the name when both have ended."""
    run_python(TRACKED, name, method)
    wait_until(lambda: not exists(name))


# ------------------------------------------------------------------ inode numbers come again


@pytest.fixture
def reborn(tmp_path: Path) -> Callable[[Path, bytes], None]:
    """Put a new file in a file's place that has the same inode number."""

    def replace(path: Path, content: bytes) -> None:
        number = path.stat().st_ino
        path.unlink()
        others = [path.with_name(f"{path.name}-{n}") for n in range(100)]
        for other in others:
            other.write_bytes(content)
            if other.stat().st_ino == number:
                other.rename(path)
                break
        for other in others:
            other.unlink(missing_ok=True)
        if not path.exists():
            pytest.skip("this filesystem does not use inode numbers again at once")
        if not generation_at(str(path)):
            pytest.skip("this filesystem tells no generations of its inodes")

    return replace


def test_a_new_file_with_the_old_inode_number_is_not_removed(tmp_path: Path, reborn) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with SharedBuffer.attach(path) as first, SharedBuffer.attach(first) as second:
        pass
    reborn(path, b"another's")
    for buffer in (first, second):
        buffer.unlink()
        assert path.read_bytes() == b"another's"
    path.unlink()
    for make in (SharedBuffer.create, SharedBuffer.ensure):
        with make(path, 4096) as buffer:
            pass
        reborn(path, b"another's")
        buffer.unlink()
        assert path.read_bytes() == b"another's"
        path.unlink()


def test_a_file_that_was_read_and_is_there_no_more(tmp_path: Path, reborn) -> None:
    """The handle is open, but holds no descriptor and no map."""
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with open_bytes(path) as buffer:
        reborn(path, b"another's")
        buffer.unlink()
    assert path.read_bytes() == b"another's"


def test_an_empty_file_that_is_there_no_more(tmp_path: Path, reborn) -> None:
    """An empty file has no map that would hold it."""
    path = tmp_path / "x"
    path.touch()
    with SharedBuffer.attach(path) as buffer:
        reborn(path, b"another's")
        with pytest.raises(FileNotFoundError, match="leads to other memory now"):
            buffer.resize(2)
    assert path.read_bytes() == b"another's"


def test_a_new_file_with_the_old_inode_number_is_not_unpickled(tmp_path: Path, reborn) -> None:
    path = tmp_path / "x"
    with SharedBuffer.create(path, 4096) as buffer:
        sent = pickle.dumps(buffer)
        with pickle.loads(sent) as same:
            assert len(same) == 4096
    reborn(path, b"another's")
    with pytest.raises(FileNotFoundError, match="leads to other memory now"):
        pickle.loads(sent)
    assert path.read_bytes() == b"another's"


def test_a_file_that_cannot_be_opened_is_removed(tmp_path: Path, monkeypatch) -> None:
    """Without its generation a file is told by its inode number."""
    path = tmp_path / "x"
    with SharedBuffer.create(path, 4096) as buffer:
        pass
    monkeypatch.setattr("shmkit.memory.ownership.generation_at", lambda _: b"")
    buffer.unlink()
    assert not path.exists()
