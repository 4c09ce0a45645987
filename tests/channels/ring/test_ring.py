"""Ring, beyond the contract: options, handles and their threads, pickling, what travels."""

from __future__ import annotations

import gc
import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from shmkit import ClosedError, Empty, Full, Ring, ShutDown
from shmkit.core import ReadCursor
from shmkit.sync.doorbell import Doorbell
from tests.processes import wait_until

np = pytest.importorskip("numpy", reason="numpy is not installed")


@pytest.fixture
def ring(where: Any):
    """A ring of the smallest capacity."""
    with Ring.create(where, capacity=4096) as ring:
        yield ring


def fds_of(text: str) -> list[str]:
    """Descriptors and maps of this process that lead to `text`."""
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(fd.readlink()))
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [link for link in links + maps if text in link]


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("asked", "given"),
    [(1, 4096), (4096, 4096), (4097, 8192), (100_000, 131_072), (1 << 20, 1 << 20)],
)
def test_a_capacity_is_rounded_up(asked: int, given: int) -> None:
    with Ring.create(capacity=asked) as ring:
        assert ring.capacity == given == ring.statistics().capacity
        ring.put(bytes(given - 16))
        assert len(ring.get()) == given - 16


@pytest.mark.parametrize("capacity", [0, -1, -(1 << 70), (1 << 46) + 1, 1 << 64])
def test_a_capacity_that_cannot_be_is_refused(where: Any, capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Ring.create(where, capacity=capacity)
    with pytest.raises(ValueError, match="capacity"):
        Ring.ensure(where or "shm:never-made", capacity=capacity)


@pytest.mark.parametrize("capacity", ["4096", 4096.0, None])
def test_a_capacity_is_an_integer(capacity: Any) -> None:
    with pytest.raises(TypeError):
        Ring.create(capacity=capacity)


@pytest.mark.parametrize("option", ["producers", "consumers", "when_full"])
def test_an_option_has_its_choices(where: Any, option: str) -> None:
    with pytest.raises(ValueError, match=option):
        Ring.create(where, **{option: "some"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", ["a/b", "a\0b", "", ".", "..", "n" * 300, "http:x", "shm:a/b", "file:", "anon:x"]
)
def test_a_bad_name_is_refused_before_anything_is_made(bad: str) -> None:
    for make in (Ring.create, Ring.attach, Ring.ensure):
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
            make(bad)


def test_anonymous_memory_is_not_attached_by_name() -> None:
    with pytest.raises(ValueError, match="anonymous"):
        Ring.attach(None)


def test_a_fresh_name_is_found_in_the_url() -> None:
    with Ring.create("shm:", capacity=4096) as ring:
        assert str(ring.url).startswith("shm:")
        with Ring.attach(str(ring.url)) as other:
            ring.put(b"x")
            assert other.get() == b"x"


def test_a_path_is_a_where(tmp_path: Path) -> None:
    with Ring.create(tmp_path / "r", capacity=4096) as ring:
        assert str(ring.url) == f"file:{tmp_path / 'r'}"
        ring.put(b"x")
    with Ring.attach(tmp_path / "r") as ring:
        assert ring.get() == b"x"


def test_memory_is_for_its_user_alone(tmp_path: Path, unique_name: str, semaphores: Any) -> None:
    with Ring.create(tmp_path / "r"), Ring.create(unique_name):
        paths = [tmp_path / "r", Path("/dev/shm", unique_name), *semaphores()]
        assert len(paths) >= 2 + 2 * 2
        for path in paths:
            assert path.stat().st_mode & 0o777 == 0o600


# ------------------------------------------------------------------ arrays


@pytest.mark.parametrize(
    "data",
    [
        np.arange(12.0).reshape(3, 4),
        np.arange(5, dtype=">i4"),
        np.zeros(3, "i4,f8"),
        np.ones(2, complex),
        np.array(7.5),
        np.zeros((0, 3)),
        np.zeros((2, 0)),
        np.arange(6, dtype=np.float16)[2:5],
        np.array([True, False]),
    ],
    ids=lambda data: f"{data.dtype}-{data.shape}",
)
def test_an_array_is_a_frame_of_its_bytes(ring: Ring, data: Any) -> None:
    ring.put(data)
    assert ring.put_many([data, data]) == 2
    with ring.reserve(data.nbytes) as room:
        room[:] = data.tobytes()
    assert ring.get_many() == [data.tobytes()] * 4
    ring.put(data)
    back = np.empty_like(data)
    assert ring.get_into(back) == data.nbytes
    assert back.tobytes() == data.tobytes()


@pytest.mark.parametrize(
    "data",
    [np.arange(10)[::2], np.zeros((3, 4)).T, memoryview(b"abcdef")[::2]],
    ids=["strided", "transposed", "memoryview"],
)
def test_what_is_not_contiguous_is_refused(ring: Ring, data: Any) -> None:
    with pytest.raises(TypeError, match="contiguous"):
        ring.put(data)
    with pytest.raises(TypeError, match="contiguous"):
        ring.put_many([b"x", data])
    assert ring.empty()
    ring.put(b"x")
    with pytest.raises(TypeError):
        ring.get_into(data)
    assert ring.get() == b"x"


def test_a_bytes_that_lies_about_its_length_is_harmless(ring: Ring) -> None:
    class Liar(bytes):
        def __len__(self) -> int:
            return 100

    for _ in range(3):
        try:
            ring.put(Liar(b"abc"))
        except (TypeError, ValueError, IndexError):
            continue
        assert ring.get() == b"abc"
    ring.put(b"fine")
    assert ring.get(timeout=0) == b"fine"


def test_peek_gives_an_array_without_a_copy(ring: Ring) -> None:
    ring.put(np.arange(100))
    with ring.peek() as view:
        array = np.frombuffer(view, dtype=np.int64)
        assert not array.flags.writeable
        assert array.sum() == 4950


def test_reserve_takes_an_array_without_a_copy(ring: Ring) -> None:
    with ring.reserve(800) as room:
        np.frombuffer(room.buf, dtype=np.int64)[:] = range(100)
        assert len(room) == 800
        assert bytes(room)[8:16] == (1).to_bytes(8, "little")
        assert "800" in repr(room)
    assert ring.get() == np.arange(100).tobytes()


# ------------------------------------------------------------------ handles


def test_closing_lets_the_memory_go(ring: Ring, backend: str) -> None:
    name = {"anon": "memfd:shmkit", "shm": ring.url.name, "file": ring.url.name}[backend]
    ring.put(b"x")
    assert ring.get() == b"x"
    assert fds_of(name)
    ring.close()
    assert fds_of(name) == []


def test_a_view_outlives_the_handle(ring: Ring) -> None:
    ring.put(b"still there")
    with pytest.raises(ClosedError), ring.peek() as view:
        ring.close()
        assert bytes(view) == b"still there"


def test_a_frame_that_was_lent_is_not_usable_afterwards(ring: Ring) -> None:
    with ring.reserve(9) as room:
        room.truncate(5)
        room[:] = b"frame"
    with ring.peek() as view:
        pass
    for frame in room, view:
        with pytest.raises(ValueError, match="released"):
            bytes(frame)
    with pytest.raises(ValueError, match="released"):
        room[:] = b"other"
    with ring.reserve(0) as room, pytest.raises(ValueError, match="reserve more"):
        room.truncate(1)


def test_what_was_made_of_a_frame_is_not_usable_afterwards(ring: Ring) -> None:
    """Slices are released with it; an array in use keeps the memory, and not the frame."""
    with ring.reserve(9) as room:
        room[:] = b"all of it"
        whole, part = room.buf, room[1:3]
        room.truncate(5)
        shorter, array = room.buf, np.frombuffer(room.buf, dtype=np.uint8)
    for view in whole, part:
        with pytest.raises(ValueError, match="released"):
            bytes(view)
    for use in (
        lambda: room[0],
        lambda: room.__setitem__(slice(0, 5), b"WRONG"),
        lambda: bytes(room),
        lambda: len(room),
        lambda: room.truncate(1),
    ):
        with pytest.raises(ValueError, match="released"):
            use()
    assert repr(room) == "<Frame, released>"
    del array, shorter
    assert ring.get() == b"all o"


@pytest.mark.parametrize("checked", [False, True])
def test_peek_many_lends_all_of_them(where: Any, checked: bool, tmp_path: Path) -> None:
    with Ring.create(tmp_path / "checked" if checked else where, capacity=4096) as ring:
        for number in range(60):  # around the end
            sent = [bytes([number + n]) * (n * 37 % 700) for n in range(5)]
            ring.put_many(sent, 0)
            with pytest.raises(KeyError), ring.peek_many() as views:
                raise KeyError
            with ring.peek_many(2, 0) as views:
                assert [bytes(view) for view in views] == sent[:2]
                assert all(view.readonly for view in views)
                with pytest.raises(RuntimeError, match="inside another"):
                    ring.get(0)
            for view in views:
                with pytest.raises(ValueError, match="released"):
                    bytes(view)
            assert ring.qsize() == 3
            with ring.peek_many(timeout=0) as views:
                assert [bytes(view) for view in views] == sent[2:]
            assert ring.empty()
        with pytest.raises(Empty), ring.peek_many(timeout=0):
            pass
        with pytest.raises(ValueError, match="max_frames=0"), ring.peek_many(0):
            pass


def test_closing_inside_a_reservation_discards_it(where: Any) -> None:
    with Ring.create(where, capacity=4096) as ring:
        other = pickle.loads(pickle.dumps(ring))
        with pytest.raises(ClosedError), ring.reserve(3) as room:
            ring.close()
            room[:] = b"abc"
        with other, pytest.raises(Empty):
            other.get(timeout=0)


def test_closing_inside_a_peek_keeps_the_frame(where: Any) -> None:
    with Ring.create(where, capacity=4096) as ring:
        other = pickle.loads(pickle.dumps(ring))
        ring.put(b"abc")
        with pytest.raises(ClosedError), ring.peek():
            ring.close()
        with other:
            assert other.get(timeout=0) == b"abc"


@pytest.mark.parametrize("side", ["get", "put"])
def test_closing_ends_the_wait_of_a_thread(ring: Ring, side: str) -> None:
    if side == "put":
        ring.put(bytes(4080))
    flag = {"get": 0x280, "put": 0x300}[side] // 8
    words = ring.buffer.view("Q")
    with ThreadPoolExecutor(2) as threads:
        arguments = (b"x",) if side == "put" else ()
        waits = [threads.submit(getattr(ring, side), *arguments) for _ in range(2)]
        wait_until(lambda: words[flag])
        ring.close()
        for wait in waits:
            with pytest.raises(ClosedError):
                wait.result(5)


@pytest.mark.parametrize("kind", ["anon", "file"])  # a named one goes with its creator's process
def test_a_dropped_handle_is_reported_and_closed(
    make_where: Any, kind: str, semaphores: Any
) -> None:
    ring = Ring.create(make_where(kind), capacity=4096)
    name = str(ring.url)
    assert semaphores()
    with pytest.warns(ResourceWarning, match="unclosed") as caught:
        del ring
        gc.collect()
    assert any(name in str(warning.message) for warning in caught)
    assert not semaphores()


def test_a_dropped_handle_frees_its_role(where: Any) -> None:
    with Ring.create(where, capacity=4096) as ring:
        other = pickle.loads(pickle.dumps(ring))
        other.put(b"x")
        del other  # without a warning: this handle was handed to the process
        gc.collect()
        ring.put(b"y")
        assert ring.get_many() == [b"x", b"y"]


def test_with_lets_an_exception_through(where: Any) -> None:
    with pytest.raises(KeyError), Ring.create(where, capacity=4096) as ring:
        raise KeyError
    assert ring.closed
    with pytest.raises(ClosedError), ring:
        pass


def test_the_creator_removes_the_name_and_files_stay(
    where: Any, tmp_path: Path, semaphores: Any
) -> None:
    with Ring.create(where, capacity=4096) as ring:
        ring.put(b"x")
        assert semaphores()
    assert not semaphores()
    if where is None:
        return
    if where.startswith("file"):
        with Ring.attach(where) as again:
            assert again.get() == b"x"
            again.unlink()
        assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        Ring.attach(where)


def test_keep_leaves_the_name(unique_name: str, semaphores: Any) -> None:
    with Ring.create(unique_name, capacity=4096, keep=True) as ring:
        ring.put(b"x")
        assert semaphores()
    assert not semaphores()
    with Ring.attach(unique_name) as ring:
        assert ring.get() == b"x"
        ring.unlink()
        ring.unlink()
        ring.put(b"those attached go on")
        assert ring.get() == b"those attached go on"
    with pytest.raises(FileNotFoundError):
        Ring.attach(unique_name)
    assert not semaphores()


def test_attaching_unlinks_nothing(make_where: Any) -> None:
    for kind in ("shm", "file"):
        where = make_where(kind)
        with Ring.create(where, capacity=4096) as ring:
            for _ in range(3):
                with Ring.attach(where) as other:
                    ring.put(b"x")
                    assert other.get() == b"x"


def test_a_named_ring_outlives_its_closed_handles(unique_name: str) -> None:
    first = Ring.create(unique_name, capacity=4096)
    first.put(b"x")
    first.close()
    with Ring.attach(unique_name) as second:
        assert second.get() == b"x"
        third = Ring.attach(unique_name)
        with third, ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(second.get, 5)
            third.put(b"y")
            assert waiting.result(5) == b"y"
    first.unlink()
    with pytest.raises(FileNotFoundError):
        Ring.attach(unique_name)


def test_there_are_places_for_48_participants(where: Any) -> None:
    with Ring.create(where, capacity=4096) as ring, ExitStack() as stack:
        for _ in range(47):
            stack.enter_context(pickle.loads(pickle.dumps(ring)))
        assert ring.statistics().participants == (os.getpid(),) * 48
        with pytest.raises(OSError, match="48"):
            pickle.loads(pickle.dumps(ring))
        stack.pop_all().close()
        assert ring.statistics().participants == (os.getpid(),)
        with pickle.loads(pickle.dumps(ring)) as other:
            ring.put(b"x")
            assert other.get() == b"x"


def test_a_pickle_of_what_is_gone_says_so(make_where: Any) -> None:
    for kind in ("shm", "file"):
        with Ring.create(make_where(kind), capacity=4096) as ring:
            pickled = pickle.dumps(ring)
            ring.unlink()
            with pytest.raises(FileNotFoundError):
                pickle.loads(pickled)


# ------------------------------------------------------------------ threads


def test_many_threads_put_and_many_get(ring: Ring) -> None:
    """Nothing is lost, nothing comes twice, and each thread's frames come in its order."""
    count, writers = 600, 4

    def write(writer: int) -> None:
        dice = random.Random(writer)
        number = 0
        while number < count:
            if dice.random() < 0.3:
                size = min(dice.randrange(1, 9), count - number)
                batch = [f"{writer} {number + i} {'x' * 90}".encode() for i in range(size)]
                assert ring.put_many(batch, 10) == size
                number += size
            elif dice.random() < 0.3:
                text = f"{writer} {number} {'y' * 70}".encode()
                with ring.reserve(len(text), 10) as room:
                    room[:] = text
                number += 1
            else:
                ring.put(f"{writer} {number} {'z' * 200}".encode(), 10)
                number += 1

    def read(reader: int) -> list[bytes]:
        dice = random.Random(-reader)
        got: list[bytes] = []
        while True:
            try:
                if dice.random() < 0.3:
                    got += ring.get_many(dice.randrange(1, 5), 10)
                elif dice.random() < 0.3:
                    with ring.peek(10) as view:
                        got.append(bytes(view))
                else:
                    got.append(ring.get(10))
            except ShutDown:
                return got

    with ThreadPoolExecutor(8) as threads:
        reading = [threads.submit(read, reader) for reader in range(1, 5)]
        writing = [threads.submit(write, writer) for writer in range(writers)]
        for task in writing:
            task.result(40)
        ring.shutdown()
        got = [task.result(40) for task in reading]
    heads = [tuple(map(int, frame.split()[:2])) for frames in got for frame in frames]
    assert sorted(heads) == [(w, n) for w in range(writers) for n in range(count)]
    for frames in got:
        for writer in range(writers):
            own = [int(f.split()[1]) for f in frames if int(f.split()[0]) == writer]
            assert own == sorted(own)
    for frame in (frame for frames in got for frame in frames):
        tail = frame.split()[2]
        assert tail in (b"x" * 90, b"y" * 70, b"z" * 200)


def test_a_reservation_keeps_other_threads_waiting(ring: Ring) -> None:
    ring.put(b"first")
    with ThreadPoolExecutor(1) as threads:
        with ring.reserve(6) as room:
            room[:] = b"second"
            waiting = threads.submit(ring.put, b"third")
            with pytest.raises(TimeoutError):
                waiting.result(0.05)
            assert ring.qsize() == 1
        waiting.result(5)
    assert ring.get_many() == [b"first", b"second", b"third"]


def test_a_peek_keeps_other_threads_waiting(ring: Ring) -> None:
    ring.put_many([b"first", b"second"])
    with ThreadPoolExecutor(1) as threads:
        with ring.peek() as view:
            waiting = threads.submit(ring.get)
            with pytest.raises(TimeoutError):
                waiting.result(0.05)
            assert view == b"first"
        assert waiting.result(5) == b"second"


def test_both_ends_in_threads_of_one_handle(ring: Ring) -> None:
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(list, ring)
        sent = [bytes([n % 256]) * (n % 700) for n in range(3000)]
        for data in sent:
            ring.put(data, 10)
        ring.shutdown()
        assert reading.result(10) == sent


def test_counting_ends_while_frames_come_and_go(where: Any, fork: Any) -> None:
    with Ring.create(where, capacity=1 << 20) as ring:
        ring.put_many([b""] * 20_000)
        other = pickle.loads(pickle.dumps(ring))
        ring.close()
        child = fork(turn_around, other)
        assert child.receive() == "turning"
        with other, ThreadPoolExecutor(1) as threads:
            counting = threads.submit(lambda: [other.qsize(), other.statistics().frames])
            try:
                for count in counting.result(10):
                    assert 0 < count <= 20_000
            finally:
                other.shutdown(immediate=True)
        child.finish()


def turn_around(link: Any, ring: Ring) -> None:
    with ring:
        link.send("turning")
        try:
            while True:
                ring.put_many(ring.get_many(10))
        except ShutDown:
            pass


@pytest.mark.parametrize("side", ["get", "put"])
def test_a_shutdown_before_falling_asleep_is_not_missed(
    where: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one that has looked, found it open, and is about to wait."""
    with Ring.create(where, capacity=4096) as ring:
        if side == "put":
            ring.put(bytes(4080))

        def shut_down_first(self: Doorbell, *args: Any, wait: Any = Doorbell.wait) -> bool:
            ring.shutdown()
            return bool(wait(self, *args))

        monkeypatch.setattr(Doorbell, "wait", shut_down_first)
        with pytest.raises(ShutDown):
            ring.put(b"x", 2) if side == "put" else ring.get(2)


@pytest.mark.parametrize("side", ["get", "put"])
def test_a_change_before_falling_asleep_is_not_missed(
    where: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen after the look, and before the wait."""
    with Ring.create(where, capacity=4096) as ring:
        if side == "put":
            ring.put(bytes(4080))

        def change_first(self: Doorbell, *args: Any, wait: Any = Doorbell.wait) -> bool:
            ring.get() if side == "put" else ring.put(b"x")
            return bool(wait(self, *args))

        monkeypatch.setattr(Doorbell, "wait", change_first)
        ring.put(b"x", 2) if side == "put" else ring.get(2)


def test_room_that_was_reckoned_for_a_discarded_frame_is_not_believed(where: Any) -> None:
    """Two producers: one passes the end of the ring for a frame that does not come."""
    with ExitStack() as stack:
        first = stack.enter_context(Ring.create(where, capacity=4096, producers="many"))
        with pickle.loads(pickle.dumps(first)) as second:
            first.put(bytes(4048))
            assert second.get() == bytes(4048)
            with pytest.raises(KeyError), first.reserve(362):
                raise KeyError
            second.put(b"across")
            sent = [b"", b""]
            assert first.put_many(sent) == 2
            try:
                first.put_nowait(b"*" * 4046)
            except Full:
                pass
            else:
                sent.append(b"*" * 4046)
            assert second.get_many() == [b"across", *sent]


@pytest.mark.usefixtures("plain_python")
def test_a_lap_that_is_skipped_while_a_shared_side_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame is behind the end of the lap; at the head there is what an older one left."""
    with Ring.create(capacity=4096, producers="many", consumers="many") as ring:
        ring.put(bytes(2984))
        assert ring.get() == bytes(2984)
        look = ReadCursor._look_at_tail

        def put_meanwhile(self: ReadCursor, head: int) -> bool:
            monkeypatch.setattr(ReadCursor, "_look_at_tail", look)
            other.put(b"x" * 2000)
            return look(self, head)

        with pickle.loads(pickle.dumps(ring)) as other:
            monkeypatch.setattr(ReadCursor, "_look_at_tail", put_meanwhile)
            assert ring.get(timeout=10) == b"x" * 2000
            assert ring.empty()
