"""The benchmarks of files run, tell every row, and take no wrong answer. No time is judged."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.tools.programs import run_program

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
OPERATIONS = [
    "read",
    "find, soon",
    "find, at the end",
    "regex",
    "seek and find",
    "write",
    "find and replace",
    "random 4 KiB",
]


def test_every_row_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ["--quick", "--size", "0.1", "--json", str(file)]
    ended = run_program(
        "-W",
        "error",
        str(BENCHMARKS / "files.py"),
        *options,
        env={"TMPDIR": str(tmp_path)},
        timeout=50,
    )

    assert (ended.status, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    assert "failed" not in ended.stdout
    for text in [*OPERATIONS, "open(), text", "open(), bytes", "mmap.mmap", "the tutorial's"]:
        assert text in ended.stdout
    cells = json.loads(file.read_text())["results"]["0.1 MB"]
    assert all(cell["failure"] == "" and len(cell["seconds"]) == 1 for cell in cells)
    ours = [cell for cell in cells if cell["contender"] == "shmkit.SharedBuffer"]
    assert [cell["operation"] for cell in ours] == [o for o in OPERATIONS for _ in range(2)]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("report", "files", "file_contenders"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return pytest.importorskip("files")


def test_wrong_answers_are_failures(files: Any, tmp_path: Path) -> None:
    """Who finds something else than the others, or now this and now that, has no time."""
    (tmp_path / "text").write_bytes(b"x")
    counter = iter(range(100))

    def contender(name: str, find: Any) -> Any:
        return files.FileContender(name, lambda path: nullcontext(path), {"read": find})

    cells = [
        files.Cell(contender("right", lambda path, _: 5), "read", "alone"),
        files.Cell(contender("wrong", lambda path, _: 6), "read", "alone"),
        files.Cell(contender("unsteady", lambda path, _: next(counter)), "read", "alone"),
        files.Cell(contender("failing", lambda path, _: 1 // 0), "read", "alone"),
    ]
    files.in_turns(cells, 1, tmp_path / "text", 0.0)
    assert [cell.failure for cell in cells] == [
        "",
        "found 6, others 5",
        "ValueError: found now this, now that: [0, 1]",
        "ZeroDivisionError: integer division or modulo by zero",
    ]


def test_the_text_is_what_it_says(files: Any, tmp_path: Path) -> None:
    files.make_text(tmp_path / "text", 100_000)
    text = (tmp_path / "text").read_bytes()
    assert len(text) == 100_000
    assert text.isascii()
    assert text.find(files.LATE) == 100_000 - len(files.LATE)
    assert 0 < text.find(b" the ") < 10_000
    assert b" eht " not in text
