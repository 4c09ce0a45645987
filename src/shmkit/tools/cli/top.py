"""`shmkit top`: what goes through every channel, live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from shmkit.tools.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["top"]


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one table, and end.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.05, metavar="SECONDS", help="From one look to the next.")
    ] = 1.0,
    everybody: Annotated[bool, typer.Option("--all", "-a", help="Other users', too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: for programs.")] = False,
) -> None:
    """Watch every channel: rate, depth, waits, losses, deaths and CPU.

    Keys: q ends, p pauses, s sorts by the next column, r turns the order, / filters, Enter opens
    the one that is marked, Escape goes back.
    """
    from shmkit.tools.sampling import Sampler

    if as_json and not once:
        output.usage("top", "--json goes with --once")
    sampler = Sampler(everybody=everybody, cpu=processes_cpu())
    if not once:
        from shmkit.tools.cli.screen import Top

        Top(sampler, interval).run()
        return
    sampler.sample()
    time.sleep(interval)  # what passes in this time is what is shown
    rows = sampler.sample()
    if as_json:
        output.print_json(rows=rows)
        return
    from shmkit.tools.cli.rows import COLUMNS, cells, in_order

    right = [column.title for column in COLUMNS if column.is_number]
    made = output.table(*(column.title for column in COLUMNS), right=right)
    for row in in_order(rows, "MB/s"):
        made.add_row(*cells(row))
    output.console().print(made)


def processes_cpu() -> Callable[[int], float | None]:
    """A function that gives the per cent of a core that a process took since the last call."""
    import psutil

    known: dict[int, psutil.Process] = {}

    def cpu(pid: int) -> float | None:
        try:
            if pid not in known:
                known[pid] = psutil.Process(pid)
            return float(known[pid].cpu_percent(None))
        except psutil.Error:
            known.pop(pid, None)
            return None

    return cpu
