"""The benchmark of making and letting go runs and tells every row."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tools.programs import run_program

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "lifecycle.py"


def test_every_row_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    ended = run_program(str(SCRIPT), "--quick", "--json", str(file), timeout=50)

    assert ended.status == 0, ended.stdout + ended.stderr
    results = json.loads(file.read_text())["results"]
    for row in ("SharedBuffer of a page, SharedBuffer, shm:", "Import, with the interpreter"):
        assert any(name.startswith(row) and times[0] > 0 for name, times in results.items())
