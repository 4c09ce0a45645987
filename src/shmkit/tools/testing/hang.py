"""A block that hangs: ended after a time, and told what each of its processes was doing."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NoReturn

from shmkit.tools.testing.leaks import children, helpers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType

__all__ = ["deadline", "deadline_by"]

_ON_ABORT: Final = "PYTHONFAULTHANDLER"  # set: an interpreter writes its stacks at SIGABRT
_GRACE: Final = 1.0  # seconds that a process gets to write its stacks
_POLL: Final = 0.01

_files: Final[list[IO[bytes]]] = []  # where forked children write their stacks, the newest last


def deadline(seconds: float) -> AbstractContextManager[None]:
    """End a `with` block, or a decorated function, that takes too long, and its processes.

    Processes that were started inside the block are killed; the `join` or `wait` of its children
    reaps them as usual. It uses SIGALRM. An alarm that was set before goes on afterwards.

    Args:
        seconds: how long it may take.

    Raises:
        TimeoutError: it took longer. The message has the stacks of every thread of this process,
            and of the processes that it started by fork; one that was spawned writes them to its
            stderr. Before the stacks are the locks that they hold and wait for.
        ValueError: `seconds` is not above 0.
        RuntimeError: not in the main thread, the only one that runs signal handlers.
    """
    return deadline_by(seconds, _raise_timeout)


def _raise_timeout(message: str) -> NoReturn:
    raise TimeoutError(message)


@contextmanager
def deadline_by(seconds: float, fail: Callable[[str], NoReturn]) -> Iterator[None]:
    """`deadline`, where `fail(message)` raises what is raised."""
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: a deadline is more than 0 s away")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a deadline works by a signal: set it in the main thread")
    before = _descendants()

    def expire(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        started = sorted(_descendants() - before)
        told = [_stacks_here(frame)]
        told += [_abort(pid, file) for pid in started]
        killed = f"killed children {started}" if started else "it has no children"
        fail("\n\n".join([f"not done after {seconds} s; {killed}", *told]))

    with tempfile.TemporaryFile() as file, _stacks_at_abort(file):
        handler = signal.signal(signal.SIGALRM, expire)
        began = time.monotonic()
        earlier, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            # The alarm before its handler: without one, SIGALRM ends the process.
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
            if earlier:
                # Never 0, which would turn the earlier alarm off.
                left = max(earlier - (time.monotonic() - began), 1e-6)
                signal.setitimer(signal.ITIMER_REAL, left, interval)


@contextmanager
def _stacks_at_abort(file: IO[bytes]) -> Iterator[None]:
    """Have interpreters that are started inside write their stacks when they are aborted."""
    before = os.environ.get(_ON_ABORT)
    os.environ[_ON_ABORT] = "1"
    _files.append(file)
    try:
        yield
    finally:
        _files.remove(file)
        if before is None:
            del os.environ[_ON_ABORT]
        else:
            os.environ[_ON_ABORT] = before


def _in_forked_child() -> None:
    if _files:
        faulthandler.enable(_files[-1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


def _stacks_here(frame: FrameType | None) -> str:
    """The stacks of every thread of this process; `frame` is where the signal came."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = threading.get_ident()
    lines = [f"process {os.getpid()}, this one:"]
    for ident, top in sys._current_frames().items():
        lines.append(f"thread {names.get(ident, ident)}:")
        lines += traceback.format_stack(frame if ident == own else top)
    return "\n".join(line.rstrip("\n") for line in lines)


def _abort(pid: int, file: IO[bytes]) -> str:
    """Kill a process; what it wrote of its stacks."""
    what = f"process {pid}, {_state(pid)}: "
    file.seek(0, os.SEEK_END)
    start = file.tell()
    _without_core(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGABRT)
        os.kill(pid, signal.SIGCONT)  # a stopped one would write nothing
    end = time.monotonic() + _GRACE
    while _is_alive(pid) and time.monotonic() < end:
        time.sleep(_POLL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    file.seek(start)
    stacks = file.read().decode(errors="replace").strip()
    return f"{what}\n{stacks}" if stacks else f"{what}its stacks, if any, are in its stderr"


def _without_core(pid: int) -> None:
    """Spare the disk what an abort may write."""
    import resource

    with suppress(OSError):
        _, most = resource.prlimit(pid, resource.RLIMIT_CORE)
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, most))


def _descendants() -> set[int]:
    """Every process below this one, except the helpers of `multiprocessing`."""
    if not sys.platform.startswith("linux"):
        return set()
    found: set[int] = set()
    fresh = children().union(*(children(pid) for pid in helpers() if pid))
    while fresh:
        found |= fresh
        fresh = {below for pid in fresh for below in children(pid)} - found
    return found


def _is_alive(pid: int) -> bool:
    return _state(pid)[:1] not in ("", "Z")


def _state(pid: int) -> str:
    """How the system calls its state, and its command; "" if there is no such process."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return f"{state} {b' '.join(words).decode(errors='replace').strip()[:200]}"
