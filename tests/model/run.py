"""Check the models with Spin: `make model`; names of cases as arguments run only those.

Each case is a model with some macros defined. Most are held against what they promise; the others
leave out one thing on purpose, and Spin has to find what goes wrong then: so each precaution in the
code is there for a reason, and the model is one that can fail.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["CASES", "Case", "Outcome", "check", "steps"]

HERE: Final = Path(__file__).resolve().parent
HINT: Final = "Spin is not installed: apt-get install spin (and gcc)"
TIMEOUT: Final = 900.0  # seconds
MEMORY: Final = 4000  # megabytes
_STEP = re.compile(r"step: ([a-z_.]+)")


class Case(NamedTuple):
    """A model, what is defined in it, and what Spin has to say.

    Attributes:
        name: what it is called in the table.
        model: file name without ".pml".
        defines: macros, as NAME or NAME=VALUE.
        holds: whether what is promised holds.
        progress: look for cycles without progress, under weak fairness, not for assertions.
        quick: takes a few seconds; part of the tests.
    """

    name: str
    model: str
    defines: tuple[str, ...] = ()
    holds: bool = True
    progress: bool = False
    quick: bool = True


class Outcome(NamedTuple):
    """What Spin found: number of errors, states visited, seconds and megabytes it took."""

    errors: int
    states: float
    seconds: float
    megabytes: float
    text: str


_ONE = ("CRASHES=1", "NEWCOMERS=1")
_TWO = ("CRASHES=2", "NEWCOMERS=1")
CASES: Final = (
    Case("mutex, one death", "mutex", _ONE, quick=False),
    Case("mutex, two deaths", "mutex", _TWO, quick=False),
    Case(
        "mutex, somebody gets in", "mutex", ("CRASHES=1", "NEWCOMERS=0"), progress=True, quick=False
    ),
    Case("mutex: posting instead of succeeding", "mutex", (*_TWO, "POST_INSTEAD"), holds=False),
    Case("mutex: no wait for ticks", "mutex", (*_TWO, "NO_TICK_WAIT"), holds=False),
    Case("mutex: entries read last", "mutex", (*_TWO, "ENTRIES_LAST"), holds=False),
    Case(
        "mutex: newcomer clears beside a rescuer",
        "mutex",
        (*_TWO, "CLEAR_AT_THE_DOOR"),
        holds=False,
    ),
    Case(
        "mutex: evidence cleared without a second look",
        "mutex",
        ("CRASHES=2", "NEWCOMERS=0", "CLEAR_UNASKED"),
        holds=False,
        progress=True,
        quick=False,
    ),
    Case(
        "mutex: evidence cleared before the token is back",
        "mutex",
        (*_TWO, "CLEAR_THEN_POST"),
        holds=False,
        progress=True,
    ),
    Case(
        "mutex: token taken without evidence",
        "mutex",
        (*_TWO, "TAKE_FOR_NOTHING"),
        holds=False,
        progress=True,
        quick=False,
    ),
    Case("bell, one producer", "bell"),
    Case("bell, three asleep", "bell", ("CONSUMERS=3", "FRAMES=2"), quick=False),
    Case("bell, many producers", "bell", ("CONSUMERS=3", "FRAMES=2", "CAREFUL_PUT"), quick=False),
    Case("bell, two deaths and slices", "bell", ("CRASHES=2", "SLICES"), quick=False),
    Case("bell: a death, and no slices", "bell", ("CRASHES=1",), holds=False),
    Case("bell: no fence", "bell", ("NO_FENCE",), holds=False),
    Case("bell: a fence for the sleeper alone", "bell", ("OWN_FENCE",), holds=False),
    Case("bell: no look after the flag", "bell", ("NO_LOOK_AGAIN",), holds=False),
    Case("bell: the woken does not set the flag", "bell", ("NO_FLAG_AGAIN",), holds=False),
    Case("bell: no fence after that", "bell", ("NO_FENCE_AGAIN",), holds=False),
    Case("bell: the woken does not ring on", "bell", ("NO_RING_ON",), holds=False),
)


def steps(model: str) -> set[str]:
    """The names of the steps in a model."""
    return set(_STEP.findall((HERE / f"{model}.pml").read_text()))


def check(case: Case) -> Outcome:
    """Let Spin search the states of a case.

    Raises:
        FileNotFoundError: Spin or a C compiler is not installed.
        RuntimeError: Spin or the compiler did not understand the model, or the search broke off.
    """
    if not (shutil.which("spin") and shutil.which("gcc")):
        raise FileNotFoundError(HINT)
    defines = [f"-D{define}" for define in case.defines] + ["-DNP"] * case.progress
    with tempfile.TemporaryDirectory(prefix="shmkit-model-") as home:
        _call(home, "spin", *defines, "-a", str(HERE / f"{case.model}.pml"))
        kind = ["-DNP", "-DNFAIR=3"] if case.progress else ["-DSAFETY"]
        _call(home, "gcc", "-O2", "-w", "-DCOLLAPSE", f"-DMEMLIM={MEMORY}", *kind, "-opan", "pan.c")
        search = ["-l", "-f"] if case.progress else ["-E"]  # -E: that nobody moves is no error
        started = time.monotonic()
        text = _call(home, "./pan", "-n", "-m500000", *search)
        seconds = time.monotonic() - started
    errors = re.search(r"errors: (\d+)", text)
    states = re.search(r"([\d.e+]+) states, stored", text)
    memory = re.search(r"([\d.]+)\s+total actual memory", text)
    if not (errors and states and memory) or "max search depth too small" in text:
        raise RuntimeError(f"{case.name}: the search broke off:\n{text}")
    if "reached -DMEMLIM" in text and not int(errors[1]):
        raise RuntimeError(f"{case.name}: more than {MEMORY} MB of states:\n{text}")
    return Outcome(int(errors[1]), float(states[1]), seconds, float(memory[1]), text)


def _call(home: str, *command: str) -> str:
    done = subprocess.run(
        command, cwd=home, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode or re.search(r"^spin: .*error", output, re.MULTILINE | re.IGNORECASE):
        raise RuntimeError(f"{' '.join(command)} failed:\n{output}")
    return output


def main(names: list[str]) -> int:
    """Run every case, or those whose names contain one of `names`; print a table."""
    failed = 0
    print(f"{'case':48} {'expected':9} {'found':9} {'states':>11} {'s':>6} {'MB':>5}", flush=True)
    for case in CASES:
        if names and not any(name in case.name for name in names):
            continue
        try:
            outcome = check(case)
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 2
        expected, found = (
            "holds" if good else "broken" for good in (case.holds, not outcome.errors)
        )
        failed += expected != found
        print(
            f"{case.name:48} {expected:9} {found:9} {outcome.states:11,.0f} "
            f"{outcome.seconds:6.1f} {outcome.megabytes:5.0f}"
            + ("" if expected == found else "  <--"),
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ["LC_ALL"] = "C"
    sys.exit(main(sys.argv[1:]))
