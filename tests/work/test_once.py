"""once: one process builds, all map the same memory; the last one out removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmkit
from shmkit import SharedArray, SharedBuffer
from tests.processes import Child, run_python, wait_until

SECONDS = 20
SHM = Path("/dev/shm")
once: Any = shmkit.once  # a buffer or an array, as it was built

pytestmark = [
    pytest.mark.skipif(not SHM.is_dir(), reason="/dev/shm tells what is left behind"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


def page(name: str) -> Path:
    """The page under a name."""
    return SHM / f"shmkit-once-{name}"


def data(name: str) -> Path:
    """The segment with what was built; ask while the page is there."""
    return SHM / f"shmkit-once-{page(name).read_bytes()[0x90:0xA0].hex()}"


def inode(shared: SharedBuffer | SharedArray) -> int:
    """The memory that a view maps."""
    buffer = shared if isinstance(shared, SharedBuffer) else shared.buffer
    fd = buffer.descriptor()
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def never() -> bytes:
    raise AssertionError("it was built already")


# -- in one process --------------------------------------------------------------------------------


def test_the_first_builds_and_the_next_maps(unique_name) -> None:
    with once(unique_name, lambda: b"built once") as first, once(unique_name, never) as second:
        assert isinstance(first, SharedBuffer)
        assert bytes(first.buf) == bytes(second.buf) == b"built once"
        assert inode(first) == inode(second)
        assert first.access == second.access == "r"
        with pytest.raises(TypeError):
            first.buf[0] = 1
    assert not page(unique_name).exists()
    with once(unique_name, lambda: b"anew") as third:
        assert bytes(third.buf) == b"anew"


@pytest.mark.parametrize(
    "content", [b"", b"x", bytearray(b"ab" * 5000), memoryview(b"abcdef")[::2]], ids=type
)
def test_any_bytes_can_be_shared(unique_name, content) -> None:
    with once(unique_name, lambda: content) as shared:
        assert len(shared) == len(bytes(content))
        assert bytes(shared.buf) == bytes(content)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.zeros((0, 3)),
        np.array(7, dtype=">i4"),
        np.array([(1, 2.5)], dtype=[("a", "i2"), ("b", "f8")]),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_arrays_keep_their_shape_and_type(unique_name, array) -> None:
    with once(unique_name, lambda: array) as first, once(unique_name, never) as second:
        assert isinstance(second, SharedArray)
        view = second.array
        assert (view.shape, view.dtype) == (array.shape, array.dtype)
        assert view.tobytes() == array.tobytes()
        assert not view.flags.writeable
        assert inode(first) == inode(second)
        del view


@pytest.mark.parametrize(
    ("content", "error"), [(7, TypeError), (None, TypeError), (np.array([{}]), TypeError)]
)
def test_what_can_not_be_shared_is_refused(unique_name, content, error) -> None:
    with pytest.raises(error):
        once(unique_name, lambda: content)
    assert not page(unique_name).exists()
    with once(unique_name, lambda: b"good") as shared:
        assert bytes(shared.buf) == b"good"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_builder_that_raises_leaves_nothing(unique_name, error) -> None:
    def build() -> bytes:
        raise error

    with pytest.raises(error):
        once(unique_name, build)
    assert not page(unique_name).exists()


@pytest.mark.parametrize("name", ["", "a/b", "x" * 300, "nul\0"])
def test_bad_names_are_refused(name) -> None:
    with pytest.raises(ValueError, match="name"):
        once(name, never)


def test_closing_twice_leaves_once(unique_name) -> None:
    first = once(unique_name, lambda: b"1")
    second = once(unique_name, never)
    first.close()
    first.close()
    assert page(unique_name).exists()
    assert bytes(second.buf) == b"1"
    second.close()
    assert not page(unique_name).exists()


def test_threads_share_too(unique_name) -> None:
    built: list[int] = []
    seen: list[bytes] = []
    barrier = threading.Barrier(5)

    def build() -> bytes:
        built.append(1)
        return b"of one thread"

    def run() -> None:
        barrier.wait(SECONDS)
        with once(unique_name, build) as shared:
            seen.append(bytes(shared.buf))
            barrier.wait(SECONDS)

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert (built, seen) == ([1], [b"of one thread"] * 5)
    assert not page(unique_name).exists()


# -- between processes -----------------------------------------------------------------------------

SHARER = """
import os
import shmkit

def build():
    with open(args[1], "a") as log:
        log.write(f"{os.getpid()}\\n")
    return bytes(range(250)) * 4000

shared = shmkit.once(args[0], build)
fd = shared.descriptor()
link.send((os.fstat(fd).st_ino, sum(shared.buf)))
os.close(fd)
if link.recv() == "close":
    shared.close()
"""


def sharers(start_child: Callable[..., Child], count: int, *args: Any) -> list[Child]:
    return [start_child(SHARER, *map(str, args)) for _ in range(count)]


def test_unrelated_processes_map_the_same_memory(start_child, unique_name, tmp_path) -> None:
    children = sharers(start_child, 4, unique_name, tmp_path / "log")
    inodes, sums = zip(*(child.receive() for child in children), strict=True)
    built = data(unique_name)
    assert set(inodes) == {built.stat().st_ino}
    assert set(sums) == {124_500_000}
    assert len((tmp_path / "log").read_text().split()) == 1
    for how, child in zip(["close", "exit", "close", "exit"], children, strict=True):
        assert page(unique_name).exists()
        child.send(how)
        child.finish()
    assert not page(unique_name).exists()
    assert not built.exists()


def test_the_last_one_out_removes_it_after_any_was_killed(
    start_child, unique_name, tmp_path
) -> None:
    builder = sharers(start_child, 1, unique_name, tmp_path / "log")[0]
    first = builder.receive()
    built = data(unique_name)
    assert first[0] == built.stat().st_ino
    others = sharers(start_child, 3, unique_name, tmp_path / "log")
    assert {child.receive() for child in others} == {first}
    builder.kill()
    others[0].kill()
    late = sharers(start_child, 1, unique_name, tmp_path / "log")[0]
    assert late.receive() == first
    for child in [*others[1:], late]:
        child.send("close")
        child.finish()
    assert not page(unique_name).exists()
    assert not built.exists()


def test_what_the_killed_left_is_thrown_away_by_the_next(
    start_child, unique_name, tmp_path
) -> None:
    children = sharers(start_child, 2, unique_name, tmp_path / "log")
    for child in children:
        child.receive()
    built = data(unique_name)
    for child in children:
        child.kill()
    assert built.exists()
    with once(unique_name, lambda: b"anew") as shared:
        assert bytes(shared.buf) == b"anew"
    assert not page(unique_name).exists()
    assert not built.exists()


BUILDER = """
import shmkit

def build():
    link.send("building")
    if link.recv() == "raise":
        raise LookupError("not found")
    return b"by the first"

with shmkit.once(args[0], build) as shared:
    link.send(bytes(shared.buf))
    link.recv()
"""


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_builder_that_fails_hands_over(start_child, unique_name, how) -> None:
    builder = start_child(BUILDER, unique_name)
    assert builder.receive() == "building"
    results: list[bytes] = []

    def wait_in_line() -> None:
        with once(unique_name, lambda: b"by the next", timeout=SECONDS) as shared:
            results.append(bytes(shared.buf))

    thread = threading.Thread(target=wait_in_line)
    thread.start()
    if how == "raise":
        builder.send("raise")
        assert builder.wait() == 1
        assert "LookupError: not found" in builder.stderr
    else:
        builder.kill()
    thread.join(SECONDS)
    assert results == [b"by the next"]
    assert not page(unique_name).exists()


def test_the_time_is_up_while_another_builds(start_child, unique_name) -> None:
    builder = start_child(BUILDER, unique_name)
    assert builder.receive() == "building"
    for timeout in 0, 0.05:
        with pytest.raises(TimeoutError, match="was not built within"):
            once(unique_name, never, timeout=timeout)
    builder.send("go on")
    assert builder.receive() == b"by the first"
    with once(unique_name, never, timeout=0) as shared:
        assert bytes(shared.buf) == b"by the first"
    builder.send("end")
    builder.finish()
    assert not page(unique_name).exists()


def test_a_stopped_builder_is_waited_for(start_child, unique_name) -> None:
    builder = start_child(BUILDER, unique_name)
    assert builder.receive() == "building"
    builder.signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        once(unique_name, never, timeout=0.3)
    builder.signal(signal.SIGCONT)
    builder.send("go on")
    assert builder.receive() == b"by the first"
    builder.send("end")
    builder.finish()


def share(name: str, log: str, results: Any) -> None:
    def build() -> np.ndarray[Any, Any]:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return np.arange(1000)

    with once(name, build) as shared:
        results.send((inode(shared), int(shared.array.sum())))
        results.recv()


def test_children_of_every_start_method(start_process, context, unique_name, tmp_path) -> None:
    pipes = [context.Pipe() for _ in range(3)]
    for _, theirs in pipes:
        start_process(share, str(unique_name), str(tmp_path / "log"), theirs)
        theirs.close()
    inodes, sums = zip(*(ours.recv() for ours, _ in pipes), strict=True)
    assert len(set(inodes)) == 1
    assert set(sums) == {499500}
    assert len((tmp_path / "log").read_text().split()) == 1
    for ours, _ in pipes:
        ours.send("end")
        ours.close()
    wait_until(lambda: not page(unique_name).exists())


PREFORK = """
import os
import shmkit

shared = shmkit.once(args[0], lambda: b"of the master")
workers = []
for _ in range(4):
    pid = os.fork()
    if not pid:
        try:
            assert bytes(shared.buf) == b"of the master"
            with shmkit.once(args[0], lambda: 1 / 0) as again:
                assert bytes(again.buf) == b"of the master"
            shared.close()
        except BaseException:
            os._exit(1)
        os._exit(0)
    workers.append(pid)
print([os.waitpid(pid, 0)[1] for pid in workers])
print(os.path.exists(f"/dev/shm/shmkit-once-{args[0]}"), bytes(shared.buf) == b"of the master")
shared.close()
print(os.path.exists(f"/dev/shm/shmkit-once-{args[0]}"))
"""


def test_a_master_that_built_and_forked_keeps_it(unique_name) -> None:
    result = run_python(PREFORK, str(unique_name))
    assert result.stdout.splitlines() == ["[0, 0, 0, 0]", "True True", "False"]
    assert result.stderr == ""


XDIST = """
import os, shmkit, pytest

@pytest.fixture(scope="session")
def table():
    def build():
        with open("log", "a") as log:
            log.write("built\\n")
        return bytes(1000)

    with shmkit.once({name!r}, build) as shared:
        yield shared

@pytest.mark.parametrize("number", range(8))
def test_table(table, number):
    assert len(table) == 1000
    open(f"here-{{os.getpid()}}", "w").close()
    import time
    end = time.monotonic() + 10
    while len([n for n in os.listdir() if n.startswith("here")]) < 2 and time.monotonic() < end:
        time.sleep(0.01)
"""


def test_workers_of_pytest_xdist_share(unique_name, tmp_path) -> None:
    (tmp_path / "test_it.py").write_text(XDIST.format(name=str(unique_name)))
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n2", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "8 passed" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "log").read_text() == "built\n"
    assert not page(unique_name).exists()


# -- mappings --------------------------------------------------------------------------------------

WEIGHTS = {
    "kernel": np.arange(12, dtype="f4").reshape(3, 4),
    "bias ü": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "step": np.array(7, dtype=">i4"),
    "none": np.zeros((0, 3)),
    "table": np.array([(1, 2.5)], dtype=[("a", "i2"), ("b", "f8")]),
}


def test_a_mapping_of_arrays(unique_name) -> None:
    with once(unique_name, lambda: WEIGHTS) as first, once(unique_name, never) as second:
        assert list(second) == list(WEIGHTS)
        assert len(second) == 5
        for name, array in WEIGHTS.items():
            shared = second[name]
            assert type(shared) is SharedArray
            assert (shared.shape, shared.dtype, shared.access) == (array.shape, array.dtype, "r")
            assert np.array_equal(shared.array, array)
            assert shared.array.flags.f_contiguous == array.flags.f_contiguous
            assert shared.array.ctypes.data % 64 == 0 or not array.size
            assert inode(shared) == inode(first["kernel"]), "all in one memory"
        with pytest.raises(ValueError, match="is read-only"):
            first["kernel"][0, 0] = 1
        with pytest.raises(KeyError, match="no array 'kernal', but kernel, bias"):
            first["kernal"]
        assert repr(first) == "<SharedArrays kernel, bias ü, step, none, table>"
        built = data(unique_name)
        kept = first["kernel"].array
    assert (first.closed, second.closed) == (True, True)
    assert kept.sum() == 66, "it is valid as long as it is used"
    assert not page(unique_name).exists()
    assert not built.exists()


def test_an_empty_mapping_and_an_npz_file(unique_name, tmp_path) -> None:
    with once(unique_name, dict) as empty:
        assert dict(empty) == {}
    weights: Any = WEIGHTS
    np.savez(tmp_path / "weights.npz", **weights)
    with (
        np.load(tmp_path / "weights.npz") as file,
        once(unique_name, lambda: file) as shared,
    ):
        assert set(shared) == set(WEIGHTS)
        assert np.array_equal(shared["kernel"], WEIGHTS["kernel"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": object()}, "mapping whose 'a' is no array.*Python objects"),
        ({"a": np.ones(3), "b": np.array([{}])}, "mapping whose 'b' is no array"),
        ({1: np.ones(3)}, "with the name 1: names are str"),
        ([np.ones(3)], "build made a list: let it make bytes, a numpy array, or a mapping"),
        ("text", "build made a str: let it make bytes"),
        (7, "build made a int"),
    ],
)
def test_what_is_no_mapping_of_arrays(unique_name, content, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        once(unique_name, lambda: content)
    assert not page(unique_name).exists()


def test_a_table_that_was_overwritten_is_corrupt(unique_name) -> None:
    with once(unique_name, lambda: WEIGHTS):
        built = data(unique_name)
        good = built.read_bytes()
        for bad in (
            b"[" * 50,
            b"\xff" * 50,
            b"{'a': (1 << 60, 5)}",
            b"5" * 50,
            b"{'a': (-9999, 5)}",
        ):
            with built.open("r+b") as file:
                file.write(bad.ljust(300))
            with pytest.raises(shmkit.CorruptSegment, match="table of names that means nothing"):
                once(unique_name, never)
        with built.open("r+b") as file:
            file.write(good[:4096] + b"x" * 64)
        with pytest.raises(shmkit.IncompatibleSegment, match="holds no shared array"):
            once(unique_name, never)
        built.write_bytes(good)
        once(unique_name, never).close()


MAPPER = """
import os, signal
import numpy as np
from shmkit import once
from shmkit.work import once as module

def build():
    link.send("building")
    if args[1] == "building":
        link.recv()
    return {"a": np.arange(1000), "b": np.ones((3, 4))}

if args[1] == "filling":
    module = __import__("shmkit.work.once", fromlist=["x"])
    module.SharedBuffer._create_filled = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if args[1] == "built":
    module = __import__("shmkit.work.once", fromlist=["x"])
    module.SharedBuffer.close = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with once(args[0], build) as shared:
    link.send(int(shared["a"].array.sum()))
    link.recv()
"""


@pytest.mark.parametrize("when", ["building", "filling", "built", "shared"])
def test_a_builder_of_a_mapping_is_killed(start_child, unique_name, when: str) -> None:
    builder = start_child(MAPPER, unique_name, when)
    assert builder.receive() == "building"
    if when == "shared":
        assert builder.receive() == 499500
    if when in ("building", "shared"):
        builder.kill()
    else:
        assert builder.wait() == -signal.SIGKILL
    left = data(unique_name)
    assert left.exists() == (when in ("built", "shared"))
    with once(unique_name, lambda: {"a": np.zeros(3)}) as shared:
        assert shared["a"].shape == (3,), "what a dead process built is not taken over"
        built = data(unique_name)
    assert not left.exists()
    assert not built.exists()
    assert not page(unique_name).exists()


def total(arrays: Any, link: Any) -> None:
    link.send((type(arrays).__name__, {name: float(arrays[name].array.sum()) for name in arrays}))


def test_a_mapping_as_an_argument(start_process, context, unique_name) -> None:
    ours, theirs = context.Pipe()
    with ours, theirs, once(unique_name, lambda: {"a": np.ones(5), "b": np.ones((2, 2))}) as shared:
        process = start_process(total, shared, theirs)
        assert ours.poll(SECONDS)
        assert ours.recv() == ("SharedArrays", {"a": 5.0, "b": 4.0})
        process.join(SECONDS)
        assert process.exitcode == 0
        assert page(unique_name).exists()


# -- wrong uses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("x", b"content"), TypeError, "'build' must be a function that makes the content, not b'"),
        (("x", None), TypeError, "'build' must be a function"),
        ((5, never), TypeError, "'name' must be a str"),
        (("", never), ValueError, "name"),
        (("a/b", never), ValueError, "name"),
        (("x" * 300, never), ValueError, "name"),
    ],
)
def test_wrong_uses(arguments: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        once(*arguments)


def test_a_timeout_that_is_none(unique_name) -> None:
    with pytest.raises(ValueError, match="timeout"):
        once(unique_name, lambda: b"x", timeout=float("nan"))
    with pytest.raises(TypeError):
        once(unique_name, lambda: b"x", timeout="5")
    assert not page(unique_name).exists()
