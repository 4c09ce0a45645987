"""Check the models with Spin: `make model`, or `make model FULL=1` for everything.

    python -m tests.model.run [--full] [--jobs N] [part of a case's name ...]

Each case is a model with some macros defined. Most are held against what they promise; the others
leave out one thing on purpose, and Spin has to find what goes wrong then: so each precaution in the
code is there for a reason, and the model is one that can fail.

Spin visits every state that a case's bounds allow: so many deaths, so many newcomers. The short run
has the smaller bounds, and says at its end which cases it has left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["CASES", "Case", "Outcome", "check", "choose", "main", "steps"]

HERE: Final = Path(__file__).resolve().parent
HINT: Final = "Spin is not installed: apt-get install spin (and gcc)"
TIMEOUT: Final = 1800.0  # seconds
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
        quick: takes a second or two; part of the tests.
        full: takes a minute or a gigabyte; only in the full run.
    """

    name: str
    model: str
    defines: tuple[str, ...] = ()
    holds: bool = True
    progress: bool = False
    quick: bool = False
    full: bool = False


class Outcome(NamedTuple):
    """What Spin found: number of errors, states visited, seconds and megabytes it took."""

    errors: int
    states: float
    seconds: float
    megabytes: float
    text: str


_ONE = ("CRASHES=1", "NEWCOMERS=1")
_TWO = ("CRASHES=2", "NEWCOMERS=1")
_NO_NEWCOMER = ("CRASHES=2", "NEWCOMERS=0")
_NO_PLACE = (*_NO_NEWCOMER, "TRIES=1")  # a newcomer settles pending places, and may die doing so
CASES: Final = (
    Case("mutex, one death", "mutex", _ONE),
    Case("mutex, two deaths, no newcomer", "mutex", _NO_NEWCOMER),
    Case("mutex, two deaths", "mutex", _TWO, full=True),
    Case("mutex, one gets in", "mutex", ("CRASHES=1", "NEWCOMERS=0"), progress=True),
    Case("mutex, one gets in: a newcomer", "mutex", _ONE, progress=True, full=True),
    Case("mutex, one gets in: no place is free", "mutex", _NO_PLACE, progress=True, full=True),
    Case("mutex: posting instead of succeeding", "mutex", (*_TWO, "POST_INSTEAD"), holds=False),
    Case("mutex: no wait for ticks", "mutex", (*_TWO, "NO_TICK_WAIT"), holds=False, quick=True),
    Case("mutex: entries read last", "mutex", (*_TWO, "ENTRIES_LAST"), holds=False),
    Case(
        "mutex: newcomer settles beside a rescuer",
        "mutex",
        (*_TWO, "CLEAR_AT_THE_DOOR"),
        holds=False,
    ),
    Case(
        "mutex: settled without a second look",
        "mutex",
        (*_NO_NEWCOMER, "CLEAR_UNASKED"),
        holds=False,
        progress=True,
    ),
    Case(
        "mutex: settled before the token is back",
        "mutex",
        (*_NO_PLACE, "CLEAR_THEN_POST"),
        holds=False,
        progress=True,
    ),
    Case(
        "mutex: token taken with no place pending",
        "mutex",
        (*_NO_PLACE, "TAKE_FOR_NOTHING"),
        holds=False,
        progress=True,
    ),
    Case("bell, one producer", "bell", quick=True),
    Case("bell, three asleep", "bell", ("CONSUMERS=3", "FRAMES=2")),
    Case("bell, many producers", "bell", ("CONSUMERS=3", "FRAMES=2", "CAREFUL_PUT")),
    Case("bell, two deaths and slices", "bell", ("CRASHES=2", "SLICES")),
    Case("bell: a death, and no slices", "bell", ("CRASHES=1",), holds=False),
    Case("bell: no fence", "bell", ("NO_FENCE",), holds=False, quick=True),
    Case("bell: a fence for the sleeper alone", "bell", ("OWN_FENCE",), holds=False),
    Case("bell: no look after the flag", "bell", ("NO_LOOK_AGAIN",), holds=False),
    Case("bell: the woken does not set the flag", "bell", ("NO_FLAG_AGAIN",), holds=False),
    Case("bell: no fence after that", "bell", ("NO_FENCE_AGAIN",), holds=False),
    Case("bell: the woken does not ring on", "bell", ("NO_RING_ON",), holds=False),
)


def steps(model: str) -> set[str]:
    """The names of the steps in a model."""
    return set(_STEP.findall((HERE / f"{model}.pml").read_text()))


def installed() -> None:
    """See whether there is everything that `check` needs.

    Raises:
        FileNotFoundError: Spin or a C compiler is not installed.
    """
    if not (shutil.which("spin") and shutil.which("gcc")):
        raise FileNotFoundError(HINT)


def check(case: Case) -> Outcome:
    """Let Spin search the states of a case.

    Raises:
        FileNotFoundError: Spin or a C compiler is not installed.
        RuntimeError: Spin or the compiler did not understand the model, or the search broke off.
    """
    installed()
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


def choose(names: list[str], *, full: bool) -> list[Case]:
    """The cases of a run: those whose names contain one of `names`, or else all, or the short ones.

    Raises:
        SystemExit: there is no such case.
    """
    if not names:
        return [case for case in CASES if full or not case.full]
    chosen = [case for case in CASES if any(name in case.name for name in names)]
    if not chosen:
        raise SystemExit(f"no case has {' or '.join(names)} in its name")
    return chosen


def main(arguments: list[str]) -> int:
    """Run the cases and print a table; 1 if one is not as expected, 2 without Spin."""
    parser = argparse.ArgumentParser(description="Check the models with Spin.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a case's name")
    parser.add_argument("--full", action="store_true", help="all cases: minutes, gigabytes")
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="how many at a time"
    )
    options = parser.parse_args(arguments)
    chosen = choose(options.names, full=options.full)
    try:
        installed()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    failed, started = 0, time.monotonic()
    print(f"{'case':48} {'expected':9} {'found':9} {'states':>11} {'s':>6} {'MB':>5}", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        for case, outcome in zip(chosen, pool.map(check, chosen), strict=True):
            failed += not _report(case, outcome)
    print(f"{len(chosen)} cases, {failed} not as expected, {time.monotonic() - started:.0f} s")
    left_out = [case.name for case in CASES if case not in chosen]
    if left_out and not options.names:
        print(f"left to the full run (make model FULL=1): {'; '.join(left_out)}")
    return 1 if failed else 0


def _report(case: Case, outcome: Outcome) -> bool:
    good = case.holds == (not outcome.errors)
    expected, found = ("holds" if holds else "broken" for holds in (case.holds, not outcome.errors))
    print(
        f"{case.name:48} {expected:9} {found:9} {outcome.states:11,.0f} "
        f"{outcome.seconds:6.1f} {outcome.megabytes:5.0f}" + ("" if good else "  <--"),
        flush=True,
    )
    return good


if __name__ == "__main__":
    os.environ["LC_ALL"] = "C"
    sys.exit(main(sys.argv[1:]))
