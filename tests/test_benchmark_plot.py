"""The plots: which figures they show, and that they can be read on light and on dark pages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.tools.programs import run_program

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SVG = "{http://www.w3.org/2000/svg}"
CONDITIONS = {
    "machine": "a machine",
    "cores": 2,
    "kernel": "Linux 6",
    "python": "CPython 3.11.7",
    "commit": "abc1234",
    "date": "2026-11-29T00:00:00+00:00",
}


def cell(contender: str, column: str, *rounds: Any) -> dict[str, Any]:
    failure = "" if rounds else "was not done when its time was up"
    return {"contender": contender, "column": column, "rounds": [*rounds], "failure": failure}


SPSC = [
    cell("multiprocessing.Pipe", "1 KiB", 2e5),
    cell("multiprocessing.Pipe", "64 B", 3e5, 1e5, 9e5),
    cell("shmkit.Ring", "64 B", 9e6),
    cell("shmkit.Ring, reserve/peek", "1 MiB", 2e4),
    cell("pyzmq ipc", "64 B"),
]
RTT = [
    cell("multiprocessing.Pipe", "back to back", [5e-5] * 100),
    cell("shmkit.Ring", "back to back", [1e-6] * 99 + [1e-3], [3e-6] * 100, [2e-6] * 100),
    cell("pyzmq ipc", "back to back"),
    cell("raw C", "after 2 ms of silence", [1e-5] * 90 + [4e-5] * 10),
]


@pytest.fixture
def plot(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return pytest.importorskip("plot")


def write(folder: Path, **results: Any) -> Path:
    file = folder / "figures.json"
    file.write_text(json.dumps({"conditions": CONDITIONS, "results": results}))
    return file


def draw(figures: Path, folder: Path) -> None:
    """In a process of its own: matplotlib keeps the files of its fonts open."""
    pytest.importorskip("matplotlib")
    script = str(BENCHMARKS / "plot.py")
    ended = run_program("-W", "error", script, str(figures), "--folder", str(folder), timeout=50)
    assert (ended.status, ended.stderr) == (0, "")


def test_rates_are_medians_by_size_the_fastest_first(plot: Any) -> None:
    assert plot.rates(SPSC) == [
        ("shmkit.Ring", [64], [9e6]),
        ("multiprocessing.Pipe", [64, 1024], [3e5, 2e5]),
        ("shmkit.Ring, reserve/peek", [1 << 20], [2e4]),
    ]


def test_trips_are_medians_of_each_rounds_quantiles(plot: Any) -> None:
    hot, silent = plot.trips(RTT).items()
    assert hot == (
        "back to back",
        [
            ("shmkit.Ring", {"p50": 2e-6, "p95": 2e-6, "p99": 3e-6}),
            ("multiprocessing.Pipe", {"p50": 5e-5, "p95": 5e-5, "p99": 5e-5}),
        ],
    )
    assert silent[1] == [("raw C", {"p50": 1e-5, "p95": 4e-5, "p99": 4e-5})]


def test_variants_have_the_colour_of_their_library(plot: Any) -> None:
    assert plot.colour_of("shmkit.Ring, batches") == plot.colour_of("shmkit.Ring")
    assert plot.colour_of("something new") == plot.OTHER


def test_text_has_the_colour_of_the_page(plot: Any) -> None:
    text = f'<?xml version="1.0"?>\n<svg width="1"><text style="fill: {plot.TEXT}">x</text></svg>'

    root = ET.fromstring(plot.themed(text))

    assert root[0].tag == "style"
    assert "prefers-color-scheme: dark" in (root[0].text or "")
    assert root[1].get("style") == "fill: currentColor"


def test_both_plots_are_drawn(tmp_path: Path) -> None:
    draw(write(tmp_path, spsc=SPSC, rtt=RTT, mpmc=[]), tmp_path / "plots")

    for name, shown in {
        "throughput.svg": ["shmkit.Ring, reserve/peek", "multiprocessing.Pipe", "64 B", "1 MiB"],
        "latency.svg": ["shmkit.Ring", "raw C", "p50", "p95", "p99", "Back to back"],
    }.items():
        text = (tmp_path / "plots" / name).read_text()
        root = ET.fromstring(text)
        texts = {element.text for element in root.iter(f"{SVG}text")}
        shown.append("a machine, 2 cores, Linux 6, CPython 3.11.7, commit abc1234, 2026-11-29")
        assert set(shown) <= texts
        assert "pyzmq ipc" not in texts  # it has no figures
        # Neither black nor white, which one of the pages would hide, and nothing behind it all.
        colours = set(re.findall(r"(?:fill|stroke): (#\w+)", text))
        assert colours
        for colour in colours:
            assert 60 < sum(int(colour[at : at + 2], 16) for at in (1, 3, 5)) / 3 < 190, colour


def test_the_same_figures_give_the_same_files(tmp_path: Path) -> None:
    figures = write(tmp_path, spsc=SPSC, rtt=RTT)
    for folder in ("one", "other"):
        draw(figures, tmp_path / folder)
    for name in ("throughput.svg", "latency.svg"):
        one, other = (tmp_path / folder / name for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_without_matplotlib_it_says_what_to_install(
    plot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(plot.sys.modules, "matplotlib", None)

    assert plot.main([str(write(tmp_path, spsc=SPSC)), "--folder", str(tmp_path)]) == 1

    assert "matplotlib" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.svg"))


def test_figures_of_nothing_that_is_drawn(plot: Any, tmp_path: Path, capsys: Any) -> None:
    assert plot.main([str(write(tmp_path, mpmc=[])), "--folder", str(tmp_path)]) == 1
    assert "has no figures of spsc or rtt" in capsys.readouterr().err
