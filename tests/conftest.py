"""What every test may use, and what every test is held to: nothing leaks.

For the author of a test:

- `unique_name`: a name no other test has. Call it for more: `unique_name()`.
- `make_where(kind)`: kind is "anon", "shm" or "file"; gives a fresh `where` of that kind.
- `where`: a test that takes it runs on each kind of memory in turn; `backend` is the kind.
- `start_method`, `context`: a test that takes one runs under fork, spawn and forkserver.
- `start_process(target, *args)`: a `multiprocessing` process of `context`, always reaped.
- `start_child(target, *args)`: a `tests.processes.Child`, always reaped; see there.

A test that leaves a name in /dev/shm, an open descriptor, a mapping of shared memory or a child
process behind fails at its teardown. Make names from `unique_name` or `make_where`: that is how a
name is known to be this test's while other workers make theirs. Names that the library thinks of
itself (its semaphores') are looked for when the whole run is over.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from shmkit import compiled
from tests import leaks
from tests.processes import Child, reap

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    # A shell's background job is born deaf to Ctrl-C, and its children after it: not these.
    signal.signal(signal.SIGINT, signal.default_int_handler)

KINDS = ("anon", "shm", "file")
TICK = 0.02  # seconds by which the time of a file may lag behind the clock


class UniqueName(str):
    """A name of one test; calling it gives another that is known to be of the same test."""

    __slots__ = ()

    def __call__(self) -> str:
        return f"{self}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def unique_name(shm_name: str) -> UniqueName:
    """A name that no other test and no other worker has."""
    return UniqueName(shm_name)


@pytest.fixture
def plain_python() -> Iterator[None]:
    """Have the plain methods of the core used, for a test that looks into a step of them."""
    compiled.use_python(True)
    yield
    compiled.use_python(False)


@pytest.fixture
def make_where(unique_name: UniqueName, tmp_path: Path) -> Callable[[str], str | None]:
    """Make a fresh `where` of a kind of memory: "anon", "shm" or "file"."""

    def make(kind: str) -> str | None:
        if kind == "anon":
            return None
        if kind == "shm":
            return f"shm:{unique_name()}"
        assert kind == "file", f"kind is one of {KINDS}, not {kind!r}"
        return f"file:{tmp_path / unique_name()}"

    return make


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each kind of memory in turn."""
    return str(request.param)


@pytest.fixture
def where(backend: str, make_where: Callable[[str], str | None]) -> str | None:
    """Each kind of memory in turn, as the `where` of a create or attach."""
    return make_where(backend)


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def start_method(request: pytest.FixtureRequest) -> str:
    """Each way to start a process in turn."""
    return str(request.param)


@pytest.fixture
def context(start_method: str) -> BaseContext:
    """The `multiprocessing` context of each start method in turn."""
    return multiprocessing.get_context(start_method)


@pytest.fixture
def start_process(context: BaseContext) -> Iterator[Callable[..., BaseProcess]]:
    """Start a process of `context` running `target(*args)`; at the end of the test it is killed."""
    started: list[BaseProcess] = []

    def start(target: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseProcess:
        process = context.Process(target=target, args=args, kwargs=kwargs)  # type: ignore[attr-defined]
        started.append(process)
        process.start()
        return process  # type: ignore[no-any-return]

    yield start
    for process in started:
        reap(process)


@pytest.fixture
def start_child() -> Iterator[Callable[..., Child]]:
    """Start a `Child`; what still runs at the end of the test is killed."""
    started: list[Child] = []

    def start(*args: Any, **kwargs: Any) -> Child:
        child = Child(*args, **kwargs)
        started.append(child)
        return child

    yield start
    for child in started:
        child.close()


@dataclass
class Run:
    """What is known of the whole run, in the process that leads it."""

    before: set[str]
    shared: bool
    tests: list[tuple[float, float, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


_RUN = pytest.StashKey[Run]()
_run: Run | None = None


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` is: half as many again as there are cores, for tests wait for processes."""
    return max(2, 3 * (os.cpu_count() or 1) // 2)


def pytest_configure(config: pytest.Config) -> None:
    """Mark every process of this run, and remember what was there before it."""
    global _run
    if not hasattr(config, "workerinput"):
        os.environ[leaks.RUN] = uuid.uuid4().hex
        config.stash[_RUN] = _run = Run(leaks.library_names(), leaks.used_elsewhere())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember when each test ran: a name that is left over tells when it was made."""
    if _run is not None:
        _run.tests.append((report.start, report.stop, report.nodeid))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look for what outlived the whole run: names, and processes of it that nobody waits for.

    A name does not tell who made it. While others use the library on this machine, what is left
    is shown and does not fail the run.
    """
    run = session.config.stash.get(_RUN, None)
    if run is None:
        return
    names, processes = leaks.after_run(run.before)
    run.left = [f"process {process}" for process in processes]
    for name in names:
        time = leaks.born(name)
        during = sorted({test for start, stop, test in run.tests if start - TICK <= time <= stop})
        run.left.append(f"name {name}, made during {', '.join(during) or 'no test'}")
    run.shared = run.shared or leaks.used_elsewhere()
    if processes or (names and not run.shared):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name what the run left behind."""
    run = config.stash.get(_RUN, None)
    if run is not None and run.left:
        doubt = ": names may be of others, who use the library too" if run.shared else ""
        terminalreporter.section(f"left behind by this run{doubt}", red=True, bold=True)
        for line in run.left:
            terminalreporter.line(line)
