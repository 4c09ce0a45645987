"""Inspection: what is in a segment and which processes have it, seen from outside.

    raw.py         a file read without a handle, and the kernel's locks on it
    processes.py   which processes map or have open which memory; what a process is
    pickled.py     the type of a pickled object, without unpickling it
    decode.py      one segment: its header, participants, locks and frames, and what is wrong
    survey.py      every segment that there is
    deadlocks.py   processes that hold a lock each and wait for the other's

Nothing here takes part in a segment: it is opened for reading, read by `pread` and never mapped,
and locks are asked about and never taken. What is read is input: any bytes give an answer. All of
it is data, without any output; the command line, the pytest plugin and others show it.
"""

from __future__ import annotations

from shmkit.tools.inspection.deadlocks import Deadlock, Wait, find_deadlocks
from shmkit.tools.inspection.decode import (
    FieldValue,
    Frame,
    Inspection,
    LockState,
    Participant,
    Segment,
    SemaphoreState,
)
from shmkit.tools.inspection.processes import Holders, command_of, scan
from shmkit.tools.inspection.survey import inspect, locate, survey

__all__ = [
    "Deadlock",
    "FieldValue",
    "Frame",
    "Holders",
    "Inspection",
    "LockState",
    "Participant",
    "Segment",
    "SemaphoreState",
    "Wait",
    "command_of",
    "find_deadlocks",
    "inspect",
    "locate",
    "scan",
    "survey",
]
