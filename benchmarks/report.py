"""What a benchmark prints: the machine it ran on, tables, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from exchange import exchange

__all__ = ["Table", "Watch", "conditions", "print_conditions", "print_table", "write_json"]

_PEERS = ("shmkit", "posix_ipc", "pyzmq", "faster-fifo", "iceoryx2")


class Table(NamedTuple):
    """Rows of text under a title; the first column is the row's name.

    Attributes:
        title: what it shows, with the unit.
        columns: the heads, of the first column too.
        rows: as many cells each as there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def conditions() -> dict[str, Any]:
    """What a figure depends on besides the code: machine, system, interpreter, load, versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": _commit(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "nice": os.nice(0),
        "autogroup": _autogroup(),
        "versions": {name: version for name in _PEERS if (version := _version(name))},
    }


def _machine() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return f"{names[0] if names else 'processor'} ({platform.machine()})"


def _autogroup() -> str:
    """Where Linux groups by session, niceness counts inside the session only; this is between."""
    try:
        return Path("/proc/self/autogroup").read_text().strip().rpartition("nice ")[2]
    except OSError:
        return "none"


def _commit() -> str:
    def git(*args: str) -> str:
        home = Path(__file__).parent
        ended = subprocess.run(
            ["git", *args], cwd=home, capture_output=True, text=True, check=True, timeout=10
        )
        return ended.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/src")
        return git("rev-parse", "--short", "HEAD") + (" with changes in src" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def print_conditions(found: dict[str, Any], missing: dict[str, str]) -> None:
    """The header: conditions, what is missing and why, and a warning when the machine is busy."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    load = " ".join(f"{value:.2f}" for value in found["load"])
    print(f"machine  {found['machine']}, {found['cores']} cores, {found['kernel']}")
    print(f"python   {found['python']}; {versions}")
    print(f"commit   {found['commit']}; {found['date']}")
    print(f"load     {load}; niceness {found['nice']}, of the session {found['autogroup']}")
    for library, reason in missing.items():
        print(f"missing  {library}: {reason}")
    if found["load"][0] > found["cores"] / 2:
        print(
            f"WARNING: other programs keep this machine busy (load {found['load'][0]:.2f} on "
            f"{found['cores']} cores): trust the ratios more than the figures, and neither much"
        )
    print(flush=True)


class Watch:
    """What else happens to the machine, from now on."""

    def __init__(self) -> None:
        self._exchange = [exchange()]
        self._before = _times()

    def report(self) -> dict[str, Any]:
        """Say it: what share of the processors' time others took, how fast cores exchange."""
        before, now = self._before, _times()
        found: dict[str, Any] = {}
        if before and now:
            elapsed, own, anybody = (late - early for early, late in zip(before, now, strict=True))
            found["others"] = max(0.0, anybody - own) / (elapsed * (os.cpu_count() or 1))
            print(f"Meanwhile other programs took {found['others']:.0%} of the processors' time.")
        self._exchange.append(exchange())
        speeds = [speed for speed in self._exchange if speed]
        if speeds:
            found["exchange"] = speeds
            told = ", then ".join(f"{speed:.0f}" for speed in speeds)
            print(f"What a core has written, another reads at {told} GB/s.")
        print(flush=True)
        return found


def _times() -> tuple[float, float, float] | None:
    """Seconds: on the clock, of processors by this program and its ended children, by anybody."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
    ticks = user + nice + system + irq + softirq + steal
    return time.monotonic(), sum(os.times()[:4]), ticks / os.sysconf("SC_CLK_TCK")


def print_table(table: Table, *, markdown: bool = False) -> None:
    """With rich where it is installed, else as plain text; or for a document."""
    if markdown:
        _print_markdown(table)
        return
    try:
        from rich.console import Console
        from rich.table import Table as RichTable
    except ImportError:
        _print_plain(table)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    drawn = RichTable(title=table.title, title_justify="left")
    for index, name in enumerate(table.columns):
        drawn.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)


def _print_markdown(table: Table) -> None:
    print(f"{table.title}\n")
    for line in (table.columns, ["---", *("--:" for _ in table.columns[1:])], *table.rows):
        print(f"| {' | '.join(line)} |")
    print(flush=True)


def _print_plain(table: Table) -> None:
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(table.title)
    for line in lines:
        first, *others = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
    print(flush=True)


def write_json(path: Path, found: dict[str, Any], results: dict[str, Any]) -> None:
    """Every figure of every round, with the conditions."""
    path.write_text(json.dumps({"conditions": found, "results": results}, indent=1) + "\n")
