"""Processes for tests of channels."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shmkit.segment import named_semaphores
from tests.processes import TIMEOUT, reap
from tests.sync.peers import by_name

_FORK = multiprocessing.get_context("fork")


class Forked(NamedTuple):
    """A forked child, and a pipe to it."""

    process: Any
    link: Connection

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def receive(self, timeout: float = TIMEOUT) -> Any:
        """Wait for what it sends."""
        assert self.link.poll(timeout), f"process {self.pid} sent nothing in {timeout} s"
        return self.link.recv()

    def kill(self) -> None:
        """SIGKILL it, and reap it."""
        self.process.kill()
        self.process.join(TIMEOUT)

    def finish(self) -> None:
        """Wait for its end, which has to be exit status 0."""
        self.process.join(TIMEOUT)
        assert self.process.exitcode == 0


@pytest.fixture
def fork() -> Iterator[Callable[..., Forked]]:
    """Fork a child that runs `target(link, *args)`; at the end of the test it is killed."""
    started: list[Forked] = []

    def start(target: Callable[..., Any], *args: Any) -> Forked:
        ours, theirs = _FORK.Pipe()
        process = _FORK.Process(target=target, args=(theirs, *args))
        started.append(Forked(process, ours))
        with theirs:
            process.start()
        return started[-1]

    yield start
    for process, link in started:
        reap(process)
        link.close()


@pytest.fixture
def semaphores(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """Have semaphores with names; files of those that this test's process made, if they are there.

    Others are in their segment, and nothing is to be left of them.
    """
    by_name(monkeypatch)
    made: list[str] = []

    class Noted(named_semaphores.NamedSemaphore):
        """A semaphore whose name is written down when it is made."""

        __slots__ = ()

        def __init__(self, name: str, count: int | None = None) -> None:
            super().__init__(name, count)
            if count is not None:
                made.append(name)

    monkeypatch.setattr(named_semaphores, "NamedSemaphore", Noted)

    def there() -> list[Path]:
        assert made, "no semaphore was made"
        return [path for name in made if (path := Path(f"/dev/shm/sem.{name}")).exists()]

    return there
