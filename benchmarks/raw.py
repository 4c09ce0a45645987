"""What the same ring does without Python: `raw.c`, compiled for each run, as one more contender.

It is no peer: it is how fast a ring of this kind can be at all, and the ratio to it is what Python
and the care of the library cost.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from contenders import Channel, Contender
from harness import Failed

__all__ = ["RAW", "raw_stream", "raw_trips", "why_not"]

SOURCE = Path(__file__).with_name("raw.c")

RAW = Contender("raw C, without Python", Channel)
"""Names the row; its channel is never opened."""


def why_not() -> str:
    """Why it cannot take part; "" if it can."""
    return "" if shutil.which("cc") else "there is no C compiler"


@cache
def _program() -> str:
    folder = tempfile.mkdtemp(prefix="raw-")
    atexit.register(shutil.rmtree, folder)
    path = f"{folder}/raw"
    _run("cc", "-std=gnu11", "-O2", str(SOURCE), "-o", path, "-pthread", seconds=60)
    return path


def _run(*command: str, seconds: float) -> str:
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        start_new_session=True,
    )
    if ended.returncode:
        raise Failed(f"{command[0]} gave {ended.returncode}: {ended.stderr.strip()}")
    return ended.stdout


def raw_stream(size: int, count: int, room: int, seconds: float) -> float:
    """Frames a second, from one process to one other.

    Raises:
        Failed: there is no compiler, or the frames did not arrive.
    """
    try:
        text = _run(_program(), "stream", str(size), str(count), str(room), seconds=seconds)
    except subprocess.TimeoutExpired:
        raise Failed("was not done when its time was up") from None
    return float(text)


def raw_trips(count: int, silence: float, seconds: float) -> list[float]:
    """Seconds of each round trip of 64 bytes.

    Raises:
        Failed: as `raw_stream`.
    """
    microseconds = str(int(silence * 1e6))
    try:
        text = _run(_program(), "trips", str(count), microseconds, seconds=seconds)
    except subprocess.TimeoutExpired:
        raise Failed("was not done when its time was up") from None
    return list(map(float, text.split()))
