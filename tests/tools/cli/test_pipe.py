"""`shmkit send` and `recv`: what goes in comes out, and an end that is no good end is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmkit
from tests.processes import TIMEOUT, wait_until
from tests.tools.programs import Terminal

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `shmkit ARGS` in a session of its own; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*args: str, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "shmkit", *args],
            start_new_session=True,
            stderr=subprocess.PIPE,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit status, and what it wrote to stderr."""
    error = process.communicate(timeout=TIMEOUT)[1]
    return process.returncode, error.decode()


def is_there(name: str) -> bool:
    return Path("/dev/shm", name).exists()


def has(name: str, role: str, count: int = 1) -> bool:
    """Whether a ring has so many producers or consumers."""
    try:
        with shmkit.Ring.attach(name) as ring:
            return len(getattr(ring.statistics(), role)) == count
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("first", ["send", "recv"])
def test_bytes_come_out_as_they_went_in(unique_name, start, tmp_path, first) -> None:
    """More than fits into the ring, whoever comes first; nothing is left."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3_000_000) + b"\r\n\0")
    both: dict[str, Any] = {}
    with source.open("rb") as stdin, target.open("wb") as stdout:
        for command in (first, "recv" if first == "send" else "send"):
            both[command] = start(
                command, unique_name, "--capacity", "65536", stdin=stdin, stdout=stdout
            )
            if len(both) == 1:
                wait_until(lambda: is_there(unique_name))
        assert end_of(both["send"]) == (0, "")
        assert end_of(both["recv"]) == (0, "")
    assert target.read_bytes() == source.read_bytes()
    assert not is_there(unique_name)


def test_through_pipes_and_a_ring_on_a_file(start, tmp_path) -> None:
    """Input that comes bit by bit is sent as it comes."""
    where = str(tmp_path / "ring")
    sender = start("send", where, stdin=subprocess.PIPE)
    receiver = start("recv", where, stdout=subprocess.PIPE)
    assert sender.stdin is not None
    assert receiver.stdout is not None
    for text in (b"one\n", b"two\n"):
        sender.stdin.write(text)
        sender.stdin.flush()
        assert receiver.stdout.readline() == text
    sender.stdin.close()
    sender.stdin = None
    assert end_of(sender) == end_of(receiver) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_input_ends_the_receiver(unique_name, start) -> None:
    sender = start("send", unique_name)
    wait_until(lambda: is_there(unique_name))
    receiver = start("recv", unique_name, stdout=subprocess.PIPE)
    assert receiver.communicate(timeout=TIMEOUT) == (b"", b"")
    assert end_of(sender) == (0, "")
    assert receiver.returncode == 0


def test_several_senders_and_receivers_share_whole_lines(unique_name, start, tmp_path) -> None:
    """Each line arrives once, at one receiver."""
    receivers, outputs = [], [tmp_path / "a", tmp_path / "b"]
    for path in outputs:
        with path.open("wb") as stdout:
            receivers.append(start("recv", unique_name, "--capacity", "65536", stdout=stdout))
    wait_until(lambda: has(unique_name, "consumers", 2))
    sent = [
        b"".join(b"%d: line %d\r of text\n" % (number, line) for line in range(20_000))
        for number in range(2)
    ]
    # Both are there before one of them ends, which would end the ring.
    senders = [start("send", unique_name, "--lines", stdin=subprocess.PIPE) for _ in sent]
    first = len(sent[0].partition(b"\n")[0]) + 1
    for process, content in zip(senders, sent, strict=True):
        process.stdin.write(content[:first])
        process.stdin.flush()
    wait_until(lambda: has(unique_name, "producers", 2))
    for process, content in zip(senders, sent, strict=True):
        process.stdin.write(content[first:])
    assert [end_of(process) for process in (*senders, *receivers)] == [(0, "")] * 4
    came = sorted(line for path in outputs for line in path.read_bytes().split(b"\n"))
    wanted = sorted(line for content in sent for line in content.split(b"\n"))
    assert [line for line in came if line] == [line for line in wanted if line]


def test_frames_are_kept_apart(unique_name, start, tmp_path) -> None:
    """The frames of a program go through a file and back, each as it was; lines get a newline."""
    frames = [b"", b"one", b"two\n", bytes(100_000)]
    with shmkit.Ring.create(unique_name) as ring:
        ring.put_many(frames)
        ring.shutdown()
        dump = start("recv", unique_name, "--frames", stdout=subprocess.PIPE)
        packed = dump.communicate(timeout=TIMEOUT)[0]
    assert packed[:11] == b"\0\0\0\0\3\0\0\0one"
    (tmp_path / "packed").write_bytes(packed)
    with (tmp_path / "packed").open("rb") as stdin, shmkit.Ring.create(unique_name()) as ring:
        sender = start("send", str(ring.url), "--frames", stdin=stdin)
        assert [ring.get(TIMEOUT) for _ in frames] == frames
        assert end_of(sender) == (0, "")
        with pytest.raises(shmkit.ShutDown):
            ring.get(TIMEOUT)
    with shmkit.Ring.create(unique_name) as ring:
        ring.put_many([b"one", b"two\n"])
        ring.shutdown()
        lines = start("recv", unique_name, "--lines", stdout=subprocess.PIPE)
        assert lines.communicate(timeout=TIMEOUT)[0] == b"one\ntwo\n"


def test_frames_that_are_cut_off_are_no_good_end(unique_name, start, tmp_path) -> None:
    (tmp_path / "packed").write_bytes(b"\3\0\0\0one\7\0\0\0tw")
    receiver = start("recv", unique_name, stdout=subprocess.PIPE)
    wait_until(lambda: has(unique_name, "consumers"))
    with (tmp_path / "packed").open("rb") as stdin:
        status, error = end_of(start("send", unique_name, "--frames", stdin=stdin))
    assert status == 1
    assert "the input ends in the middle of a frame, after 3 bytes" in error
    status, error = end_of(receiver)
    assert status == 1
    assert "gave up before the end of the input" in error


def test_a_killed_receiver_is_told_to_the_sender(unique_name, start) -> None:
    receiver = start("recv", unique_name, "--capacity", "65536", stdout=subprocess.PIPE)
    wait_until(lambda: has(unique_name, "consumers"))
    with Path("/dev/zero").open("rb") as stdin:
        sender = start("send", unique_name, stdin=stdin)
        wait_until(lambda: has(unique_name, "producers"))
        receiver.kill()
        status, error = end_of(sender)
    assert status == 1
    assert f"process {receiver.pid}, a receiver of {unique_name}, was killed" in error


def test_a_killed_sender_is_told_to_the_receiver(unique_name, start) -> None:
    receiver = start("recv", unique_name, stdout=subprocess.PIPE)
    sender = start("send", unique_name, stdin=subprocess.PIPE)
    assert sender.stdin is not None
    assert receiver.stdout is not None
    sender.stdin.write(b"begun")
    sender.stdin.flush()
    assert receiver.stdout.read(5) == b"begun"
    sender.kill()
    status, error = end_of(receiver)
    assert status == 1
    assert f"process {sender.pid}, a sender of {unique_name}, was killed" in error
    sender.communicate()
    wait_until(lambda: not is_there(unique_name))


def test_a_killed_sender_is_told_though_another_one_ends_well(unique_name, start) -> None:
    receiver = start("recv", unique_name)
    wait_until(lambda: has(unique_name, "consumers"))
    senders = [start("send", unique_name, stdin=subprocess.PIPE) for _ in range(2)]
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write(b"begun")
        sender.stdin.flush()
    wait_until(lambda: has(unique_name, "producers", 2))
    senders[0].kill()
    senders[0].communicate()
    assert end_of(senders[1]) == (0, "")
    status, error = end_of(receiver)
    assert status == 1
    assert f"process {senders[0].pid}, a sender of shm:{unique_name}, was killed" in error


def test_a_reader_that_goes_ends_the_pipe(unique_name, start) -> None:
    """As `recv | head -1` does: no traceback, and the sender does not wait for ever."""
    receiver = start("recv", unique_name, "--capacity", "65536", stdout=subprocess.PIPE)
    wait_until(lambda: has(unique_name, "consumers"))
    with Path("/dev/zero").open("rb") as stdin:
        sender = start("send", unique_name, stdin=stdin)
        assert receiver.stdout is not None
        assert receiver.stdout.read(10) == bytes(10)
        receiver.stdout.close()
        receiver.stdout = None
        assert end_of(receiver) == (1, "")
        status, error = end_of(sender)
    assert status == 1
    assert "ended before the end of the input" in error


def test_what_cannot_be_sent_is_a_sentence(unique_name, start, tmp_path) -> None:
    assert end_of(start("send", "a:b"))[0] == 2
    assert end_of(start("send", unique_name, "--lines", "--frames"))[0] == 2
    with shmkit.SharedBuffer.create(unique_name, size=100):
        status, error = end_of(start("send", unique_name))
    assert status == 1
    assert error.startswith("shmkit send: ")
    assert "Traceback" not in error


def test_a_bar_is_drawn_on_a_terminal_only(unique_name, start, tmp_path) -> None:
    (tmp_path / "source").write_bytes(bytes(1_000_000))
    receiver = start("recv", unique_name)
    script = (
        "import os, sys; os.dup2(os.open(sys.argv[1], os.O_RDONLY), 0)\n"
        "sys.argv[:] = ['shmkit', 'send', sys.argv[2]]\n"
        "from shmkit.tools.cli import main; main()"
    )
    with Terminal("-c", script, str(tmp_path / "source"), unique_name) as terminal:
        ended = terminal.wait()
    assert ended.status == 0
    assert "sending" in ended.stdout
    assert "1.0/1.0 MB" in ended.stdout
    assert end_of(receiver) == (0, "")
