"""Queue and JoinableQueue: the contract everywhere, and between processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import reprlib
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmkit import (
    ClosedError,
    Empty,
    Full,
    IncompatibleSegment,
    JoinableQueue,
    Queue,
    Ring,
    SharedBuffer,
    ShutDown,
)
from shmkit.channels.objects import codec
from shmkit.channels.objects import queue as module
from tests.contracts.queue import CASES, OBJECTS, same
from tests.processes import TIMEOUT, Child, reap, run_python, wait_until

KINDS = [Queue, JoinableQueue]


@pytest.fixture
def make_queue(make_where: Callable[[str], Any]) -> Iterator[Callable[..., Any]]:
    """Make queues that are closed, and their names removed, at the end."""
    made: list[Queue[Any]] = []

    def make(kind: Any = Queue, backend: str = "anon", *args: Any, **options: Any) -> Any:
        queue = kind(*args, where=make_where(backend), **options)
        made.append(queue)
        return queue

    yield make
    while made:
        made[-1].unlink()
        made.pop().close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_contract(name: str, kind: Any, backend: str, make_where: Callable[[str], Any]) -> None:
    made: list[Any] = []

    def make(*args: Any, **options: Any) -> Any:
        queue = kind(*args, where=make_where(backend), **options)
        # What the case drops is to go; what it keeps is closed here.
        made.append((queue.url, [] if name.startswith("a_dropped") else [queue]))
        return queue

    try:
        CASES[name](make)
    finally:
        for url, queues in made:
            for queue in queues:
                if not queue.closed:
                    queue.shutdown(immediate=True)
                queue.unlink()
                queue.close()
            if url.scheme == "shm" and not queues:
                with SharedBuffer.attach(url) as memory:
                    memory.unlink()
            if url.scheme == "file":
                Path(url.name).unlink(missing_ok=True)


# ------------------------------------------------------------------ other processes


def echo(there: Any, back: Any) -> None:
    while not isinstance(obj := there.get(), str):
        back.put(obj)
        if isinstance(there, JoinableQueue):
            there.task_done()
    if isinstance(there, JoinableQueue):
        there.task_done()


@pytest.mark.parametrize("kind", KINDS)
def test_reaches_a_process_of_every_start_method(
    kind: Any, backend: str, make_queue: Callable[..., Any], start_process: Callable[..., Any]
) -> None:
    there, back = (make_queue(kind, backend, 3, capacity=1 << 16) for _ in range(2))
    process = start_process(echo, there, back)
    for obj in OBJECTS:
        there.put(obj, timeout=TIMEOUT)
        assert same(back.get(timeout=TIMEOUT), obj)
    there.put("end")
    process.join(TIMEOUT)
    assert process.exitcode == 0
    if kind is JoinableQueue:
        there.join()
        assert there.unfinished_tasks == 0


def test_travels_through_a_queue(make_queue: Callable[..., Any]) -> None:
    outer, inner = make_queue(), make_queue(JoinableQueue, "anon", 2)
    inner.put("inside")
    outer.put(inner)
    other = outer.get()

    assert type(other) is JoinableQueue
    assert other.maxsize == 2
    assert other.get() == "inside"
    other.task_done()
    inner.join()
    other.close()


def test_unrelated_processes_attach_by_name(unique_name: Any) -> None:
    with Queue(2, where=unique_name) as queue:
        queue.put(np.arange(10))
        with Child(
            """
            from shmkit import Queue
            queue = Queue.attach(args[0])
            array = queue.get()
            queue.put(array * 2)
            queue.put(b"x" * (9 << 20))
            link.send(queue.maxsize)
            """,
            unique_name,
        ) as child:
            assert child.receive() == 2
            assert list(queue.get(timeout=TIMEOUT)) == list(range(0, 20, 2))
            child.finish()
        # It is no loss that the process that put it has ended.
        assert len(queue.get(timeout=TIMEOUT)) == 9 << 20
    with pytest.raises(FileNotFoundError):
        Queue.attach(unique_name)


def test_a_name_that_is_taken_is_not_taken_again(unique_name: Any) -> None:
    with Queue(where=unique_name), pytest.raises(FileExistsError):
        Queue(where=unique_name)


def test_only_what_is_a_queue_of_this_class_is_attached_to(unique_name: Any) -> None:
    with Queue(where=unique_name), pytest.raises(IncompatibleSegment):
        JoinableQueue.attach(unique_name)
    with Ring.create(unique_name), pytest.raises(IncompatibleSegment):
        Queue.attach(unique_name)


def test_a_queue_on_a_file_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "queue"
    run_python(
        """
        from pathlib import Path
        from shmkit import Queue
        queue = Queue(3, where=Path(args[0]), capacity=1 << 16)
        queue.put("small")
        queue.put(b"x" * (1 << 20))
        """,
        str(path),
    )
    assert list(tmp_path.iterdir()) == [path]  # the second object is in it, too
    with Queue.attach(path) as queue:
        assert (queue.maxsize, queue.qsize()) == (3, 2)
        assert queue.get(timeout=0) == "small"
        assert len(queue.get(timeout=0)) == 1 << 20
        assert queue.qsize() == 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a segment of another user")
@pytest.mark.parametrize("how", ["attach", "unpickle"])
def test_another_users_queue_is_refused(unique_name: Any, how: str) -> None:
    with Queue(where=unique_name) as queue:
        pickled = pickle.dumps(queue)
        os.chown(f"/dev/shm/{unique_name}", 1234, -1)
        with pytest.raises(PermissionError, match="user 1234"):
            Queue.attach(unique_name) if how == "attach" else pickle.loads(pickled)
        os.chown(f"/dev/shm/{unique_name}", os.geteuid(), -1)


def test_many_processes_at_both_ends(
    make_queue: Callable[..., Any], start_process: Callable[..., Any]
) -> None:
    there, back = make_queue(JoinableQueue, "anon", 7), make_queue()
    processes = [start_process(echo, there, back) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda n=n: [there.put((n, i)) for i in range(100)])
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    got = [back.get(timeout=TIMEOUT) for _ in range(300)]
    for thread in threads:
        thread.join(TIMEOUT)
    there.join()
    for _ in processes:
        there.put("end")
    for process in processes:
        process.join(TIMEOUT)
        assert process.exitcode == 0
    assert sorted(got) == [(n, i) for n in range(3) for i in range(100)]


def test_nothing_is_said_at_a_processs_end_with_queues_open() -> None:
    ended = run_python(
        """
        import multiprocessing
        from shmkit import JoinableQueue, Queue

        def work(queue):
            queue.put(b"x" * (9 << 20))

        if __name__ == "__main__":
            queues = [Queue(), JoinableQueue(3), Queue(capacity=4096)]
            for method in multiprocessing.get_all_start_methods():
                context = multiprocessing.get_context(method)
                process = context.Process(target=work, args=(queues[0],))
                process.start()
                process.join()
                assert process.exitcode == 0
                assert len(queues[0].get()) == 9 << 20
            for queue in queues:
                queue.put(b"y" * (9 << 20))
        """,
        env={"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"},
    )

    assert ended.stderr == ""


# ------------------------------------------------------------------ tasks


def test_join_waits_for_every_task(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(JoinableQueue)
    queue.join()
    for number in range(3):
        queue.put(number)
    joined = [threading.Event() for _ in range(3)]

    def join(event: threading.Event) -> None:
        queue.join()
        event.set()

    threads = [threading.Thread(target=join, args=(event,)) for event in joined]
    for thread in threads:
        thread.start()
    for left in (3, 2, 1):
        assert queue.unfinished_tasks == left
        assert not any(event.is_set() for event in joined)
        queue.get()
        queue.task_done()
    for event, thread in zip(joined, threads, strict=True):
        assert event.wait(TIMEOUT)
        thread.join(TIMEOUT)


def test_too_many_tasks_done_are_an_error(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(JoinableQueue)
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()
    queue.put(1)
    queue.task_done()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


def test_what_a_shutdown_throws_away_counts_as_done(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(JoinableQueue)
    for number in range(5):
        queue.put(number)
    queue.get()
    thread = threading.Thread(target=queue.join)
    thread.start()
    queue.shutdown(immediate=True)
    assert queue.unfinished_tasks == 1
    queue.task_done()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


def test_closing_ends_a_join(make_queue: Callable[..., Any]) -> None:
    queue = make_queue(JoinableQueue)
    queue.put(1)
    ended: list[BaseException] = []

    def join() -> None:
        try:
            queue.join()
        except ClosedError as error:
            ended.append(error)

    thread = threading.Thread(target=join)
    thread.start()
    wait_until(lambda: queue._ring._done.sleeps)
    queue.close()
    thread.join(TIMEOUT)
    assert len(ended) == 1


def test_a_timed_get_does_not_care_who_died(
    make_queue: Callable[..., Any], start_process: Callable[..., Any]
) -> None:
    there, back = make_queue(), make_queue()
    process = start_process(echo, there, back)
    there.put(1)
    assert back.get(timeout=TIMEOUT) == 1
    process.kill()
    process.join(TIMEOUT)
    with pytest.raises(Empty):
        back.get(timeout=0.2)
    with pytest.raises(Empty):
        back.get(timeout=0.2)


# ------------------------------------------------------------------ handlers, tracers, deep stacks


class Alarm(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize("maxsize", [0, 9])
@pytest.mark.parametrize("moment", ["released", "taken", "loaded"])
def test_a_handler_that_raises_takes_no_batch_away(
    make_queue: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, moment: str, maxsize: int
) -> None:
    queue = make_queue(Queue, "anon", maxsize)
    queue.put_many(range(5))
    calls = 0

    def then_raise(call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any) -> Any:
            nonlocal calls
            result = call(*args)
            calls += 1
            if calls == (1 if moment == "taken" or (not maxsize and moment == "released") else 3):
                raise Alarm
            return result

        return act

    if moment == "released":
        monkeypatch.setattr(queue._ring._reader, "release", then_raise(queue._ring._reader.release))
    elif moment == "taken":
        monkeypatch.setattr(queue._ring, "get_frames", then_raise(queue._ring.get_frames))
    else:
        monkeypatch.setattr(module, "load", then_raise(codec.load))
    with pytest.raises(Alarm):
        queue.get_many()
    monkeypatch.undo()
    assert queue.get() == 0
    queue.put(5)
    got = queue.get_many(3)
    while len(got) < 5:
        got += queue.get_many(timeout=0)
    assert got == [1, 2, 3, 4, 5]
    assert queue.empty()
    assert queue._reader is queue._ring._reader


TRACED = """
import sys, threading
from shmkit import Queue

def trace(frame, event, arg):
    return trace

def watch():
    if hasattr(sys, "monitoring"):
        sys.monitoring.use_tool_id(1, "test")
        sys.monitoring.set_events(1, sys.monitoring.events.LINE)
        sys.monitoring.register_callback(1, sys.monitoring.events.LINE, lambda *_: None)

if args[0] == "trace":
    threading.settrace(trace)
    sys.settrace(trace)
else:
    watch()
sys.setswitchinterval(1e-5)
queue = Queue(7)
got = []

def put(n):
    for i in range(150):
        queue.put((n, i), timeout=20)

def get():
    for _ in range(150):
        got.append(queue.get(timeout=20))

threads = [threading.Thread(target=put, args=(n,)) for n in range(3)]
threads += [threading.Thread(target=get) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(50)
sys.settrace(None)
assert sorted(got) == [(n, i) for n in range(3) for i in range(150)], len(got)
queue.put("after")
assert queue.get(timeout=1) == "after"
"""


@pytest.mark.parametrize("pure", ["1", ""])
@pytest.mark.parametrize("how", ["trace", "monitoring"])
def test_threads_under_a_tracer(how: str, pure: str) -> None:
    """The queue broke for good: "release of a lock that this handle does not hold"."""
    if how == "monitoring" and not hasattr(sys, "monitoring"):
        pytest.skip("Python 3.12 has it")
    run_python(TRACED, how, env={"SHMKIT_PURE": pure}, timeout=60)


DEEP = """
import sys
from shmkit import Queue
from tests.processes import in_child

queue = Queue(capacity=1 << 16)
large = bytes(200_000)

def dive(depth, act):
    return dive(depth - 1, act) if depth else act()

limit = sys.getrecursionlimit()
done = failed = 0
for act in (
    lambda: queue.put([1]),
    lambda: queue.put(large, timeout=5),
    lambda: queue.get(timeout=0),
    lambda: queue.put_many([1, large], timeout=5),
    lambda: queue.get_many(timeout=0),
):
    for depth in range(limit - 60, limit):
        if queue.qsize() < 4:
            queue.put("filler")
        try:
            dive(depth, act)
            done += 1
        except RecursionError:
            failed += 1
        if depth % 7 == 0:
            # Another process gets in: no lock was kept.
            def child():
                queue.put("child's", timeout=10)
                queue.get(timeout=10)
                return True
            assert in_child(child)
        while queue.qsize() > 2:
            queue.get(timeout=10)
assert done and failed, (done, failed)
"""


@pytest.mark.parametrize("pure", ["1", ""])
def test_a_recursion_error_at_any_depth_keeps_no_lock(pure: str) -> None:
    """Nor is it the frame's fault, which is no longer there then."""
    run_python(DEEP, env={"SHMKIT_PURE": pure}, timeout=60)


# ------------------------------------------------------------------ ensure, and options


START = """
import os, sys
from shmkit import JoinableQueue, Queue
queue = {"Queue": Queue, "JoinableQueue": JoinableQueue}[args[0]].ensure(args[1], 5, capacity=4096)
queue.put(queue.qsize())
queue.put(bytes(100_000) + bytes([queue.qsize()]))
if args[2]:
    os.killpg(0, 9)
print(queue.get(), len(queue.get()), queue.get(), queue.get()[-1])
queue.unlink()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_was_killed_as_a_whole_starts_again(kind: Any, unique_name: str) -> None:
    """`FileExistsError: ... use ensure()`, and there was none."""
    with Child(
        f"""
        import os
        os.setsid()
        args = (*args, True)
        {START.replace(chr(10), chr(10) + "        ")}
        """,
        kind.__name__,
        unique_name,
    ) as child:
        assert child.wait() == -signal.SIGKILL
    out = run_python(START, kind.__name__, unique_name, False).stdout
    assert out.split() == ["0", "100001", "2", "3"]
    with pytest.raises(FileNotFoundError):
        kind.attach(unique_name)


@pytest.mark.parametrize("kind", KINDS)
def test_ensure_makes_or_joins(kind: Any, backend: str, make_where: Callable[[str], Any]) -> None:
    where = make_where(backend)
    with kind.ensure(where, 3) as queue:
        assert (queue.maxsize, queue.name) == (3, queue.url.name)
        queue.put(1)
        if backend != "anon":
            with kind.ensure(where, 9) as other:
                assert (other.maxsize, other.get(timeout=0)) == (3, 1)
            with pytest.raises(IncompatibleSegment):
                ({Queue, JoinableQueue} - {kind}).pop().ensure(where)
        if backend == "file":
            queue.unlink()


def test_options(unique_name: str, tmp_path: Path) -> None:
    with Queue(where=unique_name, mode=0o640, participants=2):
        assert stat.S_IMODE(Path("/dev/shm", unique_name).stat().st_mode) == 0o640
        with Queue.attach(unique_name), pytest.raises(OSError, match="2") as caught:
            Queue.attach(unique_name)
        assert caught.value.errno == errno.EUSERS
    run_python(
        """
        from shmkit import Queue
        Queue(where=args[0], keep=True).put("kept")
        """,
        unique_name,
    )
    with Queue.attach(unique_name) as queue:
        assert queue.get(timeout=0) == "kept"
        queue.unlink()


# ------------------------------------------------------------------ wrong uses

NAN = float("nan")
WRONG: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda _: Queue("frames"), TypeError, r"maxsize='frames'.*Queue\(where='frames'\)"),  # type: ignore[arg-type]
    (lambda _: Queue(1.5), TypeError, "maxsize=1.5: it is a number of objects"),  # type: ignore[arg-type]
    (lambda _: Queue(capacity=0), ValueError, "capacity=0: the bytes of the largest object"),
    (lambda _: Queue(capacity=-5), ValueError, "capacity=-5"),
    (lambda _: Queue(capacity=1 << 50), ValueError, "capacity=1125899906842624"),
    (lambda _: Queue(capacity="1"), TypeError, "capacity='1': it is a number of bytes"),  # type: ignore[arg-type]
    (lambda _: Queue(participants=0), ValueError, "participants=0"),
    (lambda _: Queue(participants="x"), TypeError, "participants='x': it is a number of handles"),  # type: ignore[arg-type]
    (lambda _: Queue(where="n", mode="rw"), TypeError, "mode='rw'.*0o600"),  # type: ignore[arg-type]
    (lambda _: Queue(where=5), TypeError, "where=5 is no place"),  # type: ignore[arg-type]
    (lambda _: Queue(where="a/b"), ValueError, "for a file use 'file:PATH'"),
    (lambda _: Queue(where="file:/nowhere/q"), FileNotFoundError, "/nowhere/q"),
    (lambda _: Queue.attach("nothing"), FileNotFoundError, "nothing"),
    (lambda _: Queue.attach(None), ValueError, "for a name use 'shm:NAME'"),
    (lambda _: Queue.attach("n", timeout="x"), TypeError, "timeout='x'"),  # type: ignore[arg-type]
    (lambda _: Queue.attach("n", timeout=NAN), ValueError, "timeout=nan"),
    (lambda _: Queue.attach("n", timeout=-1), FileNotFoundError, "shm:n"),
    (lambda q: q.put(1, timeout="x"), TypeError, "timeout='x': it is a number of seconds"),
    (lambda q: q.put(b"x" * 9_000, timeout="x"), TypeError, "timeout='x'"),
    (lambda q: q.put(1, timeout=NAN), ValueError, "timeout=nan: it is a number of seconds"),
    (lambda q: q.put(1, timeout=-1), Full, "joinable queue 'anon:' is full"),
    (lambda q: q.put_nowait(1), Full, "joinable queue 'anon:' is full"),
    (lambda q: q.put_many([1], timeout=NAN), ValueError, "timeout=nan"),
    (lambda q: q.put_many(5), TypeError, r"several objects, not 5: put\(\) takes one"),
    (lambda q: q.get_many(0), ValueError, "max_objects=0: ask for 1 object or more"),
    (lambda q: q.get_many("x"), TypeError, "max_objects='x': it is a number of objects"),
    (lambda q: q.get_many(timeout="x"), TypeError, "timeout='x'"),
    (lambda q: [q.get(), q.get(timeout="x")], TypeError, "timeout='x'"),
    (lambda q: [q.get(), q.get(timeout=NAN)], ValueError, "timeout=nan"),
    (lambda q: [q.get(), q.get(timeout=-1)], Empty, "joinable queue 'anon:' is empty"),
    (lambda q: [q.task_done(), q.task_done()], ValueError, r"task_done\(\) called too many times"),
    (
        lambda q: [q.close(), q.get()],
        ClosedError,
        "handle on joinable queue 'anon:' is closed",
    ),
    (lambda q: [q.close(), q.put(1)], ClosedError, "joinable queue 'anon:' is closed"),
    (lambda q: [q.close(), pickle.dumps(q)], ClosedError, "joinable queue 'anon:' is closed"),
    (lambda q: [q.shutdown(), q.put(1)], ShutDown, "joinable queue 'anon:' was shut down"),
    (lambda q: [q.shutdown(), q.get(), q.get()], ShutDown, "was shut down and is empty"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_uses_say_what_is_wrong(number: int, make_queue: Callable[..., Any]) -> None:
    use, error, text = WRONG[number]
    queue = make_queue(JoinableQueue, "anon", 1, capacity=4096)
    queue.put("first")
    with pytest.raises(error, match=text):
        use(queue)


def test_what_has_another_name_or_kind_says_so(
    unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ring.create(unique_name), pytest.raises(IncompatibleSegment, match=r"ring.*not a queue"):
        Queue.attach(unique_name)
    with SharedBuffer.create(unique_name, 9000) as buffer:
        with pytest.raises(IncompatibleSegment, match="holds no queue"):
            Queue.ensure(unique_name)
        buffer.unlink()
    with Queue(where=unique_name), pytest.raises(FileExistsError, match=r"attach\(\).*ensure\(\)"):
        Queue(where=unique_name)
    monkeypatch.chdir(tmp_path)
    Path("colors.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"use 'file:colors\.bin'"):
        Queue.attach("colors.bin")


@pytest.mark.parametrize(
    "obj", [lambda: None, {"lock": threading.Lock()}, [1, (threading.Lock(),)]], ids=["f", "d", "l"]
)
def test_what_does_not_pickle_is_named(obj: Any, make_queue: Callable[..., Any]) -> None:
    queue = make_queue()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as caught:
        queue.put(obj)
    (note,) = caught.value.__notes__
    assert note.startswith(f"raised by a put of {reprlib.repr(obj)}, a {type(obj).__qualname__}")
    assert queue.empty()


# ------------------------------------------------------------------ many at once


def many_threads(there: Any, back: Any, number: int) -> None:
    def work(thread: int) -> None:
        for index in range(20):
            back.put((number, thread, index), timeout=60)
            there.get(timeout=60)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_eight_putters_and_eight_getters_of_four_threads(make_queue: Callable[..., Any]) -> None:
    """16 processes of 4 threads: each puts into one queue, and gets from another."""
    context = multiprocessing.get_context("fork")
    one, two = make_queue(Queue, "anon", 50), make_queue(Queue, "anon", capacity=1 << 16)
    processes = [
        context.Process(target=many_threads, args=((one, two) if n % 2 else (two, one)) + (n,))
        for n in range(16)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
    finally:
        for process in processes:
            reap(process)
    assert one.qsize() == two.qsize() == 0


@pytest.mark.parametrize("wrong", [3, None, object])
def test_put_many_of_one_thing_says_put(make_queue: Callable[..., Any], wrong: Any) -> None:
    queue = make_queue()
    with pytest.raises(
        TypeError, match=r"put_many takes several objects, not .*: put\(\) takes one"
    ):
        queue.put_many(wrong)
    assert queue.empty()
