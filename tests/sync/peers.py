"""Other processes that use a lock or an event, one call at a time, as the test tells them.

    mate = family.start(lock)               # by fork, by pickle, or by its name
    assert mate.do("acquire", timeout=1)    # a call, and what came of it
    mate.ask("acquire")                     # a call that takes long ...
    assert mate.answer() is YES             # ... and what came of it

An exception there is raised here. A function of a module, too, may be called there: `do(function,
*args)` gives it the object and the arguments.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmkit import Event, Lock
from shmkit.segment import semaphores
from shmkit.segment.words import ENTERING, IDLE
from tests.processes import Child, reap, wait_until

__all__ = [
    "WAYS",
    "Family",
    "Peer",
    "Telling",
    "again",
    "at_it",
    "by_name",
    "names_of",
    "stopped",
    "waiting",
]

TIMEOUT = 20.0
# How another process comes by the object, and whether that has a name.
WAYS = [
    "fork",
    "spawn",
    "forkserver",
    "fork named",
    "spawn named",
    "forkserver named",
    "unrelated",
    # The same where semaphores have names, too.
    "fork with named semaphores",
    "unrelated with named semaphores",
]


def serve(link: Any, thing: Any) -> None:
    """What the other process does: as it is told, until it is told to end."""
    while (order := link.recv()) is not None:
        what, args, options = order
        try:
            call = getattr(thing, what) if isinstance(what, str) else what
            link.send(call(*args, **options) if isinstance(what, str) else call(thing, *args))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised in the test
            link.send(error)
    thing.close()


def serve_by_name(link: Any, kind: Any, name: str) -> None:
    """The same in a process that knows nothing but a name."""
    serve(link, kind(name))


class Peer:
    """Another process with a lock or an event."""

    def __init__(self, link: Any, process: Any) -> None:
        self._link = link
        self._process = process
        self.pid: int = process.pid

    def ask(self, what: str | Callable[..., Any], *args: Any, **options: Any) -> None:
        """Have a method called there; `answer` tells what came of it."""
        self._link.send((what, args, options))

    def answer(self, timeout: float = TIMEOUT) -> Any:
        """What the call returned; raises what it raised."""
        assert self._link.poll(timeout), f"process {self.pid} did not answer in {timeout} s"
        answer = self._link.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def do(self, what: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Both."""
        self.ask(what, *args, **options)
        return self.answer()

    def answered(self) -> bool:
        """Whether `answer` has something to tell."""
        return bool(self._link.poll(0))

    def stop(self) -> None:
        """SIGSTOP it, and wait until it stands."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: stopped(self.pid))

    def go_on(self) -> None:
        """SIGCONT it."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL it, and see it dead."""
        self._process.kill()
        self._wait()

    def end(self) -> None:
        """Have it close its handle and end, which it has to do in order."""
        self._link.send(None)
        self._wait()
        assert self._process.exitcode == 0

    def close(self) -> None:
        """End it, whatever it does. Idempotent."""
        if self._link.closed:
            return
        self._link.close()
        if isinstance(self._process, Child):
            self._process.close()
        else:
            reap(self._process)

    def _wait(self) -> None:
        if isinstance(self._process, Child):
            self._process.wait(TIMEOUT)
        else:
            self._process.join(TIMEOUT)


class Family:
    """Locks and events of one test, and the processes that share them in one way."""

    def __init__(self, way: str, unique_name: Callable[[], str]) -> None:
        self._method, _, named = way.partition(" ")
        self.named = named == "named" or self._method == "unrelated"
        self._unique_name = unique_name
        self._made: list[Any] = []
        self._peers: list[Peer] = []

    def lock(self) -> Lock:
        """A lock of this test."""
        self._made.append(Lock(self._unique_name() if self.named else None))
        return self._made[-1]  # type: ignore[no-any-return]

    def event(self) -> Event:
        """An event of this test."""
        self._made.append(Event(self._unique_name() if self.named else None))
        return self._made[-1]  # type: ignore[no-any-return]

    def start(self, thing: Any) -> Peer:
        """Another process that has it, too."""
        if self._method == "unrelated":
            child = Child(serve_by_name, type(thing), thing.name)
            self._peers.append(Peer(child._link, child))
            return self._peers[-1]
        context: Any = multiprocessing.get_context(self._method)
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            process = context.Process(target=serve, args=(theirs, thing))
            process.start()
        self._peers.append(Peer(ours, process))
        return self._peers[-1]

    def close(self) -> None:
        """End all processes, close all locks and events."""
        for peer in self._peers:
            peer.close()
        for thing in self._made:
            thing.close()
            if self.named:  # that of a lock stays if somebody was killed inside
                Path("/dev/shm", thing.name).unlink(missing_ok=True)


class Telling:
    """A doorbell that tells when somebody is about to wait at it."""

    def __init__(self, bell: Any, tell: Callable[[], None]) -> None:
        self._bell = getattr(bell, "_bell", bell) if isinstance(bell, Telling) else bell
        self._tell = tell

    def wait(self, *args: Any) -> bool:
        self._tell()
        return bool(self._bell.wait(*args))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bell, name)


def again(thing: Any) -> Any:
    """Another handle of this process."""
    return pickle.loads(pickle.dumps(thing))


def phases(lock: Lock) -> list[tuple[int, bool]]:
    """Phase of each participant at a lock, and whether it is alive."""
    table = lock._segment.membership.participants
    return [(table.words[at], lives()) for at, lives in table.phases(0)]


def waiting(lock: Lock) -> int:
    """How many handles wait for it."""
    return phases(lock).count((ENTERING, True))


def at_it(lock: Lock) -> int:
    """How many places, of the living and the dead, say that one waits for it or has it."""
    return sum(phase != IDLE for phase, _ in phases(lock))


def stopped(pid: int) -> bool:
    """Whether a process is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] == "T"


def names_of(thing: Any) -> list[Path]:
    """What a lock or an event has in /dev/shm."""
    segment = thing.segment if hasattr(thing, "segment") else thing._segment
    names = [segment.buffer.name] if segment.buffer.name else []
    if semaphores.uses_names():
        open_ones: Any = segment.membership.semaphores.values()
        names += [f"sem.{semaphore.name}" for semaphore in open_ones]
    return [Path("/dev/shm", name) for name in names]


def by_name(monkeypatch: Any) -> None:
    """Have semaphores with names, here and in all children."""
    monkeypatch.setenv("SHMKIT_SEMAPHORES", "named")
    monkeypatch.setattr(semaphores, "MODE", "named")
