"""Objects outside of the ring's data: dropped ones, errors that pass, strangers, copied files."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shmkit.channels.objects.overflow as module
from shmkit import FrameTooLarge, Queue, Ring
from shmkit.channels.objects import regions
from shmkit.channels.objects.codec import decode, encode, load
from shmkit.channels.objects.object_ring import ObjectRing
from shmkit.tools.testing import run_until
from tests.processes import TIMEOUT, Child, in_child, run_python, wait_until

LARGE = bytes(range(256)) * 1000


def stored(ring: ObjectRing) -> list[tuple[int, int]]:
    """The runs of data behind the ring's own: each one is an object, or garbage."""
    return list(ring._overflow._own.runs())


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

    monkeypatch.setattr(module.Overflow, "receive", once(module.Overflow.receive))
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


@pytest.mark.parametrize("policy", ["block", "raise"])
def test_one_whose_region_can_not_be_locked_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, where: Any, policy: str
) -> None:
    def lock_range(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    with ObjectRing.create(where, capacity=4096, when_full=policy) as ring:
        ring.get_frames([], 1, 0) if ring.qsize() else None
        monkeypatch.setattr(regions, "lock_range", lock_range)
        with pytest.raises(OSError, match="no locks"):
            put_object(ring, LARGE)
        monkeypatch.undo()
        assert stored(ring) == []
        assert ring._overflow._own._held == set()
        assert ring.empty()
        put_object(ring, LARGE)
        assert get_object(ring) == LARGE
        if ring.url.scheme != "anon":
            ring.unlink()


def test_threads_of_one_handle_have_regions_of_their_own(where: Any) -> None:
    queue: Queue[Any] = Queue(where=where, capacity=1 << 16)
    got: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda n=n: [queue.put(bytes([n]) * 300_000, timeout=TIMEOUT) for _ in range(9)]
        )
        for n in range(3)
    ]
    threads += [
        threading.Thread(target=lambda: got.extend(queue.get(timeout=TIMEOUT) for _ in range(9)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(got) == sorted(bytes([n]) * 300_000 for n in range(3) for _ in range(9))
    queue._ring.sweep()
    assert stored(queue._ring) == []
    queue.unlink()
    queue.close()


def test_a_forked_child_has_locks_of_its_own(where: Any) -> None:
    """With the parent's it took the same region, or waited for a thread that it does not have."""
    queue: Queue[Any] = Queue(where=where, capacity=4096)
    overflow = queue._ring._overflow
    forked, inside = threading.Event(), threading.Event()

    def hold() -> None:
        with overflow._own._guard:
            inside.set()
            forked.wait(TIMEOUT)

    thread = threading.Thread(target=hold)
    with overflow.sending(LARGE) as label:
        thread.start()
        assert inside.wait(TIMEOUT)

        def child() -> bool:
            queue.put("c" * 200_000)
            (other,) = queue._ring._labels()
            return other.start > label.span[1]

        assert in_child(child)
        forked.set()
        thread.join(TIMEOUT)
    assert queue.get(timeout=0) == "c" * 200_000
    assert stored(queue._ring) == []
    queue.unlink()
    queue.close()


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


@pytest.mark.parametrize(
    "end", ["", "del queue", "queue.unlink()", "queue.close(); queue.unlink()"]
)
@pytest.mark.parametrize("kind", ["anon", "shm"])
def test_they_go_with_a_queue(kind: str, end: str, unique_name: str) -> None:
    result = run_python(
        f"""
        import gc, os
        from shmkit import Queue

        queue = Queue(where={unique_name if kind == "shm" else None!r}, capacity=4096)
        queue.put(bytes(100_000))
        print(len(queue.get()))
        queue.put(bytes(100_000))
        {end}
        gc.collect()
        """
    )
    assert result.stdout == "100000\n"
    assert not Path("/dev/shm", unique_name).exists()
    assert result.stderr == "", "the resource tracker has nothing to tell"


@pytest.mark.parametrize("kind", ["anon", "shm"])
def test_they_go_with_a_queue_whose_processes_were_killed(kind: str, unique_name: str) -> None:
    result = run_python(
        f"""
        import os
        from shmkit import Queue

        queue = Queue(where={unique_name if kind == "shm" else None!r}, capacity=4096)
        queue.put(bytes(100_000))
        os.kill(os.getpid(), 9)
        """,
        check=False,
    )
    assert result.exitcode == -9
    wait_until(lambda: not Path("/dev/shm", unique_name).exists())  # the tracker's part


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
        assert synced == [str(tmp_path / "ring")]
        assert get_object(ring) == LARGE


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_a_file_has_its_objects_in_it(tmp_path: Path, how: str) -> None:
    path = tmp_path / "q"
    queue: Queue[Any] = Queue(where=path, capacity=4096)
    queue.put(LARGE)
    queue.close()
    other = tmp_path / "other"
    shutil.copy(path, other) if how == "copied" else path.rename(other)
    with Queue.attach(other) as again:
        assert again.get(timeout=0) == LARGE
    if how == "copied":
        with Queue.attach(path) as again:
            assert again.get(timeout=0) == LARGE


def test_a_copy_with_holes_in_its_ring_has_its_room_reserved(tmp_path: Path) -> None:
    """Blocks of the objects behind the ring counted as the ring's own."""
    path = tmp_path / "q"
    queue: Queue[Any] = Queue(where=path, capacity=1 << 20)
    queue.put(bytes(8 << 20))
    total = queue._ring._segment.header.total
    queue.close()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 1 << 20, offset=1 << 20) as middle:
        middle.madvise(mmap.MADV_REMOVE)
    before = path.stat().st_blocks
    assert before * 512 > total, "else nothing is shown"
    with Queue.attach(path) as again:
        assert path.stat().st_blocks - before >= (1 << 20) // 512
        assert again.get(timeout=0) == bytes(8 << 20)


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


def test_a_filesystem_without_holes_has_its_room_used_again(
    monkeypatch: pytest.MonkeyPatch, where: Any
) -> None:
    monkeypatch.delattr(mmap, "MADV_REMOVE")
    queue: Queue[Any] = Queue(where=where, capacity=4096)
    queue.put(LARGE)
    size = queue._ring._overflow._own.size()
    for number in range(1, 40):
        assert queue.get(timeout=0)[:-1] == LARGE[:-1]
        queue.put(LARGE[:-1] + bytes([number - 1]))
    assert queue._ring._overflow._own.size() == size
    queue.unlink()
    queue.close()


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
