"""The table of bars: what is held against what, and that it runs. No time is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.programs import run_program

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
SOURCE = ROOT / "src"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return pytest.importorskip("compare")


def new_row(compare: Any, unit: str, **more: Any) -> Any:
    return compare.Row("row", unit, lambda name, count: 1.0, 1, "ours", ("a", "b"), 2, 3, **more)


def test_more_is_better_for_rates(compare: Any) -> None:
    values = {"here": [60.0], "pure": [20.0], "a": [15.0], "b": [30.0], "raw C": [100.0]}

    verdicts = compare.judge(new_row(compare, "/s", raw=0.5), values)

    assert [tuple(verdict)[1:] for verdict in verdicts] == [
        ("pure", 2, 3.0, True),
        ("b", 3, 2.0, False),
        ("raw C", 0.5, 0.6, True),
    ]


def test_less_is_better_for_times(compare: Any) -> None:
    values = {"here": [60.0], "pure": [20.0], "a": [15.0], "b": [30.0]}

    verdicts = compare.judge(new_row(compare, "us"), values)

    assert [tuple(verdict)[1:] for verdict in verdicts] == [
        ("pure", 2, 3.0, False),
        ("a", 3, 4.0, False),
    ]


def test_a_ratio_is_the_median_of_the_ratios_within_each_round(compare: Any) -> None:
    # The middle of the values would give 20 / 10; the machine was slow in one round.
    values = {"here": [10.0, 20.0, 90.0], "pure": [10.0, 5.0, 30.0], "a": [1.0, 1.0, 1.0]}

    pure, _ = compare.judge(new_row(compare, "/s"), values)

    assert pure.ratio == 3.0


def test_a_time_that_is_short_enough_keeps_the_bar_to_raw_c(compare: Any) -> None:
    row = new_row(compare, "us", raw=2, enough=0.6)

    kept = compare.judge(row, {"here": [0.5], "raw C": [0.2]})[-1]
    missed = compare.judge(row, {"here": [0.7], "raw C": [0.2]})[-1]

    assert (kept.ratio, kept.kept) == (2.5, True)
    assert missed.kept is False


def test_what_was_not_measured_is_neither_kept_nor_missed(compare: Any) -> None:
    verdicts = compare.judge(new_row(compare, "/s", raw=1), {"here": [1.0], "a": [], "b": []})
    assert [(verdict.ratio, verdict.kept) for verdict in verdicts] == [(None, None)] * 3


def test_a_library_from_elsewhere_is_not_measured(compare: Any, tmp_path: Path) -> None:
    row = next(row for row in compare.ROWS if row.title == "Lock, with")
    with pytest.raises(compare.Failed, match=r"^imported .*shmkit/__init__.py, which is not in"):
        compare.Side(row, row.ours, tmp_path, 0.001)()


def test_the_reason_of_a_failure_is_told(compare: Any) -> None:
    row = next(row for row in compare.ROWS if row.title == "64 B")
    with pytest.raises(compare.Failed, match=r"^is not here$"):
        compare.Side(row, "no such contender", SOURCE, 0.001)()


def test_every_bar_of_a_row_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    script = str(BENCHMARKS / "compare.py")
    rows = ["--rows", "Lock", "AsyncQueue"]
    options = ["--quick", "--seconds", "0.01", "--pure", str(SOURCE), "--json", str(file)]

    ended = run_program("-W", "error", script, *options, *rows, timeout=50)

    assert ended.status == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    for text in ["Lock, with", "multiprocessing.Lock", "asyncio.Queue", "bars kept"]:
        assert text in ended.stdout
    results = json.loads(file.read_text())["results"]
    assert set(results["values"]["AsyncQueue, pairs"]) == {"here", "pure", "asyncio.Queue"}
    assert len(results["verdicts"]) == 6
    assert all(verdict["kept"] in {True, False} for verdict in results["verdicts"])


def test_a_wrong_path_is_told_at_once(tmp_path: Path) -> None:
    ended = run_program(str(BENCHMARKS / "compare.py"), "--pure", str(tmp_path))
    assert ended.status == 2
    assert f"there is no shmkit in {tmp_path}" in ended.stderr
