"""The subcommands of `shmkit`, each in a module or folder of its own: a new one is a line below."""

from __future__ import annotations

import typer

from shmkit.tools.cli.doctor import doctor
from shmkit.tools.cli.gc import gc
from shmkit.tools.cli.inspect import inspect
from shmkit.tools.cli.ls import ls
from shmkit.tools.cli.pipe import recv, send
from shmkit.tools.cli.top import top
from shmkit.tools.demo import demo

__all__ = ["app"]

# Plain help: with rich_markup_mode its renderer would take longer to import than all the rest.
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(ls)
app.command()(inspect)
app.command()(top)
app.command()(gc)
app.command()(doctor)
app.command()(send)
app.command()(recv)
app.command()(demo)


@app.callback()
def shmkit() -> None:
    """Shared memory between the Python processes of one machine: see it, clean it, use it."""
