"""A system whose /dev/shm is missing, read-only or another user's: one clear error, at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.namespaces import in_namespaces

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux's")

SETUPS = {
    "missing": "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3",
    "read-only": "mount -t tmpfs -o ro tmpfs /dev/shm",
    # As root without the right to override it: any other user could not read this interpreter.
    "another user's": "mount -t tmpfs -o mode=755,uid=65533 tmpfs /dev/shm",
}
WITHOUT_OVERRIDE = "setpriv --bounding-set=-dac_override,-dac_read_search"

PRELUDE = """
import faulthandler, os, sys
from pathlib import Path
faulthandler.dump_traceback_later(20, exit=True)
from shmkit import *
folder, way = Path(sys.argv[1]), sys.argv[2]
"""

NEEDS_IT = {
    "Lock": 'Lock("x")',
    "Event": 'Event("x")',
    "Semaphore": 'Semaphore(1, "x")',
    "Semaphore.create": 'Semaphore.create("x")',
    "once": 'once("x", lambda: b"built")',
    "SharedBuffer": 'SharedBuffer.create("x", 10)',
    "fresh": 'SharedBuffer.create("shm:", 10)',
    "ensure": 'SharedBuffer.ensure("x", 10)',
    "SharedArray": 'SharedArray.create("x", 10, float)',
    "Ring": 'Ring.create("x")',
    "Ring.ensure": 'Ring.ensure("x")',
    "Broadcast": 'Broadcast.ensure("x")',
    "Latest": 'Latest.ensure("x", 100)',
    "Queue": 'Queue(where="x")',
}

REFUSED = """
for name, call in needs_it.items():
    try:
        eval(call)
    except OSError as error:
        assert not isinstance(error, (FileExistsError, FileNotFoundError)), (name, repr(error))
        assert "/dev/shm" in str(error) and "another" not in str(error), (name, str(error))
        assert error.errno, name
    else:
        raise AssertionError(f"{name} worked")
"""

WAITED_FOR = """
for call in 'SharedBuffer.attach("x", timeout=None)', 'Ring.attach("x", timeout=None)':
    try:
        eval(call)
    except OSError as error:
        assert not isinstance(error, FileNotFoundError) and "/dev/shm" in str(error), error
    else:
        raise AssertionError(f"{call} worked")
"""

GOES_ON = """
def main():
    for where in None, folder / "ring":
        with Ring.create(where, producers="many", consumers="many") as ring:
            ring.put(b"x")
            assert ring.get() == b"x"
    with Broadcast.create() as broadcast, Latest.create(folder / "latest", 100) as latest:
        broadcast.publish(b"x")
        latest.set(b"x")
    for where in None, folder / "queue":
        with Queue(where=where) as queue:
            queue.put({"a": b"x" * 3_000_000})
            assert queue.get() == {"a": b"x" * 3_000_000}
    with SharedBuffer.create(None, 10) as buffer, SharedBuffer.create(folder / "b", 10) as other:
        buffer[0] = other[0] = 1
    with SharedArray.create(None, 10, float) as array:
        array.array[0] = 1
    with Lock() as how:
        assert how
    Event().set()
    assert Semaphore(1).acquire()
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(len, b"x" * 3_000_000).result() == 3_000_000

if __name__ == "__main__":
    main()
"""


def run(way: str, folder: Path, source: str) -> None:
    command = in_namespaces("--mount", setup=SETUPS[way])
    override = WITHOUT_OVERRIDE.split() if way == "another user's" else []
    script = folder / "program.py"  # a file: a pool may start its workers from it
    script.write_text(source)
    result = subprocess.run(
        [*command, *override, sys.executable, "-W", "error", str(script), str(folder), way],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


@pytest.mark.parametrize("way", SETUPS)
def test_what_needs_it_says_so_and_the_rest_goes_on(way: str, tmp_path: Path) -> None:
    waited = WAITED_FOR if way == "missing" else ""
    refused = f"if __name__ == '__main__':\n{textwrap.indent(REFUSED + waited, '    ')}"
    run(way, tmp_path, f"{PRELUDE}needs_it = {NEEDS_IT}\n{refused}{GOES_ON}")


def test_semaphores_with_names_say_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring whose semaphores have names needs it, wherever its memory is."""
    monkeypatch.setenv("SHMKIT_SEMAPHORES", "named")
    calls = {"Ring": "Ring.create()", "file": 'Ring.create(folder / "r")', "Queue": "Queue()"}
    for way in "missing", "read-only":
        run(way, tmp_path, f"{PRELUDE}needs_it = {calls}\n{REFUSED}")
        assert not (tmp_path / "r").exists()
