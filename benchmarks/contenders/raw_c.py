"""raw.c: what a ring does without Python, compiled here. It is no peer, but the bound for ours."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from harness import Failed

from contenders.base import Channel, Contender

__all__ = ["CONTENDERS", "RawProgram"]

SOURCE = Path(__file__).parent.parent / "raw.c"
BUILD = SOURCE.parent.parent / "build" / "benchmarks"  # stays: made anew when the source is newer
FLAGS = ["-std=c11", "-O2", "-pthread"]
MEANINGS = {
    2: "the system refused it",
    3: "a frame is missing or wrong",
    -signal.SIGALRM: "was not done when its time was up",
}

_COMPILER = shlex.split(os.environ.get("CC", "cc"))

if not (_COMPILER and shutil.which(_COMPILER[0])):
    raise ImportError(f"no C compiler, {os.environ.get('CC', 'cc')!r}")


class RawProgram:
    """Runs it. What it is told in seconds ends it, and the child that it has."""

    def stream(self, size: int, count: int, room: int, seconds: float) -> float:
        return float(_run("stream", size, count, room, seconds=seconds))

    def round_trips(
        self, size: int, count: int, silence: float, room: int, seconds: float
    ) -> list[float]:
        lines = _run("trips", size, count, room, seconds=seconds, silence=silence).split()
        return [int(line) * 1e-9 for line in lines]


def _run(measure: str, *numbers: int, seconds: float, silence: float | None = None) -> str:
    command = [_program(), measure, *map(str, numbers), str(max(1, round(seconds)))]
    if silence is not None:
        command.append(str(round(silence * 1e9)))
    # In this session: in one of its own it would have a share of the processors of its own.
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        meaning = MEANINGS.get(ended.returncode, f"ended with {ended.returncode}")
        raise Failed(meaning)
    return ended.stdout


@cache
def _program() -> str:
    target = BUILD / "raw"
    if target.exists() and target.stat().st_mtime > SOURCE.stat().st_mtime:
        return str(target)
    BUILD.mkdir(parents=True, exist_ok=True)
    # Under its name only when it is whole: another benchmark may start now.
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        made = Path(folder, "raw")
        command = [*_COMPILER, *FLAGS, str(SOURCE), "-o", str(made)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            lines = [line for line in ended.stderr.splitlines() if "error" in line]
            reason = (lines or [f"{_COMPILER[0]} gave {ended.returncode}"])[0]
            raise Failed(f"did not compile: {reason}")
        made.replace(target)
    return str(target)


CONTENDERS = [Contender("raw C", Channel, program=RawProgram(), bound=True)]
