"""What has the name and is not ours: refused by every class, and untouched, bit for bit."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from shmkit import (
    Broadcast,
    Event,
    IncompatibleSegment,
    JoinableQueue,
    Latest,
    Lock,
    Queue,
    Ring,
    once,
)
from tests.sync.peers import by_name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /dev/shm")

SIZES = [0, 1, 4096, 8192, 16384, 20480, 65536, 1 << 20]
CHANNELS: dict[str, list[Callable[[Any], Any]]] = {
    "Ring": [Ring.create, Ring.attach, Ring.ensure],
    "Broadcast": [
        lambda where: Broadcast.create(where, 4096),
        Broadcast.attach,
        lambda where: Broadcast.ensure(where, 4096),
    ],
    "Latest": [
        lambda where: Latest.create(where, 100),
        Latest.attach,
        lambda where: Latest.ensure(where, 100),
    ],
    "Queue": [lambda where: Queue(where=where), Queue.attach],
    "JoinableQueue": [lambda where: JoinableQueue(where=where), JoinableQueue.attach],
}
# These live under plain names only, and join or make what they need.
NAMED: dict[str, Callable[[str], Any]] = {
    "Lock": Lock,
    "Event": Event,
    "once": lambda name: once(name.removeprefix("shmkit-once-"), lambda: b"built"),
}


def content(size: int, filled: str) -> bytes:
    return bytes(size) if filled == "zeros" else random.Random(size).randbytes(size)


def put_there(path: Path, size: int, filled: str, made_by: str) -> bytes:
    """Make what is not ours; what it holds."""
    held = content(size, filled)
    if made_by == "SharedMemory" and size:
        memory = SharedMemory(path.name, create=True, size=size)
        view: Any = memory.buf
        view[:size] = held
        del view
        memory.close()
    else:
        path.write_bytes(held)
    return path.read_bytes()


def is_untouched(path: Path, held: bytes, before: os.stat_result) -> None:
    after = path.stat()
    assert path.read_bytes() == held
    assert (after.st_ino, after.st_size, after.st_mode) == (
        before.st_ino,
        before.st_size,
        before.st_mode,
    )


def refuse(call: Callable[[Any], Any], where: Any) -> None:
    """It is told that there is something, or that it is something else."""
    with pytest.raises((IncompatibleSegment, FileExistsError)) as caught:
        call(where)
    assert Path(str(where)).name.removeprefix("shmkit-once-") in str(caught.value)


@pytest.mark.parametrize("filled", ["zeros", "random"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("made_by", ["SharedMemory", "open", "file"])
@pytest.mark.parametrize("kind", CHANNELS)
def test_channels(
    kind: str, made_by: str, size: int, filled: str, unique_name: str, tmp_path: Path
) -> None:
    path = (tmp_path if made_by == "file" else Path("/dev/shm")) / unique_name
    held = put_there(path, size, filled, made_by)
    before = path.stat()
    try:
        for call in CHANNELS[kind]:
            refuse(call, path if made_by == "file" else unique_name)
            is_untouched(path, held, before)
    finally:
        unlink(path, made_by)


@pytest.mark.parametrize("semaphores", ["in memory", "by name"])
@pytest.mark.parametrize("filled", ["zeros", "random"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("made_by", ["SharedMemory", "open"])
@pytest.mark.parametrize("kind", NAMED)
def test_locks_and_once(
    kind: str,
    made_by: str,
    size: int,
    filled: str,
    semaphores: str,
    unique_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if semaphores == "by name":
        by_name(monkeypatch)
    name = f"shmkit-once-{unique_name}" if kind == "once" else unique_name
    path = Path("/dev/shm", name)
    held = put_there(path, size, filled, made_by)
    before = path.stat()
    try:
        for _ in range(2):
            refuse(NAMED[kind], name)
            is_untouched(path, held, before)
    finally:
        unlink(path, made_by)


def unlink(path: Path, made_by: str) -> None:
    if made_by == "SharedMemory" and path.stat().st_size:
        memory = SharedMemory(path.name)
        memory.close()
        memory.unlink()
    else:
        path.unlink()
