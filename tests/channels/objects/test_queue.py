"""Queue and JoinableQueue: the contract everywhere, and between processes."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmkit import (
    ClosedError,
    Empty,
    IncompatibleSegment,
    JoinableQueue,
    Queue,
    Ring,
    SharedBuffer,
)
from tests.contracts.queue import CASES, OBJECTS, same
from tests.processes import TIMEOUT, Child, run_python, wait_until

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
    assert len(list(tmp_path.iterdir())) == 2  # the second object lies beside the queue
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
