"""The benchmark of executors runs and tells every row."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tools.programs import run_program

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "executor.py"
ROWS = [
    "shmkit.ProcessPoolExecutor",
    "concurrent.futures.ProcessPoolExecutor",
    "multiprocessing.Pool",
]


def test_every_row_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    only = ["--only", *ROWS]

    ended = run_program(str(SCRIPT), "--quick", *only, "--json", str(file), timeout=50)

    assert ended.status == 0, ended.stdout + ended.stderr
    for text in [*ROWS, "one by one, us", f"{ROWS[0]} / {ROWS[1]}"]:
        assert text in ended.stdout
    results = json.loads(file.read_text())["results"]
    assert {f"{row}, 8 MiB calls/s" for row in ROWS} <= set(results)
