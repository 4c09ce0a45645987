"""`shmkit gc`: remove what is left in /dev/shm and provably nobody's."""

from __future__ import annotations

from typing import Annotated

import typer

from shmkit.tools.cli import output

__all__ = ["gc"]


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be removed, and remove nothing.")
    ] = False,
    older_than: Annotated[
        str,
        typer.Option(metavar="TIME", help="Only what was last used longer ago: 90s, 15m, 2h, 7d."),
    ] = "0",
    foreign: Annotated[
        bool,
        typer.Option("--foreign", help="Also what shmkit did not make, if no process has it."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Remove segments that no process has, and say what stays and why.

    The kernel has to prove that a segment is nobody's: it gives a lease on it only while no
    process, in any container, has it open or mapped. The exit status of a dry run is 1 if there is
    something to remove.
    """
    from shmkit.tools.cleaning import clean

    seconds = output.duration(older_than)
    try:
        verdicts = clean(older_than=seconds, foreign=foreign, dry_run=dry_run)
    except NotImplementedError as error:
        output.fail("gc", error)
    removed = [verdict for verdict in verdicts if verdict.removed]
    if as_json:
        output.print_json(dry_run=dry_run, verdicts=verdicts)
    else:
        screen = output.console()
        verb = "would remove" if dry_run else "removed"
        for verdict in verdicts:
            where = output.printable(verdict.where)
            if verdict.removed:
                text = f"{verb} {where} ({verdict.kind}, {output.size(verdict.size)})"
                screen.print(text, style="green", markup=False)
            else:
                text = f"left {where} ({verdict.kind}): {verdict.reason}"
                screen.print(text, style="dim", markup=False)
        total = sum(verdict.size for verdict in removed)
        left = len(verdicts) - len(removed)
        screen.print(f"{verb} {len(removed)} ({output.size(total)}), left {left}", markup=False)
    if dry_run and removed:
        raise typer.Exit(1)
