"""The pytest plugin: shared memory for tests, a leak check after each, deadlines with stacks.

Installed with shmkit, and quiet until it is asked for:

    shmkit_leaks = error    a test that leaves a segment, semaphore, descriptor, map or child
                            process behind fails (a setting; also --shmkit-leaks=error)
    shm_deadline(5)         mark: a test that takes longer fails, with the stacks of its processes
    shm_name                fixture: a name of this test alone
    shm_buffer, shm_ring    fixtures: a buffer and a ring under names of their own
    shared_once             fixture: built once for all processes of pytest-xdist

Nothing else of shmkit is imported before one of these is used.
"""

from __future__ import annotations

import os
import sys
import uuid
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from shmkit.channels.ring import Ring
    from shmkit.memory.buffer import SharedBuffer
    from shmkit.tools.testing.leaks import Held

__all__ = ["ShmkitLeakWarning", "shared_once", "shm_buffer", "shm_name", "shm_ring"]

Mode = Literal["error", "warn", "off"]
_MODES = ("error", "warn", "off")
_BEFORE: pytest.StashKey[Held] = pytest.StashKey()
_NAME = pytest.StashKey[str]()
_FAILED = pytest.StashKey[bool]()
_SECONDS = pytest.StashKey[float | None]()
_MODE = pytest.StashKey[Mode]()


class ShmkitLeakWarning(pytest.PytestWarning):
    """A test left something behind, and `shmkit_leaks` is "warn"."""

    __module__ = "shmkit.tools.pytest_plugin"


# -- configuration -----------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--shmkit-leaks` and the setting `shmkit_leaks`."""
    text = "what a test does that leaves shared memory, descriptors or children: error, warn or off"
    parser.getgroup("shmkit").addoption("--shmkit-leaks", choices=_MODES, help=text)
    parser.addini("shmkit_leaks", text, default="off")


def pytest_configure(config: pytest.Config) -> None:
    """Read the setting, and begin to remember who makes what if it asks for that.

    Raises:
        UsageError: another word than error, warn or off, or a system that has no /proc to ask.
    """
    config.addinivalue_line(
        "markers",
        "shm_deadline(seconds): fail the test after that time, with the stacks of its processes",
    )
    mode = config.getoption("--shmkit-leaks") or config.getini("shmkit_leaks")
    if mode not in _MODES:
        raise pytest.UsageError(f"shmkit_leaks = {mode!r}: it is one of {', '.join(_MODES)}")
    config.stash[_MODE] = cast("Mode", mode)
    if mode != "off":
        if not sys.platform.startswith("linux"):
            raise pytest.UsageError(f"shmkit_leaks = {mode!r}: only Linux tells what a test left")
        from shmkit.tools.testing.makers import watch_makers

        watch_makers()


# -- leaks -------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember what there is before a test."""
    item.stash[_NAME] = f"t-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-{uuid.uuid4().hex[:12]}"
    item.stash[_FAILED] = False
    item.stash[_SECONDS] = _seconds_of(item)
    if item.config.stash[_MODE] != "off":
        from shmkit.tools.testing.leaks import snapshot

        item.stash[_BEFORE] = snapshot()
    with _deadline_of(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """What a fixture of more than one test makes is not this test's."""
    item = getattr(request, "_pyfuncitem", None)
    if fixturedef.scope == "function" or item is None or _BEFORE not in item.stash:
        return (yield)
    from shmkit.tools.testing.leaks import snapshot

    before = snapshot()
    try:
        return (yield)
    finally:
        new = (now - then for now, then in zip(snapshot(), before, strict=True))
        known = item.stash[_BEFORE]
        item.stash[_BEFORE] = type(known)(
            *(old | more for old, more in zip(known, new, strict=True))
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run a test under its deadline."""
    with _deadline_of(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember whether a test failed: its traceback may keep alive what it had open."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Compare with what there was before the test, when its fixtures are done."""
    with _deadline_of(item):
        result = yield
    if _BEFORE in item.stash and not item.stash[_FAILED]:
        _tell_leaks(item)
    return result


def _tell_leaks(item: pytest.Item) -> None:
    from shmkit.tools.testing.leaks import Leak, leaks_since

    def is_ours(name: str) -> bool:
        # Beside other processes of pytest-xdist, a name is this test's if it was made in this
        # process, or has the test's own name in it.
        alone = "PYTEST_XDIST_WORKER" not in os.environ
        return alone or item.stash[_NAME] in name or bool(Leak("segment", name).made)

    left = leaks_since(item.stash[_BEFORE], ours=is_ours)
    if not left:
        return
    here = f"{item.config.rootpath}{os.sep}"
    lines = [str(leak).replace(here, "") for leak in left]
    text = f"{item.nodeid} left behind:\n  " + "\n  ".join(lines)
    if item.config.stash[_MODE] == "error":
        pytest.fail(text, pytrace=False)
    item.warn(ShmkitLeakWarning(text))


# -- deadlines ---------------------------------------------------------------------------------


def _seconds_of(item: pytest.Item) -> float | None:
    """What its mark says; None if it has none."""
    mark = item.get_closest_marker("shm_deadline")
    if mark is None:
        return None
    if len(mark.args) != 1 or mark.kwargs or not isinstance(mark.args[0], int | float):
        raise pytest.UsageError(f"{item.nodeid}: shm_deadline takes seconds: shm_deadline(5)")
    return mark.args[0]


@contextmanager
def _deadline_of(item: pytest.Item) -> Iterator[None]:
    """Hold a test to its mark, if it has one: setup, call and teardown each."""
    seconds = item.stash.get(_SECONDS, None)
    if seconds is None:
        yield
    else:
        from shmkit.tools.testing.hang import deadline_by

        # What pytest.fail raises is no Exception: the test that hangs does not catch it.
        with deadline_by(seconds, _fail):
            yield


def _fail(message: str) -> NoReturn:
    pytest.fail(message)


# -- fixtures ----------------------------------------------------------------------------------


@pytest.fixture
def shm_name(request: pytest.FixtureRequest) -> str:
    """A name for shared memory that no other test has, here or in another process."""
    return str(request.node.stash[_NAME])


@pytest.fixture
def shm_buffer(request: pytest.FixtureRequest, shm_name: str) -> Iterator[SharedBuffer]:
    """A `SharedBuffer` of 64 KiB under a name of its own, removed after the test.

    Other options of `SharedBuffer.create`, or another `where`, by indirect parameters:
    `@pytest.mark.parametrize("shm_buffer", [{"size": 1 << 20}], indirect=True)`.
    """
    from shmkit import SharedBuffer

    options = {"where": f"shm:{shm_name}-buffer", "size": 1 << 16, **getattr(request, "param", {})}
    with SharedBuffer.create(options.pop("where"), **options) as buffer:
        yield buffer


@pytest.fixture
def shm_ring(request: pytest.FixtureRequest, shm_name: str) -> Iterator[Ring]:
    """A `Ring` with the usual options under a name of its own, removed after the test.

    Other options of `Ring.create`, or another `where`, by indirect parameters:
    `@pytest.mark.parametrize("shm_ring", [{"capacity": 1 << 20}], indirect=True)`.
    """
    from shmkit import Ring

    options = {"where": f"shm:{shm_name}-ring", **getattr(request, "param", {})}
    with Ring.create(options.pop("where"), **options) as ring:
        yield ring


@pytest.fixture(scope="session")
def shared_once() -> Iterator[Callable[..., Any]]:
    """`shmkit.once` for one run: `shared_once(name, build)` builds once for all its processes.

    All processes of pytest-xdist map what the first of them built, read-only. The memory goes when
    the last of them has ended.
    """
    from shmkit import once

    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    with ExitStack() as made:

        def shared(name: str, build: Callable[[], Any], *, timeout: float | None = None) -> Any:
            result = once(f"pytest-{run[:16]}-{name}", build, timeout=timeout)
            made.callback(result.close)
            return result

        yield shared
