"""Semaphore: counting, waiting, names, signals, and threads that close what others wait on."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

from shmkit import ClosedError, Semaphore
from shmkit.sync.posix_count import PosixCount
from tests.processes import run_python, wait_until
from tests.sync.peers import by_name, names_of

pytestmark = pytest.mark.filterwarnings("error")

MOST = posix_ipc.SEMAPHORE_VALUE_MAX
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /dev/shm")


@pytest.fixture(params=["in memory", "by name", "posix"])
def semaphore(request: Any, unique_name: str) -> Iterator[Semaphore]:
    """One that is 0, without a name, with one, and a POSIX one."""
    name = None if request.param == "in memory" else unique_name
    made = Semaphore(0, name, posix=request.param == "posix")
    yield made
    made.close()
    made.unlink()


@pytest.fixture(params=[False, True], ids=["by name", "posix"])
def named(request: Any, unique_name: str) -> Iterator[Semaphore]:
    """One that is 0, with a name."""
    made = Semaphore(0, unique_name, posix=request.param)
    yield made
    made.close()
    made.unlink()


def file_of(semaphore: Semaphore) -> Path:
    is_posix = isinstance(semaphore._count, PosixCount)
    return Path("/dev/shm", f"sem.{semaphore.name}" if is_posix else semaphore.name)


# ------------------------------------------------------------------ counting


def test_it_counts(semaphore: Semaphore) -> None:
    for count in range(1, 5):
        semaphore.release()
        assert semaphore.value == count
    for count in range(3, -1, -1):
        assert semaphore.acquire() is True
        assert semaphore.value == count
    assert semaphore.acquire(False) is False
    assert semaphore.acquire(block=False, timeout=5) is False
    assert semaphore.acquire(timeout=0) is False
    assert semaphore.acquire(True, 0.02) is False


def test_it_begins_with_a_value() -> None:
    made = Semaphore(3)
    assert made.value == 3
    assert [made.acquire(False) for _ in range(4)] == [True, True, True, False]
    made.close()
    one = Semaphore()
    assert one.value == 1
    one.close()


def test_with_acquires_and_releases() -> None:
    made = Semaphore(1)
    with made as same:
        assert same is made
        assert made.value == 0
    assert made.value == 1
    with pytest.raises(KeyError), made:
        raise KeyError
    assert made.value == 1
    made.close()


@pytest.mark.parametrize("value", [-1, -(1 << 40)])
def test_a_negative_value_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=str(value)):
        Semaphore(value)


@pytest.mark.parametrize("value", [MOST + 1, 1 << 40, 1 << 70])
def test_a_value_that_is_too_large_is_refused(value: int, unique_name: str) -> None:
    for make in (
        lambda: Semaphore(value),
        lambda: Semaphore(value, unique_name),
        lambda: Semaphore.create(unique_name, value),
    ):
        with pytest.raises(ValueError, match=str(value)):
            make()
    with pytest.raises(ValueError, match="-1"):
        Semaphore.create(unique_name, -1)
    Semaphore.create(unique_name, 3).unlink()  # there was none


def test_it_counts_no_further_than_it_can() -> None:
    made = Semaphore(MOST - 1)
    made.release()
    for _ in range(2):
        for error in (OverflowError, ValueError):  # the second is multiprocessing's
            with pytest.raises(error, match=str(MOST)):
                made.release()
    assert made.value == MOST
    assert made.acquire(False)
    made.release()
    made.close()


@pytest.mark.parametrize("timeout", [-1, -0.001, float("-inf")])
def test_a_negative_timeout_is_none(semaphore: Semaphore, timeout: float) -> None:
    assert semaphore.acquire(timeout=timeout) is False
    semaphore.release()
    assert semaphore.acquire(timeout=timeout) is True


def test_what_is_no_timeout_is_refused(semaphore: Semaphore) -> None:
    for block in (True, False):
        with pytest.raises(ValueError, match="timeout"):
            semaphore.acquire(block, float("nan"))
        with pytest.raises(TypeError, match="timeout"):
            semaphore.acquire(block, "1")  # type: ignore[arg-type]


def test_wrong_calls_say_what_is_right(unique_name: str) -> None:
    """Cause, value, remedy; and nothing is made."""
    wrong: Any = Semaphore
    with pytest.raises(TypeError, match=r"not 'n', .*: Semaphore\(name='n'\)"):
        wrong("n")
    for value in (1.5, None, b"1", [1]):
        with pytest.raises(TypeError, match=r"the value of a semaphore is an int"):
            wrong(value)
    with pytest.raises(TypeError, match=r"the name of a semaphore is a str"):
        wrong(1, 3)
    for call in (lambda: wrong.attach(3), lambda: wrong.create(b"n"), lambda: wrong.ensure(3)):
        with pytest.raises(TypeError, match=r"'shm:NAME', 'file:PATH'"):
            call()
    with pytest.raises(ValueError, match=r"anonymous memory cannot be attached to by name"):
        wrong.attach(None)
    for call in (lambda: wrong(1, posix=True), lambda: wrong.attach(None, posix=True)):
        with pytest.raises(ValueError, match="POSIX semaphore is opened by its name"):
            call()


@linux
@pytest.mark.parametrize("end", ["jürgen", "a:b", "a\nb", "a b", "☃", "%s"])
def test_any_name_works_or_is_refused(unique_name: str, end: str) -> None:
    """And nothing is left of it, nor printed."""
    name = f"{unique_name}-{end}"
    source = """
from shmkit import Semaphore
made = Semaphore(1, args[0])
assert made.acquire()
Semaphore.attach("shm:" + args[0]).release()
made.close()
try:
    made = Semaphore(1, args[0], posix=True)
    made.unlink()
    made.close()
except ValueError as error:
    assert "take another name" in str(error), error
kept = Semaphore.create(args[0], posix=True, tracked=False)
kept.unlink()
"""
    result = run_python(source, name)
    assert (result.stdout, result.stderr) == ("", "")
    assert not list(Path("/dev/shm").glob(f"*{unique_name}*"))


def test_one_that_waits_is_woken(semaphore: Semaphore) -> None:
    with ThreadPoolExecutor(1) as threads:
        for timeout in (None, 20):
            waiting = threads.submit(semaphore.acquire, True, timeout)
            with pytest.raises(TimeoutError):
                waiting.result(0.05)
            semaphore.release()
            assert waiting.result(10) is True
    assert semaphore.value == 0


def done(tasks: list[Any]) -> int:
    return sum(task.done() for task in tasks)


def test_each_release_wakes_one(semaphore: Semaphore) -> None:
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(semaphore.acquire) for _ in range(4)]
        for count in range(1, 5):
            semaphore.release()
            wait_until(lambda count=count: done(waiting) == count)  # type: ignore[misc]
        assert all(task.result() for task in waiting)
    assert semaphore.value == 0


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("name", ["", "a/b", "/a", "a\0b", ".", "..", "n" * 251, "é" * 126])
def test_a_bad_name_is_refused(name: str) -> None:
    for make in (
        lambda: Semaphore(1, name),
        lambda: Semaphore.create(name),
        lambda: Semaphore(1, name, posix=True),
        lambda: Semaphore.attach(name, posix=True),
        lambda: Semaphore.attach(name),
    ):
        with pytest.raises(ValueError, match="name"):
            make()


both = pytest.mark.parametrize("posix", [False, True], ids=["own", "posix"])


@both
def test_a_name_is_shared(unique_name: str, posix: bool) -> None:
    first = Semaphore(2, unique_name, posix=posix)
    second = Semaphore(7, unique_name, posix=posix)  # exists: its value counts
    assert second.value == 2
    second.acquire()
    assert first.value == 1
    assert first.name == second.name == unique_name
    second.close()
    assert file_of(first).exists()
    first.unlink()
    first.unlink()
    assert not file_of(first).exists()
    assert first.acquire() is True  # who has it goes on
    first.close()


@both
def test_create_and_attach(unique_name: str, posix: bool) -> None:
    with pytest.raises(FileNotFoundError, match=unique_name):
        Semaphore.attach(unique_name, posix=posix)
    first = Semaphore.create(unique_name, 3, posix=posix)
    with pytest.raises(FileExistsError, match=unique_name):
        Semaphore.create(unique_name, posix=posix)
    second = Semaphore.attach(unique_name, posix=posix)
    assert second.value == 3
    second.unlink()  # anybody may
    with pytest.raises(FileNotFoundError):
        Semaphore.attach(unique_name, posix=posix)
    first.unlink()
    first.close()
    second.close()


def test_the_two_kinds_are_told_apart(unique_name: str) -> None:
    """A POSIX one of the name is another semaphore, and the error for it says how to get it."""
    there = Semaphore.create(unique_name, 3, posix=True)
    with pytest.raises(FileNotFoundError, match=r"posix=True"):
        Semaphore.attach(unique_name)
    with Semaphore(1, unique_name) as own:
        assert (own.value, there.value) == (0, 3)
    own.close()
    there.unlink()
    there.close()


def test_one_that_is_not_tracked_stays(unique_name: str) -> None:
    made = Semaphore.create(unique_name, posix=True, tracked=False)
    made.close()
    assert file_of(made).exists()
    made.unlink()
    assert not file_of(made).exists()


@both
def test_unrelated_processes_share_a_name(unique_name: str, start_child: Any, posix: bool) -> None:
    made = Semaphore(0, unique_name, posix=posix)
    child = start_child(
        """
        from shmkit import Semaphore
        there = Semaphore.attach(args[0], posix=args[1])
        link.send("attached")
        for _ in range(3):
            there.acquire()
        link.send("woken")
        link.recv()
        there.release()
        there.close()
        """,
        unique_name,
        posix,
    )
    assert child.receive() == "attached"
    for _ in range(3):
        made.release()
    assert child.receive() == "woken"
    child.send("go")
    assert made.acquire(timeout=10)
    child.finish()
    assert file_of(made).exists()  # who attached does not unlink
    made.unlink()
    made.close()


@both
def test_the_creators_end_removes_the_name(unique_name: str, posix: bool) -> None:
    prefix, ends = "", ["", "made.close()", "raise KeyError"]
    if posix:  # the resource tracker knows of it
        prefix, ends = "sem.", [*ends, "import os; os.kill(os.getpid(), 9)"]
    for end in ends:
        run_python(
            f"from shmkit import Semaphore; made = Semaphore(1, args[0], posix=args[1]); {end}",
            unique_name,
            posix,
            check=False,
        )
        wait_until(lambda: not Path(f"/dev/shm/{prefix}{unique_name}").exists())


def test_an_unnamed_one_has_no_name_at_all() -> None:
    result = run_python(
        """
        import os
        from shmkit import Semaphore
        before = set(os.listdir("/dev/shm"))
        made = [Semaphore() for _ in range(20)]
        made[0].acquire()
        print([name for name in set(os.listdir("/dev/shm")) - before if "shmkit" in name])
        print(*(repr(m.name) for m in made[:1]))
        """
    )
    assert result.stdout.split() == ["[]", "''"]
    assert result.stderr == ""


def test_the_file_is_for_its_user_alone(named: Semaphore) -> None:
    assert file_of(named).stat().st_mode & 0o777 == 0o600


def test_it_pickles(semaphore: Semaphore) -> None:
    other = pickle.loads(pickle.dumps(semaphore))
    other.release()
    assert semaphore.value == 1
    other.close()
    semaphore.close()
    with pytest.raises(ClosedError, match=r"[Ss]emaphore.*closed"):
        pickle.dumps(semaphore)


def test_a_copy_keeps_the_count() -> None:
    """Also when it is the only one left."""
    made = Semaphore(3)
    copy = pickle.loads(pickle.dumps(made))
    made.acquire()
    made.close()
    assert copy.value == 2
    copy.close()


def test_a_pickle_of_a_name_that_is_gone(named: Semaphore) -> None:
    named.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(named))


def test_processes_of_every_method_share_it(semaphore: Semaphore, start_process: Any) -> None:
    process = start_process(answer, semaphore)
    assert semaphore.acquire(timeout=20)
    process.join(20)
    assert process.exitcode == 0
    assert not semaphore.name or file_of(semaphore).exists()


def answer(semaphore: Semaphore) -> None:
    semaphore.release()


def test_a_child_of_a_fork_does_not_remove_the_name(semaphore: Semaphore) -> None:
    pid = os.fork()
    if pid == 0:
        semaphore.close()
        del semaphore
        gc.collect()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert not semaphore.name or file_of(semaphore).exists()
    semaphore.release()
    assert semaphore.acquire(False)


# ------------------------------------------------------------------ closing


def test_a_closed_one_says_so(semaphore: Semaphore) -> None:
    assert "value=0" in repr(semaphore)
    semaphore.close()
    semaphore.close()
    for call in (semaphore.acquire, semaphore.release, lambda: semaphore.value):
        with pytest.raises(ClosedError, match=r"[Ss]emaphore.*closed"):
            call()
    with pytest.raises(ClosedError), semaphore:
        pass
    assert "closed" in repr(semaphore)


def test_closing_under_threads_that_wait_is_safe() -> None:
    """No crash: the memory they wait on stays until they have left."""
    for _ in range(5):
        made = Semaphore(0)
        with ThreadPoolExecutor(4) as threads:
            started = threading.Barrier(5)

            def wait(made: Semaphore = made, started: threading.Barrier = started) -> None:
                started.wait()
                made.acquire()

            waiting = [threads.submit(wait) for _ in range(4)]
            started.wait()
            made.close()
            for task in waiting:
                with pytest.raises(ClosedError):
                    task.result(5)


@pytest.mark.parametrize("kind", ["anonymous", "by name", "posix"])
def test_closed_ones_are_unmapped(kind: str, unique_name: str) -> None:
    def maps() -> int:
        text = Path("/proc/self/maps").read_text()
        # glibc maps a new POSIX semaphore under another name.
        names = (f"{unique_name}-", "/dev/shm/sem.", "/memfd:shmkit")
        return sum(map(text.count, names))

    before = maps()
    made = [
        Semaphore(1, None if kind == "anonymous" else f"{unique_name}-{n}", posix=kind == "posix")
        for n in range(50)
    ]
    assert maps() == before + 50
    for each in made:
        each.unlink()
        each.close()
    del made, each
    gc.collect()
    assert maps() == before


# ------------------------------------------------------------------ signals


class Raised(Exception):
    """What a handler raises in these tests."""


@pytest.fixture
def alarm() -> Iterator[Any]:
    """Set what a SIGALRM does; afterwards it does what it did."""
    before, mask = signal.getsignal(signal.SIGALRM), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield lambda handler: signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # what is pending is nothing to raise for
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGALRM, before)


# These take SIGALRM for themselves, which pytest-timeout has else.
own_alarm = pytest.mark.timeout(60, method="thread")
main_thread = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(),
    reason="handlers run in the main thread, and this one is not it",
)


@own_alarm
@main_thread
def test_a_handler_runs_and_the_wait_goes_on(semaphore: Semaphore, alarm: Any) -> None:
    ran = []
    alarm(lambda *_: ran.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    began = time.monotonic()
    assert semaphore.acquire(timeout=0.3) is False
    assert time.monotonic() - began >= 0.3
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(ran) > 2


@own_alarm
@main_thread
def test_a_handler_may_release_what_is_waited_for(semaphore: Semaphore, alarm: Any) -> None:
    alarm(lambda *_: semaphore.release())
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    assert semaphore.acquire(timeout=10) is True


@own_alarm
@main_thread
def test_a_handler_that_raises_ends_the_wait(semaphore: Semaphore, alarm: Any) -> None:
    def handler(*_: Any) -> None:
        raise Raised

    alarm(handler)
    for timeout in (None, 20):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Raised):
            semaphore.acquire(timeout=timeout)


@own_alarm
@main_thread
def test_a_handler_that_raises_leaves_nothing_blocked(semaphore: Semaphore, alarm: Any) -> None:
    """At whatever moment of the wait it comes; and no token is lost."""
    ran = 0

    def handler(*_: Any) -> None:
        nonlocal ran
        ran += 1
        raise Raised

    # A function of its own: the compiler of 3.13 leaves the jump back of a `while`, where a handler
    # may run, outside of the `try` around it.
    def wait_until_it_came(seconds: float) -> None:
        before = ran
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while ran == before and not signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            semaphore.acquire(timeout=2e-5)

    alarm(handler)
    dice = random.Random(1)
    rounds = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        rounds += 1
        with pytest.raises(Raised):
            wait_until_it_came(dice.uniform(1e-6, 8e-5))
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert ran == rounds > 100
    semaphore.release()
    assert semaphore.acquire(False)


@own_alarm
@main_thread
def test_a_handler_that_raises_loses_no_token(semaphore: Semaphore, alarm: Any) -> None:
    """A token that `acquire` took is given to its caller, or it is still there."""

    def handler(*_: Any) -> None:
        raise Raised

    alarm(handler)
    dice = random.Random(2)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        semaphore.release()
        had = False
        try:
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 4e-5))
            while True:
                if semaphore.acquire(timeout=1e-5):
                    had = True  # no call before it, after which a handler could come
        except Raised:
            pass
        assert semaphore.value + had == 1
        if not had:
            semaphore.acquire()


def test_control_c_ends_a_wait_at_once(start_child: Any) -> None:
    """And not after a slice: nothing is held back."""
    child = start_child(
        """
        import time
        from shmkit import Semaphore
        made = Semaphore(0)
        link.send("waiting")
        try:
            made.acquire()
        except KeyboardInterrupt:
            link.send(time.monotonic())
        made.close()
        """
    )
    assert child.receive() == "waiting"
    time.sleep(0.1)
    began = time.monotonic()
    child.signal(signal.SIGINT)
    assert child.receive() - began < 1
    child.finish()


@both
def test_a_stopped_wait_goes_on(start_child: Any, unique_name: str, posix: bool) -> None:
    made = Semaphore(0, unique_name, posix=posix)
    child = start_child(
        """
        from shmkit import Semaphore
        there = Semaphore.attach(args[0], posix=args[1])
        link.send("waiting")
        there.acquire()
        there.close()
        """,
        unique_name,
        posix,
    )
    assert child.receive() == "waiting"
    for _ in range(5):
        child.signal(signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2][1] == "T")
        child.signal(signal.SIGCONT)
    made.release()
    child.finish()
    made.unlink()
    made.close()


def test_no_room_for_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shmkit.segment.named_semaphores._Mapped", refuse)
    with pytest.raises(OSError, match=r"no room for semaphore 'x'.*/dev/shm") as caught:
        Semaphore(name="x", posix=True)
    assert caught.value.errno == errno.ENOSPC


@linux
def test_an_unnamed_one_goes_when_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all semaphores have names."""
    by_name(monkeypatch)

    def paths(made: Semaphore) -> list[Path]:
        return names_of(made._count)

    dropped = paths(Semaphore())
    gc.collect()
    assert dropped
    assert not any(path.exists() for path in dropped)
    made = Semaphore(2)
    there = paths(made)
    assert all(path.exists() for path in there)
    assert made.value == 2
    made.close()
    assert not any(path.exists() for path in there)


def test_the_end_of_its_maker_leaves_anothers_of_the_same_name_alone(unique_name: str) -> None:
    result = run_python(
        """
        from shmkit import Semaphore

        first = Semaphore(1, args[0], posix=True)
        Semaphore.attach(args[0], posix=True).unlink()
        second = Semaphore.create(args[0], 5, posix=True, tracked=False)
        """,
        unique_name,
    )
    assert result.stderr == ""
    second = Semaphore.attach(unique_name, posix=True)
    assert second.value == 5
    second.unlink()
    second.close()
