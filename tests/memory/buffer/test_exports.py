"""Closing: always safe, strict on demand, and views that outlive their buffer."""

from __future__ import annotations

import gc
import mmap
import re
import weakref
from pathlib import Path
from typing import Any

import pytest

from shmkit import ClosedError, SharedBuffer, open_bytes
from tests.contracts.buffer import pattern
from tests.processes import run_python

KiB = 1024


def test_views_outlive_their_buffer(make_buffer, access: Any) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    content = pattern(64 * KiB)
    made = make_buffer(content)
    buffer = SharedBuffer.attach(made, access=access)
    whole, typed, array = buffer.buf, buffer.view("H", 1), buffer.ndarray(5, "<u4", 3)
    piece = whole[100:200]
    derived = np.frombuffer(buffer.buf, "u1")[7::2]
    buffer.close()
    made.close()
    made.unlink()
    del buffer
    gc.collect()
    assert whole == content
    assert typed.tobytes() == content[1:-1]
    assert array.tobytes() == content[3:23]
    assert piece == content[100:200]
    assert derived.tobytes() == content[7::2]
    if access != "r":
        piece[0] ^= 255
        assert whole[100] == content[100] ^ 255


ARRAYS = """
import numpy as np
from shmkit import SharedBuffer
where, way, raw = args
with SharedBuffer.create(where, 100_000) as made:
    buffer = SharedBuffer.attach(made)
    if raw == "raw before":
        buffer.raw
    array = {
        "ndarray": lambda: buffer.ndarray(90_000, "u1"),
        "records": lambda: buffer.records("B").to_numpy()["f0"],
        "numpy.ndarray": lambda: np.ndarray(90_000, "u1", buffer=buffer.buf),
        "numpy.ndarray of a view": lambda: np.ndarray(90_000, "u1", buffer=buffer.view("H")),
        "numpy.frombuffer": lambda: np.frombuffer(buffer.buf, "u1"),
        "numpy.asarray": lambda: np.asarray(buffer.buf),
        "a part": lambda: np.ndarray(90_000, "u1", buffer=buffer.buf[5:])[100:],
    }[way]()
    if raw == "raw after":
        buffer.raw
    try:
        buffer.close(strict=True)
        raise SystemExit("it was closed under the array")
    except BufferError:
        pass
    buffer.close()
    made.unlink()
    made.close()
array[-1] = 7
assert array[0] == 0 and array[-1] == 7
def mapped():
    with open("/proc/self/maps") as maps:
        return (where.partition(":")[2] if where else "/memfd:shmkit") in maps.read()
assert mapped()
del array
assert not mapped()
"""


@pytest.mark.parametrize(
    "way",
    [
        "ndarray",
        "records",
        "numpy.ndarray",
        "numpy.ndarray of a view",
        "numpy.frombuffer",
        "numpy.asarray",
        "a part",
    ],
)
def test_a_lone_array_outlives_its_buffer(where, way: str) -> None:
    """The memory stays as long as the array, however that was made."""
    pytest.importorskip("numpy", reason="numpy is not installed")
    run_python(ARRAYS, where, way, "")


@pytest.mark.parametrize("raw", ["raw before", "raw after"])
def test_an_array_outlives_a_buffer_whose_map_was_given_out(raw: str) -> None:
    """Giving out the map does not change how long arrays on it live."""
    pytest.importorskip("numpy", reason="numpy is not installed")
    run_python(ARRAYS, None, "numpy.ndarray", raw)


def test_memory_goes_with_its_last_view(make_buffer) -> None:
    buffer = SharedBuffer.attach(make_buffer(b"abc"))
    memory = weakref.ref(buffer.raw[0])
    view = buffer.buf
    buffer.close()
    assert memory() is not None
    del view
    assert memory() is None


def test_close_without_views_unmaps_at_once(make_buffer) -> None:
    buffer = SharedBuffer.attach(make_buffer(b"abc"))
    memory = weakref.ref(buffer.raw[0])
    buffer.close(strict=True)
    assert memory() is None


def test_strict_close_names_the_views(make_buffer) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    buffer = make_buffer(pattern(KiB))
    views = [buffer.buf, buffer.view("d", 0, 2), buffer.ndarray((2, 2), "i4")]
    with pytest.raises(BufferError) as caught:
        buffer.close(strict=True)
    assert "views in use: memoryview (.buf); memoryview (.view('d')); ndarray(2, 2) of int32" in (
        str(caught.value)
    )
    assert not buffer.closed
    assert buffer[:] == pattern(KiB)
    buffer[0] = 9
    assert views[0][0] == 9
    del views[1:]
    with pytest.raises(BufferError, match=r"in use: memoryview \(.buf\)\. Delete"):
        buffer.close(strict=True)
    views.clear()
    buffer.close(strict=True)
    assert buffer.closed


def test_gone_views_are_forgotten(make_buffer) -> None:
    buffer = make_buffer(10)
    for _ in range(100):
        assert buffer.buf[0] == buffer.view("B")[0] == buffer.ndarray(1, "u1")[0] == 0
    assert len(buffer._exports._out) == 1, "the one .buf that is given again"
    buffer.close(strict=True)
    assert buffer._exports._out == {}


def test_buf_may_be_released_by_its_user(make_buffer) -> None:
    buffer = make_buffer(b"abc")
    with buffer.buf as view:
        assert view is buffer.buf
    with pytest.raises(ValueError, match="released"):
        view[0]
    assert buffer.buf == b"abc"


def test_strict_close_sees_views_of_views(make_buffer) -> None:
    buffer = make_buffer(b"abc")
    piece = buffer.buf[1:]
    with pytest.raises(BufferError, match="a view of a view"):
        buffer.close(strict=True)
    assert piece == b"bc"
    piece.release()
    buffer.close(strict=True)


def test_strict_close_of_a_part(make_buffer) -> None:
    made = make_buffer(pattern(3 * mmap.PAGESIZE))
    with SharedBuffer.attach(made, offset=4097, length=100) as part:
        view = part.buf
        with pytest.raises(BufferError):
            part.close(strict=True)
        assert part[:] == view == made[4097:4197]
        assert len(part) == 100
        del view
        part.close(strict=True)


@pytest.mark.parametrize("content", [b"ab", pattern(KiB)])
def test_strict_close_of_what_was_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    buffer = open_bytes(tmp_path / "x")
    views = [buffer.buf, buffer.view("b"), buffer.buf[1:], buffer.open()]
    while views:
        with pytest.raises(BufferError, match="views in use"):
            buffer.close(strict=True)
        assert not buffer.closed
        assert buffer[:] == content
        del views[0]
    buffer.close(strict=True)
    assert buffer.closed


@pytest.mark.parametrize("content", [b"", b"a"])
def test_strict_close_of_next_to_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with open_bytes(tmp_path / "x") as buffer:
        assert buffer.buf == content
        buffer.close(strict=True)
        assert buffer.closed


@pytest.mark.parametrize("part", [slice(None), slice(1, 2)])
def test_strict_close_sees_views_from_before_a_resize(make_buffer, part: slice) -> None:
    buffer = make_buffer(b"abc")
    view = buffer.buf[part]
    buffer.resize(5000)
    buffer.resize(9000)
    with pytest.raises(BufferError, match="a view of the memory before it was resized"):
        buffer.close(strict=True)
    assert not buffer.closed
    assert buffer[:3] == b"abc"
    assert view == b"abc"[part]
    view.release()
    buffer.close(strict=True)
    assert buffer.closed


PLACES = """
import sys
from shmkit import SharedBuffer
def mine(buffer):
    return buffer.view("B")  # line 5
with SharedBuffer.create(None, 10) as buffer:
    view = mine(buffer)
    try:
        buffer.close(strict=True)
    except BufferError as error:
        print(error)
    del view
"""


@pytest.mark.parametrize(("debug", "told"), [("1", True), ("0", False), ("", False)])
def test_places_are_told_when_debugging(debug: str, told: bool) -> None:
    result = run_python(PLACES, env={"SHMKIT_DEBUG": debug, "PYTHONDEVMODE": ""})
    # The harness puts one line before the program's own.
    assert bool(re.search(r"\(\.view\('B'\)\), made at \S+child\.py:6", result.stdout)) is told
    assert ("made at" in result.stdout) is told


def test_exit_keeps_the_exception_in_flight(make_where, monkeypatch) -> None:
    with pytest.raises(KeyError) as caught, SharedBuffer.create(make_where("shm"), 10) as buffer:
        fail_while_unlinking_fails(buffer, monkeypatch)
    assert "could not be unlinked: not today" in caught.value.__notes__[0]
    monkeypatch.undo()
    assert buffer.closed
    buffer.unlink()


def test_exit_without_exception_tells_a_failure(make_where, monkeypatch) -> None:
    with (
        pytest.raises(PermissionError, match="not today"),
        SharedBuffer.create(make_where("shm"), 10) as buffer,
    ):
        backend_fails(monkeypatch)
    monkeypatch.undo()
    buffer.unlink()


def fail_while_unlinking_fails(buffer: SharedBuffer, monkeypatch) -> None:
    backend_fails(monkeypatch)
    raise KeyError(buffer.buf)  # the error holds a view, too


def backend_fails(monkeypatch) -> None:
    def refuse(self, name: str) -> None:
        raise PermissionError("not today")

    monkeypatch.setattr("shmkit.memory.backends.named.NamedBackend.unlink", refuse)


def test_entering_a_closed_handle(make_buffer) -> None:
    buffer = make_buffer(1)
    buffer.close()
    with pytest.raises(ClosedError), buffer:
        raise AssertionError("not reached")


def test_dropped_handles_are_told(make_buffer) -> None:
    made = make_buffer(b"abc")
    buffer = SharedBuffer.attach(made)
    text = repr(buffer)
    with pytest.warns(ResourceWarning, match=re.escape(f"unclosed {text}")) as caught:
        del buffer
    assert repr(caught[0].source) == text
    assert made[:] == b"abc"


def test_raw_map_outlives_the_handle(make_buffer) -> None:
    """It is like a view: it stays readable, and goes with its last reference."""
    buffer = SharedBuffer.attach(make_buffer(b"abc"))
    memory, start = buffer.raw
    gone = weakref.ref(memory)
    with pytest.raises(BufferError, match="or its map"):
        buffer.close(strict=True)
    buffer.close()
    assert memory[start : start + 3] == b"abc"
    del memory
    assert gone() is None
