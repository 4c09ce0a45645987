"""The benchmark of queues runs and tells every row, and does not stand in the way of `queue`."""

from __future__ import annotations

import json
import queue
from pathlib import Path

from tests.tools.programs import run_program

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
ROWS = ["shmkit.Queue", "shmkit.JoinableQueue", "multiprocessing.Queue"]


def test_every_row_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    script = str(BENCHMARKS / "queue.py")
    only = ["--only", "shmkit", "multiprocessing.Queue"]

    ended = run_program("-W", "error", script, "--quick", *only, "--json", str(file), timeout=50)

    assert ended.status == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    for text in [*ROWS, "small dict", "8 MiB array", "shmkit.Queue / multiprocessing.Queue"]:
        assert text in ended.stdout
    results = json.loads(file.read_text())["results"]
    assert {f"{row}, 8 MiB array" for row in ROWS} <= set(results)


def test_a_program_in_that_folder_gets_the_standard_librarys_queue() -> None:
    source = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import queue; "
        "print(queue.Full, queue.__file__)"
    )

    ended = run_program("-c", source)

    assert ended.stdout == f"<class 'queue.Full'> {queue.__file__}\n"
