"""Objects beside the ring, when a put is dropped, a get fails for now, or a stranger sends."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shmkit.channels.objects.overflow as module
from shmkit import FrameTooLarge, Queue, Ring
from shmkit.channels.objects.codec import decode, encode, load
from shmkit.channels.objects.object_ring import ObjectRing
from shmkit.tools.testing import run_until
from tests.processes import TIMEOUT, Child, run_python

LARGE = bytes(range(256)) * 1000


def stored(ring: ObjectRing) -> list[str]:
    return ring._overflow.names()


def put_object(ring: ObjectRing, obj: Any) -> None:
    ring.put_encoded(encode(obj), 5)


def get_object(ring: ObjectRing) -> Any:
    frame = ring.get_frame(0)
    return load(frame) if type(frame) is bytes else frame.load()


@pytest.mark.parametrize("policy", ["drop-new", "drop-oldest"])
def test_what_is_dropped_leaves_no_object_beside(policy: str, where: Any) -> None:
    with ObjectRing.create(where, capacity=4096, when_full=policy) as ring:
        for number in range(10):
            put_object(ring, LARGE + bytes([number]))
        left = ring.qsize()
        assert 0 < left < 10
        assert len(stored(ring)) == left
        assert ring.statistics().dropped == 10 - left
        first = 0 if policy == "drop-new" else 10 - left
        for number in range(first, first + left):
            assert get_object(ring) == LARGE + bytes([number])
        assert stored(ring) == []
        if ring.url.scheme != "anon":
            ring.unlink()


def make_link(path: Path) -> None:
    path.symlink_to("/nowhere")


@pytest.mark.parametrize("make", [make_link, Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_taken_for_an_object(
    make: Callable[[Path], None], where: Any
) -> None:
    """A sweep opened it: it waited for the pipe's other end, or ended the put with an error."""
    with ObjectRing.create(where, capacity=4096) as ring:
        overflow = ring._overflow
        is_file = ring.url.scheme == "file"
        folder, mark = (overflow._folder, "") if is_file else ("/dev/shm", "s")
        path = Path(folder, f"{overflow._prefix}{mark}{0:012x}")
        make(path)
        try:
            put_object(ring, LARGE)
            assert ring.sweep() == 0
            assert get_object(ring) == LARGE
            assert stored(ring) == []
            ring.flush()
            assert os.path.lexists(path)
        finally:
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)


class Alarm(Exception):
    """What a signal handler raises."""


PASSING = [OSError(errno.EMFILE, "too many"), OSError(errno.EIO, "bad"), Alarm(), MemoryError()]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "content", [bytes(1 << 20), bytearray(1 << 18)], ids=["overflow", "buffers"]
)
def test_an_error_that_passes_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, error: Exception, content: Any
) -> None:
    queue: Queue[Any] = Queue(capacity=1 << 19)
    queue.put(content)
    assert len(stored(queue._ring)) == (type(content) is bytes)
    errors = [error]

    def once(call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any) -> Any:
            if errors:
                raise errors.pop()
            return call(*args)

        return act

    monkeypatch.setattr(module.Overflow, "open", once(module.Overflow.open))
    monkeypatch.setattr("shmkit.channels.objects.object_ring.decode", once(decode))
    with pytest.raises(type(error)):
        queue.get(timeout=0)
    assert queue.qsize() == 1
    assert queue.get(timeout=0) == content
    assert stored(queue._ring) == []
    queue.close()


def put(queue: Queue[Any]) -> None:
    queue.put(LARGE)


def get(queue: Queue[Any]) -> None:
    queue.get(timeout=TIMEOUT)


def test_the_killed_leave_only_so_much_while_the_others_go_on() -> None:
    queue: Queue[Any] = Queue(capacity=4096)
    for _ in range(4):
        run_until("object.header", put, queue, method="fork").close()
        queue.put(LARGE)
        run_until("overflow.remove", get, queue, method="fork").close()
    assert len(stored(queue._ring)) <= 3
    for _ in range(module._SWEEP):
        queue.put(LARGE)
        queue.get(timeout=TIMEOUT)
    assert stored(queue._ring) == []
    queue.close()


def test_one_that_can_not_be_locked_is_removed_again(
    monkeypatch: pytest.MonkeyPatch, where: Any
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    with ObjectRing.create(where, capacity=4096) as ring:
        monkeypatch.setattr("fcntl.flock", flock)
        with pytest.raises(OSError, match="no locks"):
            put_object(ring, LARGE)
        monkeypatch.undo()
        assert stored(ring) == []
        assert ring.empty()
        if ring.url.scheme != "anon":
            ring.unlink()


STRANGER = """
from multiprocessing.connection import Client
with Client(args[0]) as link:
    queue = link.recv()
    link.send("here")
    queue.put(bytes(range(256)) * 1000)
    queue.put("small")
    queue.close()
"""


def test_what_a_stranger_sent_outlives_the_strangers_family(
    start_child: Callable[..., Child], tmp_path: Path
) -> None:
    from multiprocessing.connection import Listener

    queue: Queue[Any] = Queue(capacity=4096)
    with Listener(str(tmp_path / "door")) as listener:
        child = start_child(STRANGER, listener.address)
        with listener.accept() as link:
            link.send(queue)
            assert link.poll(TIMEOUT)
            assert link.recv() == "here"
            child.finish()
    assert queue.get(timeout=0) == LARGE
    assert queue.get(timeout=0) == "small"
    assert stored(queue._ring) == []
    queue.close()


def test_they_stay_while_anybody_has_a_line_also_where_proc_does_not_tell(
    unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_somewhere", lambda *_, **__: False)
    queue: Queue[Any] = Queue(capacity=4096, where=unique_name)
    other: Queue[Any] = Queue.attach(unique_name)
    queue.put(LARGE)
    queue.unlink()
    queue.close()
    assert other.get(timeout=0) == LARGE
    other.put(LARGE)
    assert len(stored(other._ring)) == 1
    ring = other._ring
    other.close()
    assert stored(ring) == []


@pytest.mark.parametrize("end", ["", "del queue", "queue.unlink()"])
def test_they_go_with_a_queue_that_nobody_closed(end: str) -> None:
    result = run_python(
        f"""
        import gc, os
        from shmkit import Queue

        queue = Queue(capacity=4096)
        queue.put(bytes(100_000))
        (name,) = queue._ring._overflow.names()
        assert os.path.exists(f"/dev/shm/{{name}}")
        {end}
        gc.collect()
        print(name)
        """
    )
    assert not Path("/dev/shm", result.stdout.strip()).exists()
    assert result.stderr == "", "the resource tracker has nothing to tell"


def test_a_flush_takes_them_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        sync(fd)

    with ObjectRing.create(tmp_path / "ring", capacity=4096) as ring:
        put_object(ring, LARGE)
        monkeypatch.setattr(os, "fsync", note)
        ring.flush()
        assert synced == [*(str(tmp_path / name) for name in stored(ring)), str(tmp_path)]
        assert get_object(ring) == LARGE


def test_a_ring_whose_name_is_nearly_a_overflow_is_left_alone(tmp_path: Path) -> None:
    with ObjectRing.create(tmp_path / "q", capacity=4096) as ring:
        (tmp_path / "q.overflow-1").write_bytes(b"mine")
        (tmp_path / "q.overflow-backup-of-may").write_bytes(b"mine")
        assert ring.sweep() == 0
        put_object(ring, LARGE)
        assert get_object(ring) == LARGE
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "q",
        "q.overflow-1",
        "q.overflow-backup-of-may",
    ]


def test_a_queue_that_is_spelled_otherwise_takes_nothing_for_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    queue: Queue[Any] = Queue(where=tmp_path / "q", capacity=4096)
    queue.put(LARGE)
    monkeypatch.chdir(tmp_path / "sub")
    for spelling in ("file:../q", f"file:{tmp_path}/sub/../q", f"file:{tmp_path}/link/q"):
        Queue.attach(spelling).close()
        assert len(stored(queue._ring)) == 1
    other: Queue[Any] = Queue.attach("file:../q")
    assert other.get(timeout=0) == LARGE
    other.close()
    queue.close()
    assert [path.name for path in tmp_path.iterdir() if "overflow" in path.name] == []


def test_a_queue_whose_directory_was_moved_has_its_objects(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    queue: Queue[Any] = Queue(where=tmp_path / "old" / "q", capacity=4096)
    queue.put(LARGE)
    queue.close()
    (tmp_path / "old").rename(tmp_path / "new")
    moved: Queue[Any] = Queue.attach(tmp_path / "new" / "q")
    assert moved.get(timeout=0) == LARGE
    assert stored(moved._ring) == []
    moved.close()


# ------------------------------------------------------------------ more than a header can say


@pytest.mark.parametrize("sharing", ["one", "many"])
def test_a_frame_whose_length_does_not_fit_its_header_is_refused(
    sharing: str, monkeypatch: pytest.MonkeyPatch, where: Any
) -> None:
    monkeypatch.setattr("shmkit.channels.ring.write.SIZE_MASK", 100)
    with Ring.create(where, capacity=4096, producers=sharing, consumers=sharing) as ring:
        for _ in range(2):  # on the careful path first
            ring.put(b"x" * 100)
            with pytest.raises(FrameTooLarge) as caught:
                ring.put(b"y" * 101)
            assert (caught.value.size, caught.value.limit) == (101, 100)
            assert ring.get() == b"x" * 100
        assert ring.empty()


def test_an_object_whose_length_does_not_fit_a_header_is_a_object_beside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shmkit.channels.ring.write.SIZE_MASK", 1000)
    queue: Queue[Any] = Queue(capacity=1 << 16)
    for content in (b"s" * 900, b"p" * 2000, bytearray(30_000)):
        queue.put(content)
    assert len(stored(queue._ring)) == 2
    assert [queue.get() for _ in range(3)] == [b"s" * 900, b"p" * 2000, bytearray(30_000)]
    queue.close()
