"""Killing: a child process that dies, or stops, exactly at a step.

The library has no hooks for it. The child traces itself, and only the functions that contain the
step. There it uses the plain Python, whose steps the compiled core's are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal as signals
import sys
import threading
import time
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Final, Self

from shmkit import compiled
from shmkit.deadline import Deadline
from shmkit.tools.testing.steps import choose

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from types import FrameType, ModuleType, TracebackType

__all__ = ["Victim", "run_until", "start_until"]

_METHODS: Final = ("fork", "spawn")  # not "forkserver": only the server learns of a child's end
_POLL: Final = 0.0005  # seconds


def run_until(
    point: str,
    target: Callable[..., object],
    *args: object,
    nth: int = 1,
    signal: int = signals.SIGKILL,
    timeout: float = 10.0,
    method: str | None = None,
    modules: tuple[ModuleType | str, ...] = (),
) -> Victim:
    """Run a function in a child process, and kill or stop the child just before a step.

    Args:
        point: one of `kill_points()`, or `name@function` for the step in that function alone.
        target: what the child calls; processes that it starts are not ended with it.
        args: for the target. With "spawn" both are pickled.
        nth: the child is stopped when it comes to the step for the nth time.
        signal: SIGKILL, or SIGSTOP.
        timeout: seconds the child gets to reach the step.
        method: "fork" or "spawn"; None for the default of `multiprocessing`.
        modules: where to look for steps, besides `shmkit`.

    Returns:
        The child. If its `reached` is true it is dead or stopped at the step. If not, the target
        returned or raised without getting there; `exitcode` tells which.

    Raises:
        ValueError: an unknown point, method or signal, or `nth` below 1.
        TimeoutError: the time was up; the child was killed and reaped.
    """
    victim = start_until(
        point, target, *args, nth=nth, signal=signal, method=method, modules=modules
    )
    try:
        victim.await_point(timeout)
    except BaseException:
        victim.close()
        raise
    return victim


def start_until(
    point: str,
    target: Callable[..., object],
    *args: object,
    nth: int = 1,
    signal: int = signals.SIGKILL,
    method: str | None = None,
    modules: tuple[ModuleType | str, ...] = (),
) -> Victim:
    """`run_until` without the wait: for a child that needs other processes to reach the step.

    Args:
        point: as for `run_until`, like all arguments.
        target: as for `run_until`.
        args: as for `run_until`.
        nth: as for `run_until`.
        signal: as for `run_until`.
        method: as for `run_until`.
        modules: as for `run_until`.

    Returns:
        The child, which runs.

    Raises:
        ValueError: as `run_until`.
    """
    if nth < 1:
        raise ValueError(f"nth={nth}: it counts from 1")
    if signal not in (signals.SIGKILL, signals.SIGSTOP):
        raise ValueError(
            f"signal={signal!r}: it is SIGKILL or SIGSTOP, which no process can hold back"
        )
    if method is None and multiprocessing.get_start_method() in _METHODS:
        method = multiprocessing.get_start_method()
    method = method or "spawn"
    if method not in _METHODS:
        raise ValueError(f"method={method!r}: it is one of {', '.join(map(repr, _METHODS))}")
    wanted = choose(point, ("shmkit", *modules))
    return Victim(point, wanted, nth, signal, method, target, args)


class Victim:
    """A child process that is killed or stopped at a step. Made by `run_until`.

    Leaving its `with`, or `close()`, kills it if it still runs, and reaps it.

    Attributes:
        point: the step.
        pid: its process id; after its end the system may give it to another process.
        reached: whether `await_point` has seen it there.
    """

    def __init__(
        self,
        point: str,
        wanted: dict[str, frozenset[int]],
        nth: int,
        signal: int,
        method: str,
        target: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        self.point = point
        self.reached: bool = False
        self._signal = signal
        self._exitcode: int | None = None
        self._link, theirs = multiprocessing.Pipe(duplex=False)
        # Closed here: while this process has the child's end, a death gives no end of file.
        with theirs:
            try:
                self._process = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]
                    target=_run, args=(theirs, point, wanted, nth, int(signal), target, args)
                )
                self._process.start()
                self.pid: int = self._process.pid
            except BaseException:
                self._link.close()
                raise

    @property
    def exitcode(self) -> int | None:
        """None while it runs or is stopped; minus the signal's number if one killed it."""
        # Kept here: a Process that was closed does not tell it any more.
        if self._exitcode is None:
            self._exitcode = self._process.exitcode
        return self._exitcode

    def await_point(self, timeout: float = 10.0) -> bool:
        """Wait until it is dead or stopped at the step, or has ended without getting there.

        Returns:
            Whether it got there.

        Raises:
            TimeoutError: neither happened in `timeout` seconds.
        """
        deadline = Deadline(timeout)
        if not self.reached and not self._link.closed:
            if not connection.wait([self._link, self._process.sentinel], deadline.remaining()):
                raise TimeoutError(
                    f"process {self.pid} did not come to {self.point!r} in {timeout} s: does the "
                    "target get there, and as often as `nth` says?"
                )
            try:
                self.reached = self._link.poll() and bool(self._link.recv_bytes())
            except EOFError:
                self.reached = False
            self._link.close()
        if not self.reached or self._signal == signals.SIGKILL:
            self._join(deadline)
        else:
            self._await_stop(deadline)
        return self.reached

    def resume(self) -> None:
        """Let it go on from where it was stopped.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self.exitcode is not None:
            raise ProcessLookupError(f"process {self.pid} has ended with {self.exitcode}")
        os.kill(self.pid, signals.SIGCONT)

    def kill(self) -> None:
        """SIGKILL it and reap it, stopped or not; nothing happens if it has ended."""
        if self.exitcode is None:
            self._process.kill()
            self._process.join()

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for its end.

        Returns:
            Its exit status, minus the signal's number if one killed it.

        Raises:
            TimeoutError: it still runs, or is stopped, after `timeout` seconds.
        """
        self._join(Deadline(timeout))
        code = self.exitcode
        assert code is not None
        return code

    def close(self) -> None:
        """Kill it if it runs, reap it, and give back every descriptor. Idempotent."""
        self._link.close()
        self.kill()
        if self.exitcode is not None:
            self._process.close()

    def _join(self, deadline: Deadline) -> None:
        if self.exitcode is None:
            self._process.join(deadline.remaining())
        if self.exitcode is None:
            raise TimeoutError(f"process {self.pid} has not ended: is it stopped, or does it wait?")

    def _await_stop(self, deadline: Deadline) -> None:
        # The child reports just before it stops itself.
        # WNOWAIT leaves the exit status for the join.
        while not os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if deadline.expired():
                raise TimeoutError(f"process {self.pid} did not stop at {self.point!r}")
            time.sleep(_POLL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "reached" if self.reached else "not reached"
        return f"<Victim {self.pid} {self.point!r} {state} exitcode={self.exitcode}>"


# -- in the child ------------------------------------------------------------------------------


def _run(
    link: Connection,
    point: str,
    wanted: dict[str, frozenset[int]],
    nth: int,
    number: int,
    target: Callable[..., object],
    args: tuple[object, ...],
) -> None:
    with link:
        tripwire = _Tripwire(link, wanted, nth, number)
        tripwire.set()
        if hasattr(compiled.core, "arm"):  # the build for tests: the step in C, the nth time
            compiled.use_python(False)
            compiled.core.arm(point.partition("@")[0], nth, link.fileno(), number)
        try:
            target(*args)
        finally:
            tripwire.clear()


class _Tripwire:
    """A trace function that ends this process just before the nth execution of certain lines."""

    def __init__(
        self, link: Connection, wanted: dict[str, frozenset[int]], nth: int, number: int
    ) -> None:
        self._link = link
        self._wanted = wanted
        self._left = nth
        self._number = number
        self._before: Any = None

    def set(self) -> None:
        compiled.use_python(True)  # what is compiled cannot be traced
        self._before = sys.gettrace()
        # For threads that the target starts.
        threading.settrace(self._enter)
        sys.settrace(self._enter)

    def clear(self) -> None:
        threading.settrace(self._before)
        sys.settrace(self._before)
        compiled.use_python(False)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:  # noqa: ARG002
        wanted = self._wanted.get(frame.f_code.co_filename)
        if wanted is None:
            return None
        # Only a function that contains the step is traced line by line: the rest stays fast.
        if any(line in wanted for _, _, line in frame.f_code.co_lines()):
            return self._step
        return None

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:  # noqa: ARG002
        if event != "line" or frame.f_lineno not in self._wanted[frame.f_code.co_filename]:
            return self._step
        self._left -= 1
        if self._left:
            return self._step
        # Off first: a stopped child that is resumed runs untraced.
        self.clear()
        # Before the signal: after it a killed child tells nothing.
        self._link.send_bytes(b"here")
        # To this very thread: then the signal arrives before the call returns.
        signals.pthread_kill(threading.get_ident(), self._number)
        return None
