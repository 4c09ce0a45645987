"""No room is an error at creation, never a SIGBUS later."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shmkit import SharedBuffer
from shmkit.memory import allocation
from shmkit.memory.allocation import free_memory
from shmkit.memory.url import Url

# ------------------------------------------------------------------ a full /dev/shm or disk

PRELUDE = """
import errno, os, sys
from shmkit import SharedBuffer
where = sys.argv[1]
def no_room(use, *parts):
    try:
        use()
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        for part in parts:
            assert part in str(error), (part, str(error))
    else:
        raise AssertionError("there was room")
def state():
    return sorted(os.listdir("/dev/shm")), os.listdir("/proc/self/fd")
with SharedBuffer.create("shm:first", 1):
    pass  # the resource tracker has its pipe by now
"""

FULL = {
    "create": """
before = state()
no_room(lambda: SharedBuffer.create(where, 2 << 20), "2097152 bytes are wanted", "1048576 free",
    where, "ask for less", "'file:PATH'")
assert state() == before
no_room(lambda: SharedBuffer.create(where, 2 << 20, keep=True))
assert state() == before
with SharedBuffer.create(where, 1 << 19) as buffer:
    buffer[:] = b"x" * (1 << 19)
    no_room(lambda: SharedBuffer.create("shm:other", 1 << 20), "shm:other", "524288 free")
    buffer.unlink()
""",
    "ensure": """
before = state()
no_room(lambda: SharedBuffer.ensure(where, 2 << 20), "2097152")
assert state() == before
""",
    "resize": """
with SharedBuffer.create(where, 1 << 19) as buffer:
    buffer[:] = b"x" * (1 << 19)
    no_room(lambda: buffer.resize(2 << 20), "1572864 bytes are wanted")
    assert len(buffer) == 1 << 19 and buffer[:] == b"x" * (1 << 19)
    with SharedBuffer.attach(where) as again:
        assert len(again) == 1 << 19
    buffer.resize(1 << 20)
    buffer[-1] = 1
    buffer.unlink()
""",
}


def unshare() -> list[str] | None:
    """A command that starts another one with a /dev/shm of its own; None if there is none here."""
    if not shutil.which("unshare"):
        return None
    command = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    mount = [*command, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]
    return (
        command if subprocess.run(mount, capture_output=True, check=False).returncode == 0 else None
    )


@pytest.fixture(scope="module")
def own_namespace() -> list[str]:
    command = unshare()
    if command is None:
        pytest.skip("a mount namespace is needed (unshare -m), and may not be made here")
    return command


@pytest.mark.parametrize("step", FULL)
@pytest.mark.parametrize("where", ["shm:second", "file:/dev/shm/second"])
def test_full_dev_shm(own_namespace: list[str], step: str, where: str) -> None:
    result = in_small_dev_shm(own_namespace, PRELUDE + FULL[step], where)
    assert (result.returncode, result.stderr) == (0, "")


def in_small_dev_shm(
    own_namespace: list[str], source: str, *args: str
) -> subprocess.CompletedProcess[str]:
    script = 'mount -t tmpfs -o size=1m,mode=1777 tmpfs /dev/shm && exec "$@"'
    python = [sys.executable, "-W", "error", "-c", source, *args]
    return subprocess.run(
        [*own_namespace, "sh", "-c", script, "sh", *python],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


HOLES = """
import errno, os
from shmkit import PagedFile, SharedBuffer
path = "/dev/shm/sparse"
with open(path, "wb") as file:
    file.truncate(1 << 19)
    file.seek(100)
    file.write(b"content")
with SharedBuffer.attach("file:" + path) as buffer:
    assert os.stat(path).st_blocks * 512 == os.stat(path).st_size == 1 << 19
    assert buffer[100:107] == b"content"
    buffer[:] = b"x" * (1 << 19)
os.unlink(path)
with open(path, "wb") as file:
    file.truncate(1 << 20)
    file.write(b"content")
with open("/dev/shm/other", "wb") as file:
    file.write(bytes(1 << 19))
for attach in (SharedBuffer.attach, lambda where: SharedBuffer.ensure(where, 10)):
    try:
        attach("file:" + path)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        assert "'r' and PagedFile need none" in str(error) and "bytes are wanted" in str(error)
    else:
        raise AssertionError("attached")
assert os.stat(path).st_size == 1 << 20
with SharedBuffer.attach("file:" + path, length=1 << 16) as buffer:
    buffer[-1] = 1
for access in ("r", "cow"):
    with SharedBuffer.attach("file:" + path, access=access) as buffer:
        assert buffer[:7] == b"content"
with PagedFile(path, access="rw") as file:
    file[-1] = 1
os.unlink(path)
os.unlink("/dev/shm/other")
"""


def test_holes_get_their_room_when_they_are_mapped_to_be_written(own_namespace) -> None:
    """A write into a hole of a sparse copy would be a SIGBUS once the disk is full."""
    result = in_small_dev_shm(own_namespace, HOLES)
    assert (result.returncode, result.stderr) == (0, "")


# ------------------------------------------------------------------ no /dev/shm to use

UNUSABLE = """
import sys
from shmkit import SharedBuffer
for use in (
    lambda: SharedBuffer.create("shm:x", 100),
    lambda: SharedBuffer.create("shm:", 100),
    lambda: SharedBuffer.ensure("shm:x", 100, keep=True),
    *([lambda: SharedBuffer.attach("shm:x", timeout=None)] if sys.argv[2] == "missing" else []),
):
    try:
        use()
    except OSError as error:
        assert not isinstance(error, (FileExistsError, FileNotFoundError)), repr(error)
        assert "/dev/shm" in str(error) and "'file:PATH'" in str(error), error
    else:
        raise AssertionError("it worked")
with SharedBuffer.create(None, 100) as one, SharedBuffer.create("file:" + sys.argv[1], 100) as two:
    one[0] = two[0] = 1
    two.unlink()
"""


@pytest.mark.parametrize(
    ("way", "mount"),
    [("missing", "tmpfs /dev"), ("read-only", "-o ro tmpfs /dev/shm")],
)
def test_dev_shm_that_cannot_be_used(own_namespace: list[str], tmp_path: Path, way, mount) -> None:
    """One clear error at once, and files and anonymous memory go on working."""
    script = f'mount -t tmpfs {mount} && exec "$@"'
    python = [sys.executable, "-W", "error", "-c", UNUSABLE, str(tmp_path / "x"), way]
    result = subprocess.run(
        [*own_namespace, "sh", "-c", script, "sh", *python],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


# ------------------------------------------------------------------ more than the machine has


def test_more_memory_than_there_is(where, backend: str) -> None:
    size = 1 << 46
    for make in (SharedBuffer.create, SharedBuffer.ensure):
        with pytest.raises(OSError, match=rf"{size} bytes are wanted.* has \d+ free") as caught:
            make(where, size)
        assert caught.value.errno == errno.ENOSPC
    if where is not None:
        with pytest.raises(FileNotFoundError):
            SharedBuffer.attach(where)


def test_growing_beyond_memory(make_buffer) -> None:
    buffer = make_buffer(b"abc")
    with pytest.raises(OSError, match="bytes are wanted"):
        buffer.resize(1 << 46)
    assert buffer[:] == b"abc"


def test_room_that_was_partly_taken_is_given_back(make_buffer, backend, monkeypatch) -> None:
    if backend == "anon":
        pytest.skip("no room is taken for it")
    buffer = make_buffer(b"abc")

    def fill(fd: int, start: int, length: int) -> None:
        os.ftruncate(fd, start + length // 2)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", fill)
    with pytest.raises(OSError, match="no room"):
        buffer.resize(1000)
    assert buffer[:] == b"abc"
    with SharedBuffer.attach(buffer.url if buffer.name else buffer) as again:
        assert again[:] == b"abc"
    fd = buffer.descriptor()
    assert os.fstat(fd).st_size == 3
    os.close(fd)


# ------------------------------------------------------------------ what the kernel tells


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    """A machine of 1000 kB, and a control group /a/b on it."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(
        "MemTotal: 9999 kB\nMemAvailable:     900 kB\nHugePages_Total:   0\nSwapFree: 100 kB\n"
    )
    (proc / "self/cgroup").write_text("3:cpu:/x\n0::/a/b\n")
    (cgroups / "a/b").mkdir(parents=True)
    return proc, cgroups


def limit(group: Path, most: str, used: int, cached: int) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\nactive_file {cached}\ninactive_file 1000\n")


def test_free_memory_of_the_machine(machine) -> None:
    assert free_memory(*machine) == 1000 * 1024


def test_free_memory_of_a_control_group(machine) -> None:
    limit(machine[1] / "a/b", "max", 500_000, 0)
    assert free_memory(*machine) == 1000 * 1024
    limit(machine[1] / "a/b", "600000", 500_000, 0)
    assert free_memory(*machine) == 101_000
    limit(machine[1] / "a/b", "600000", 500_000, 20_000)
    assert free_memory(*machine) == 121_000
    limit(machine[1] / "a", "300000", 290_000, 0)
    assert free_memory(*machine) == 11_000, "the tightest of the groups above counts"
    limit(machine[1] / "a", "300000", 390_000, 0)
    assert free_memory(*machine) == 0


def test_small_memory_asks_nothing_of_the_machine(where, monkeypatch) -> None:
    """What is small beside the machine cannot fill it; to ask would cost more than to make it."""

    def ask() -> int:
        raise AssertionError

    monkeypatch.setattr(allocation, "free_memory", ask)
    with SharedBuffer.create(where, 1 << 20) as buffer:
        buffer.unlink()
    with pytest.raises(AssertionError):
        allocation.reserve(-1, 1 << 40, Url("anon"))


def test_free_memory_untold(tmp_path: Path) -> None:
    assert free_memory(tmp_path, tmp_path) is None


def test_room_is_taken_where_it_could_run_out(where, backend: str) -> None:
    """Blocks are counted, not only a size. Anonymous memory is on no filesystem."""
    with SharedBuffer.create(where, 1 << 20) as buffer:
        fd = buffer.descriptor()
        taken = os.fstat(fd).st_blocks * 512
        assert (taken >= 1 << 20) if backend != "anon" else (taken == 0)
        os.close(fd)
        buffer.unlink()
