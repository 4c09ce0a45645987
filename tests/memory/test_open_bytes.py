"""open_bytes gives the same bytes whether it reads or maps."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest

from shmkit import SharedBuffer, open_bytes
from tests.contracts.buffer import READ_ONLY, SIZE, Case, pattern
from tests.contracts.buffer_search import READING, TEXT
from tests.processes import run_python


@pytest.mark.parametrize("small", [0, SIZE, SIZE + 1])
@pytest.mark.parametrize("case", READING, ids=lambda case: case.__name__)
def test_searched_like_any_buffer(tmp_path: Path, small: int, case: Case) -> None:
    (tmp_path / "file").write_bytes(TEXT)
    with open_bytes(tmp_path / "file", small=small) as buffer:
        assert buffer.mapped == (small <= SIZE)
        case(buffer, bytearray(TEXT))


@pytest.mark.parametrize("small", [0, SIZE + 1])
def test_a_read_only_buffer(tmp_path: Path, small: int) -> None:
    content = pattern(SIZE)
    path = tmp_path / "file"
    path.write_bytes(content)
    with open_bytes(str(path), small=small) as buffer:
        assert type(buffer) is SharedBuffer
        assert (buffer.access, buffer.name, str(buffer.url)) == ("r", str(path), f"file:{path}")
        assert (len(buffer), buffer[:], buffer.created) == (SIZE, content, False)
        assert list(buffer.lines()) == list(buffer.open())
        assert buffer.records("<H")[3][0] == int.from_bytes(content[6:8], "little")
        for case in READ_ONLY:
            case(buffer, bytearray(content))
        assert (tmp_path / "file").read_bytes() == content
        data = pickle.dumps(buffer)
    with pickle.loads(data) as copy:
        assert (copy.access, copy[:], copy.mapped) == ("r", content, small == 0)
    run_python(
        "import pickle\nwith pickle.loads(args[0]) as b: assert b[:] == args[1]", data, content
    )


def test_sizes_decide(tmp_path: Path) -> None:
    for size, mapped in ((0, False), (100, False), ((1 << 20) - 1, False), (1 << 20, True)):
        path = tmp_path / str(size)
        path.write_bytes(bytes(size))
        with open_bytes(path) as buffer:
            assert (len(buffer), buffer.mapped) == (size, mapped)


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with open_bytes(path) as read, open_bytes(path, small=0) as mapped:
        with path.open("r+b") as file:
            file.write(b"BEFORE")
        assert (read[:], mapped[:]) == (b"before", b"BEFORE")
        path.write_bytes(b"")
        assert read[:] == b"before"


def test_what_cannot_be_mapped_is_read(tmp_path: Path) -> None:
    with open_bytes("/proc/self/status") as buffer:
        assert buffer.find(b"Name:") == 0
        assert not buffer.mapped
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"x" * 100_000,))
    writer.start()
    with open_bytes(tmp_path / "pipe") as buffer:
        assert (buffer[:], buffer.mapped) == (b"x" * 100_000, False)
    writer.join()


def test_what_is_not_there_or_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        open_bytes(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        open_bytes(tmp_path)
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic link"):
        open_bytes(tmp_path / "link")
    with pytest.raises(ValueError, match="NUL"):
        open_bytes("a\0b")
