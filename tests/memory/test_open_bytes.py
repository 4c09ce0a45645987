"""open_bytes gives the same bytes whether it reads or maps."""

from __future__ import annotations

import errno
import gzip
import io
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from shmkit import SharedBuffer, open_bytes
from tests.contracts.buffer import READ_ONLY, SIZE, Case, pattern
from tests.contracts.buffer_search import READING, TEXT
from tests.processes import TIMEOUT, run_python


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
    path = tmp_path / "pipe"
    os.mkfifo(path)
    other = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # who never reads
    writer = threading.Thread(target=write_all, args=(os.open(path, os.O_WRONLY),))
    writer.start()
    with open_bytes(path) as buffer:
        assert (buffer[:], buffer.mapped) == (b"x" * 100_000, False)
    writer.join()
    os.close(other)


def write_all(fd: int) -> None:
    with open(fd, "wb") as file:
        file.write(b"x" * 100_000)


def test_what_is_not_there_or_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        open_bytes(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        open_bytes(tmp_path)
    with pytest.raises(ValueError, match="NUL"):
        open_bytes("a\0b")


# ------------------------------------------------------------------ what is given


def test_a_path_as_open_takes_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"content")
    Path("shm:x").write_bytes(b"odd")
    url = f"file:{tmp_path / 'file'}"
    for path in ("file", b"file", Path("file"), "file:file", url):
        with open_bytes(path) as buffer:
            assert (buffer[:], str(buffer.url)) == (b"content", url)
    for path in ("shm:x", "anon:"):
        with pytest.raises(ValueError, match="is no file, and this takes files only"):
            open_bytes(path)
    for path in ("./shm:x", Path("shm:x"), "file:shm:x"):
        with open_bytes(path) as buffer:
            assert buffer[:] == b"odd"


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "second").symlink_to(tmp_path / "link")
    tmp_path.chmod(0o777)  # to be read, wherever it is
    for small in (0, 100):
        with open_bytes(tmp_path / "second", small=small) as buffer:
            assert (buffer[:], buffer.name) == (b"content", str(tmp_path / "file"))
            assert pickle.loads(pickle.dumps(buffer))[:] == b"content"
    (tmp_path / "file").unlink()
    with pytest.raises(FileNotFoundError, match="second"):
        open_bytes(tmp_path / "second")


@pytest.mark.parametrize("small", [0, 100])
def test_a_descriptor_or_an_open_file(tmp_path: Path, small: int) -> None:
    """All bytes, wherever the file stands; it stays open, and where it was."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb") as file, path.open() as text, tempfile.NamedTemporaryFile() as other:
        other.write(b"unwritten")
        file.seek(3)
        for given in (file.fileno(), file, text):
            with open_bytes(given, small=small) as buffer:
                assert (buffer[:], buffer.mapped) == (b"content", small == 0)
                assert buffer.name == str(path)
        with open_bytes(other, small=small) as buffer:
            assert buffer[:] == b"unwritten"
        path.unlink()
        with open_bytes(file, small=small) as buffer:
            assert (buffer[:], buffer.name) == (b"content", f"/dev/fd/{file.fileno()}")
        assert file.read() == b"tent"


def test_an_open_pipe_is_read_to_its_end() -> None:
    for as_file in (False, True):
        reader, writer = os.pipe()
        os.write(writer, b"first\nsecond")
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            if as_file:
                assert file.readline() == b"first\n"
            with open_bytes(file if as_file else reader) as buffer:
                assert buffer[:] == (b"second" if as_file else b"first\nsecond")


@pytest.mark.parametrize("how", ["0", "sys.stdin", "'/dev/stdin'", "Path('/dev/fd/0')"])
def test_standard_input(how: str, tmp_path: Path) -> None:
    source = (
        "import sys; from pathlib import Path; from shmkit import open_bytes\n"
        f"with open_bytes({how}) as b: assert b[:] == b'content', b[:]"
    )
    subprocess.run([sys.executable, "-c", source], input=b"content", check=True, timeout=TIMEOUT)
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") as file:
        subprocess.run([sys.executable, "-c", source], stdin=file, check=True, timeout=TIMEOUT)


def test_what_only_a_file_object_has(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"content")
    with gzip.open(path) as file, open_bytes(file) as buffer:
        assert (buffer[:], buffer.mapped) == (b"content", False)
    with open_bytes(io.BytesIO(b"content")) as buffer:
        assert buffer[:] == b"content"
    with pytest.raises(TypeError, match="gives str, not bytes: open it in binary mode"):
        open_bytes(io.StringIO("content"))


def test_what_is_no_open_file(tmp_path: Path) -> None:
    file = (tmp_path / "file").open("wb")
    with file, pytest.raises(OSError, match="is not open for this access: open it with 'rb'"):
        open_bytes(file.fileno())
    with pytest.raises(ValueError, match="is closed: open it again"):
        open_bytes(file)
    with pytest.raises(ValueError, match="not negative"):
        open_bytes(-1)
    with pytest.raises(OSError, match="descriptor 99999 is not open"):
        open_bytes(99999)
    for wrong in (None, 1.5, True, object()):
        with pytest.raises(TypeError, match="a file is a path, a 'file:' URL, a descriptor or"):
            open_bytes(wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------ nothing is waited for


def test_a_pipe_without_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="has no writer: start the writer first") as caught:
            open_bytes(tmp_path / name)
        assert caught.value.errno == errno.ENXIO
        with pytest.raises(OSError, match="has no writer"):
            SharedBuffer.attach(tmp_path / name, access="r", timeout=0.01)


def test_devices(tmp_path: Path) -> None:
    with open_bytes("/dev/null") as buffer:
        assert (buffer[:], buffer.mapped) == (b"", False)
    with SharedBuffer.attach("file:/dev/null", access="r") as buffer:
        assert buffer[:] == b""
    for device in ("/dev/zero", "/dev/urandom"):
        with pytest.raises(OSError, match="has no end"):
            open_bytes(device)
    with pytest.raises(OSError, match="a device that has no bytes now"):
        open_bytes("/dev/ptmx")
    with pytest.raises(OSError, match="is a device, which cannot be mapped"):
        SharedBuffer.attach("file:/dev/null")
