"""The `shmkit demo` command: real files through rings to worker processes.

    command.py      the options, the progress bars, and what is printed
    pipeline.py     the work in parallel: a reader, workers and the parent, with rings between them
    wordcount.py    what is computed for a file, without any process: both ways of counting use it
    children.py     the processes: started, watched, and ended with their parent
    signals.py      Ctrl-C and its kin, put off to moments that suit

The command line takes `demo` from here.
"""

from __future__ import annotations

from shmkit.tools.demo.command import demo

__all__ = ["demo"]
