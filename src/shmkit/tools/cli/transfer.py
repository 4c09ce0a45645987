"""The work of `shmkit send` and `recv`, without the parser of the command line.

The parser takes longer to import than a gigabyte takes to pass. Without options there is nothing to
parse, so `main` calls this at once.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from shmkit.errors import ShmkitError
from shmkit.tools import pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["transfer"]

_REDRAW: Final = 0.1  # seconds between two drawings of the progress bar
_TITLES: Final = {"send": "sending", "recv": "receiving"}


def transfer(
    command: str, where: str, mode: pipe.Mode = "bytes", capacity: int = pipe.CAPACITY
) -> int:
    """Send standard input, or receive to standard output, and say in a sentence what went wrong.

    Args:
        command: "send" or "recv".
        where: the ring: a `where`, or a path.
        mode: what a frame is.
        capacity: bytes of a ring that is made.

    Returns:
        The exit status.
    """
    if "/" in where and not where.startswith(("file:", "shm:")):
        where = f"file:{where}"
    act, fd = (pipe.send, 0) if command == "send" else (pipe.receive, 1)
    try:
        with _progress_bar(_TITLES[command], fd) as progress:
            act(where, fd, mode=mode, capacity=capacity, progress=progress)
    except pipe.Cut:
        return 1  # without a word, as `cat` ends when its reader goes
    except (ShmkitError, OSError, ValueError) as error:
        is_usage = isinstance(error, ValueError) and not isinstance(error, ShmkitError)
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = ": ".join(filter(None, (str(error.filename or ""), error.strerror)))
        print(f"shmkit {command}: {text}", file=sys.stderr)
        return 2 if is_usage else 1
    return 0


@contextmanager
def _progress_bar(title: str, fd: int) -> Iterator[Callable[[int], object]]:
    """Yield a function that is called with the number of bytes done; draws on a terminal only."""
    # Not over what this command writes to the same terminal, or what is typed there.
    if not sys.stderr.isatty() or os.isatty(fd):
        yield int
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    status = os.fstat(fd)
    total = status.st_size if fd == 0 and stat.S_ISREG(status.st_mode) else None
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
