"""inspection: what is in a segment, told from outside and without disturbing it."""

from __future__ import annotations

import os
import random
import signal
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

import shmkit
from shmkit.segment import words
from shmkit.tools.inspection import Holders, find_deadlocks, inspect, survey
from shmkit.tools.inspection.decode import decode
from shmkit.tools.inspection.raw import NotAFile, Raw
from tests.processes import wait_until


def look_at(name: str, **options: Any) -> Any:
    return inspect(f"shm:{name}", **options)


def test_a_ring_in_use(unique_name, backend, make_where) -> None:
    """Kind, depth, frames and participants, on each kind of memory."""
    where = make_where(backend)
    with shmkit.Ring.create(where, capacity=8192) as ring:
        for text in (b"one", b"two", b"three"):
            ring.put(text)
        ring.get()
        told = where or next(
            look.segment.where
            for look in survey()
            if look.segment.kind == "ring"
            and look.segment.where.startswith("anon:")
            and os.getpid() in look.segment.pids
        )
        look = inspect(told)
        segment = look.segment
        assert (segment.kind, segment.ours, segment.status, segment.state) == (
            "ring",
            True,
            "live",
            "open",
        )
        assert (segment.depth, segment.capacity, segment.unit) == (64, 8192, "bytes")
        assert segment.passed == 96
        assert segment.pids == (os.getpid(),)
        assert segment.wrong == ()
        assert [bytes.fromhex(frame.preview) for frame in look.frames] == [b"two", b"three"]
        assert (look.frame_count, look.frames_counted) == (2, True)
        (person,) = look.participants
        assert (person.pid, person.alive, person.roles) == (os.getpid(), True, ("puts", "gets"))
        fields = {each.name: each.value for each in look.header}
        assert fields["data_size"] == 8192
        assert fields["tail"] == 96
        assert fields["incarnation"] == look.incarnation


def test_a_ring_is_not_changed_by_being_looked_at(unique_name) -> None:
    with shmkit.Ring.create(unique_name, capacity=4096) as ring:
        ring.put(b"x" * 100)
        path = Path("/dev/shm", unique_name)
        before, status = path.read_bytes(), path.stat()
        look_at(unique_name)
        assert path.read_bytes() == before
        assert path.stat().st_mtime_ns == status.st_mtime_ns
        assert ring.statistics().participants == (os.getpid(),)


def test_a_hole_stays_a_hole(tmp_path) -> None:
    """A copied file may have holes: reading them takes no room."""
    path = tmp_path / "ring"
    with shmkit.Ring.create(path, capacity=1 << 20):
        pass
    hollow = tmp_path / "hollow"
    with hollow.open("wb") as file:
        file.write(path.read_bytes()[:8192])
        file.truncate(path.stat().st_size)
    assert inspect(hollow).segment.resident < 100_000
    assert hollow.stat().st_blocks * 512 < 100_000


def test_objects_of_a_queue_by_type_and_size(unique_name) -> None:
    queue: Any = shmkit.Queue(where=unique_name, maxsize=5)
    try:
        queue.put({"a": 1})
        queue.put(b"x" * 300_000)
        queue.put("text")
        queue.get()
        look = look_at(unique_name)
        assert [frame.type for frame in look.frames] == ["bytes", "str"]
        assert look.frames[0].object_size > 300_000
        assert (look.segment.depth, look.segment.capacity, look.segment.unit) == (2, 5, "objects")
        assert look.segment.passed == 3
    finally:
        queue.close()
        queue.unlink()


def test_what_lives_in_a_segment_is_told(unique_name) -> None:
    name = unique_name()
    with shmkit.SharedArray.create(name, (3, 4), "f4"):
        segment = look_at(name).segment
        assert (segment.kind, segment.says) == ("shared array", "(3, 4) of <f4")
        assert (segment.participants, segment.status) == (None, "live")
    with shmkit.Broadcast.create(name := unique_name(), capacity=4096) as broadcast:
        broadcast.publish(b"news")
        look = look_at(name)
        assert (look.segment.kind, look.segment.depth) == ("broadcast", 32)
        assert [frame.preview for frame in look.frames] == [b"news".hex()]
    with shmkit.Latest.create(name := unique_name(), size=100) as latest:
        latest.set(b"1")
        segment = look_at(name).segment
        assert (segment.kind, segment.passed, segment.passed_unit) == ("latest", 1, "values")
    with shmkit.SharedDict.create(name := unique_name()) as shared:
        shared.update(a=1, b=2)
        segment = look_at(name).segment
        assert (segment.kind, segment.says) == ("shared dict", "2 entries")
        assert (segment.passed, segment.passed_unit) == (2, "writes")
    with shmkit.SharedBuffer.create(name := unique_name(), size=10):
        segment = look_at(name).segment
        assert (segment.kind, segment.ours, segment.size) == ("bytes", False, 10)


def test_semaphores_by_name_are_foreign_but_told(unique_name) -> None:
    semaphore = shmkit.Semaphore.create(unique_name, 3, posix=True)
    try:
        segment = look_at(f"sem.{unique_name}").segment
        assert (segment.kind, segment.depth, segment.ours) == ("POSIX semaphore", 3, False)
        assert segment.status == "live"
    finally:
        semaphore.unlink()
        semaphore.close()


HOLDER = """
import shmkit, time
first, second = (shmkit.Lock(name) for name in args)
first.acquire()
link.send("holds")
link.recv()
second.acquire()
"""


def test_a_deadlock_of_two_locks_is_found_with_both_holders(unique_name, start_child) -> None:
    one, two = unique_name(), unique_name()
    children = [start_child(HOLDER, one, two), start_child(HOLDER, two, one)]
    for child in children:
        child.receive()
    for child in children:
        child.send("go")
    wait_until(lambda: all(look_at(name).locks[0].waiters for name in (one, two)))

    before = [look_at(name) for name in (one, two)]
    time.sleep(0.1)
    (deadlock,) = find_deadlocks(before, [look_at(name) for name in (one, two)])

    assert {wait.holder for wait in deadlock.waits} == {child.pid for child in children}
    assert {wait.where for wait in deadlock.waits} == {f"shm:{one}", f"shm:{two}"}
    assert all(str(child.pid) in deadlock.sentence for child in children)
    assert before[0].segment.says == f"held by {children[0].pid}"
    for child in children:
        child.signal(signal.SIGKILL)  # both at once: else the second one gets the lock
    for child in children:
        child.wait()
    for name, child in zip((one, two), children, strict=True):
        look = look_at(name)
        assert look.segment.status == "orphan"
        assert f"process {child.pid} died inside the lock" in look.segment.wrong
        Path("/dev/shm", name).unlink()


def test_a_dead_producer_is_told(unique_name, start_child) -> None:
    with shmkit.Ring.create(unique_name) as ring:
        child = start_child(
            "import shmkit; ring = shmkit.Ring.attach(args[0]); ring.put(b'x')\n"
            "link.send(1); link.recv()",
            unique_name,
        )
        child.receive()
        assert look_at(unique_name).segment.wrong == ()
        child.kill()
        segment = look_at(unique_name).segment
        assert segment.wrong == (
            f"process {child.pid}, which puts, died without closing its handle",
        )
        assert (segment.dead, segment.status) == (1, "live")
        assert ring.get() == b"x"


def test_anonymous_memory_is_found_and_so_is_what_lost_its_name(unique_name) -> None:
    with shmkit.Ring.create(unique_name) as ring:
        ring.put(b"here")
        ring.unlink()
        look = inspect(f"shm:({unique_name})")
        assert [bytes.fromhex(frame.preview) for frame in look.frames] == [b"here"]
        assert f"shm:({unique_name})" in {each.segment.where for each in survey()}
    with pytest.raises(FileNotFoundError, match="no process of this user"):
        inspect(f"shm:({unique_name})")
    with pytest.raises(FileNotFoundError):
        inspect("anon:1")
    with pytest.raises(FileNotFoundError, match="there is nothing of this name"):
        look_at(unique_name)


def test_what_is_no_file_is_not_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAFile, match="is a pipe, and no file"):
        inspect(tmp_path / "pipe")
    with pytest.raises(NotAFile, match="is a directory"):
        inspect(tmp_path)
    with pytest.raises(NotAFile, match="is a device"):
        inspect("/dev/null")
    assert survey(paths=[tmp_path]) == []


def test_what_may_not_be_read_is_told_as_such(unique_name, monkeypatch) -> None:
    """Of other users' segments there is the size, the owner, and no more."""
    with shmkit.Ring.create(unique_name):
        path = f"/dev/shm/{unique_name}"
        opened = os.open

        def refuse(name: Any, *options: Any, **more: Any) -> int:
            if name == path:
                raise PermissionError(13, "Permission denied", name)
            return opened(name, *options, **more)

        monkeypatch.setattr(os, "open", refuse)
        (look,) = [each for each in survey() if each.segment.path == path]
        assert (look.segment.kind, look.segment.status) == ("not readable", "live")
        assert look.segment.size == os.stat(path).st_size  # noqa: PTH116
        assert not look.segment.ours
        monkeypatch.undo()


@pytest.mark.parametrize("cut", [1, 8, 100, 4095, 4096, 5000])
def test_a_segment_that_was_cut_off(tmp_path, cut) -> None:
    path = tmp_path / "ring"
    with shmkit.Ring.create(path, capacity=4096):
        pass
    os.truncate(path, cut)
    segment = inspect(path).segment
    assert segment.wrong or cut < 8
    assert segment.status == "idle"


def images(folder: Path) -> list[bytes]:
    """The bytes of a segment of each kind that has something in it."""
    path = folder / "image"
    found = []

    def take(made: Any) -> None:
        found.append(path.read_bytes())
        made.close()
        path.unlink()

    ring = shmkit.Ring.create(path, capacity=4096, producers="many", consumers="many")
    for size in range(20):
        ring.put(bytes(size))
    ring.get()
    take(ring)
    queue: Any = shmkit.Queue(where=path, maxsize=9, capacity=4096)
    for obj in (1, "a", [1, {2: (3,)}], ValueError("x")):
        queue.put(obj)
    take(queue)
    broadcast = shmkit.Broadcast.create(path, capacity=4096)
    for size in range(50):
        broadcast.publish(bytes(size))
    take(broadcast)
    take(shmkit.Latest.create(path, size=100))
    take(shmkit.SharedArray.create(path, (3, 4), float))
    return found


def test_hostile_bytes_have_an_answer(tmp_path) -> None:
    """Fields at random, with a checksum that fits: never an error, a hang or a read outside."""
    chance = random.Random(3)
    path, originals = str(tmp_path / "mutant"), images(tmp_path)
    for _ in range(300):
        mutant = bytearray(chance.choice(originals))
        for _ in range(chance.choice((1, 2, 5, 30))):
            at = chance.choice((chance.randrange(len(mutant)), chance.randrange(0x1000))) & ~7
            value = chance.choice(
                (0, 3, 16, 1 << 63, (1 << 64) - 1, chance.getrandbits(13), chance.getrandbits(64))
            )
            struct.pack_into("<Q", mutant, at, value)
        mutant[:8] = words.MAGIC
        struct.pack_into("<H", mutant, 8, words.VERSION)
        struct.pack_into("<H", mutant, 10, chance.choice([*words.KINDS, 77]))
        checksum = zlib.crc32(mutant[words.FIXED_AT : words.CHECKSUM_AT])
        struct.pack_into("<I", mutant, words.CHECKSUM_AT, checksum)
        Path(path).write_bytes(mutant[: chance.choice((len(mutant), chance.randrange(5000)))])
        with Raw(path) as raw:
            look = decode(raw, "file:x", path, Holders())
        assert look.segment.status == "idle"


def test_a_broken_frame_is_told_where(tmp_path) -> None:
    path = tmp_path / "ring"
    with shmkit.Ring.create(path, capacity=4096) as ring:
        ring.put(b"good")
        ring.put(b"bad")
        at = inspect(path).frames[1].position
    content = bytearray(path.read_bytes())
    content[content.index(b"bad", words.PAGE)] ^= 1
    path.write_bytes(content)
    look = inspect(path)
    assert look.segment.wrong == (f"the checksum of the frame at {at} does not fit it",)
    assert len(look.frames) == 1


BUSY = """
import shmkit
ring = shmkit.Ring.attach(args[0])
link.send(1)
while not link.poll():
    ring.put(bytes(range(100)))
    ring.get()
"""


def test_a_ring_that_moves_is_never_called_wrong(unique_name, start_child) -> None:
    with shmkit.Ring.create(unique_name, capacity=4096):
        child = start_child(BUSY, unique_name)
        child.receive()
        for _ in range(300):
            with Raw(f"/dev/shm/{unique_name}") as raw:
                look = decode(raw, "", "", Holders())
            assert look.segment.wrong == ()
            assert {frame.preview for frame in look.frames} <= {bytes(range(64)).hex()}
        child.send("stop")
        child.finish()


def test_lock_bytes_are_asked_for_one_by_one(tmp_path) -> None:
    """Each of several handles holds its own: all are found, and none that is not."""
    path = tmp_path / "ring"
    handles = [shmkit.Ring.create(path, capacity=4096)]
    handles += [shmkit.Ring.attach(path) for _ in range(5)]
    handles.pop(2).close()
    with Raw(str(path)) as raw:
        assert raw.held(words.PARTICIPANT_BYTE, 16) == {
            words.PARTICIPANT_BYTE + place for place in (0, 1, 3, 4, 5)
        }
    for handle in handles:
        handle.close()
