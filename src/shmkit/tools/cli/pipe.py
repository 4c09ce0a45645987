"""`shmkit send` and `shmkit recv`: a pipe through a ring between any two shells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shmkit.tools.cli import output

if TYPE_CHECKING:
    from shmkit.tools.pipe import Mode

__all__ = ["recv", "send"]

_Where = Annotated[
    str,
    typer.Argument(
        help="NAME, shm:NAME, file:PATH or a path.", autocompletion=output.complete_where
    ),
]
_Capacity = Annotated[
    int, typer.Option(min=4096, metavar="BYTES", help="Of a ring that is not there yet.")
]


def send(
    where: _Where,
    lines: Annotated[bool, typer.Option("--lines", help="Each line is a frame.")] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="The input is what `recv --frames` writes.")
    ] = False,
    capacity: _Capacity = 16 << 20,
) -> None:
    """Send standard input through a ring: shmkit send WHERE < file.

    It ends when its end of file was reached and everything was received. The exit status is 1 if a
    receiver was killed or ended first.
    """
    _transfer("send", where, lines, frames, capacity)


def recv(
    where: _Where,
    lines: Annotated[
        bool, typer.Option("--lines", help="Add a newline to frames without one.")
    ] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Write the length of each frame (4 bytes) before it.")
    ] = False,
    capacity: _Capacity = 16 << 20,
) -> None:
    """Write what comes through a ring to standard output: shmkit recv WHERE > file.

    It ends when all senders have reached their end of file. The exit status is 1 if a sender was
    killed or gave up.
    """
    _transfer("recv", where, lines, frames, capacity)


def _transfer(command: str, where: str, lines: bool, frames: bool, capacity: int) -> None:
    if lines and frames:
        output.usage(command, "--lines or --frames, not both")
    from shmkit.tools.cli.transfer import transfer

    mode: Mode = "lines" if lines else "frames" if frames else "bytes"
    raise typer.Exit(transfer(command, where, mode, capacity))
