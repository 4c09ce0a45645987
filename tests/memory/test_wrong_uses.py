"""Wrong uses: each is an error with cause, value and remedy, in the words of the object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from shmkit import ClosedError, IncompatibleSegment, PagedFile, SharedBuffer, open_bytes  # noqa: F401 - some in USES only
from shmkit.memory.url import Url  # noqa: F401 - in USES only

# What is written -> the error, and a part of its message.
USES: dict[str, tuple[type[Exception], str]] = {
    # made and attached to
    "SharedBuffer('x', 10)": (
        TypeError,
        "use SharedBuffer.create() for memory that is not there yet",
    ),
    "SharedBuffer(size=10)": (TypeError, "SharedBuffer.attach() for what is there"),
    "SharedBuffer.create('x')": (
        TypeError,
        "'size' is missing: memory is made with a size in bytes",
    ),
    "SharedBuffer.create('x', '10')": (TypeError, "'size' must be an integer, not '10'"),
    "SharedBuffer.create('x', 1.5)": (TypeError, "'size' must be an integer, not 1.5"),
    "SharedBuffer.create('x', 0)": (ValueError, "'size' must be at least 1 byte, not 0"),
    "SharedBuffer.create('x', 1 << 60)": (ValueError, "more than an address can reach"),
    "SharedBuffer.create(10)": (TypeError, "'where' must be None, a str or a path object, not int"),
    "SharedBuffer.create('x/y', 10)": (ValueError, "for a file use 'file:PATH'"),
    "SharedBuffer.create('http://x', 10)": (ValueError, "unknown scheme 'http:' in 'http://x'"),
    "SharedBuffer.create('', 10)": (ValueError, "use 'shm:' for a fresh one, or None"),
    "SharedBuffer.create('anon:x', 10)": (ValueError, "use 'shm:x' for a named segment"),
    "SharedBuffer.create('x', 10, mode='0600')": (TypeError, "'mode' must be an integer"),
    "SharedBuffer.create('x', 10, mode=1 << 20)": (ValueError, "'mode' is permissions, as 0o600"),
    "SharedBuffer.create('file:colors.bin', 10)": (
        FileExistsError,
        "is there already: attach() to it, or use ensure()",
    ),
    "SharedBuffer.attach('colors.bin')": (FileNotFoundError, "but a file: use 'file:colors.bin'"),
    "SharedBuffer.attach('not-there')": (
        FileNotFoundError,
        "no shared memory segment of this name: create() or ensure() makes it, timeout= waits",
    ),
    "SharedBuffer.attach(Path('not-there'))": (
        FileNotFoundError,
        "there is no such file: create() or ensure() makes it",
    ),
    "SharedBuffer.attach(None)": (ValueError, "inherit its handle by fork, or pickle it"),
    "SharedBuffer.attach('shm:')": (ValueError, "to attach, name the segment"),
    "SharedBuffer.attach(b, access='w')": (ValueError, "'access' must be 'r' (read), 'rw'"),
    "b.descriptor('w')": (ValueError, "'access' must be 'r' (read), 'rw'"),
    "b.descriptor('')": (ValueError, "'access' must be 'r' (read), 'rw'"),
    "SharedBuffer.create(Url('ftp', 'x'), 10)": (ValueError, "'scheme' must be 'anon', 'shm' or"),
    "SharedBuffer.attach(b, access=[])": (ValueError, "'access' must be 'r' (read), 'rw'"),
    "SharedBuffer.attach(b, offset=200)": (ValueError, "'offset' 200 is outside of <SharedBuffer"),
    "SharedBuffer.attach(b, offset='1')": (TypeError, "'offset' must be an integer, not '1'"),
    "SharedBuffer.attach(b, length=-1)": (ValueError, "'length' must not be negative, and is -1"),
    "SharedBuffer.attach(closed)": (ClosedError, "was closed: attach() again"),
    "SharedBuffer.ensure(Path('colors.bin'), 1000)": (
        IncompatibleSegment,
        "has 64 bytes, and 1000 are asked for: unlink it, ask for less",
    ),
    # bytes
    "b[200]": (IndexError, "byte 200 is outside of <SharedBuffer anon: size=100 rw>"),
    "b['a']": (TypeError, "found by an integer or a slice of integers, not 'a'"),
    "b[1.5]": (TypeError, "found by an integer or a slice of integers, not 1.5"),
    "part[200]": (IndexError, "byte 200 is outside of <SharedBuffer anon: size=10 r>"),
    "part['a']": (TypeError, "found by an integer or a slice of integers, not 'a'"),
    "b.__setitem__(0, 256)": (ValueError, "one byte must be in range(0, 256), not 256"),
    "b.__setitem__(0, b'a')": (TypeError, "bytes go into a slice, as in b[0:3] = b'abc'"),
    "b.__setitem__(200, 1)": (IndexError, "byte 200 is outside of <SharedBuffer"),
    "b.__setitem__(slice(3), b'long')": (ValueError, "4 bytes do not replace 3: a buffer keeps"),
    "b.__setitem__(slice(3), 'abc')": (TypeError, "not str: encode it first"),
    "b.__delitem__(0)": (TypeError, "keeps its size: no byte of it can be deleted"),
    "part.__setitem__(0, 1)": (TypeError, "is read-only: attach with access='rw', or 'cow'"),
    "b.close(True)": (TypeError, "close() takes 1 positional argument"),
    # views
    "b.view()": (TypeError, "view() missing 1 required positional argument: 'format'"),
    "b.view('<I')": (ValueError, "'format' must be one of b B h H"),
    "b.view(5)": (ValueError, "'format' must be one of b B h H"),
    "b.view('I', 0, 1000)": (ValueError, "bytes 0 to 4000 reach outside of <SharedBuffer"),
    "b.records('Z')": (ValueError, "'Z' is no format of struct"),
    "b.records('<I', count=1000)": (ValueError, "do not fit into <SharedBuffer"),
    "b.advise('later')": (ValueError, "'advice' must be one of sequential, random"),
    "b.chunks(0)": (ValueError, "'size' must be at least 1 byte, not 0"),
    "b.chunks('a')": (TypeError, "'size' must be an integer, not 'a'"),
    "b.move(0, 99, 5)": (ValueError, "bytes 99 to 104 reach outside of <SharedBuffer"),
    "b.resize('big')": (TypeError, "'size' must be an integer, not 'big'"),
    "(b.buf, b.resize(50))": (BufferError, "size=100 rw> cannot shrink to 50 bytes: views of it"),
    "part.resize(50)": (ValueError, "takes a handle with access='rw' on all of the memory"),
    # searched
    "b.find('text')": (TypeError, "encode 'text' first"),
    "b.find(256)": (ValueError, "one byte must be in range(0, 256), not 256"),
    "b.find(1.5)": (TypeError, "bytes are searched for bytes or one of 0 to 255, not 1.5"),
    "b.find()": (TypeError, "find() missing 1 required positional argument: 'sub'"),
    "b.find(b'a', 'x')": (TypeError, "'start' must be an integer, not 'x'"),
    "b.index(b'not there')": (ValueError, "b'not there' is not in <SharedBuffer"),
    "b.finditer('text')": (TypeError, "with a pattern of bytes, as rb'...', not 'text'"),
    "b.finditer(5)": (TypeError, "with a pattern of bytes, as rb'...', not 5"),
    "b.replace(b'a', b'bc')": (ValueError, "replace_into(path) writes the result to a file"),
    "b.replace('a', 'b')": (TypeError, "bytes are needed, or what has some, not str: encode it"),
    "b.replace(b'a', b'b', 'all')": (TypeError, "'count' must be an integer, not 'all'"),
    "part.replace(b'a', b'b')": (TypeError, "is read-only: attach with access='rw'"),
    "b.replace_into('shm:x', b'a', b'b')": (ValueError, "'shm:x' is no file, and this takes files"),
    "b.replace_into(b, b'a', b'b')": (TypeError, "a descriptor or an open file, not SharedBuffer"),
    # file objects
    "b.open().write('text')": (TypeError, "not str: encode it first"),
    "b.open().write(bytes(200))": (OSError, "do not fit at position 0 of 100"),
    "part.open().write(b'x')": (OSError, "is read-only"),
    "b.open().seek(-1)": (ValueError, "position -1 is before the beginning"),
    "b.open('r')": (TypeError, "open() takes 1 positional argument"),
    # files
    "PagedFile('not-there')": (FileNotFoundError, "not-there"),
    "PagedFile('shm:x')": (ValueError, "'shm:x' is no file, and this takes files only"),
    "PagedFile(None)": (TypeError, "a file is a path, a 'file:' URL, a descriptor or an open file"),
    "PagedFile('colors.bin', 0)": (ValueError, "'page_size' must be at least 1, not 0"),
    "PagedFile('colors.bin', '4k')": (TypeError, "'page_size' must be an integer, not '4k'"),
    "PagedFile('colors.bin', access='cow')": (ValueError, "'access' must be 'r' (read) or 'rw'"),
    "paged.__setitem__(0, 1)": (TypeError, "is read-only: open it with access='rw'"),
    "writable.__setitem__(0, 256)": (ValueError, "one byte must be in range(0, 256), not 256"),
    "writable.__setitem__(slice(3), b'long')": (ValueError, "a file keeps its size here"),
    "writable.__delitem__(0)": (TypeError, "keeps its size: no byte of it can be deleted"),
    "paged[100]": (IndexError, "byte 100 is outside of <PagedFile"),
    "paged['a']": (TypeError, "found by an integer or a slice of integers, not 'a'"),
    "paged.finditer('text')": (TypeError, "with a pattern of bytes, as rb'...', not 'text'"),
    "paged.find('x')": (TypeError, "encode 'x' first"),
    "open_bytes('shm:x')": (ValueError, "'shm:x' is no file, and this takes files only"),
    "open_bytes('')": (ValueError, "the path is empty"),
    "open_bytes(None)": (
        TypeError,
        "a file is a path, a 'file:' URL, a descriptor or an open file",
    ),
    "open_bytes('colors.bin', small='x')": (TypeError, "'small' must be an integer, not 'x'"),
    "open_bytes('.')": (IsADirectoryError, "directory"),
}


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the uses find."""
    monkeypatch.chdir(tmp_path)
    Path("colors.bin").write_bytes(bytes(64))
    with ExitStack() as stack:
        enter = stack.enter_context
        b = enter(SharedBuffer.create(size=100))
        closed = enter(SharedBuffer.create(size=10))
        closed.close()
        yield {
            **globals(),
            "b": b,
            "part": enter(SharedBuffer.attach(b, access="r", offset=3, length=10)),
            "closed": closed,
            "paged": enter(PagedFile("colors.bin")),
            "writable": enter(PagedFile("colors.bin", access="rw")),
        }


@pytest.mark.parametrize("use", USES)
def test_wrong_uses(held: dict[str, Any], use: str) -> None:
    kind, message = USES[use]
    plain = message if "\\" in message else re.escape(message)
    with pytest.raises(kind, match=plain) as caught:
        eval(use, held)
    for internal in ("Handle", "Content", "Searchable", "mmap", "memoryview:", "_"):
        assert internal not in re.sub(
            r"'[^']*'|/\S*|<[^>]*>|page_size|\w+_\w+\(", "", str(caught.value)
        )
    held["b"][:3] = b"abc"  # it works as before
    assert held["b"].size == 100
    assert Path("colors.bin").read_bytes() == bytes(64)
    assert not Path("x").exists()
    assert not Path("shm:x").exists()
