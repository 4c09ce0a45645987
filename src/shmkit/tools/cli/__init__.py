"""The `shmkit` command. One module per subcommand; `_app.py` lists them.

Nothing is imported here that the extra `cli` installs: processes started by "spawn" import this
package again, and without the extra there is still something to say.
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
        # A KeyboardInterrupt can get lost in the middle of an import. Until a command takes care of
        # it, Ctrl-C just ends the process: nothing is made yet.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import rich  # noqa: F401 - needed later, and only on a terminal: better said at once

        from shmkit.tools.cli._app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "shmkit":
            raise
        print(
            f"shmkit: the command line needs {error.name!r}: pip install 'shmkit[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        # Words and paths are whatever bytes were found; no encoding may refuse to print them.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app(prog_name="shmkit")
