"""The rows of `shmkit top`, in 80 columns: of the table on the screen, and of `--once`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.text import Text

from shmkit.tools.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shmkit.tools.sampling import Row

__all__ = ["COLUMNS", "Column", "cells", "in_order", "line", "titles"]

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_BARS: Final = " ▏▎▍▌▋▊▉█"
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


def cells(row: Row, width: int = COLUMNS[0].width) -> list[Text]:
    """The cells of a row; the name takes as many characters as it is given."""
    name = output.printable(row.where.removeprefix("shm:"))
    if len(name) > width:  # the end of a name or path tells more
        name = "…" + name[1 - width :]
    colour = "bold red" if row.wrong else _COLOURS.get(row.status, "")
    about = "" if row.rate_is_exact else "~"
    return [
        Text(name, colour),
        Text(_SHORT.get(row.kind, row.kind)[:7]),
        Text("" if row.rate is None else about + _few(row.rate)),
        Text("" if row.megabytes is None else _decimal(row.megabytes)),
        Text() if row.depth is None else Text(_bar(row.depth, 6), _fullness(row.depth)),
        Text("".join(_BLOCKS[min(7, int(share * 8))] for share in row.history[-8:])),
        Text(_shown(row.waits)),
        Text(_shown(row.lost), "yellow"),
        Text(_shown(row.dead), "red"),
        Text("" if row.cpu is None else f"{row.cpu:.0f}"),
    ]


def line(row: Row, width: int) -> Text:
    """A row as one text of fixed width: it is drawn in a tenth of the time of its cells."""
    made = Text(no_wrap=True, end="")
    for column, cell in zip(COLUMNS, cells(row, width), strict=True):
        room = width if column is COLUMNS[0] else column.width
        cell.align("right" if column.is_number else "left", room)
        made.append_text(cell).append(" ")
    return made


def titles(width: int, marked: str, *, turned: bool) -> Text:
    """What stands above the lines; the column that they are sorted by is marked."""
    made = Text(no_wrap=True, end="")
    for column in COLUMNS:
        room = width if column is COLUMNS[0] else column.width
        mark = "" if column.title != marked else "▴" if turned else "▾"
        cell = Text(column.title + mark, "bold")
        # The mark of a column of numbers stands in the gap behind it.
        room += bool(mark) and column.is_number
        cell.align("right" if column.is_number else "left", room)
        made.append_text(cell).append("" if mark and column.is_number else " ")
    return made


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + _BARS[eighths % 8].strip()


def _shown(count: int) -> str:
    return _few(count) if count else ""


def _fullness(share: float) -> str:
    return "red" if share > 0.9 else "yellow" if share > 0.5 else "green"


def _few(number: float) -> str:
    """A number in at most 5 characters: "0", "999", "12.3k", "4.0M"."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.1f}{unit}" if unit and number < 99.95 else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f}T"


def _decimal(number: float) -> str:
    return (
        f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
    )
