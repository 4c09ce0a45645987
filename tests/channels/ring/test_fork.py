"""A fork while a ring is open: the child's handle is the child's, the parent's stays as it was."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shmkit import ClosedError, Empty, Full, PeerDied, Ring, RoleTaken
from tests.processes import in_child, run_python


@pytest.fixture
def ring(where: Any):
    with Ring.create(where, capacity=4096) as ring:
        yield ring


def test_the_child_reads_what_the_parent_writes(ring: Ring) -> None:
    ring.put(b"before")

    def act() -> list[bytes]:
        return [ring.get(5), ring.get(5)]

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(in_child, act)
        ring.put(b"after")
        assert reading.result(20) == [b"before", b"after"]
    assert ring.empty()


def test_the_child_has_no_role(ring: Ring) -> None:
    ring.put(b"x")
    ring.put(b"y")
    assert ring.get() == b"x"

    def act() -> list[tuple[int, str]]:
        refused = []
        for call in (lambda: ring.put(b"z"), lambda: ring.get(timeout=0)):
            with pytest.raises(RoleTaken) as caught:
                call()
            refused.append((caught.value.pid, caught.value.role))
        assert "no role" in repr(ring)
        return refused

    assert in_child(act) == [(os.getpid(), "producer"), (os.getpid(), "consumer")]
    assert ring.get() == b"y"
    ring.put(b"still mine")
    assert ring.get() == b"still mine"


def test_the_child_is_a_participant_of_its_own(ring: Ring) -> None:
    def act() -> tuple[int, int, tuple[int, ...]]:
        ring.put(b"x")
        told = ring.statistics()
        return os.getpid(), len(told.participants), told.producers

    told: Any = in_child(act)
    pid, participants, producers = told
    assert producers == (pid,)
    assert participants == 2
    assert ring.statistics().participants == (os.getpid(),)
    assert ring.get() == b"x"


def test_a_daemon_that_closed_all_descriptors_is_told(tmp_path: Path, where: Any) -> None:
    """It must not take a file of its own for the ring: alone, it would make the locks anew."""
    with Ring.create(where, producers="many", consumers="many") as ring:
        ring.put(b"x")
        presence = ring._segment.membership.presence

        def act() -> None:
            number = presence.descriptor
            os.closerange(number, number + 1)
            with (tmp_path / "mine").open("w+b") as mine:
                os.dup2(mine.fileno(), number)
            for call in (lambda: ring.put(b"y"), lambda: ring.get(0)):
                with pytest.raises(ClosedError, match="closed the descriptor"):
                    call()
            ring.close()
            os.write(number, b"still open")

        in_child(act)
        assert (tmp_path / "mine").read_bytes() == b"still open"
        assert ring.statistics().participants == (os.getpid(),)
        assert ring.get(0) == b"x"


def test_a_process_that_closed_all_descriptors_can_still_close(where: Any) -> None:
    with Ring.create(where) as ring:

        def act() -> None:
            ring.put(b"x")
            os.close(ring._segment.membership.presence.descriptor)
            ring.put(b"y")  # the role was claimed, and there is nothing to ask the kernel
            ring.close()

        in_child(act)
        assert ring.get(0) == b"x"
        assert ring.get(0) == b"y"


def test_a_childs_close_takes_nothing_from_the_parent(semaphores: Any, ring: Ring) -> None:
    ring.put(b"x")
    there = semaphores()

    def act() -> None:
        ring.close()

    in_child(act)

    def use_and_close() -> bytes:
        ring.qsize()
        frame = ring.get(5)
        ring.close()
        return frame

    assert in_child(use_and_close) == b"x"
    assert semaphores() == there
    other = pickle.loads(pickle.dumps(ring))
    with other, pytest.raises(RoleTaken):
        other.put(b"y")
    ring.put(b"y")
    assert ring.get() == b"y"


def test_a_childs_end_unlinks_nothing(semaphores: Any, ring: Ring) -> None:
    ring.put(b"x")
    there = semaphores()
    for leave in (lambda: os._exit(0), sys.exit):
        pid = os.fork()
        if pid == 0:
            warnings.simplefilter("ignore")
            try:
                ring.qsize()
                leave()
            except SystemExit:
                # As an interpreter that ends does it.
                import atexit

                atexit._run_exitfuncs()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    assert semaphores() == there
    if not str(ring.url).startswith("anon"):
        with Ring.attach(str(ring.url)) as other:
            assert other.get() == b"x"


def test_with_in_the_child_unlinks_nothing(ring: Ring) -> None:
    def act() -> bytes:
        with ring:
            return ring.get(5)

    ring.put(b"x")
    assert in_child(act) == b"x"
    if not str(ring.url).startswith("anon"):
        Ring.attach(str(ring.url)).close()


def test_the_parents_death_is_seen_by_its_child(ring: Ring) -> None:
    """The child lives, and has what it inherited; the parent's role is not among it."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        ring.put(b"x")
        if os.fork() == 0:
            os.write(writer, os.getpid().to_bytes(8, "little"))
        signal.pause()
    child = int.from_bytes(os.read(reader, 8), "little")
    try:
        assert ring.get(5) == b"x"
        with pytest.raises(Empty):
            ring.get(timeout=0.06)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with pytest.raises(PeerDied) as caught:
            ring.get(timeout=1)
        assert caught.value.pid == parent
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


def test_a_child_outlives_its_parents_handle(where: Any) -> None:
    """With `unlink` and `close` behind it, and its first use before it."""
    ring = Ring.create(where, capacity=4096)
    ring.put(b"x")
    told, closed = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(told[1], b".")
        os.read(closed[0], 1)
        try:
            fine = ring.get(5) == b"x"
            ring.put(b"y")
            fine = fine and ring.get(5) == b"y" and len(ring.statistics().participants) == 1
            with pytest.raises(Empty):
                ring.get(timeout=0.06)
            ring.close()
        except BaseException:  # noqa: BLE001 - told, and the exit status says so
            sys.excepthook(*sys.exc_info())
            fine = False
        os._exit(0 if fine else 1)
    os.read(told[0], 1)  # the child has been born, at-fork hooks and all
    ring.unlink()
    ring.close()
    os.write(closed[1], b".")
    assert os.waitpid(pid, 0)[1] == 0
    for fd in told + closed:
        os.close(fd)


def test_a_fork_while_other_threads_are_inside(ring: Ring) -> None:
    """The locks of those threads are not the child's: it never waits for them."""
    stop = threading.Event()

    def turn() -> None:
        while not stop.is_set():
            ring.put(b"x" * 100)
            with ring.reserve(10) as frame:
                frame[:] = b"y" * 10
            ring.get()
            with ring.peek():
                pass

    def act() -> str:
        with pytest.raises(RoleTaken):
            ring.put(b"z", timeout=1)
        with pytest.raises(RoleTaken):
            ring.get(timeout=1)
        ring.close()
        return "never hung"

    with ThreadPoolExecutor(1) as threads:
        turning = threads.submit(turn)
        while not (ring.statistics().producers and ring.statistics().consumers):
            os.sched_yield()  # before it has the roles, the child could take them
        try:
            for _ in range(30):
                assert in_child(act, seconds=20) == "never hung"
        finally:
            stop.set()
        turning.result(10)


def test_a_fork_while_a_thread_has_a_frame(ring: Ring) -> None:
    ring.put(b"first")
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with ring.reserve(5) as frame, ring.peek() as view:
            assert view == b"first"
            frame[:] = b"frame"
            inside.set()
            leave.wait(20)

    def act() -> str:
        with pytest.raises(RoleTaken):
            ring.put(b"z", timeout=1)
        with pytest.raises(RoleTaken):
            ring.get(timeout=1)
        ring.close()
        return "never hung"

    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(hold)
        assert inside.wait(10)
        assert in_child(act) == "never hung"
        leave.set()
        holding.result(10)
    assert ring.get() == b"frame"
    assert ring.empty()


def test_a_fork_while_a_thread_waits(ring: Ring) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ring.get, 20)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)

        def act() -> None:
            ring.put(b"from the child")
            ring.close()

        in_child(act)
        assert waiting.result(10) == b"from the child"


@pytest.mark.parametrize("what", ["reserve", "peek"])
def test_a_frame_that_was_open_is_the_parents(ring: Ring, what: str) -> None:
    """A child that leaves the `with` changes nothing, however it leaves it."""
    ring.put_many([b"first", b"second"])
    for leave in ("quietly", "with an error"):
        reader, writer = os.pipe()
        pid = None
        try:
            with ring.reserve(5) if what == "reserve" else ring.peek() as frame:
                pid = os.fork()
                if pid == 0:
                    if what == "reserve":
                        frame[:] = b"child"
                    if leave == "with an error":
                        raise KeyError
                else:
                    assert os.waitpid(pid, 0)[1] == 0
                    if what == "reserve":
                        frame[:] = b"frame"
                    else:
                        assert frame == (b"first" if leave == "quietly" else b"second")
        except (RuntimeError, ClosedError, KeyError):
            if pid:
                raise
        finally:
            if pid == 0:
                os._exit(0)
            os.close(reader)
            os.close(writer)
    if what == "reserve":
        assert ring.get_many() == [b"first", b"second", b"frame", b"frame"]
    assert ring.empty()
    assert ring.qsize() == 0
    ring.put(b"next")
    assert ring.get() == b"next"


def test_a_child_of_a_child(ring: Ring) -> None:
    def act() -> object:
        def inner() -> bytes:
            return ring.get(5)

        return in_child(inner)

    ring.put(b"x")
    assert in_child(act) == b"x"


def test_a_closed_handle_is_closed_in_the_child(where: Any) -> None:
    ring = Ring.create(where, capacity=4096)
    ring.close()

    def act() -> None:
        with pytest.raises(ClosedError):
            ring.get()

    in_child(act)
    ring.unlink()


def test_many_children_one_after_another(ring: Ring) -> None:
    """Lines, roles and descriptors of those that ended are free again."""
    for number in range(60):

        def act(number: int = number) -> None:
            ring.put(b"%d" % number)
            if number % 3 == 0:
                os._exit(0)
            if number % 3 == 1:
                ring.close()

        if number % 3:
            in_child(act)
        else:
            pid = os.fork()
            if pid == 0:
                act()
            assert os.waitpid(pid, 0)[1] == 0
        while True:
            try:
                assert ring.get(timeout=5) == b"%d" % number
                break
            except PeerDied:
                continue
    assert ring.statistics().participants == (os.getpid(),)


def test_a_process_that_is_full_of_descriptors(tmp_path: Any) -> None:
    """The child cannot have a descriptor of its own: it says so, and the parent is not harmed."""
    result = run_python(fork_without_descriptors, str(tmp_path / "ring"))
    assert result.stdout.split() == ["refused", "fine"]


def fork_without_descriptors(path: str) -> None:
    import resource

    with Ring.create(f"file:{path}", capacity=4096) as ring:
        ring.put(b"x")
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
        pid = -1
        sys.stdout.flush()
        extra = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        while True:
            try:
                extra.append(os.dup(0))
            except OSError:
                break
        pid = os.fork()
        if pid == 0:
            try:
                ring.get(timeout=0)
            except (ClosedError, OSError):
                print("refused", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        for fd in extra:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        assert ring.get() == b"x"
        try:
            ring.get(timeout=0.06)
        except Empty:
            print("fine")
        with pytest.raises(Full):
            while True:
                ring.put_nowait(b"x" * 500)
