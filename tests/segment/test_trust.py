"""What another user made is refused by channels, locks and once, unless it is asked for."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shmkit import (
    Broadcast,
    Event,
    JoinableQueue,
    Latest,
    Lock,
    Queue,
    Ring,
    SharedBuffer,
    once,
)
from tests.namespaces import in_namespaces
from tests.processes import in_child

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs root, to be another user"
)

OTHER = 64123

# What makes it, and what takes it then. `where` is a plain name.
TAKEN: dict[str, tuple[Callable[..., Any], list[Callable[..., Any]]]] = {
    "Ring": (Ring.create, [Ring.attach, Ring.ensure]),
    "Broadcast": (Broadcast.create, [Broadcast.attach, Broadcast.ensure]),
    "Latest": (Latest.create, [Latest.attach, Latest.ensure]),
    "Lock": (Lock.create, [Lock.attach, Lock.ensure, Lock]),
    "Event": (Event.create, [Event.attach, Event.ensure, Event]),
}


def make_as_other(make: Callable[..., Any], where: str) -> None:
    """Have another user make it, for everybody to write, and go."""

    def act() -> None:
        os.setgid(OTHER)
        os.setuid(OTHER)
        os.umask(0)
        make(where, keep=True, mode=0o666)

    in_child(act)


@pytest.fixture
def name(unique_name: str) -> Any:
    yield unique_name
    for place in Path("/dev/shm").iterdir():
        if unique_name in place.name or place.lstat().st_uid == OTHER:
            place.unlink()


@pytest.mark.parametrize("kind", TAKEN)
def test_another_users_is_refused_and_untouched(kind: str, name: str) -> None:
    make, ways = TAKEN[kind]
    make_as_other(make, name)
    path = Path("/dev/shm", name)
    before = path.read_bytes(), path.stat()
    for take in ways:
        with pytest.raises(PermissionError, match=rf"user {OTHER}.*trust_owner=True") as caught:
            take(name)
        assert name in str(caught.value)
    assert path.read_bytes() == before[0]
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before[1].st_ino, before[1].st_mtime_ns)
    for take in ways:
        handle = take(name, trust_owner=True)
        assert not handle.closed
        handle.close()


def test_another_users_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    with Ring.create(path) as ring:
        ring.put(b"EVIL")
    os.chown(path, OTHER, -1)
    for take in Ring.attach, Ring.ensure:
        with pytest.raises(PermissionError, match=f"user {OTHER}"):
            take(path)
    with SharedBuffer.attach(path) as buffer, pytest.raises(PermissionError, match=f"user {OTHER}"):
        Ring.attach(buffer)  # type: ignore[arg-type]
    with Ring.attach(path, trust_owner=True) as ring:
        assert ring.get(0) == b"EVIL"


def test_it_is_refused_before_its_bytes_are_looked_at(tmp_path: Path) -> None:
    """A planted file that is cut off while its header is read would be a SIGBUS."""
    path = tmp_path / "planted"
    path.write_bytes(b"not even a header")
    os.chown(path, OTHER, -1)
    for take in Ring.attach, Ring.ensure, Queue.attach:
        with pytest.raises(PermissionError, match=f"user {OTHER}"):
            take(path)


def test_once_does_not_take_what_another_user_built(name: str) -> None:
    def build_as_other() -> None:
        os.setgid(OTHER)
        os.setuid(OTHER)
        os.umask(0)
        once(name, lambda: b"EVIL", mode=0o666)
        os._exit(0)  # as if killed: what it built stays

    pid = os.fork()
    if pid == 0:
        build_as_other()
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(PermissionError, match=f"user {OTHER}.*trust_owner=True"):
        once(name, lambda: b"good")


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
def test_pickles_of_another_user_are_refused_always(kind: Any, name: str) -> None:
    queue = kind(where=name)
    pickled = pickle.dumps(queue)
    os.chown(f"/dev/shm/{name}", OTHER, -1)
    calls = (
        lambda: kind.attach(name),
        lambda: pickle.loads(pickled),
        lambda: kind._RING.attach(name, trust_owner=True),
    )
    for call in calls:
        with pytest.raises(PermissionError, match=f"user {OTHER}: objects are pickles"):
            call()
    os.chown(f"/dev/shm/{name}", os.geteuid(), -1)
    queue.unlink()
    queue.close()


def test_what_is_passed_on_is_not_refused(name: str) -> None:
    """A handle comes by fork or pickle from one's own program, which may have changed its user."""
    with Ring.create(name, mode=0o666) as ring:
        pickled = pickle.dumps(ring)

        def act() -> bytes:
            os.setgid(OTHER)
            os.setuid(OTHER)
            with pickle.loads(pickled) as other:
                return bytes(other.get(5))

        Path("/dev/shm", name).chmod(0o666)
        ring.put(b"x")
        assert in_child(act) == b"x"


UNMAPPED = """
import os, sys
from shmkit import Event, Lock, Queue, Ring
assert os.geteuid() == os.stat(sys.argv[1]).st_uid == 65534, os.geteuid()
for kind in Ring, Queue:
    try:
        kind.attach("file:" + sys.argv[1])
    except PermissionError as error:
        assert "user 65534, by which this user namespace" in str(error), error
    else:
        raise AssertionError(kind)
# One's own memory that nobody else could have made is no concern.
with Ring.create() as ring, Queue() as queue, Lock():
    ring.put(b"x")
    queue.put("x")
    assert (ring.get(), queue.get()) == (b"x", "x")
"""


def test_the_user_of_all_unknown_users_is_nobody(tmp_path: Path) -> None:
    """In a user namespace without a map each user, this one too, has the number of all others."""
    command = in_namespaces("--user")
    path = tmp_path / "ring"
    with Ring.create(path) as ring:
        ring.put(b"EVIL")
    os.chown(path, OTHER, -1)
    path.chmod(0o666)
    for folder in path.parents:
        if folder.stat().st_uid == 0 and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
        if folder == Path("/tmp"):
            break
    result = subprocess.run(
        [*command, sys.executable, "-W", "error", "-c", UNMAPPED, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


def test_the_overflow_user_is_a_user_where_all_are_known(name: str) -> None:
    """`nobody` in a container that has all users: its own segments are its own."""

    def act() -> bytes:
        os.setgid(65534)
        os.setuid(65534)
        with Ring.create(name) as ring:
            ring.put(b"x")
            with Ring.attach(name) as other:
                return bytes(other.get(5))

    assert in_child(act) == b"x"
