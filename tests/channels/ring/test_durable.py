"""A ring on a file: stop everything, start again, and reading goes on where it stopped."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from shmkit import CorruptSegment, Empty, Full, PeerDied, Ring, ShutDown
from shmkit.memory.buffer import handle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring"


def test_what_was_put_is_there_the_next_day(path: Path) -> None:
    with Ring.create(path, capacity=4096) as ring:
        assert ring.put_many([b"one", b"two", b"three"]) == 3
        assert ring.get() == b"one"
        ring.flush()
    for _ in range(2):
        with Ring.attach(path) as ring:
            assert ring.qsize() == 2
            assert ring.statistics().producers == ring.statistics().consumers == ()
    with Ring.attach(path) as ring:
        assert ring.get() == b"two"
        ring.put(b"four")
    with Ring.ensure(path, capacity=1 << 16) as ring:
        assert ring.capacity == 4096
        assert ring.get_many() == [b"three", b"four"]
        assert ring.empty()


def test_it_goes_on_at_every_position(path: Path) -> None:
    """Also where the end of the ring was passed, or skipped, just before it stopped."""
    Ring.create(path, capacity=4096).close()
    for number in range(200):
        small, large = bytes([number]) * (number * 67 % 900), bytes([number]) * 4080
        with Ring.attach(path) as ring:
            ring.put(small)
        with Ring.attach(path) as ring:
            assert ring.get() == small
            ring.put_nowait(large)
        with Ring.attach(path) as ring:
            assert ring.full()
            assert ring.get() == large
        with Ring.attach(path) as ring:
            assert ring.empty()
            assert ring.qsize() == 0


def test_a_shut_down_ring_stays_shut_down(path: Path) -> None:
    with Ring.create(path, capacity=4096) as ring:
        ring.put(b"last")
        ring.shutdown()
    with Ring.attach(path) as ring:
        with pytest.raises(ShutDown):
            ring.put(b"x")
        assert list(ring) == [b"last"]


def test_it_goes_on_after_all_were_killed(path: Path, fork: Any) -> None:
    """Numbered frames: each is got once, or was got by one that was killed before it said so."""
    Ring.create(path, capacity=4096).close()
    got = 0
    for turn in range(8):
        producer, consumer = fork(count_up, path, got), fork(write_down, path)
        at_least = got + turn * 40
        numbers = []
        while not numbers or numbers[-1] < at_least:
            numbers.append(consumer.receive())
        producer.kill()
        consumer.kill()
        while consumer.link.poll():
            try:
                numbers.append(consumer.link.recv())
            except EOFError:
                break
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert got <= numbers[0] <= got + 1  # one may have been taken and not been told
        with Ring.attach(path) as ring:
            left = [int(frame.split()[0]) for frame in all_of(ring)]
        got = numbers[-1] + 1
        if left:
            assert got <= left[0] <= got + 1
            assert left == list(range(left[0], left[-1] + 1))
            got = left[-1] + 1


def count_up(link: Any, path: Path, number: int) -> None:
    with Ring.attach(path) as ring:
        while True:
            ring.put(b"%d %s" % (number, b"x" * (number * 13 % 500)))
            number += 1


def write_down(link: Any, path: Path) -> None:
    with Ring.attach(path) as ring:
        while True:
            try:
                link.send(int(ring.get(10).split()[0]))
            except PeerDied:
                continue


def all_of(ring: Ring) -> list[bytes]:
    frames: list[bytes] = []
    while True:
        try:
            frames += ring.get_many(timeout=0)
        except Empty:
            return frames


def test_a_flipped_bit_is_found(path: Path) -> None:
    """In the payload, in the length, in the kind, in the checksum; never delivered."""
    for byte, bit in ((64 + 16 + 5, 3), (64, 0), (64 + 4, 1), (76, 7)):
        with Ring.ensure(path, capacity=4096) as ring:
            ring.put(b"a" * 48)  # 64 bytes with its header
            ring.put(b"b" * 48)
            ring.put(b"c" * 48)
        content = bytearray(path.read_bytes())
        content[len(content) - 4096 + byte] ^= 1 << bit
        path.write_bytes(content)
        with Ring.attach(path) as ring:
            assert ring.get() == b"a" * 48
            with pytest.raises(CorruptSegment) as caught:
                ring.get()
            assert caught.value.detail
            assert caught.value.where == f"file:{path}"
            assert "skip_damaged()" in str(caught.value)
            for call in (ring.get_nowait, ring.get_many, lambda ring=ring: ring.peek().__enter__()):
                with pytest.raises(CorruptSegment):
                    call()
            ring.put(b"d")
            assert ring.skip_damaged() == 64
            assert ring.skip_damaged() == 0
            assert ring.get_many() == [b"c" * 48, b"d"]
            assert ring.skip_damaged() == 0
            ring.unlink()


@pytest.mark.parametrize("seed", range(12))
def test_skipping_what_is_damaged(path: Path, seed: int) -> None:
    """Every whole frame is read, in order, and the bytes that were lost are told."""
    dice = random.Random(seed)
    with Ring.create(path, capacity=1 << 14) as ring:
        for filler in range(seed):
            ring.put(bytes(900 + filler))
            ring.get()
        frames = list[bytes]()
        while len(frames) < 60:
            data = dice.randbytes(dice.randrange(300))
            if not ring.put_many([data], 0):
                break
            frames.append(data)
        head, tail = ring.statistics().released, ring.statistics().committed
        if seed % 3 == 2:
            ring.shutdown()
    content = bytearray(path.read_bytes())
    for _ in range(1 + seed % 3):
        spot = len(content) - (1 << 14) + (dice.randrange(head, tail) & (1 << 14) - 1)
        content[spot] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    got, lost, skipped = list[bytes](), 0, 0
    with Ring.attach(path) as ring:
        while not ring.empty():
            try:
                got += ring.get_many(timeout=0)
            except CorruptSegment:
                lost += ring.skip_damaged()
                skipped += 1
        assert ring.statistics().state == ("shut down" if seed % 3 == 2 else "open")
    sizes = [(len(frame) + 31) & -16 for frame in frames]
    assert len(frames) - len(got) <= 1 + seed % 3
    assert skipped <= 1 + seed % 3
    assert lost >= sum(sizes) - sum((len(frame) + 31) & -16 for frame in got)
    rest = iter(frames)
    assert all(frame in rest for frame in got)  # in order, and as they were


def test_only_a_ring_on_a_file_tells_damage_from_frames() -> None:
    with Ring.create(capacity=4096) as ring, pytest.raises(ValueError, match="not on a file"):
        ring.skip_damaged()


def test_a_copy_is_a_ring_of_its_own(path: Path, tmp_path: Path, semaphores: Any) -> None:
    """Also while the original is in use."""
    with Ring.create(path, capacity=4096) as ring:
        ring.put_many([b"one", b"two"])
        shutil.copyfile(path, tmp_path / "copy")
        with Ring.attach(tmp_path / "copy") as copy:
            assert copy.get_many() == [b"one", b"two"]
            copy.put(b"of the copy")
        with Ring.attach(path) as other:
            assert other.get_many() == [b"one", b"two"]
            with pytest.raises(Empty):
                other.get(timeout=0.06)
            ring.put(b"three")
            assert other.get(timeout=5) == b"three"
    with Ring.attach(tmp_path / "copy") as copy:
        assert copy.get_many() == [b"of the copy"]
    assert not semaphores()


def test_a_moved_file_is_the_same_ring(path: Path, tmp_path: Path) -> None:
    with Ring.create(path, capacity=4096) as ring:
        ring.put(b"x")
        path.rename(tmp_path / "elsewhere")
        with Ring.attach(tmp_path / "elsewhere") as other:
            assert other.get() == b"x"
            ring.put(b"y")
            assert other.get(timeout=5) == b"y"


def test_killing_everybody_leaves_what_the_next_one_removes(
    path: Path, fork: Any, semaphores: Any
) -> None:
    child = fork(attach_and_wait, path)
    child.receive()
    child.kill()
    with Ring.attach(path) as ring:
        assert ring.get(timeout=0) == b"x"
        assert semaphores()
        with pytest.raises(Empty):  # that death was before its time
            ring.get(timeout=0.06)
    assert not semaphores()


def attach_and_wait(link: Any, path: Path) -> None:
    with Ring.create(path, capacity=4096) as ring:
        ring.put(b"x")
        link.send("there")
        link.recv()


def test_a_full_ring_stays_full(path: Path) -> None:
    with Ring.create(path, capacity=4096) as ring:
        ring.put(bytes(4080))
    with Ring.attach(path) as ring, pytest.raises(Full):
        ring.put_nowait(b"")
    size = path.stat()
    assert size.st_size == 2 * 4096 + 4096
    assert size.st_blocks * 512 >= size.st_size  # its room is reserved
    os.truncate(path, size.st_size)


def copy_with_holes(source: Path, target: Path) -> None:
    """Copy a file as `cp` does: what is zero gets no room."""
    with source.open("rb") as old, target.open("wb") as new:
        while page := old.read(4096):
            if any(page):
                new.write(page)
            else:
                new.seek(len(page), os.SEEK_CUR)
        new.truncate(old.tell())


def test_a_copy_with_holes_gets_its_room(path: Path) -> None:
    """On a full filesystem a write into a hole would be a SIGBUS."""
    with Ring.create(path, capacity=1 << 20) as ring:
        ring.put(b"x")
    copy = path.with_name("copy")
    copy_with_holes(path, copy)
    assert copy.stat().st_blocks * 512 < 1 << 20
    with Ring.attach(copy) as ring:
        assert copy.stat().st_blocks * 512 >= copy.stat().st_size == path.stat().st_size
        assert ring.get(0) == b"x"


def test_a_copy_with_holes_is_refused_where_there_is_no_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ring.create(path, capacity=1 << 20) as ring:
        ring.put(b"x")
    copy = path.with_name("copy")
    copy_with_holes(path, copy)
    content = copy.read_bytes()

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(handle, "reserve_holes", lambda *_: None)  # where it is not possible
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no room for file:") as caught:
        Ring.attach(copy)
    assert caught.value.errno == errno.ENOSPC
    assert copy.read_bytes() == content
