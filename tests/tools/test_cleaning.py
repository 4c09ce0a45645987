"""cleaning: what is provably nobody's goes, and nothing else. In a /dev/shm of the test's own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import shmkit
from shmkit.tools import cleaning
from tests.processes import TIMEOUT
from tests.tools.shm import in_own_shm

# What every script below begins with. Its own results go to stdout as JSON.
PROLOGUE = """
import json, os, signal, subprocess, sys, time
import shmkit
from shmkit.tools.cleaning import clean

def names():
    return sorted(os.listdir("/dev/shm"))

def start(source):
    # In a group of its own, resource tracker and all; it says a line when it is ready.
    child = subprocess.Popen([sys.executable, "-c", "import shmkit, sys, time, os\\n" + source],
                             stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout.readline()
    return child

def kill(child):
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    time.sleep(0.05)  # for its children: there is nothing to wait on

def told(**options):
    return {v.where: v.reason for v in clean(**options)}
"""


def run(source: str) -> Any:
    """Run a script where /dev/shm is its own; what it assigns to `result`."""
    script = f"{PROLOGUE}\n{source}\nprint(json.dumps(result))"
    done = subprocess.run(
        in_own_shm(sys.executable, "-c", script),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


TREE = """
import multiprocessing, threading
def hold(name):
    lock = shmkit.Lock(name); lock.acquire(); print("holds", flush=True); time.sleep(100)
ring = shmkit.Ring.create("cam", keep=True); ring.put(b"x")
jobs = shmkit.Queue(where="jobs"); jobs.put(b"y" * 20_000_000)
news = shmkit.Broadcast.create("news", capacity=4096); news.publish(b"1")
array = shmkit.SharedArray.create("array", 4, float)
model = shmkit.once("model", lambda: b"z" * 1000)
pool = shmkit.ProcessPoolExecutor(1); pool.submit(time.sleep, 100)
multiprocessing.get_context("fork").Process(target=hold, args=("lock",)).start()
time.sleep(100)
"""


def test_a_killed_tree_leaves_nothing_after_it() -> None:
    """Rings, a queue with a large object, a lock that is held, once and a pool."""
    alive, left, dry, after, verdicts = run(f"""
before = names()
child = start({TREE!r})
alive = told()
used = names()
kill(child)
left = names()
dry = told(dry_run=True)
assert names() == left
verdicts = told()
result = [alive, left, dry, names() == before, verdicts]
""")
    assert {"cam", "jobs", "news", "array", "lock", "shmkit-once-model"} < set(left)
    assert set(alive) == {f"shm:{name}" for name in left}
    assert all(reason for reason in alive.values())
    assert alive["shm:cam"].startswith("in use by process ")
    assert set(dry.values()) == set(verdicts.values()) == {""}
    assert after


def test_nothing_alive_is_touched() -> None:
    """A map, a descriptor or a handle is enough, of another process or of this one."""
    result = run("""
ring = shmkit.Ring.create("ring"); ring.put(b"1")
array = shmkit.SharedArray.create("array", 4, float)
fd = os.open("/dev/shm/opened", os.O_RDWR | os.O_CREAT)
view = shmkit.SharedBuffer.create("mapped", size=100, keep=True).buf
lock = shmkit.Lock("lock")
before = names()
verdicts = told(foreign=True)
assert names() == before
assert ring.get() == b"1"
result = verdicts
""")
    assert all(reason.startswith("in use by process ") for reason in result.values())
    assert len(result) == 5


def test_what_is_not_ours_stays_unless_it_is_asked_for() -> None:
    plain, foreign, left = run("""
open("/dev/shm/file", "wb").write(b"something")
semaphore = shmkit.Semaphore.create("tokens", 2, posix=True, tracked=False)
semaphore.close(); del semaphore
os.mkfifo("/dev/shm/pipe"); os.mkdir("/dev/shm/folder"); os.symlink("file", "/dev/shm/link")
plain = told()
import gc; gc.collect()
foreign = told(foreign=True)
result = [plain, foreign, names()]
""")
    assert set(plain) == {"shm:file", "shm:sem.tokens"}
    assert all("not known to be shmkit's" in reason for reason in plain.values())
    assert set(foreign.values()) == {""}
    assert left == ["folder", "link", "pipe"]


def test_a_broken_header_is_not_taken_for_ours() -> None:
    first, second = run("""
ring = shmkit.Ring.create("ring", keep=True); ring.close()
with open("/dev/shm/ring", "r+b") as file:
    file.seek(32); file.write(b"?")
first = told()
result = [first, told(foreign=True)]
""")
    assert "its header is broken" in first["shm:ring"]
    assert second == {"shm:ring": ""}


def test_older_than_spares_what_was_just_used() -> None:
    first, second = run("""
shmkit.Ring.create("ring", keep=True).close()
first = told(older_than=100)
result = [first, told(older_than=0)]
""")
    assert first["shm:ring"].endswith("later than --older-than allows")
    assert second == {"shm:ring": ""}


def test_a_process_that_opens_it_meanwhile_ends_nobody(unique_name, monkeypatch) -> None:
    """It is told to try again, and the signal that the kernel sends then does no harm."""
    path = f"/dev/shm/{unique_name}"
    shmkit.Ring.create(unique_name, keep=True).close()
    answers = []
    unlink = os.unlink

    def opened_first(name: str) -> None:
        try:
            os.close(os.open(name, os.O_RDONLY | os.O_NONBLOCK))
        except BlockingIOError as error:
            answers.append(error.errno)
        unlink(name)

    monkeypatch.setattr("shmkit.tools.cleaning.os.unlink", opened_first)
    status = Path(path).stat()
    assert cleaning._remove(path, (status.st_dev, status.st_ino), dry_run=False) == ""
    assert answers == [errno.EAGAIN]
    assert not Path(path).exists()


def test_what_was_replaced_meanwhile_stays(unique_name) -> None:
    path = f"/dev/shm/{unique_name}"
    with shmkit.Ring.create(unique_name) as ring:
        assert cleaning._remove(path, (1, 2), dry_run=False).startswith("a process has it")
        ring.put(b"alive")
    shmkit.Ring.create(unique_name, keep=True).close()
    assert cleaning._remove(path, (1, 2), dry_run=False) == "replaced meanwhile"
    Path(path).unlink()
    assert cleaning._remove(path, (1, 2), dry_run=False) == "gone meanwhile"
