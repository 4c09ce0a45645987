"""For tests of programs that use shmkit: kill a process at a step, and see that nothing is lost.

    with assert_no_leaks(), deadline(30):
        with Ring.create() as ring:
            victim = run_until("put.tail", fill, ring)   # SIGKILLed before it commits a frame
            assert victim.reached
            assert ring.empty()

- `kill_points()` lists the steps at which a process may be killed while the rest has to go on.
  They are comments in the sources, `# step: NAME`; your own modules may have some, too.
- `run_until(point, target, ...)` runs `target` in a child, and kills or stops it exactly there.
- `assert_no_leaks()` fails if a block leaves a name, a descriptor or a child behind.
- `deadline(seconds)` ends a block that hangs, and the processes it has started, and shows the
  stacks of all of them.

Under pytest, the plugin (tools/pytest_plugin.py) looks for leaks after each test, and has a mark
with a deadline. None of it costs anything where it is not used: the library has no hooks for it.
"""

from __future__ import annotations

from shmkit.tools.testing.hang import deadline
from shmkit.tools.testing.killing import Victim, run_until, start_until
from shmkit.tools.testing.leaks import assert_no_leaks
from shmkit.tools.testing.steps import KillPoint, kill_points

__all__ = [
    "KillPoint",
    "Victim",
    "assert_no_leaks",
    "deadline",
    "kill_points",
    "run_until",
    "start_until",
]
