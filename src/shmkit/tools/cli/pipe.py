"""`shmkit send` and `shmkit recv`: a pipe through a ring between any two shells."""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shmkit.tools.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.tools.pipe import Mode

__all__ = ["recv", "send"]

_REDRAW: Final = 0.1  # seconds between two drawings of the progress bar
_CAPACITY: Final = 16 << 20

_Where = Annotated[
    str,
    typer.Argument(
        help="NAME, shm:NAME, file:PATH or a path.", autocompletion=output.complete_where
    ),
]
_Capacity = Annotated[
    int, typer.Option(min=4096, metavar="BYTES", help="Of a ring that is not there yet.")
]


def send(
    where: _Where,
    lines: Annotated[bool, typer.Option("--lines", help="Each line is a frame.")] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="The input is what `recv --frames` writes.")
    ] = False,
    capacity: _Capacity = _CAPACITY,
) -> None:
    """Send standard input through a ring: shmkit send WHERE < file.

    It ends when its end of file was reached and everything was received. The exit status is 1 if a
    receiver was killed or ended first.
    """
    mode = _mode("send", lines, frames)
    from shmkit.tools import pipe

    status = os.fstat(0)
    total = status.st_size if stat.S_ISREG(status.st_mode) else None
    with _telling("send"), _progress_bar("sending", total) as progress:
        pipe.send(_named(where), 0, mode=mode, capacity=capacity, progress=progress)


def recv(
    where: _Where,
    lines: Annotated[
        bool, typer.Option("--lines", help="Add a newline to frames without one.")
    ] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Write the length of each frame (4 bytes) before it.")
    ] = False,
    capacity: _Capacity = _CAPACITY,
) -> None:
    """Write what comes through a ring to standard output: shmkit recv WHERE > file.

    It ends when all senders have reached their end of file. The exit status is 1 if a sender was
    killed or gave up.
    """
    mode = _mode("recv", lines, frames)
    from shmkit.tools import pipe

    with _telling("recv"), _progress_bar("received", None) as progress:
        pipe.receive(_named(where), 1, mode=mode, capacity=capacity, progress=progress)


def _mode(command: str, lines: bool, frames: bool) -> Mode:
    if lines and frames:
        output.usage(command, "--lines or --frames, not both")
    return "lines" if lines else "frames" if frames else "bytes"


def _named(where: str) -> str:
    """A path is a file's, as for the other subcommands."""
    is_path = "/" in where and not where.startswith(("file:", "shm:"))
    return f"file:{where}" if is_path else where


@contextmanager
def _telling(command: str) -> Iterator[None]:
    """Say in a sentence what went wrong."""
    from shmkit.errors import ShmkitError
    from shmkit.tools.pipe import Cut

    try:
        yield
    except Cut:
        raise typer.Exit(1) from None  # as `cat` does when its reader goes
    except ShmkitError as error:
        output.fail(command, error)
    except ValueError as error:
        output.usage(command, error)
    except OSError as error:
        output.fail(command, error)


@contextmanager
def _progress_bar(title: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Yield a function that is called with the number of bytes done; draws on a terminal only."""
    # Not over what this command writes to the same terminal, or what is typed there.
    if not sys.stderr.isatty() or os.isatty(0 if title == "sending" else 1):
        yield int
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = (title, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    drawn = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task(title, total=total)

        def advance(done: int) -> None:
            nonlocal drawn
            now = time.monotonic()
            if now - drawn > _REDRAW or done == total:
                progress.update(task, completed=done, refresh=True)
                drawn = now

        yield advance
        progress.update(task, total=progress.tasks[task].completed, refresh=True)
