"""The benchmark of locks runs and tells every row."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tools.programs import run_program

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "lock.py"
ROWS = ["shmkit.Lock", "shmkit.Semaphore", "multiprocessing.Lock", "posix_ipc.Semaphore"]


def test_every_row_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    ended = run_program(str(SCRIPT), "--quick", "--json", str(file), timeout=50)

    assert ended.status == 0, ended.stdout + ended.stderr
    results = json.loads(file.read_text())["results"]
    for row in ROWS:
        assert row in ended.stdout
        assert results[f"{row}, uncontended, ns"][0] > 0
        assert results[f"{row}, with, ns"][0] > 0
        assert results[f"{row}, two at once, thousand/s"][0] > 0
