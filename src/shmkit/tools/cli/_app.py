"""The subcommands of `shmkit`: a new one is a module beside this one and a line below."""

from __future__ import annotations

import typer

from shmkit.tools.demo.command import demo

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

app.command()(demo)


@app.callback()
def shmkit() -> None:
    """Shared memory between the Python processes of one machine."""
