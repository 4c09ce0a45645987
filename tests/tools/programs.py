"""Programs under test: each in a session of its own, under a deadline, always ended."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, Self

from tests.processes import TIMEOUT, wait_until

__all__ = ["Ended", "Program", "Terminal", "run_program"]


class Ended(NamedTuple):
    """How a program ended; `status` is minus the signal's number if one killed it."""

    status: int
    stdout: str
    stderr: str


class Program:
    """`python *args` in a session of its own; leaving its `with` kills what is left of it."""

    def __init__(self, *args: str, env: dict[str, str] | None = None) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="shmkit-program-")
        self._output = [Path(self._home.name, name) for name in ("stdout", "stderr")]
        with self._output[0].open("wb") as out, self._output[1].open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )

    def wait(self, timeout: float = TIMEOUT) -> Ended:
        """Wait for its end, and for that of every process it started."""
        status = self.process.wait(timeout)
        wait_until(lambda: not self.session())
        return Ended(status, *(path.read_text(errors="replace") for path in self._output))

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._output[0].read_text(errors="replace")

    def session(self) -> list[int]:
        """Pids of the living processes of its session."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == self.process.pid and fields[0] not in "ZX":
                found.append(int(entry.name))
        return found

    def interrupt(self) -> None:
        """Send SIGINT to the whole group, as a terminal does at Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        wait_until(lambda: not self.session())
        self._home.cleanup()


class Terminal(Program):
    """`python *args` on a terminal of its own, whose Ctrl-C key works."""

    def __init__(self, *args: str, env: dict[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self.screen = b""
        # The first terminal that the leader of a session opens becomes its controlling terminal.
        script = 'exec "$@" <>"$0" >&0 2>&0'
        try:
            self.process = subprocess.Popen(
                ["sh", "-c", script, os.ttyname(slave), sys.executable, *args],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **(env or {})},
            )
            # The terminal exists as long as it is open in some process. The program opens it soon.
            wait_until(lambda: self._read() or self._is_there())
        finally:
            os.close(slave)

    def _is_there(self) -> bool:
        link = Path(f"/proc/{self.process.pid}/fd/2")
        return os.readlink(link).startswith("/dev/pts/")  # noqa: PTH115 - raw text

    def _read(self) -> bytes:
        """What has come since the last time; does not wait."""
        data = b""
        with contextlib.suppress(OSError):  # EIO: no process has the terminal open any more
            while select.select([self._master], [], [], 0)[0]:
                piece = os.read(self._master, 65536)
                if not piece:
                    break
                data += piece
        self.screen += data
        return data

    def wait_for(self, text: str, timeout: float = TIMEOUT) -> None:
        """Wait until the text has appeared on the screen."""

        def seen() -> bool:
            self._read()
            return text.encode() in self.screen or self.process.poll() is not None

        wait_until(seen, timeout)
        assert text.encode() in self.screen, f"never saw {text!r}, but {self.screen!r}"

    def _has_ended(self) -> bool:
        self._read()  # else the program may wait for ever to write
        return self.process.poll() is not None

    def press_ctrl_c(self) -> None:
        """Press the key."""
        os.write(self._master, b"\x03")

    def wait(self, timeout: float = TIMEOUT) -> Ended:
        """Wait for its end; its stdout and stderr are what is on the screen."""
        deadline = time.monotonic() + timeout
        wait_until(self._has_ended, timeout)
        status = self.process.wait(max(0.0, deadline - time.monotonic()))
        wait_until(lambda: not self.session())
        self._read()
        text = self.screen.decode(errors="replace")
        return Ended(status, text, text)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        os.close(self._master)


def run_program(*args: str, env: dict[str, str] | None = None, timeout: float = TIMEOUT) -> Ended:
    """Run `python *args` to its end."""
    with Program(*args, env=env) as program:
        return program.wait(timeout)
