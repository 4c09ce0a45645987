"""What all subcommands print with: tables for people, JSON for programs, messages for both."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import re
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.table import Table

__all__ = [
    "VERSION",
    "age",
    "amount",
    "complete_where",
    "console",
    "duration",
    "fail",
    "give_way",
    "print_json",
    "printable",
    "size",
    "table",
    "usage",
    "user",
]

VERSION: Final = 1  # of the JSON of all subcommands: it changes when a name or a meaning does
_WIDE: Final = 4000  # columns where there is no terminal: nothing is cut off
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def console() -> Console:
    """Where tables go; colours and the width of the terminal only if there is one."""
    from rich.console import Console

    # Of a file or a pipe, rich would take 80 columns and cut off the rest.
    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _WIDE)


def table(*columns: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """A table without lines.

    Args:
        columns: their names.
        right: names of those that are aligned to the right.
        title: a line above it.
    """
    from rich.table import Table

    made = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            header_style="bold",
        )
    return made


def give_way(made: Table, title: str) -> Table:
    """Have one column alone give way where there is no room for all."""
    from rich.cells import cell_len

    for column in made.columns:
        if column.header != title:
            texts = [str(column.header), *map(str, column.cells)]
            column.min_width = max(map(cell_len, texts))
        else:
            column.min_width = 10
    return made


def print_json(**content: Any) -> None:
    """Print an object of JSON: the version of the schema, and the content.

    Args:
        content: plain values, dataclasses, and sequences of them.
    """
    json.dump({"version": VERSION, **content}, sys.stdout, default=_plain, indent=2)
    print()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def fail(command: str, error: object) -> NoReturn:
    """Say on stderr what went wrong, and end with exit status 1."""
    print(f"shmkit {command}: {printable(_message(error))}", file=sys.stderr)
    raise typer.Exit(1)


def usage(command: str, error: object) -> NoReturn:
    """The same for what was asked for wrongly, with exit status 2."""
    print(f"shmkit {command}: {printable(_message(error))}", file=sys.stderr)
    raise typer.Exit(2)


def _message(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def printable(text: str) -> str:
    """Text that cannot move the cursor, whatever a name or a command line has in it."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text
    )


def size(count: float) -> str:
    """Bytes in a few characters: "17 B", "1.5 K", "20 M"."""
    for unit in "BKMGTPE":
        if count < 1000 or unit == "E":
            return f"{count:.1f} {unit}" if unit != "B" and count < 10 else f"{count:.0f} {unit}"
        count /= 1024
    raise AssertionError


def amount(count: float, unit: str) -> str:
    """A number of something: bytes as `size`, and all else as it is."""
    return size(count) if unit == "bytes" else f"{count:,.0f}"


def age(seconds: float) -> str:
    """How long ago, in a few characters: "5 s", "3 min", "2 h", "4 d"."""
    for unit, most, length in (("s", 120, 1), ("min", 7200, 60), ("h", 172_800, 3600)):
        if seconds < most:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def duration(text: str) -> float:
    """Seconds from "90", "90s", "15m", "2h" or "7d".

    Raises:
        typer.BadParameter: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r}: say 90, 90s, 15m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


def user(uid: int) -> str:
    """The name of a user, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def complete_where(incomplete: str) -> list[str]:
    """Names of segments that begin with what was typed, for tab completion."""
    prefix = "shm:" if incomplete.startswith("shm:") else ""
    return [prefix + name for name in _names() if (prefix + name).startswith(incomplete)]


def _names() -> Iterable[str]:
    try:
        return sorted(name for name in os.listdir("/dev/shm") if not name.startswith("sem."))  # noqa: PTH208
    except OSError:
        return ()
