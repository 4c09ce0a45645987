"""The header of a segment, field by field, as DESIGN draws it; and what an attacher makes of it."""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from shmkit import CorruptSegment, IncompatibleSegment, Ring, SharedBuffer

MAGIC = b"SHMKIT\x01\0"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a ring of 4096 bytes, with one frame in it, and nobody attached."""
    with Ring.create(tmp_path / "ring", capacity=4096, participants=16) as ring:
        ring.put(b"content")
    return tmp_path / "ring"


def word(content: bytes, offset: int) -> int:
    return int(struct.unpack_from("<Q", content, offset)[0])


def poke(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def seal(path: Path) -> None:
    """Make the checksum of a header fit its fields again."""
    poke(path, 0x60, struct.pack("<I", zlib.crc32(path.read_bytes()[8:0x60])))


def test_the_fixed_fields(where: Any) -> None:
    before = time.time_ns()
    with Ring.create(where, capacity=8192, participants=16) as ring:
        content = bytes(ring.buffer)
        assert len(content) == 4096 + 8192
        assert content[:8] == MAGIC
        version, kind, _flags, zero = struct.unpack_from("<HHHH", content, 8)
        assert (version, kind, zero) == (2, 1, 0)
        total, offset, size, participants = struct.unpack_from("<QQQQ", content, 0x10)
        assert (total, offset, size) == (4096 + 8192, 4096, 8192)
        assert 0x800 + 128 * participants == offset
        assert len(set(content[0x30:0x40])) > 4  # random bytes
        boot, pid, started, created = struct.unpack_from("<QQQQ", content, 0x40)
        assert boot != 0
        assert pid == os.getpid()
        stat = Path("/proc/self/stat").read_text()
        assert started == int(stat.rpartition(")")[2].split()[19])
        assert before <= created <= time.time_ns()
        assert struct.unpack_from("<II", content, 0x60) == (zlib.crc32(content[8:0x60]), 0)
        assert word(content, 0x68) == 1
        with Ring.create(None, capacity=4096, participants=16) as other:
            assert bytes(other.buffer[0x30:0x40]) != content[0x30:0x40]


def test_the_words_that_move(where: Any) -> None:
    with Ring.create(where, capacity=4096, participants=16) as ring:
        words = ring.buffer.view("Q")
        tail, head, state = 0x80 // 8, 0x180 // 8, 0x68 // 8
        assert (words[tail], words[head]) == (0, 0)
        ring.put(b"x" * 20)
        assert (words[tail], words[head]) == (48, 0)
        ring.put_many([b"", b"y"])
        assert (words[tail], words[head]) == (48 + 16 + 32, 0)
        ring.get()
        assert (words[tail], words[head]) == (96, 48)
        ring.shutdown()
        assert words[state] == 2
        ring.shutdown(immediate=True)
        assert words[state] == 3
        del words


def test_a_frame(where: Any) -> None:
    """A header of 16 bytes: length, kind, flags, position, checksum; then the payload."""
    with Ring.create(where, capacity=4096, participants=16) as ring:
        ring.put(b"first")
        ring.put(b"second!")
        data = bytes(ring.buffer[4096:])
        assert struct.unpack_from("<IHH", data, 0) == (5, 0, 0)
        assert data[16:21] == b"first"
        assert struct.unpack_from("<IHH", data, 32) == (7, 0, 0)
        assert data[48:55] == b"second!"
        if where is not None and where.startswith("file"):
            position, checksum = struct.unpack_from("<II", data, 40)
            assert position == 32 // 16
            assert checksum == zlib.crc32(b"second!", 7 ^ 2)


def test_the_end_of_the_ring_is_filled_up(where: Any) -> None:
    with Ring.create(where, capacity=4096, participants=16) as ring:
        ring.put(bytes(3000))
        ring.put(b"keeps it from being empty")
        ring.get()
        ring.put(b"z" * 1500)  # not enough room before the end
        data = bytes(ring.buffer[4096:])
        assert struct.unpack_from("<IHH", data, 3024 + 48) == (4096 - 3072 - 16, 0, 1)
        assert struct.unpack_from("<IHH", data, 0) == (1500, 0, 0)
        assert ring.get() == b"keeps it from being empty"
        assert ring.get() == b"z" * 1500


def test_one_writer_per_line(where: Any) -> None:
    """The producer's words and the consumer's are 128 bytes apart at least, and so is each line."""
    with Ring.create(where, capacity=4096, participants=16) as ring:

        def changed(call: Any) -> set[int]:
            before = bytes(ring.buffer[:4096])
            call()
            after = bytes(ring.buffer[:4096])
            return {n // 128 for n in range(4096) if before[n] != after[n]}

        ring.put(b"x")  # now the roles are taken
        ring.get()
        put, got = changed(lambda: ring.put(b"x" * 300)), changed(ring.get)
        assert put == {0x80 // 128}
        assert got == {0x180 // 128}
        places = {n // 128 for n in range(0x800, 4096) if ring.buffer[n]}
        assert places == {0x800 // 128}


@pytest.mark.parametrize("size", [0, 1, 7, 8, 0x67, 0x68, 1000, 4095, 4096, 5000, 8191])
def test_a_file_that_was_cut_off(path: Path, size: int) -> None:
    os.truncate(path, size)
    before = path.read_bytes()
    with pytest.raises((IncompatibleSegment, CorruptSegment)) as caught:
        Ring.attach(path)
    assert vars(caught.value)["where"] == f"file:{path}"
    assert str(size) in str(caught.value) or size < 8
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [8193, 12288, 1 << 20])
def test_a_file_that_has_grown_is_still_the_ring(path: Path, size: int) -> None:
    os.truncate(path, size)
    with Ring.attach(path) as ring:
        assert ring.capacity == 4096
        assert ring.get() == b"content"


@pytest.mark.parametrize(
    "content",
    [
        b"#!/bin/sh\necho not a ring\n" * 1000,
        b"\x7fELF" + bytes(9000),
        b"SHMKIT\x02\0" + bytes(9000),
        b"SHMKIT" + bytes(9000),
        b"\xff" * 9000,
        bytes(range(256)) * 40,
    ],
    ids=["text", "elf", "another version", "cut magic", "ones", "counting"],
)
def test_what_is_not_ours_is_told_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    for make in (Ring.attach, Ring.ensure):
        with pytest.raises(IncompatibleSegment) as caught:
            make(path)
        assert caught.value.where == f"file:{path}"
        assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_foreign_segment_is_left_alone(unique_name: str) -> None:
    for content in (bytes(8192), b"x" * 8192):
        with SharedBuffer.create(unique_name, 8192) as buffer:
            buffer[:] = content
            with pytest.raises(IncompatibleSegment):
                Ring.attach(unique_name)
            assert bytes(buffer[:]) == content


def test_another_version(path: Path) -> None:
    poke(path, 0x08, struct.pack("<H", 1))
    seal(path)
    for make in (Ring.attach, Ring.ensure):
        with pytest.raises(IncompatibleSegment, match="version 1"):
            make(path)


def test_another_kind(path: Path) -> None:
    poke(path, 0x0A, struct.pack("<H", 77))
    seal(path)
    with pytest.raises(IncompatibleSegment, match="77"):
        Ring.attach(path)


@pytest.mark.parametrize("flags", [0xFFFF, 0x0008, 0x00F0, 0x0100, 0x8000])
def test_unknown_flags(path: Path, flags: int) -> None:
    poke(path, 0x0C, struct.pack("<H", flags))
    seal(path)
    with pytest.raises((IncompatibleSegment, CorruptSegment)):
        Ring.attach(path)


def test_any_fixed_bit_flipped_is_found(path: Path) -> None:
    content = path.read_bytes()
    for byte in range(0x08, 0x64):
        poke(path, byte, bytes([content[byte] ^ 1 << byte % 8]))
        with pytest.raises((CorruptSegment, IncompatibleSegment)):
            Ring.attach(path)
        path.write_bytes(content)


@pytest.mark.parametrize("offset", [0x10, 0x18, 0x20, 0x28])
@pytest.mark.parametrize(
    "value", [0, 1, 4095, 4096, 8192, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1]
)
def test_sizes_that_cannot_be(path: Path, offset: int, value: int) -> None:
    """Also with a checksum that fits: one who writes headers may be wrong."""
    if (offset, value) in {(0x18, 4096), (0x20, 4096), (0x10, 8192), (0x28, 1)}:
        return  # that can be
    poke(path, offset, struct.pack("<Q", value))
    seal(path)
    with pytest.raises(CorruptSegment) as caught:
        Ring.attach(path)
    assert caught.value.detail


def test_data_of_a_size_that_is_no_power_of_two(path: Path) -> None:
    for data in (5000, 6144, 4095):
        os.truncate(path, 4096 + data)
        poke(path, 0x10, struct.pack("<QQQ", 4096 + data, 4096, data))
        seal(path)
        with pytest.raises((CorruptSegment, IncompatibleSegment)):
            Ring.attach(path)


@pytest.mark.parametrize("state", [0, 5, 77, 1 << 31, (1 << 64) - 1])
def test_a_state_that_is_none(path: Path, state: int) -> None:
    poke(path, 0x68, struct.pack("<Q", state))
    with pytest.raises(CorruptSegment, match="state"):
        Ring.attach(path)


@pytest.mark.parametrize("state", [0, 5, 77, (1 << 64) - 1])
def test_a_state_that_becomes_none(where: Any, state: int) -> None:
    with Ring.create(where, capacity=4096, participants=16) as ring:
        ring.put_many([b"x", b"y"])
        ring.get()
        ring.buffer[0x68:0x70] = struct.pack("<Q", state)
        for call in (lambda: ring.put(b"y"), ring.get, lambda: ring.get_many(timeout=1)):
            with pytest.raises(CorruptSegment):
                call()


def test_a_header_that_needs_more_than_a_page(where: Any) -> None:
    with Ring.create(where, capacity=4096, participants=100) as ring:
        total, offset, size, participants = struct.unpack_from("<QQQQ", ring.buffer[:64], 0x10)
        assert (offset, size, participants) == (16384, 4096, 100)
        assert total == 16384 + 4096 == ring.buffer.size
        ring.put(b"x" * 4080)
        assert ring.get() == b"x" * 4080


@pytest.mark.parametrize("participants", [0, -1, 1 << 17])
def test_participants_that_cannot_be(where: Any, participants: int) -> None:
    with pytest.raises(ValueError, match="participants"):
        Ring.create(where, capacity=4096, participants=participants)


@pytest.mark.parametrize("length", [48, 64, 1000, 4064, 4081, 0xFFFF, 0xFFFFFFF0, 0xFFFFFFFF])
def test_a_length_that_reaches_further_than_what_is_there(where: Any, length: int) -> None:
    """Never delivered, whichever way it is asked for, and told from then on."""
    for ask in (
        lambda ring: ring.get(timeout=0),
        lambda ring: ring.get_many(timeout=0),
        lambda ring: ring.get_into(bytearray(8192), timeout=0),
        lambda ring: ring.peek(timeout=0).__enter__(),
        lambda ring: ring.qsize(),
    ):
        with Ring.create(where, capacity=4096, participants=16) as ring:
            ring.put(b"first")
            ring.put(b"second")
            assert ring.get() == b"first"
            ring.buffer[4096 + 32 : 4096 + 36] = struct.pack("<I", length)
            for _ in range(2):
                with pytest.raises(CorruptSegment) as caught:
                    ask(ring)
            assert caught.value.detail
            ring.unlink()
