"""Plots of what ring.py measured: `python benchmarks/plot.py figures.json`; they go to docs/plots.

    throughput.svg   frames a second by their size, one to one
    latency.svg      there and back: p50, p95 and p99, back to back and after a silence

The figures are those of `ring.py --json`, with the topologies spsc and rtt. matplotlib draws. The
plots have no background, colours of middle brightness, and texts and axes in the colour of text: so
they can be read on a light page and on a dark one.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Rates", "Trips", "main", "rates", "themed", "trips"]

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "plots"
BYTES = {"64 B": 64, "1 KiB": 1 << 10, "64 KiB": 64 << 10, "1 MiB": 1 << 20}
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
OURS, BOUND = "shmkit", "raw C"

# The colour of text is known only where the plot is shown. Until then this stands for it.
TEXT = "#010203"
STYLE = """<style>
  svg { color: #24292f; }
  @media (prefers-color-scheme: dark) { svg { color: #d0d7de; } }
 </style>"""
# By the library: a name's first word up to a comma. Bright enough for dark, dark enough for light.
COLOURS = {
    "shmkit.Ring": "#d1242f",
    "multiprocessing.Queue": "#2f81f7",
    "multiprocessing.SimpleQueue": "#2aa198",
    "multiprocessing.Pipe": "#8250df",
    "pyzmq ipc": "#bf8700",
    "faster-fifo": "#2da44e",
    "iceoryx2": "#d6409f",
    "posix_ipc.MessageQueue": "#a0703c",
    BOUND: TEXT,
}
OTHER = "#808080"
MARKS = "osD^"  # of the variants of one library
QUANTILE_MARKS = {"p50": "o", "p95": "|", "p99": "x"}


class Rates(NamedTuple):
    """One line of the throughput plot.

    Attributes:
        name: the contender's.
        sizes: bytes of the frames, ascending.
        rates: frames a second with each: medians over the rounds.
    """

    name: str
    sizes: list[int]
    rates: list[float]


class Trips(NamedTuple):
    """One line of a latency plot.

    Attributes:
        name: the contender's.
        times: seconds by the quantile: medians over the rounds, as ring.py prints them.
    """

    name: str
    times: dict[str, float]


# -- the figures -----------------------------------------------------------------------------------


def rates(cells: Iterable[dict[str, Any]]) -> list[Rates]:
    """Lines of the throughput plot, the fastest first; a contender without figures has none."""
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        if cell["rounds"]:
            sizes = found.setdefault(cell["contender"], {})
            sizes[BYTES[cell["column"]]] = median(cell["rounds"])
    lines = [Rates(n, sorted(s), [s[size] for size in sorted(s)]) for n, s in found.items()]
    # By what they do with their smallest frames; who takes only large ones comes last.
    return sorted(lines, key=lambda line: (line.sizes[0], -line.rates[0]))


def trips(cells: Iterable[dict[str, Any]]) -> dict[str, list[Trips]]:
    """Lines of each latency plot by its title, the shortest median first."""
    found: dict[str, list[Trips]] = {}
    for cell in cells:
        lines = found.setdefault(cell["column"], [])
        if cell["rounds"]:
            rounds = [sorted(times) for times in cell["rounds"]]
            times = {name: median(at(r, part) for r in rounds) for name, part in QUANTILES.items()}
            lines.append(Trips(cell["contender"], times))
    return {title: sorted(ls, key=lambda line: line.times["p50"]) for title, ls in found.items()}


def at(ascending: list[float], part: float) -> float:
    """The value below which so large a part of them is."""
    return ascending[min(int(part * len(ascending)), len(ascending) - 1)]


# -- drawing ---------------------------------------------------------------------------------------


def colour_of(name: str) -> str:
    """Of a contender's library; one in grey is not known here."""
    return COLOURS.get(name.partition(",")[0], OTHER)


def is_bound(name: str) -> bool:
    """Whether it is no contender, but the bound for ours."""
    return name.partition(",")[0] == BOUND


def draw_rates(lines: list[Rates], under: str) -> Figure:
    """Frames a second by size, both logarithmic."""
    figure = new_figure(4.6, under)
    axes = figure.add_axes((0.09, 0.17, 0.58, 0.73))
    variants: dict[str, int] = {}
    for line in lines:
        colour = colour_of(line.name)
        number = variants[colour] = variants.get(colour, -1) + 1
        ours = line.name.startswith(OURS)
        axes.plot(
            line.sizes,
            line.rates,
            color=colour,
            label=line.name,
            linestyle="--" if is_bound(line.name) else "-",
            linewidth=2.4 if ours else 1.3,
            marker=MARKS[number % len(MARKS)],
            markersize=6 if ours else 4.5,
            zorder=4 if is_bound(line.name) else 3 if ours else 2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(BYTES.values()), list(BYTES))
    axes.set_xlabel("bytes of a frame")
    axes.set_title("One process to one other: frames a second", loc="left", fontsize=11)
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0, frameon=False)
    return figure


def draw_trips(plots: dict[str, list[Trips]], under: str) -> Figure:
    """Microseconds there and back, logarithmic; one plot beside the other."""
    rows = max(map(len, plots.values()))
    figure = new_figure(1.5 + 0.3 * rows, under)
    width = 0.98 / len(plots)
    for number, (title, lines) in enumerate(plots.items()):
        axes = figure.add_axes((number * width + 0.21, 0.24, width - 0.22, 0.63))
        draw_trip_lines(axes, lines)
        axes.set_title(title.capitalize(), loc="left", fontsize=11)
    marks = axes.get_legend_handles_labels()
    figure.legend(*marks, loc="lower right", ncols=len(QUANTILES), frameon=False, handlelength=1)
    return figure


def draw_trip_lines(axes: Axes, lines: list[Trips]) -> None:
    """The shortest on top."""
    names = [line.name for line in lines]
    for row, line in enumerate(lines):
        microseconds = [value * 1e6 for value in line.times.values()]
        colour = colour_of(line.name)
        width = 2.4 if line.name.startswith(OURS) else 1.3
        axes.hlines(row, min(microseconds), max(microseconds), color=colour, linewidth=width)
        for mark, value in zip(QUANTILE_MARKS.values(), microseconds, strict=True):
            axes.plot(value, row, marker=mark, color=colour, markersize=6, linestyle="")
    for name, mark in QUANTILE_MARKS.items():  # for the legend only
        axes.plot([], [], marker=mark, color=OTHER, markersize=6, linestyle="", label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("microseconds, 64 B there and back")
    axes.grid(visible=True, which="major", axis="x", alpha=0.25)


def new_figure(height: float, under: str) -> Figure:
    """An empty one, with a line of small text below it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    axes = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    mpl.rcParams.update(dict.fromkeys((*axes, "text.color"), TEXT))
    mpl.rcParams.update(
        {
            "font.family": "sans-serif",
            "font.size": 9,
            "svg.fonttype": "none",  # text stays text
            "svg.hashsalt": "shmkit",  # the same figures give the same file
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    figure = Figure(figsize=(9.5, height))
    figure.text(0.01, 0.02, under, fontsize=7.5, alpha=0.8)
    return figure


def themed(svg: str) -> str:
    """A plot whose text has the colour of the page's text, where that is light and where dark."""
    head, opening, rest = svg.partition("<svg ")
    tag, end, content = rest.partition(">")
    return f"{head}{opening}{tag}{end}\n {STYLE}{content}".replace(TEXT, "currentColor")


def save(figure: Figure, path: Path) -> None:
    """As SVG, without a background and without a date."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    lines = (line.rstrip() for line in themed(text.getvalue()).splitlines())
    path.write_text("\n".join(lines) + "\n")
    print(f"wrote {path}")


def describe(found: dict[str, Any]) -> str:
    """The machine and what it ran, for the line below a plot."""
    parts = (found["machine"], f"{found['cores']} cores", found["kernel"], found["python"])
    return ", ".join(parts) + f", commit {found['commit']}, {found['date'][:10]}"


def main(argv: list[str] | None = None) -> int:
    """Draw what the file has figures of; 1 if that is nothing, or matplotlib is not here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("figures", type=Path, help="what ring.py --json wrote")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: docs/plots")
    given = parser.parse_args(argv)
    figures = json.loads(given.figures.read_text())
    results, under = figures["results"], describe(figures["conditions"])
    lines, plots = rates(results.get("spsc", [])), trips(results.get("rtt", []))
    plots = {title: drawn for title, drawn in plots.items() if drawn}
    if not (lines or plots):
        print(f"{given.figures} has no figures of spsc or rtt", file=sys.stderr)
        return 1
    given.folder.mkdir(parents=True, exist_ok=True)
    try:
        if lines:
            save(draw_rates(lines, under), given.folder / "throughput.svg")
        if plots:
            save(draw_trips(plots, under), given.folder / "latency.svg")
    except ModuleNotFoundError as error:
        print(f"{error}: install what the dependency group bench has", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
