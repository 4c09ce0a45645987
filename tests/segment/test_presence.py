"""Presence: locks that the kernel holds for the living, and takes from the dead."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shmkit import ClosedError, SharedBuffer, compiled
from shmkit.segment.presence import Presence
from shmkit.segment.words import (
    CONSUMER_BYTE,
    DOOR_BYTE,
    PARTICIPANT_BYTE,
    PRODUCER_BYTE,
    RESCUE_BYTE,
)
from tests.processes import in_child, wait_until

BYTE = PARTICIPANT_BYTE + 5


@pytest.fixture
def buffer(where: Any) -> Iterator[SharedBuffer]:
    with SharedBuffer.create(where, 4096) as buffer:
        yield buffer


@pytest.fixture
def presence(buffer: SharedBuffer) -> Iterator[Presence]:
    presence = Presence(buffer)
    yield presence
    presence.close()


@pytest.fixture
def other(buffer: SharedBuffer) -> Iterator[Presence]:
    presence = Presence(buffer)
    yield presence
    presence.close()


def lock_and_tell(link: Any, buffer: SharedBuffer, byte: int) -> None:
    presence = Presence(buffer)
    link.send(presence.try_lock(byte))
    link.recv()
    presence.close()
    link.send("closed")
    link.recv()


@pytest.fixture
def locker(start_process: Any, context: Any) -> Iterator[Any]:
    """A process of each method that locks a byte: its process, and the pipe to it."""
    links = []

    def start(buffer: SharedBuffer, byte: int) -> Any:
        ours, theirs = context.Pipe()
        links.append(ours)
        with theirs:
            process = start_process(lock_and_tell, theirs, buffer, byte)
        assert ours.poll(20)
        assert ours.recv() is True
        return process, ours

    yield start
    for link in links:
        link.close()


def test_the_bytes_are_all_different() -> None:
    assert len({DOOR_BYTE, PRODUCER_BYTE, CONSUMER_BYTE, RESCUE_BYTE, PARTICIPANT_BYTE}) == 5
    assert max(DOOR_BYTE, PRODUCER_BYTE, CONSUMER_BYTE, RESCUE_BYTE + 8) < PARTICIPANT_BYTE


def test_one_has_it_and_others_see_it(presence: Presence, other: Presence) -> None:
    assert not presence.is_held(BYTE)
    assert presence.try_lock(BYTE)
    assert presence.holds(BYTE)
    assert presence.is_held(BYTE)
    assert not presence.others(BYTE)
    assert other.is_held(BYTE)
    assert other.others(BYTE)
    assert not other.holds(BYTE)
    assert not other.try_lock(BYTE)
    assert not presence.try_lock(BYTE)  # has it already
    presence.unlock(BYTE)
    assert not presence.holds(BYTE)
    assert not other.is_held(BYTE)
    assert other.try_lock(BYTE)
    assert not presence.try_lock(BYTE)


def test_bytes_are_apart(presence: Presence, other: Presence) -> None:
    assert presence.try_lock(BYTE)
    assert not other.others(BYTE - 1)
    assert not other.others(BYTE + 1)
    assert other.try_lock(BYTE + 1)
    assert other.others(BYTE, 1)
    assert other.others(BYTE - 3, 10)
    assert not other.others(BYTE + 2, 1 << 20)
    presence.unlock(BYTE)
    assert other.holds(BYTE + 1)
    assert presence.others(BYTE - 3, 10)


def test_closing_gives_everything_back(presence: Presence, other: Presence) -> None:
    for byte in (BYTE, BYTE + 1, PRODUCER_BYTE):
        assert presence.try_lock(byte)
    fd = presence.descriptor
    assert Path(f"/proc/self/fd/{fd}").exists()
    presence.close()
    presence.close()
    assert not Path(f"/proc/self/fd/{fd}").exists()
    for byte in (BYTE, BYTE + 1, PRODUCER_BYTE):
        assert not other.is_held(byte)
    for call in (
        lambda: presence.try_lock(BYTE),
        lambda: presence.others(BYTE),
        lambda: presence.is_held(BYTE),
        lambda: presence.descriptor,
    ):
        with pytest.raises(ClosedError):
            call()


def test_a_file_of_the_programs_own_is_not_taken_for_it(
    buffer: SharedBuffer, other: Presence, tmp_path: Path
) -> None:
    """A daemon closes all descriptors, and then opens files, which get the same numbers."""
    presence = Presence(buffer)
    assert presence.try_lock(BYTE)
    fd, path = presence.descriptor, tmp_path / "log"
    with path.open("wb") as log:
        os.dup2(log.fileno(), fd)
    assert presence.is_lost
    assert not other.is_held(BYTE)
    for call in (
        lambda: presence.try_lock(BYTE + 1),
        lambda: presence.others(BYTE),
        lambda: presence.descriptor,
    ):
        with pytest.raises(ClosedError, match="closed the descriptor"):
            call()
    assert in_child(lambda: presence.is_lost) is False  # there it has no descriptor at all
    presence.unlock(BYTE)
    presence.close()
    os.write(fd, b"still open")
    os.close(fd)
    assert path.read_bytes() == b"still open"


def test_a_fork_beside_threads_that_come_and_go_leaves_no_descriptor(
    buffer: SharedBuffer, other: Presence
) -> None:
    """A child with one would keep a participant of the parent's alive for as long as it lives."""
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            presence = Presence(buffer)
            presence.try_lock(BYTE)
            presence.close()

    def is_kept() -> bool:
        told.recv(1)  # the threads have gone
        presence = Presence(buffer)
        try:
            return presence.is_held(BYTE)
        finally:
            presence.close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(60):
            stop.clear()
            tell, told = socket.socketpair()
            with tell, told, ThreadPoolExecutor(2) as threads:
                for _ in range(2):
                    threads.submit(come_and_go)
                child = os.fork()
                if not child:
                    os._exit(is_kept())
                stop.set()
                threads.shutdown()
                tell.send(b"x")
                assert os.waitpid(child, 0)[1] == 0
    finally:
        sys.setswitchinterval(interval)


def test_a_dropped_one_gives_everything_back(buffer: SharedBuffer, other: Presence) -> None:
    presence = Presence(buffer)
    assert presence.try_lock(BYTE)
    del presence
    gc.collect()
    assert not other.is_held(BYTE)


def test_other_descriptors_of_the_memory_may_come_and_go(
    buffer: SharedBuffer, presence: Presence, other: Presence
) -> None:
    """Plain POSIX locks would be gone with the first descriptor that is closed."""
    assert presence.try_lock(BYTE)
    for _ in range(3):
        os.close(buffer.descriptor())
        Presence(buffer).close()
        assert other.is_held(BYTE)


def test_another_process_is_seen(buffer: SharedBuffer, presence: Presence, locker: Any) -> None:
    process, link = locker(buffer, BYTE)
    assert presence.others(BYTE)
    assert not presence.try_lock(BYTE)
    link.send("close")
    assert link.poll(20)
    assert link.recv() == "closed"
    assert not presence.others(BYTE)
    assert presence.try_lock(BYTE)
    link.send("end")
    process.join(20)


def test_the_killed_have_nothing(buffer: SharedBuffer, presence: Presence, locker: Any) -> None:
    process, _ = locker(buffer, BYTE)
    assert presence.is_held(BYTE)
    process.kill()
    process.join(20)
    assert not presence.is_held(BYTE)
    assert presence.try_lock(BYTE)


def test_the_stopped_keep_what_they_have(
    buffer: SharedBuffer, presence: Presence, locker: Any
) -> None:
    process, _ = locker(buffer, BYTE)
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2][1] == "T")
    assert presence.is_held(BYTE)
    assert not presence.try_lock(BYTE)


def test_a_forked_child_starts_with_nothing(presence: Presence, other: Presence) -> None:
    """Its parent's locks stay the parent's, also when the child ends or closes."""
    assert presence.try_lock(BYTE)
    pid = os.fork()
    if pid == 0:
        sound = (
            not presence.holds(BYTE)
            and presence.others(BYTE)
            and not presence.try_lock(BYTE)
            and presence.try_lock(BYTE + 1)
        )
        presence.close()
        os._exit(0 if sound else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert presence.holds(BYTE)
    assert other.is_held(BYTE)
    assert not other.is_held(BYTE + 1)


def test_a_child_that_lives_on_does_not_keep_its_parents_locks(
    buffer: SharedBuffer, other: Presence
) -> None:
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        presence = Presence(buffer)
        assert presence.try_lock(BYTE)
        if os.fork() == 0:
            os.write(writer, os.getpid().to_bytes(8, "little"))
        signal.pause()
    child = int.from_bytes(os.read(reader, 8), "little")
    try:
        assert other.is_held(BYTE)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        os.kill(child, 0)
        assert not other.is_held(BYTE)
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


def test_a_program_that_is_started_does_not_keep_the_locks(
    presence: Presence, other: Presence
) -> None:
    assert presence.try_lock(BYTE)
    program = subprocess.Popen(["sleep", "30"])
    try:
        presence.close()
        assert not other.is_held(BYTE)
    finally:
        program.kill()
        program.wait()


def test_after_a_fork_a_method_is_called(presence: Presence) -> None:
    class Owner:
        pids: tuple[int, ...] = ()

        def follow(self) -> None:
            self.pids += (os.getpid(),)

    owner = Owner()
    presence.call_after_fork(owner.follow)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if owner.pids == (os.getpid(),) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert owner.pids == ()
    del owner  # and it is not kept alive
    gc.collect()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_threads_exclude_each_other(presence: Presence, other: Presence) -> None:
    def try_it(_: int) -> bool:
        return presence.try_lock(BYTE)

    for _ in range(50):
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(try_it, range(4))) == 1
        presence.unlock(BYTE)
        assert not other.is_held(BYTE)


def test_the_descriptor_is_not_inherited(presence: Presence) -> None:
    assert not os.get_inheritable(presence.descriptor)


def test_memory_whose_name_is_gone(make_where: Any) -> None:
    for kind in ("shm", "file"):
        with SharedBuffer.create(make_where(kind), 4096) as buffer:
            presence = Presence(buffer)
            buffer.unlink()
            assert presence.try_lock(BYTE)
            with pytest.raises(FileNotFoundError):
                Presence(buffer)
            pid = os.fork()
            if pid == 0:  # a child gets a descriptor of its own all the same
                os._exit(0 if presence.others(BYTE) and presence.try_lock(BYTE + 1) else 1)
            assert os.waitpid(pid, 0)[1] == 0
            presence.close()


class _Handler(Exception):
    """What a signal handler raises."""


@pytest.fixture
def a_handler_raises(monkeypatch: Any) -> Any:
    """Have a handler raise where they do run: when the call that locks or unlocks has returned."""
    real = fcntl.fcntl

    def call_and_raise(*args: Any) -> Any:
        real(*args)
        monkeypatch.undo()
        raise _Handler

    return lambda: monkeypatch.setattr(fcntl, "fcntl", call_and_raise)


def test_a_handler_that_raises_leaves_no_byte_locked(
    presence: Presence, other: Presence, a_handler_raises: Any
) -> None:
    a_handler_raises()
    with pytest.raises(_Handler):
        presence.try_lock(BYTE)
    assert not presence.is_held(BYTE)
    assert other.try_lock(BYTE)


def test_a_handler_that_raises_leaves_no_byte_half_unlocked(
    presence: Presence, other: Presence, a_handler_raises: Any
) -> None:
    assert presence.try_lock(BYTE)
    a_handler_raises()
    with pytest.raises(_Handler):
        presence.unlock(BYTE)
    assert not presence.is_held(BYTE)
    assert other.try_lock(BYTE)
    other.unlock(BYTE)
    assert presence.try_lock(BYTE)


FORKED_BY_C = """
import ctypes, os, signal
from shmkit import Lock, Ring, Semaphore

lock, semaphore, ring = Lock(), Semaphore(1), Ring.create()
pid = os.fork()
if pid == 0:
    lock.acquire()
    semaphore.acquire()
    ring.put(b"x")
    for _ in range(70):  # more descriptors than one block of the core's table has
        Lock().close()
    more = [Lock() for _ in range(70)]
    if ctypes.CDLL(None).fork() == 0:
        link.send(os.getpid())
        signal.pause()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(pid, 0)
child = link.recv()  # what the test had from it: it runs
try:
    assert lock.acquire(timeout=10).name == "AFTER_DEATH"
    assert semaphore.acquire(timeout=10)
    assert ring.get(timeout=10) == b"x"
    ring.put(b"y")  # the role is free
    if os.fork() == 0:  # a fork of Python's own goes on to have descriptors
        lock.close()
        assert not semaphore.acquire(timeout=0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
finally:
    os.kill(child, signal.SIGKILL)
"""


@pytest.mark.skipif(compiled.core is None, reason="a hook of the compiled core")
def test_a_child_that_c_code_forks_does_not_keep_the_dead_alive(start_child: Any) -> None:
    child = start_child(FORKED_BY_C)
    child.send(child.receive())
    child.finish()
