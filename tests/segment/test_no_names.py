"""What has no name leaves no name: while it is used, and after a kill of all that used it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shmkit import Ring
from tests.processes import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")

MAKE = """
import os, shmkit
from shmkit import *
things = {{
    "ring": lambda: Ring.create({where}, producers="many", consumers="many"),
    "queue": lambda: Queue(where={where}),
    "joinable queue": lambda: JoinableQueue(where={where}),
    "broadcast": lambda: Broadcast.create({where}, 4096),
    "latest": lambda: Latest.create({where}, 100),
    "lock": Lock,
    "event": Event,
    "semaphore": Semaphore,
}}
"""


@pytest.mark.parametrize(
    "what",
    ["ring", "queue", "joinable queue", "broadcast", "latest", "lock", "event", "semaphore"],
)
def test_nothing_in_dev_shm(what: str, start_child: Any) -> None:
    """The names that a process uses are those of what it has open or mapped."""
    child = start_child(
        MAKE.format(where="None")
        + """
thing = things[args[0]]()
for call in ("put", "acquire", "set", "publish"):
    if hasattr(thing, call):
        takes = call in ("put", "publish") or isinstance(thing, Latest)
        getattr(thing, call)(*[bytes(100)] * takes)
if os.fork() == 0:
    import time
    time.sleep(60)
maps = open("/proc/self/maps").read()
links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
         if os.path.lexists(f"/proc/self/fd/{fd}")]
link.send([text for text in [*maps.splitlines(), *links] if "/dev/shm" in text])
link.recv()
""",
        what,
    )
    try:
        assert child.receive() == []
    finally:
        group = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        for pid in [*map(int, group), child.pid]:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}/maps").exists() for pid in group))


def test_a_ring_on_a_file_needs_no_dev_shm(tmp_path: Path) -> None:
    with Ring.create(tmp_path / "ring", producers="many", consumers="many") as ring:
        ring.put(b"x")
        assert "/dev/shm" not in Path("/proc/self/maps").read_text()
        assert ring.get() == b"x"


CONTEND = """
import sys
from shmkit import Ring
ring = Ring.attach(sys.argv[1], timeout=10)
for n in range(500):
    ring.put(sys.argv[2].encode() + b" %d" % n, timeout=20)
ring.close()
"""


def test_two_containers_with_one_volume(tmp_path: Path) -> None:
    """Each has a /dev/shm of its own; a ring on the volume is one ring, with one put lock."""
    unshare = shutil.which("unshare")
    mount = "mount -t tmpfs tmpfs /dev/shm && exec "
    if (
        unshare is None
        or subprocess.run([unshare, "-m", "sh", "-c", mount + "true"], check=False).returncode
    ):
        pytest.skip("needs the right to mount")
    script = tmp_path / "contend.py"
    script.write_text(CONTEND)
    with Ring.create(tmp_path / "ring", producers="many", consumers="one") as ring:
        containers = [
            subprocess.Popen(
                [unshare, "-m", "sh", "-c", f'{mount}"$0" "$@"']
                + [sys.executable, str(script), f"file:{tmp_path / 'ring'}", name]
            )
            for name in ("a", "b")
        ]
        try:
            came = [ring.get(timeout=20).decode().split() for _ in range(1000)]
        finally:
            for container in containers:
                container.wait(20)
        for name in ("a", "b"):
            assert [int(n) for who, n in came if who == name] == list(range(500))
