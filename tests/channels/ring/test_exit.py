"""The end of a process, clean or not: which names go, which stay, and what is said."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from shmkit import Empty, PeerDied, Ring
from tests.processes import Child, run_python, wait_until

# Notes the names of semaphores, if they have any: with BY_NAME.
PROLOGUE = """
import os, signal, sys
from shmkit import Ring
from shmkit.segment import named_semaphores
made = []
class Noted(named_semaphores.NamedSemaphore):
    __slots__ = ()
    def __init__(self, name, count=None):
        super().__init__(name, count)
        if count is not None:
            made.append(name)
named_semaphores.NamedSemaphore = Noted
"""
BY_NAME = {"SHMKIT_SEMAPHORES": "named"}


def names(text: str) -> list[Path]:
    return [Path(f"/dev/shm/sem.{name}") for name in text.split()]


def left(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.exists()]


@pytest.mark.parametrize("flags", ["", "-Wdefault", "-Werror"])
def test_a_ring_left_open_is_told_and_cleaned_up(where: Any, flags: str, tmp_path: Path) -> None:
    """The names are gone, whatever is done with the warning; a file stays."""
    result = run_python(
        PROLOGUE
        + """
ring = Ring.create(args[0], capacity=4096)
ring.put(b"x")
ring.get()
ring.put(b"y")
print(*made)
""",
        where,
        env={"PYTHONWARNINGS": flags.removeprefix("-W"), **BY_NAME},
    )
    assert result.stdout.split()
    assert not left(names(result.stdout))
    if flags == "-Wdefault":
        assert "ResourceWarning" in result.stderr
        assert "unclosed" in result.stderr
        assert (where or "anon:") in result.stderr
    if flags == "":
        assert result.stderr == ""
    assert "Bad file descriptor" not in result.stderr
    assert "leaked" not in result.stderr
    if where is None:
        return
    if where.startswith("shm"):
        with pytest.raises(FileNotFoundError):
            Ring.attach(where)
    else:
        with Ring.attach(where) as ring:
            assert ring.get(timeout=0) == b"y"
            with pytest.raises(Empty):
                ring.get(timeout=0.06)


def test_a_ring_closed_leaves_no_word(where: Any) -> None:
    result = run_python(
        PROLOGUE
        + """
with Ring.create(args[0], capacity=4096) as ring:
    ring.put(b"x")
print(*made)
""",
        where,
        env={"PYTHONWARNINGS": "error", **BY_NAME},
    )
    assert result.stderr == ""
    assert not left(names(result.stdout))


@pytest.mark.parametrize(
    "end", ["sys.exit(3)", "1 / 0", "os.abort()", "os._exit(3)", "os.kill(os.getpid(), 15)"]
)
def test_names_go_however_a_process_ends(unique_name: str, end: str) -> None:
    result = run_python(
        PROLOGUE
        + f"""
ring = Ring.create(args[0], capacity=4096)
ring.put(b"x")
print(*made, flush=True)
{end}
""",
        unique_name,
        check=False,
    )
    assert result.exitcode != 0
    paths = [*names(result.stdout), Path("/dev/shm", unique_name)]
    assert len(paths) == 1  # the semaphores are in it
    wait_until(lambda: not left(paths))


@pytest.mark.parametrize("kind", ["anon", "shm"])
def test_the_names_of_a_killed_creator_go(kind: str, make_where: Any, start_child: Any) -> None:
    where = make_where(kind)
    child: Child = start_child(
        PROLOGUE
        + """
ring = Ring.create(args[0], capacity=4096)
ring.put(b"x")
link.send(" ".join(made))
link.recv()
""",
        where,
    )
    paths = names(child.receive())
    if where is not None:
        paths.append(Path("/dev/shm", where.removeprefix("shm:")))
    assert left(paths) == paths
    child.signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    wait_until(lambda: not left(paths))


def test_those_attached_go_on_when_the_creator_is_killed(
    unique_name: str, start_child: Any
) -> None:
    child: Child = start_child(
        PROLOGUE
        + """
ring = Ring.create(args[0], capacity=4096)
ring.put(b"x")
link.send(made)
link.recv()
""",
        unique_name,
    )
    child.receive()
    with Ring.attach(unique_name) as ring:
        assert ring.get(timeout=5) == b"x"
        child.kill()
        with pytest.raises(PeerDied) as caught:
            ring.get(timeout=1)
        assert caught.value.pid == child.pid
        wait_until(lambda: not Path("/dev/shm", unique_name).exists())
        ring.put(b"y")
        assert ring.get(timeout=1) == b"y"
    with pytest.raises(FileNotFoundError):
        Ring.attach(unique_name)


def test_attaching_registers_nothing(make_where: Any) -> None:
    """Who attached and is killed removes nothing, and neither does its resource tracker."""
    for kind in ("shm", "file"):
        where = make_where(kind)
        with Ring.create(where, capacity=4096) as ring:
            ring.put(b"x")
            result = run_python(
                """
import os
from shmkit import Ring
ring = Ring.attach(args[0])
print(ring.get().decode(), flush=True)
os.kill(os.getpid(), 9)
""",
                where,
                check=False,
            )
            assert result.stdout == "x\n"
            assert result.stderr == ""
            with Ring.attach(where) as other:
                ring.put(b"y")
                assert other.get(timeout=5) == b"y"


def test_the_last_one_out_of_a_file_removes_its_semaphores(
    tmp_path: Path, start_child: Any, semaphores: Any
) -> None:
    source = """
from shmkit import Ring
ring = Ring.attach(args[0])
link.send(ring.get())
link.recv()
ring.close()
"""
    path = tmp_path / "ring"
    with Ring.create(path, capacity=4096) as ring:
        ring.put(b"x")
        child: Child = start_child(source, path)
        assert child.receive() == b"x"
    assert semaphores()  # the child is there
    child.send("go")
    child.finish()
    assert not semaphores()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_process_may_be_the_last_one(where: Any, method: str, tmp_path: Path) -> None:
    """And one that leaves a ring open in a process of multiprocessing is no trouble."""
    result = run_python(
        PROLOGUE
        + """
import multiprocessing

def use(ring, close):
    ring.put(b"x")
    if close:
        ring.close()

if __name__ == "__main__":
    context = multiprocessing.get_context(args[1])
    ring = Ring.create(args[0], capacity=4096)
    for close in (True, False):
        process = context.Process(target=use, args=(ring, close))
        process.start()
        assert ring.get(timeout=20) == b"x"
        process.join()
        assert process.exitcode == 0
    ring.unlink()
    ring.close()
    print(*made)
""",
        where,
        method,
        timeout=30,
        env=BY_NAME,
    )
    assert result.stderr == ""
    assert not left(names(result.stdout))
    assert not list(tmp_path.iterdir())
    if where is not None and where.startswith("shm"):
        assert not Path("/dev/shm", where.removeprefix("shm:")).exists()


def test_import_of_the_ring_is_not_needed_at_exit(unique_name: str) -> None:
    """A ring in a global, in a cycle, in a thread's local: nothing is said at the end of it all."""
    result = run_python(
        """
import threading
from shmkit import Ring
class Keeper:
    pass
keeper = Keeper()
keeper.self = keeper
keeper.ring = Ring.create(args[0], capacity=4096)
local = threading.local()
local.ring = Ring.attach(args[0])
keeper.ring.put(b"x")
assert local.ring.get() == b"x"
""",
        unique_name,
    )
    assert result.stderr == ""
    assert not Path("/dev/shm", unique_name).exists()


def test_no_descriptor_and_no_map_stays(where: Any) -> None:
    def held() -> set[str]:
        maps = Path("/proc/self/maps").read_text().splitlines()
        links = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
        # Not the libraries: the first call may load one.
        return {line[line.index("/") :] for line in maps if "/" in line and ".so" not in line} | {
            *links
        }

    before = held()
    for _ in range(3):
        with Ring.create(where, capacity=4096) as ring:
            ring.put(b"x")
            ring.get()
            ring.unlink()
    assert not [name for name in held() - before if not name.startswith("/proc/")]
