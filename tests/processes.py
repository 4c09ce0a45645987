r"""Child processes for tests: fresh interpreters, under a deadline, always reaped.

There are two ways. Both run a source text, or a function of a module below `tests`:

    result = run_python("print(args[0] + 1)", 41)         # runs to its end
    assert result.stdout == "42\n"

    with Child("link.send(link.recv() * 2)") as child:    # exchanges messages while it runs
        child.send(21)
        assert child.receive() == 42
        child.finish()                                    # waits, and asserts exit status 0

A source text has its arguments in `args`. In a `Child` it also has a pipe in `link`, a
`multiprocessing.connection.Connection`. It is run as a script with a file name: tracebacks show its
lines, and it may start processes by any method, below `if __name__ == "__main__":` as always. A
function is called with the arguments; in a `Child`, `link` comes before them. Arguments and
messages are pickled. A test gets a `Child` from the fixture `start_child`, which reaps it.

`in_child(act)` forks instead, to test what a child does with handles that it inherits.

This module does not import pytest, because every child imports this module.
"""

from __future__ import annotations

import base64
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

__all__ = ["TIMEOUT", "Child", "Result", "connect", "in_child", "run_python", "wait_until"]

TIMEOUT = 20.0  # seconds a child gets when a test does not say otherwise

_ROOT = Path(__file__).resolve().parent.parent
_ENV = "SHMKIT_TEST_CHILD"
_PROLOGUE = "from tests.processes import connect; link, args, function = connect()\n"
_CALL = """
if __name__ == "__main__":
    function(*args) if link is None else function(link, *args)
"""


class Result(NamedTuple):
    """The end of a child; `exitcode` is minus the signal's number if one killed it."""

    exitcode: int
    stdout: str
    stderr: str


class Child:
    """A fresh interpreter that runs `target` and exchanges messages with the test over a pipe.

    Leaving its `with`, or `close()`, kills it if it still runs, and reaps it.

    Args:
        target: source text that finds `link` and `args`, or a function `target(link, *args)`.
        args: pickled, for the target.
        env: variables to add to this process's.
        cwd: directory to start in.
    """

    process: subprocess.Popen[str]
    _link: Connection | None = None

    def __init__(
        self,
        target: str | Callable[..., Any],
        *args: Any,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> None:
        ours, theirs = Pipe()
        with theirs:
            try:
                self._start(target, args, env, cwd, (theirs.fileno(),))
            except BaseException:
                ours.close()
                raise
        self._link = ours

    def _start(
        self,
        target: str | Callable[..., Any],
        args: tuple[Any, ...],
        env: Mapping[str, str] | None,
        cwd: str | Path | None,
        fds: tuple[int, ...],
    ) -> None:
        source, function = (target, None) if isinstance(target, str) else (_CALL, target)
        brief = base64.b64encode(pickle.dumps((fds, args, function))).decode()
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._home = tempfile.TemporaryDirectory(prefix="shmkit-child-")
        home = Path(self._home.name)
        script = home / "child.py"
        script.write_text(_PROLOGUE + textwrap.dedent(source))
        # Files, not pipes: a child that writes much never waits for a reader.
        self._output = (home / "stdout", home / "stderr")
        with self._output[0].open("w") as out, self._output[1].open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(script)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=fds,
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": path, **(env or {}), _ENV: brief},
                text=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def exitcode(self) -> int | None:
        """None while it runs; minus the signal's number if one killed it."""
        return self.process.poll()

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._output[0].read_text()

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return self._output[1].read_text()

    def send(self, message: Any) -> None:
        """Send a message; the child takes it with `link.recv()`."""
        assert self._link is not None
        self._link.send(message)

    def receive(self, timeout: float = TIMEOUT) -> Any:
        """Wait for what the child sends with `link.send(...)`.

        Raises:
            AssertionError: nothing came in `timeout` seconds, or the child ended.
        """
        assert self._link is not None
        try:
            if self._link.poll(timeout):
                return self._link.recv()
        except (EOFError, ConnectionResetError):
            self._reap(timeout)
            raise AssertionError(self._story("ended without the message")) from None
        raise AssertionError(self._story(f"sent nothing in {timeout} s"))

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for its end.

        Returns:
            Its exit status, minus the signal's number if one killed it.

        Raises:
            AssertionError: it still runs after `timeout` seconds; it is killed.
        """
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(self._story(f"was still running after {timeout} s")) from None

    def finish(self, timeout: float = TIMEOUT) -> Result:
        """Wait for its end, which has to be exit status 0.

        Raises:
            AssertionError: it is not, or it still runs after `timeout` seconds.
        """
        result = Result(self.wait(timeout), self.stdout, self.stderr)
        assert result.exitcode == 0, self._story("failed")
        return result

    def signal(self, number: int) -> None:
        """Send it a signal, such as `signal.SIGSTOP`."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it and reap it; nothing happens if it has ended."""
        self.process.kill()
        self._reap(TIMEOUT)

    def close(self) -> None:
        """Kill it if it runs, reap it, and close its pipe and files."""
        self.kill()
        if self._link is not None:
            self._link.close()
        self._home.cleanup()

    def _reap(self, timeout: float) -> None:
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _story(self, what: str) -> str:
        return (
            f"child {self.pid} {what} (exit status {self.exitcode})\n"
            f"--- its stdout\n{self.stdout}\n--- its stderr\n{self.stderr}"
        )

    def __repr__(self) -> str:
        return f"<Child pid={self.pid} exitcode={self.exitcode}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Script(Child):
    """A child without a pipe: a function is called with its arguments only."""

    def __init__(
        self,
        target: str | Callable[..., Any],
        args: tuple[Any, ...],
        env: Mapping[str, str] | None,
        cwd: str | Path | None,
    ) -> None:
        self._start(target, args, env, cwd, ())


def run_python(
    target: str | Callable[..., Any],
    *args: Any,
    timeout: float = TIMEOUT,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    check: bool = True,
) -> Result:
    """Run a source text or a function in a fresh interpreter to its end.

    Args:
        target: source text that finds `args`, or a function of a module below `tests`.
        args: pickled, for the target.
        timeout: seconds; after them it is killed.
        env: variables to add to this process's.
        cwd: directory to start in.
        check: whether its exit status has to be 0.

    Returns:
        Its exit status and output.

    Raises:
        AssertionError: it ran out of time, or `check` and it failed. The message holds its output.
    """
    with _Script(target, args, env, cwd) as child:
        if check:
            return child.finish(timeout)
        return Result(child.wait(timeout), child.stdout, child.stderr)


def connect() -> tuple[Connection | None, tuple[Any, ...], Callable[..., Any] | None]:
    """What the test gave this child: the first line of its script calls this.

    Returns:
        The pipe (None in a `run_python`), the arguments, the function (None for a source text).
    """
    # Removed, so that a grandchild, which imports the script again, does not take the pipe.
    brief = os.environ.pop(_ENV, None)
    if brief is None:
        return None, (), None
    fds, args, function = pickle.loads(base64.b64decode(brief))
    for fd in fds:
        os.set_inheritable(fd, False)
    return (Connection(fds[0]) if fds else None), args, function


def in_child(act: Callable[[], object], *, seconds: int = 10) -> object:
    """Call `act()` in a forked child.

    Args:
        act: what to call.
        seconds: after them the child is killed.

    Returns:
        What it returned.

    Raises:
        Exception: what it raised.
        AssertionError: the child hung or was killed.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)  # a child that hangs is killed by it
        try:
            try:
                answer: object = act()
            except Exception as error:  # noqa: BLE001 - passed to the test
                answer = error
            except BaseException as error:  # noqa: BLE001 - pytest's do not pickle
                answer = AssertionError(repr(error))
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)  # the copy of pytest in this process must not go on
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"the child ended with {status} (SIGALRM: it hung)"
    answer = pickle.loads(content)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def wait_until(condition: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
    """Wait by polling, where there is nothing to wait on.

    Args:
        condition: called until it returns something true.
        timeout: seconds to wait at most.

    Returns:
        The first true value.

    Raises:
        AssertionError: it was not true within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"{condition} was not true within {timeout} s"
        time.sleep(0.005)
    return value


def reap(process: Any, timeout: float = TIMEOUT) -> None:
    """End and join a `multiprocessing.Process`, whatever state it is in."""
    if process.pid is None:
        return
    if process.is_alive():
        # A child of the fork server may end just now; it is no zombie of this process.
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.kill()
    process.join(timeout)
    process.close()
