"""Every program in demos/ does what it says, and the index lists them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.tools.programs import run_program

DEMOS = Path(__file__).resolve().parent.parent / "demos"
SCRIPTS = sorted(DEMOS.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_demo_checks_its_own_result(script: Path, tmp_path: Path) -> None:
    ended = run_program("-W", "error", str(script), env={"TMPDIR": str(tmp_path)})

    assert ended.status == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "ok"
    assert ended.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_demo_says_what_it_shows(script: Path) -> None:
    assert ast.get_docstring(ast.parse(script.read_text()))


def test_index_lists_exactly_the_demos() -> None:
    rows = re.findall(
        r"^\| \[(\S+)\]\((\S+)\) \| (.+) \| `python demos/(\S+)` \|$",
        (DEMOS / "README.md").read_text(),
        re.MULTILINE,
    )

    assert all(name == link == run for name, link, _, run in rows)
    assert sorted(name for name, *_ in rows) == [script.name for script in SCRIPTS]
