"""captures: the pictures of docs/commands.md can be made, and show what they should."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.shm import in_own_shm

DOCS = Path(__file__).parents[2] / "docs"


def text_of(path: Path) -> str:
    """The text in an SVG."""
    pieces = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
    return html.unescape(" ".join(pieces)).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.slow
def test_pictures_are_made_by_real_processes(tmp_path) -> None:
    command = in_own_shm(sys.executable, "-m", "tests.tools.captures", str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    check(tmp_path)


def test_pictures_of_the_docs_show_the_same() -> None:
    check(DOCS / "captures")
    page = (DOCS / "commands.md").read_text()
    for name in ("ls", "inspect", "top"):
        assert f"captures/{name}.svg" in page


def check(folder: Path) -> None:
    ls, inspect, top = (text_of(folder / f"{name}.svg") for name in ("ls", "inspect", "top"))
    for name in ("camera", "jobs", "accounts", "orders", "left-behind"):
        assert name in ls
        assert name in top
    assert "orphan" in ls
    assert "deadlock: process" in inspect
    assert "dict" in inspect
    assert "python jobs.py" in inspect
    assert "/" not in inspect.replace("MB/s", "")  # no path of the machine that made it
    assert "MB/s" in top
