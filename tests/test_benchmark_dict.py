"""The benchmark of dicts runs and tells every row."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tools.programs import run_program

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "dict.py"
ROWS = ["shmkit.SharedDict", "Manager().dict()"]
COLUMNS = ["read", "write", "one writes, 100 keys", "one writes, 10,000 keys"]


def test_every_row_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    given = ["--quick", "--only", *ROWS, "--json", str(file), "--many", "500"]

    ended = run_program("-W", "error", str(SCRIPT), *given, timeout=50)

    assert ended.status == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    for text in [*ROWS, *COLUMNS, "shmkit.SharedDict / Manager().dict()", "500 keys"]:
        assert text in ended.stdout
    results = json.loads(file.read_text())["results"]
    assert {f"{row}, {column}" for row in ROWS for column in COLUMNS} == set(results)
