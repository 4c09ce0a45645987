"""The rows of `shmkit top`, in 80 columns: of the table on the screen, and of `--once`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.bar import Bar
from rich.text import Text

from shmkit.tools.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import RenderableType

    from shmkit.tools.sampling import Row

__all__ = ["COLUMNS", "Column", "cells", "in_order"]

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SHORT: Final = {
    "joinable queue": "queue",
    "object ring": "objects",
    "ring of calls": "calls",
    "ring of results": "results",
    "shared array": "array",
    "broadcast": "bcast",
    "once bytes": "once",
}
_COLOURS: Final = {"orphan": "yellow", "unknown": "magenta", "idle": "dim"}


class Column(NamedTuple):
    """A column.

    Attributes:
        title: what stands above it.
        width: characters.
        key: what rows are sorted by.
        is_number: whether it is aligned to the right, and the largest comes first.
    """

    title: str
    width: int
    key: Callable[[Row], Any]
    is_number: bool = True


COLUMNS: Final = (
    Column("NAME", 17, lambda row: row.where, is_number=False),
    Column("KIND", 7, lambda row: row.kind, is_number=False),
    Column("RATE/s", 7, lambda row: row.rate or 0),
    Column("MB/s", 6, lambda row: row.megabytes or 0),
    Column("DEPTH", 6, lambda row: row.depth or 0, is_number=False),
    Column("TREND", 8, lambda row: row.history[-8:], is_number=False),
    Column("WAIT", 4, lambda row: row.waits),
    Column("LOST", 5, lambda row: row.lost),
    Column("DEAD", 4, lambda row: row.dead),
    Column("CPU%", 5, lambda row: row.cpu or 0),
)
"""With a blank between two of them, 78 characters."""


def in_order(rows: Iterable[Row], title: str, *, turned: bool = False) -> list[Row]:
    """Rows sorted by a column: numbers from the largest on, text from A on; or turned around."""
    column = next(column for column in COLUMNS if column.title == title)
    is_down = column.title not in ("NAME", "KIND")
    by_name = sorted(rows, key=lambda row: row.where)
    return sorted(by_name, key=column.key, reverse=is_down is not turned)


def cells(row: Row, width: int = COLUMNS[0].width) -> list[RenderableType]:
    """The cells of a row; the name takes as many characters as it is given."""
    name = output.printable(row.where.removeprefix("shm:"))
    if len(name) > width:  # the end of a name or path tells more
        name = "…" + name[1 - width :]
    colour = "bold red" if row.wrong else _COLOURS.get(row.status, "")
    about = "" if row.rate_is_exact else "~"
    return [
        Text(name, colour),
        _SHORT.get(row.kind, row.kind)[:7],
        "" if row.rate is None else about + _few(row.rate),
        "" if row.megabytes is None else _decimal(row.megabytes),
        "" if row.depth is None else Bar(1, 0, row.depth, width=6, color=_fullness(row.depth)),
        "".join(_BLOCKS[min(7, int(share * 8))] for share in row.history[-8:]),
        _shown(row.waits),
        Text(_shown(row.lost), "yellow"),
        Text(_shown(row.dead), "red"),
        "" if row.cpu is None else f"{row.cpu:.0f}",
    ]


def _shown(count: int) -> str:
    return _few(count) if count else ""


def _fullness(share: float) -> str:
    return "red" if share > 0.9 else "yellow" if share > 0.5 else "green"


def _few(number: float) -> str:
    """A number in at most 5 characters: "0", "999", "12.3k", "4.0M"."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.0f}" if not unit or number >= 100 else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.0f}T"


def _decimal(number: float) -> str:
    return (
        f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
    )
