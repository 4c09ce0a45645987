"""Who is told that the other side died, of whom, when, and how often; and that it goes on then."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from shmkit import Empty, Full, PeerDied, Ring, ShutDown
from tests.processes import reap, wait_until

SECOND = 1.0  # DESIGN: within one second the others go on, or get an error that says who died


@pytest.fixture
def ring(where: Any):
    with Ring.create(where, capacity=4096) as ring:
        yield ring


def put_some(link: Any, ring: Ring, frames: list[bytes], then: str = "wait") -> None:
    """Put, tell, and: wait to be killed; close; shut down; leave without closing; get one."""
    for data in frames:
        ring.put(data)
    if then == "close":
        ring.close()
    elif then == "shutdown":
        ring.shutdown()
    link.send("done")
    if then == "wait":
        link.recv()
    elif then == "leave":
        os._exit(0)
    ring.close()


def get_some(link: Any, ring: Ring, count: int, then: str = "wait") -> None:
    got = [ring.get(10) for _ in range(count)]
    if then == "close":
        ring.close()
    link.send(got)
    if then == "wait":
        link.recv()
    ring.close()


def test_what_a_dead_producer_committed_is_read_first(ring: Ring, fork: Any) -> None:
    frames = [b"%d" % n for n in range(20)]
    child = fork(put_some, ring, frames)
    assert ring.get(10) == frames[0]
    assert child.receive() == "done"
    child.kill()
    assert [ring.get(timeout=SECOND) for _ in frames[1:]] == frames[1:]
    with pytest.raises(PeerDied) as caught:
        ring.get(timeout=SECOND)
    assert (caught.value.pid, caught.value.role) == (child.pid, "producer")
    assert str(child.pid) in str(caught.value)
    assert "producer" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.pid, again.role, str(again)) == (child.pid, "producer", str(caught.value))


@pytest.mark.parametrize("call", ["get", "get_many", "get_into", "peek", "iterate"])
def test_every_way_of_waiting_for_a_frame_tells(ring: Ring, fork: Any, call: str) -> None:
    child = fork(put_some, ring, [])
    waits = {
        "get": lambda: ring.get(timeout=10),
        "get_many": lambda: ring.get_many(timeout=10),
        "get_into": lambda: ring.get_into(bytearray(10), timeout=10),
        "peek": lambda: ring.peek(timeout=10).__enter__(),
        "iterate": lambda: next(iter(ring)),
    }
    assert child.receive() == "done"
    child.kill()
    with pytest.raises(Empty):
        ring.get_nowait()  # nothing was put: nobody had the role
    child = fork(put_some, ring, [b"x"])
    assert ring.get(timeout=10) == b"x"
    child.kill()
    with pytest.raises(PeerDied) as caught:
        waits[call]()
    assert caught.value.pid == child.pid


@pytest.mark.parametrize("call", ["put", "put_many", "reserve"])
def test_every_way_of_waiting_for_room_tells(ring: Ring, fork: Any, call: str) -> None:
    ring.put(b"x")
    child = fork(get_some, ring, 1)
    assert child.receive() == [b"x"]
    ring.put(bytes(4080))
    child.kill()
    waits = {
        "put": lambda: ring.put(b"y", timeout=10),
        "put_many": lambda: ring.put_many([b"y"], timeout=10),
        "reserve": lambda: ring.reserve(1, timeout=10).__enter__(),
    }
    with pytest.raises(PeerDied) as caught:
        waits[call]()
    assert (caught.value.pid, caught.value.role) == (child.pid, "consumer")
    assert ring.get() == bytes(4080)  # what was not released is there


def test_one_that_waits_already_is_told_within_a_second(ring: Ring, fork: Any) -> None:
    child = fork(put_some, ring, [b"x"])
    assert ring.get(10) == b"x"
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ring.get)
        wait_until(lambda: ring.buffer[0x280])
        child.kill()
        with pytest.raises(PeerDied):
            waiting.result(SECOND)


def test_it_is_told_once(ring: Ring, fork: Any) -> None:
    child = fork(put_some, ring, [b"x"])
    assert ring.get(10) == b"x"
    child.kill()
    with pytest.raises(PeerDied):
        ring.get(timeout=SECOND)
    for timeout in (0, 0.06, 0.12):
        with pytest.raises(Empty):
            ring.get(timeout=timeout)


@pytest.mark.parametrize("side", ["get", "put"])
def test_one_that_polls_is_told_once(ring: Ring, fork: Any, side: str) -> None:
    if side == "get":
        child = fork(put_some, ring, [b"x"])
        assert ring.get(10) == b"x"
        poll: Callable[[], Any] = ring.get_nowait
        refusal: type[Exception] = Empty
    else:
        ring.put(b"x")
        child = fork(get_some, ring, 1)
        assert child.receive() == [b"x"]
        ring.put(bytes(4080))
        poll, refusal = partial(ring.put_nowait, b"y"), Full
    with pytest.raises(refusal):
        poll()
    child.kill()
    told: list[PeerDied] = []

    def is_told() -> bool:
        try:
            poll()
        except refusal:
            pass
        except PeerDied as error:
            told.append(error)
        return bool(told)

    wait_until(is_told)
    assert told[0].pid == child.pid
    for _ in range(8):
        time.sleep(0.1)  # longer than between two looks
        with pytest.raises(refusal):
            poll()


def test_each_handle_is_told(ring: Ring, fork: Any) -> None:
    other = pickle.loads(pickle.dumps(ring))
    child = fork(put_some, ring, [b"x"])
    assert ring.get(10) == b"x"
    child.kill()
    with pytest.raises(PeerDied):
        ring.get(timeout=SECOND)
    ring.close()  # the role goes to the other
    with other:
        with pytest.raises(PeerDied) as caught:
            other.get(timeout=SECOND)
        assert caught.value.pid == child.pid
        with pytest.raises(Empty):
            other.get(timeout=0.06)


def test_a_successor_goes_on(ring: Ring, fork: Any) -> None:
    for turn in range(5):
        child = fork(put_some, ring, [b"%d %d" % (turn, n) for n in range(3)])
        assert child.receive() == "done"
        child.kill()
        assert [ring.get(SECOND) for _ in range(3)] == [b"%d %d" % (turn, n) for n in range(3)]
        with pytest.raises(PeerDied) as caught:
            ring.get(timeout=SECOND)
        assert caught.value.pid == child.pid
    fork(put_some, ring, [b"last"], "shutdown").finish()
    assert list(ring) == [b"last"]


def test_a_successor_may_come_before_the_death_is_told(ring: Ring, fork: Any) -> None:
    """Its frames come first; and it is alive, so nobody waits for the dead."""
    first = fork(put_some, ring, [b"first"])
    assert ring.get(10) == b"first"
    first.kill()
    second = fork(put_some, ring, [b"second"])
    assert second.receive() == "done"
    assert ring.get(timeout=SECOND) == b"second"
    try:
        ring.get(timeout=0.12)
    except PeerDied as died:
        assert died.pid == first.pid  # told late is told
    except Empty:
        pass
    second.kill()
    with pytest.raises(PeerDied) as caught:
        ring.get(timeout=SECOND)
    assert caught.value.pid == second.pid


def test_a_wait_outlives_the_news(ring: Ring, fork: Any) -> None:
    """After PeerDied the next call waits, and gets what the successor puts."""
    first = fork(put_some, ring, [b"first"])
    assert ring.get(10) == b"first"
    first.kill()
    with pytest.raises(PeerDied):
        ring.get(timeout=SECOND)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ring.get, 10)
        wait_until(lambda: ring.buffer[0x280])
        second = pickle.loads(pickle.dumps(ring))
        with second:
            second.put(b"second")
            assert waiting.result(10) == b"second"


def test_a_writer_goes_on_with_the_next_reader(ring: Ring, fork: Any) -> None:
    ring.put(b"0")
    first = fork(get_some, ring, 1)
    assert first.receive() == [b"0"]
    first.kill()
    sent = 0
    with pytest.raises(PeerDied):
        while True:
            ring.put(b"%d" % sent * 50, timeout=SECOND)
            sent += 1
    with pytest.raises(Full):
        ring.put(b"%d" % sent * 50, timeout=0.06)
    second = fork(get_some, ring, sent + 1)
    ring.put(b"%d" % sent * 50, timeout=10)
    assert second.receive() == [b"%d" % n * 50 for n in range(sent + 1)]


@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_closing_is_not_dying(ring: Ring, fork: Any, role: str) -> None:
    if role == "producer":
        fork(put_some, ring, [b"x"], "close").finish()
        assert ring.get(10) == b"x"
        with pytest.raises(Empty):
            ring.get(timeout=0.12)
    else:
        ring.put(b"x")
        fork(get_some, ring, 1, "close").finish()
        ring.put(bytes(4080))
        with pytest.raises(Full):
            ring.put(b"y", timeout=0.12)


def test_shutting_down_is_not_dying(ring: Ring, fork: Any) -> None:
    child = fork(put_some, ring, [b"x"], "shutdown")
    assert child.receive() == "done"
    assert ring.get(10) == b"x"
    with pytest.raises(ShutDown):
        ring.get(timeout=SECOND)


def test_leaving_without_a_word_is_dying(ring: Ring, fork: Any) -> None:
    child = fork(put_some, ring, [b"x"], "leave")
    assert child.receive() == "done"
    child.process.join(10)
    assert child.process.exitcode == 0
    assert ring.get() == b"x"
    with pytest.raises(PeerDied) as caught:
        ring.get(timeout=SECOND)
    assert caught.value.pid == child.pid


@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_a_stopped_process_is_not_dead(ring: Ring, fork: Any, role: str) -> None:
    if role == "producer":
        child = fork(put_some, ring, [b"x"])
        assert ring.get(10) == b"x"
    else:
        ring.put(b"x")
        child = fork(get_some, ring, 1)
        assert child.receive() == [b"x"]
        ring.put(bytes(4080))
    os.kill(child.pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2][1] == "T")
    with pytest.raises(Empty if role == "producer" else Full):
        ring.get(timeout=0.3) if role == "producer" else ring.put(b"y", timeout=0.3)
    os.kill(child.pid, signal.SIGCONT)
    with pytest.raises(Empty if role == "producer" else Full):
        ring.get(timeout=0.06) if role == "producer" else ring.put(b"y", timeout=0.06)
    os.kill(child.pid, signal.SIGSTOP)
    child.kill()  # a stopped one can be killed
    with pytest.raises(PeerDied):
        ring.get(timeout=SECOND) if role == "producer" else ring.put(b"y", timeout=SECOND)


def test_a_child_of_the_dead_does_not_keep_it_alive(ring: Ring, fork: Any) -> None:
    """It inherited descriptors and maps; the locks are not its."""
    child = fork(put_and_fork, ring)
    assert ring.get(10) == b"x"
    grandchild = child.receive()
    os.kill(child.pid, signal.SIGKILL)  # not to be joined yet: its child holds its pipes
    try:
        with pytest.raises(PeerDied) as caught:
            ring.get(timeout=SECOND)
        assert caught.value.pid == child.pid
        os.kill(grandchild, 0)  # it lives
    finally:
        os.kill(grandchild, signal.SIGKILL)


def put_and_fork(link: Any, ring: Ring) -> None:
    ring.put(b"x")
    if os.fork() == 0:
        link.send(os.getpid())
        signal.pause()
    signal.pause()


def test_a_program_the_dead_had_started_does_not_keep_it_alive(ring: Ring, fork: Any) -> None:
    child = fork(put_and_run, ring)
    assert ring.get(10) == b"x"
    program = child.receive()
    os.kill(child.pid, signal.SIGKILL)  # not to be joined yet: its child holds its pipes
    try:
        with pytest.raises(PeerDied):
            ring.get(timeout=SECOND)
        os.kill(program, 0)
    finally:
        os.kill(program, signal.SIGKILL)


def put_and_run(link: Any, ring: Ring) -> None:
    import subprocess

    ring.put(b"x")
    link.send(subprocess.Popen(["sleep", "30"]).pid)
    link.recv()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_death_is_seen_under_every_start_method(ring: Ring, method: str) -> None:
    context: Any = get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=put_some, args=(theirs, ring, [b"x"]))
    process.start()
    try:
        with theirs:
            assert ring.get(20) == b"x"
        process.kill()
        with pytest.raises(PeerDied) as caught:
            ring.get(timeout=SECOND)
        assert caught.value.pid == process.pid
    finally:
        reap(process)
        ours.close()


def test_one_that_never_had_the_role_is_not_missed(ring: Ring, fork: Any) -> None:
    child = fork(put_some, ring, [])
    assert child.receive() == "done"
    with pytest.raises(Empty):
        ring.get(timeout=0.06)
    child.kill()
    with pytest.raises(Empty):
        ring.get(timeout=0.12)
    ring.put(bytes(4080))
    with pytest.raises(Full):
        ring.put(b"", timeout=0.12)


def test_the_own_death_is_no_news(ring: Ring, fork: Any) -> None:
    """A producer's death is told to consumers, not to its successor."""
    child = fork(put_some, ring, [bytes(4080)])
    assert child.receive() == "done"
    child.kill()
    other = pickle.loads(pickle.dumps(ring))
    with other, pytest.raises(Full):
        other.put(b"x", timeout=0.12)


def test_threads_of_a_handle_are_told_once_and_go_on(ring: Ring, fork: Any) -> None:
    child = fork(put_some, ring, [b"x"])
    assert ring.get(10) == b"x"
    told = []
    lock = threading.Lock()

    def wait() -> bytes:
        while True:
            try:
                return ring.get(10)
            except PeerDied as died:
                with lock:
                    told.append(died.pid)

    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(wait) for _ in range(3)]
        child.kill()
        wait_until(lambda: told)
        other = pickle.loads(pickle.dumps(ring))
        with other:
            for _ in waiting:
                other.put(b"y")
            assert [wait.result(10) for wait in waiting] == [b"y"] * 3
    assert set(told) == {child.pid}
    assert len(told) == 1


def test_a_handle_that_moves_keeps_its_roles(where: Any) -> None:
    """Its mutex moves it to another place, where a debugger ended a release."""
    with Ring.create(where, producers="many", consumers="many") as ring:
        ring.put(b"x")
        assert ring.get(0) == b"x"
        with pickle.loads(pickle.dumps(ring)) as other:
            ring._segment.membership.move()
            told = ring.statistics()
            assert told.producers == told.consumers == (os.getpid(),)
            with pytest.raises(Empty):
                other.get(0.3)  # and not PeerDied
