"""Tools for people.

    cli/        the `shmkit` command
    demo/       its subcommand `demo`
    testing/    for tests of programs that use shmkit: kill a process at a step, find leaks

No other floor imports from here.
"""

from __future__ import annotations

__all__: list[str] = []
