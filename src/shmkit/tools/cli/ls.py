"""`shmkit ls`: every segment, semaphore and file, and whose it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shmkit.tools.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from shmkit.tools.inspection import Inspection, Segment

__all__ = ["ls", "print_segments"]

_COLOURS = {"live": "green", "orphan": "yellow", "unknown": "magenta", "idle": "dim"}
_SHOWN = 3  # pids in a line


def ls(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Files, or directories of files, to list instead of shared memory.",
            show_default=False,
        ),
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", "-a", help="Other users', too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List segments and semaphores: what they are, how full, and which processes have them.

    The exit status is 1 if one of shmkit's is nobody's, or something is wrong with one.
    """
    from shmkit.tools.cli.rates import rates_since_last_look
    from shmkit.tools.inspection import survey

    try:
        looks = survey(everybody=everybody, paths=paths or (), frames=0)
    except OSError as error:
        output.fail("ls", error)
    rates = rates_since_last_look(look.segment for look in looks)
    if as_json:
        output.print_json(
            segments=[
                {
                    **dataclasses.asdict(look.segment),
                    "frames": look.frame_count if look.frames_counted else None,
                    "rate": rates.get(look.segment.where),
                }
                for look in looks
            ]
        )
    elif looks:
        print_segments(output.console(), looks, rates)
    if any(is_bad(look.segment) for look in looks):
        raise typer.Exit(1)


def print_segments(screen: Console, looks: Sequence[Inspection], rates: dict[str, float]) -> None:
    """Print the table, and below it what is wrong."""
    screen.print(segments_table(looks, rates))
    for look in looks:
        for sentence in look.segment.wrong:
            where = output.printable(look.segment.where)
            screen.print(f"{where}: {output.printable(sentence)}", style="red", markup=False)
    orphans = sum(look.segment.ours and look.segment.status == "orphan" for look in looks)
    if orphans:
        text = f"{orphans} orphaned: no process has them; `shmkit gc` removes them"
        screen.print(text, style="yellow", markup=False)


def is_bad(segment: Segment) -> bool:
    """Whether it is a reason for an exit status of 1."""
    return bool(segment.wrong) or (segment.ours and segment.status == "orphan")


def segments_table(looks: Sequence[Inspection], rates: dict[str, float]) -> Table:
    """The table of `ls`."""
    from rich.text import Text

    columns = ("WHERE", "KIND", "SIZE", "RES", "DEPTH", "RATE", "OWNER", "PIDS", "STATUS")
    made = output.table(*columns, right=("SIZE", "RES", "DEPTH", "RATE"))
    for look in looks:
        segment = look.segment
        colour = _COLOURS[segment.status]
        more = len(segment.pids) - _SHOWN
        rate = rates.get(segment.where)
        made.add_row(
            Text(output.printable(segment.where), "bold" if segment.ours else ""),
            segment.kind,
            output.size(segment.size),
            output.size(segment.resident),
            _depth(look),
            "" if rate is None else output.amount(rate, segment.passed_unit) + "/s",
            output.user(segment.owner),
            ",".join(map(str, segment.pids[:_SHOWN])) + (f" +{more}" if more > 0 else ""),
            Text(segment.status, "bold red" if segment.wrong else colour),
        )
    return output.give_way(made, "WHERE")


def _depth(look: Inspection) -> str:
    segment = look.segment
    if segment.depth is None:
        return output.printable(segment.says)
    if segment.unit == "bytes" and look.frames_counted:
        share = segment.depth / segment.capacity if segment.capacity else 0
        return f"{look.frame_count:,} ({share:.0%})"
    if segment.capacity is None:
        return output.amount(segment.depth, segment.unit)
    return f"{segment.depth:,}/{segment.capacity:,}"
