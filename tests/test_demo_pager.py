"""The pager of demos/paged_viewer.py on a terminal, and without one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tools.programs import Terminal, run_program

PAGER = str(Path(__file__).resolve().parent.parent / "demos" / "paged_viewer.py")


class Keyboard(Terminal):
    """A terminal whose other keys work, too."""

    def press(self, keys: str) -> None:
        """Forget what was seen, and press some keys."""
        self._read()
        self.screen = b""
        os.write(self._master, keys.encode())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    lines = [f"line {number}\n" for number in range(100_000)]
    lines[70_000] = "here is the needle, and " + "long " * 60 + "end\n"
    path.write_text("".join(lines))
    return path


def test_paging_and_searching(text: Path) -> None:
    with Keyboard(PAGER, str(text), env={"COLUMNS": "80", "LINES": "11"}) as terminal:
        terminal.wait_for("byte 0 0%")
        for keys, seen in (
            (" ", "line 19"),
            ("b", "line 0"),
            ("j", "line 10"),
            ("k", "line 0"),
            ("G", "line 99999"),
            ("k", "line 99989"),
            ("g", "byte 0 0%"),
            ("/needle\n", "here is the needle"),
            ("n", "not found: needle"),
            ("j", "line 70001"),
            (" ", "line 70016"),
            ("bb", "line 69991"),
            ("g", "byte 0 0%"),
            ("/nowhere\n", "not found: nowhere"),
            ("?", "byte 0 0%"),
        ):
            terminal.press(keys)
            terminal.wait_for(seen, 10)
        terminal.press("q")
        assert terminal.wait().status == 0


def test_an_empty_file_is_paged(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with Keyboard(PAGER, str(tmp_path / "empty")) as terminal:
        terminal.wait_for("byte 0 0%")
        for keys in (" ", "b", "G", "n"):
            terminal.press(keys)
            terminal.wait_for("~")
        terminal.press("q")
        assert terminal.wait().status == 0


def test_find_without_a_terminal(text: Path, tmp_path: Path) -> None:
    ended = run_program("-W", "error", PAGER, str(text), "--find", "needle")
    assert (ended.status, ended.stderr) == (0, "")
    (line,) = ended.stdout.splitlines()
    assert int(line.split()[0]) == text.read_bytes().find(b"needle")
    assert "here is the needle, and long" in line

    ended = run_program(PAGER, str(text), "--find", "nowhere")
    assert (ended.status, ended.stdout, ended.stderr) == (1, "", "")
    for arguments in ([str(text)], [str(tmp_path / "none"), "--find", "x"]):
        ended = run_program(PAGER, *arguments)
        assert ended.status == 2
        assert "Traceback" not in ended.stderr
