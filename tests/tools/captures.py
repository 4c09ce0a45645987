"""Screen captures of `shmkit ls`, `inspect` and `top`, as SVG: `make captures` writes them to docs.

    python -m tests.tools.captures FOLDER

They show a scene of real processes: a camera and its viewer, a queue of jobs, two programs that
wait for each other's locks, and what a killed program left. Run it where /dev/shm is its own.
"""

from __future__ import annotations

import asyncio
import io
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from shmkit.tools import inspection
from shmkit.tools.cli.inspect import find_deadlocks, print_inspection
from shmkit.tools.cli.ls import print_segments
from shmkit.tools.cli.screen import Top
from shmkit.tools.cli.top import processes_cpu
from shmkit.tools.sampling import Sampler
from tests.processes import Child, wait_until

__all__ = ["capture"]

_LOOKS = 9  # of `top`, for its trend to have something to show

CAMERA = """
import shmkit, time
with shmkit.Ring.create("camera", capacity=1 << 20) as ring:
    link.send("ready")
    number = 0
    while not link.poll(0.004):
        ring.put(b"frame %06d " % number + bytes(40_000))
        number += 1
"""
VIEWER = """
import shmkit, time
ring = shmkit.Ring.attach("camera")
link.send("ready")
got = 0
while not link.poll():
    ring.get()
    got += 1
    if got % 24 == 0:
        time.sleep(0.08)
"""
JOBS = """
import shmkit
jobs = shmkit.Queue(maxsize=20, where="jobs")
for job in ({"path": "a.png", "size": 640}, ("resize", 0.5), b"x" * 300_000, "stop"):
    jobs.put(job)
link.send("ready")
link.recv()
"""
HOLDER = """
import shmkit
first, second = (shmkit.Lock(name) for name in args)
first.acquire()
link.send("ready")
link.recv()
second.acquire()
"""
LEFT = """
import shmkit, os, signal
ring = shmkit.Ring.create("left-behind", keep=True)
ring.put(b"never read")
os.kill(os.getpid(), signal.SIGKILL)
"""


def capture(folder: Path) -> None:
    """Set the scene, and write ls.svg, inspect.svg and top.svg."""
    with ExitStack() as stack:
        camera = stack.enter_context(Child(CAMERA))
        camera.receive()
        children = [
            stack.enter_context(Child(*brief))
            for brief in (
                (VIEWER,),
                (JOBS,),
                (HOLDER, "accounts", "orders"),
                (HOLDER, "orders", "accounts"),
            )
        ]
        for child in children:
            child.receive()
        for child in children[2:]:
            child.send("go")
        with Child(LEFT) as left:
            left.wait()
        wait_until(lambda: inspection.inspect("orders").locks[0].waiters)
        _ls(folder / "ls.svg")
        programs = dict(zip(children, ("viewer", "jobs", "pay", "order"), strict=True))
        names = {child.pid: f"python {name}.py" for child, name in programs.items()}
        _inspect(folder / "inspect.svg", names)
        (folder / "top.svg").write_text(asyncio.run(_top()))
    for name in ("left-behind", "accounts", "orders", "jobs", "camera"):
        Path("/dev/shm", name).unlink(missing_ok=True)


def _looks() -> list[inspection.Inspection]:
    return [look for look in inspection.survey(frames=0) if look.segment.where.startswith("shm:")]


def _ls(path: Path) -> None:
    before, began = _looks(), time.monotonic()
    time.sleep(1)  # for the rates
    passed = {look.segment.where: look.segment.passed or 0 for look in before}
    seconds = time.monotonic() - began
    looks = _looks()
    rates = {
        look.segment.where: (look.segment.passed - passed[look.segment.where]) / seconds
        for look in looks
        if look.segment.passed is not None
    }
    screen = _screen(100)
    print_segments(screen, looks, rates)
    path.write_text(screen.export_svg(title="shmkit ls"))


def _inspect(path: Path, names: dict[int, str]) -> None:
    """As users would see their own programs: `names` has the commands, by pid."""
    screen = _screen(100)
    looks = [_with_commands(inspection.inspect(where), names) for where in ("jobs", "accounts")]
    for look in looks:
        # Without the header, which takes a page.
        print_inspection(screen, look, header=False)
        screen.print()
    for deadlock in find_deadlocks(looks):
        screen.print(deadlock.sentence, style="bold red", markup=False)
    path.write_text(screen.export_svg(title="shmkit inspect jobs accounts"))


def _with_commands(look: inspection.Inspection, names: dict[int, str]) -> inspection.Inspection:
    people = tuple(replace(each, command=names[each.pid]) for each in look.participants)
    return replace(look, participants=people)


async def _top() -> str:
    screen = Top(_Named(cpu=processes_cpu()), 3600)
    async with screen.run_test(size=(80, 14)) as pilot:
        for _ in range(_LOOKS):
            await asyncio.sleep(0.3)
            screen._look()
        await pilot.pause()
        return screen.export_screenshot(title="shmkit top")


class _Named(Sampler):
    """Without the anonymous memory of other programs of this machine."""

    def sample(self) -> list[Any]:
        return [row for row in super().sample() if row.where.startswith("shm:")]


def _screen(width: int) -> Console:
    return Console(
        record=True,
        width=width,
        file=io.StringIO(),
        force_terminal=True,
        highlight=False,
        emoji=False,
    )


if __name__ == "__main__":
    capture(Path(sys.argv[1]))
