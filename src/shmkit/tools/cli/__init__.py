"""The `shmkit` command. `_app.py` lists the subcommands; each is in a module here, or in tools/.

Nothing is imported here that the extra `cli` installs. Processes started by "spawn" import this
package again, and without the extra there is still a message to print.
"""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line with `sys.argv`.

    Raises:
        SystemExit: always, with the exit status: 0 done, 1 failed, 2 bad usage or an extra that is
            not installed, 130 stopped by Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # A KeyboardInterrupt can get lost in the middle of an import. Nothing is made yet, so
        # until a command handles Ctrl-C itself, it just ends the process.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if len(sys.argv) == 3 and sys.argv[1] in ("send", "recv") and sys.argv[2][:1] != "-":
        from shmkit.tools.cli.transfer import transfer

        sys.exit(transfer(sys.argv[1], sys.argv[2]))
    for stream in (sys.stdout, sys.stderr):
        # Words and paths may hold any bytes; no encoding may refuse to print them.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        import rich  # noqa: F401 - a command needs it later, on a terminal: better to fail now

        from shmkit.tools.cli._app import app

        app(prog_name="shmkit")  # `top` alone needs textual and psutil
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "shmkit":
            raise
        print(
            f"shmkit: the command line needs {error.name!r}: pip install 'shmkit[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
