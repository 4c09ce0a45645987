"""A map keeps no descriptor, on every Python: its number may be another file's by the end."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import pytest

from shmkit import SharedBuffer
from shmkit.memory import untracked
from tests.processes import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere mmap keeps one")

DAEMON = """
import os
from shmkit import SharedBuffer
made = [SharedBuffer.create(where, 100) for where in args[0]]
views = [buffer.buf for buffer in made]
os.closerange(3, 200)
files = [open(args[1], "rb") for _ in range(60)]  # they get the numbers
for buffer in made:
    buffer[:3] = b"abc"
    buffer.close()
del views, buffer, made
assert {file.read() for file in files} == {b"content"}
"""


def test_a_program_that_closed_all_descriptors_keeps_its_files(unique_name, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    names = (None, f"file:{tmp_path / 'buffer'}")
    assert run_python(DAEMON, names, str(path)).stderr == ""


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="mmap keeps none when told so")
def test_the_place_is_found_or_nothing_is_done(tmp_path: Path, monkeypatch) -> None:
    assert untracked._place() > 0
    monkeypatch.setattr(untracked, "_place", lambda: 0)
    with SharedBuffer.create(tmp_path / "file", 10) as buffer:
        buffer[:3] = b"abc"
    assert (tmp_path / "file").read_bytes()[:3] == b"abc"


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="mmap keeps none when told so")
def test_a_map_without_a_descriptor_is_left_as_it_is() -> None:
    for _ in range(2):
        with mmap.mmap(-1, 10) as memory:
            untracked.forget_descriptor(memory)
            untracked.forget_descriptor(memory)
            memory[:3] = b"abc"
            assert memory[:3] == b"abc"


def test_other_numbers_are_no_duplicate(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as one, (tmp_path / "b").open("wb") as two:
        first = one.fileno()
        second = os.dup(first)
        assert untracked._is_duplicate(second, first)
        os.close(second)
        for number in (first, second, two.fileno(), -1, -5, 99999):
            assert not untracked._is_duplicate(number, first)
