"""The subcommands of `shmkit`, each from a folder of its own: a new one is a line below."""

from __future__ import annotations

import typer

from shmkit.tools.demo import demo

__all__ = ["app"]

# Plain help: with rich_markup_mode its renderer would take longer to import than all the rest.
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(demo)


@app.callback()
def shmkit() -> None:
    """Shared memory between the Python processes of one machine."""
