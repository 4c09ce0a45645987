"""Tools for people.

    inspection/   what is in any segment, and which processes have it, as data
    sampling.py   what goes through each channel, from one look to the next
    cleaning.py   the removal of what is provably nobody's
    checkup.py    what of this machine shmkit needs
    pipe.py       bytes through a ring from one descriptor to another
    cli/          the `shmkit` command, which shows all these
    demo/         its subcommand `demo`
    testing/      for tests of programs that use shmkit: kill a process at a step, find leaks

No other floor imports from here.
"""

from __future__ import annotations

__all__: list[str] = []
