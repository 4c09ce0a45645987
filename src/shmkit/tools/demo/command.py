"""`shmkit demo`: stream real files through shared memory to workers, and check their results."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shmkit.errors import ShmkitError
from shmkit.tools.demo.signals import put_off_stop_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shmkit.tools.demo.wordcount import Report

__all__ = ["demo"]

TOP = 10
REDRAW = 0.1  # seconds between two drawings of the progress bar
MAX_NAMED = 10  # files named on stderr for one reason


class Memory(enum.StrEnum):
    """Where the rings are: anonymous, in named segments, in files."""

    ANON = "anon"
    SHM = "shm"
    FILE = "file"


class Method(enum.StrEnum):
    """How the processes are started."""

    FORK = "fork"
    SPAWN = "spawn"
    FORKSERVER = "forkserver"


def demo(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Files, or directories to take every file of. Default: the standard library.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[Memory, typer.Option(help="Where the rings are.")] = Memory.ANON,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes.", show_default="one per core")
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(help="How processes are started.", show_default="the platform's way"),
    ] = None,
) -> None:
    """Count the lines and words of real files in several processes, and verify the result.

    A reader process streams the files through rings in shared memory to the workers, which count
    lines and words and take the SHA-256 of each file; then one process alone does the same work.
    """
    # Here, and not above: `shmkit --help` needs none of it.
    from shmkit.tools.demo import pipeline, wordcount

    files = wordcount.find_files(paths) if paths else wordcount.standard_library()
    workers = workers or len(os.sched_getaffinity(0))
    stop_if_asked = put_off_stop_signals()
    try:
        with _progress_bars(files, stop_if_asked) as bar:
            start = time.perf_counter()
            report = pipeline.count_in_parallel(
                files,
                memory=memory,
                workers=workers,
                method=method,
                progress=bar(f"{workers} workers"),
            )
            parallel = time.perf_counter()
            reference = wordcount.count_serially(files, bar("verifying"))
            serial = time.perf_counter()
    except (ShmkitError, OSError) as error:
        print(f"shmkit demo: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except SystemExit as stop:
        print(f"stopped by {signal.Signals(int(stop.code or 128) - 128).name}", file=sys.stderr)
        raise
    raise typer.Exit(_conclude(report, reference, parallel - start, serial - parallel))


def _conclude(report: Report, reference: Report, parallel: float, serial: float) -> int:
    """Print the result, and whether it is right; returns the exit status."""
    _print_named("not read", [f"{path}: {why}" for path, why in sorted(report.unread.items())])
    if report.unread and not report.files:
        print("shmkit demo: no file could be read", file=sys.stderr)
        return 1
    _print_report(report, parallel, serial)
    verified = report == reference
    _print_line("verified", "yes" if verified else "no")
    if not verified:
        _print_named("differs (or changed meanwhile)", report.differences(reference))
    return 0 if verified else 1


def _print_report(report: Report, parallel: float, serial: float) -> None:
    _print_line("files", f"{len(report.files):,}")
    _print_line("bytes", f"{report.size:,}")
    _print_line("lines", f"{report.line_count:,}")
    _print_line("words", f"{report.word_count:,} ({len(report.words):,} different)")
    speed, alone = (report.size / seconds / 1e6 for seconds in (parallel, serial))
    _print_line("speed", f"{speed:.1f} MB/s (one process alone: {alone:.1f} MB/s)")
    print("\n     times  word")
    for word, times in report.top(TOP):
        print(f"{times:>10,}  {_printable(word)}")
    print()
    _print_line("digest", report.digest())


def _print_line(name: str, value: str) -> None:
    print(f"{name + ':':<10}{value}")


def _print_named(what: str, lines: Sequence[str]) -> None:
    """Print on stderr a line for each of the first few files, then how many more there are."""
    for line in lines[:MAX_NAMED]:
        print(f"{what}: {line}", file=sys.stderr)
    if len(lines) > MAX_NAMED:
        print(f"{what}: {len(lines) - MAX_NAMED} more", file=sys.stderr)


def _printable(word: bytes, width: int = 60) -> str:
    """A word as text that cannot move the cursor."""
    text = word[: 4 * width].decode(errors="backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= width else text[: width - 3] + "..."


@contextlib.contextmanager
def _progress_bars(
    paths: Sequence[str], stop_if_asked: Callable[[], None]
) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yield a function that makes a bar from its title.

    A bar is a function, too: it is called with the numbers of files and bytes that are done. It
    always calls `stop_if_asked`, and it draws only on a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda _title: lambda _files, _bytes: stop_if_asked()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    total = 0
    for path in paths:
        stop_if_asked()
        total += _size(path)
    # No auto_refresh: it starts a thread, and a process with threads should not fork.
    columns = ("{task.description:<12}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True
    ) as progress:

        def bar(title: str) -> Callable[[int, int], None]:
            task = progress.add_task(title, total=total)
            drawn = time.monotonic()

            def advance(files: int, size: int) -> None:
                nonlocal drawn
                stop_if_asked()
                if files == len(paths) or time.monotonic() - drawn > REDRAW:
                    progress.update(task, completed=size, refresh=True)
                    drawn = time.monotonic()

            return advance

        yield bar


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - speed
    except OSError:
        return 0
