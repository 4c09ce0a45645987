"""`shmkit doctor`: whether this machine has what shmkit needs, and what to do if not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shmkit.tools.cli import output

if TYPE_CHECKING:
    from rich.table import Table

    from shmkit.tools.checkup import Check

__all__ = ["doctor", "doctor_table"]

_COLOURS = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check this machine: /dev/shm, limits, kernel features, containers, the compiled core.

    Each thing to know has its remedy. The exit status is 1 if something does not work.
    """
    from shmkit.tools.checkup import check_up

    checks = check_up()
    if as_json:
        output.print_json(checks=checks)
    else:
        output.console().print(doctor_table(checks))
    if any(check.level == "wrong" for check in checks):
        raise typer.Exit(1)


def doctor_table(checks: list[Check]) -> Table:
    """The table that is printed."""
    from rich.text import Text

    made = output.table("CHECK", "", "FOUND")
    made.columns[2].no_wrap = False
    for check in checks:
        made.add_row(
            check.name, Text(check.level, _COLOURS[check.level]), output.printable(check.found)
        )
        if check.remedy:
            made.add_row("", "", Text(f"-> {check.remedy}", "bold"))
    return made
