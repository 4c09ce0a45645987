"""Broadcast: the contract, publishers and readers that are killed, hostile bytes, processes."""

from __future__ import annotations

import errno
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from shmkit import (
    Broadcast,
    CorruptSegment,
    Empty,
    IncompatibleSegment,
    Latest,
    PeerDied,
    Ring,
    RoleTaken,
    ShmkitError,
    ShutDown,
)
from shmkit.segment.words import OLDEST, READERS_BELL, STATE, TAIL
from tests.contracts.broadcast import CASES, LIMIT, Reader, asleep, numbered
from tests.processes import run_python, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /dev/shm")


@pytest.mark.parametrize("name", CASES)
def test_one_handle(name: str, where: Any) -> None:
    case = CASES[name]
    with Broadcast.create(where, **case.options) as both:
        case.run(both, both)


@pytest.mark.parametrize("name", CASES)
def test_two_handles(name: str, where: Any) -> None:
    case = CASES[name]
    with (
        Broadcast.create(where, **case.options) as reader,
        pickle.loads(pickle.dumps(reader)) as publisher,
    ):
        case.run(publisher, reader)


# ------------------------------------------------------------------ making, joining


@pytest.mark.parametrize(("asked", "given"), [(1, 4096), (4097, 8192), (1 << 20, 1 << 20)])
def test_a_capacity_is_rounded_up(asked: int, given: int) -> None:
    with Broadcast.create(capacity=asked) as broadcast:
        assert broadcast.capacity == given
        broadcast.publish(bytes(given // 2 - 16))


@pytest.mark.parametrize("capacity", [0, -1, (1 << 46) + 1, 1 << 70])
def test_a_capacity_that_cannot_be_is_refused(where: Any, capacity: int) -> None:
    for make in (Broadcast.create, Broadcast.ensure):
        with pytest.raises(ValueError, match="capacity"):
            make(where or "shm:never-made", capacity=capacity)
    with pytest.raises(TypeError):
        Broadcast.create(where, capacity=4096.0)  # type: ignore[arg-type]


def test_names_are_those_of_the_memory(make_where: Any, tmp_path: Path) -> None:
    for kind in ("shm", "file"):
        where = make_where(kind)
        with pytest.raises(FileNotFoundError):
            Broadcast.attach(where)
        with Broadcast.create(where, 4096) as first, Broadcast.ensure(where, 8192) as second:
            assert str(first.url) == str(second.url) == where
            assert second.capacity == 4096
            with pytest.raises(FileExistsError):
                Broadcast.create(where)
            subscription = second.subscribe()
            first.publish(b"x")
            with Broadcast.attach(where) as third:
                assert third.subscribe("oldest").get(0) == subscription.get(0) == b"x"
            for other in (Ring, Latest):
                with pytest.raises(IncompatibleSegment, match="kind 2"):
                    other.attach(where)
        if kind == "file":
            with Broadcast.attach(where) as again:  # files stay, with what is in them
                assert again.subscribe("oldest").get(0) == b"x"
                again.publish(b"y")
                assert [*map(again.subscribe("oldest").get, [0])] == [b"x"]
                again.unlink()
        with pytest.raises(FileNotFoundError):
            Broadcast.attach(where)
    with Ring.create(tmp_path / "ring") as ring, pytest.raises(IncompatibleSegment):
        Broadcast.attach(ring.url)


def test_keep_leaves_the_name(unique_name: str) -> None:
    with Broadcast.create(unique_name, 4096, keep=True) as first:
        first.publish(b"x")
    with Broadcast.attach(unique_name) as second:
        assert second.subscribe("oldest").get(0) == b"x"
        second.unlink()


def test_a_subscription_does_not_pickle(where: Any) -> None:
    with Broadcast.create(where, 4096) as broadcast:
        with pytest.raises(TypeError, match="pickle its broadcast"):
            pickle.dumps(broadcast.subscribe())
        broadcast.close()
        with pytest.raises(ShmkitError):
            pickle.dumps(broadcast)


def test_a_subscription_keeps_its_broadcast() -> None:
    subscription = Broadcast.create(capacity=4096).subscribe()
    subscription.broadcast.publish(b"x")
    assert subscription.get() == b"x"
    subscription.broadcast.close()


def test_a_dropped_handle_is_reported() -> None:
    broadcast = Broadcast.create(capacity=4096)
    with pytest.warns(ResourceWarning, match="unclosed broadcast"):
        del broadcast


def test_there_are_places_for_120_handles() -> None:
    with Broadcast.create(capacity=4096) as broadcast:
        others = [pickle.loads(pickle.dumps(broadcast)) for _ in range(119)]
        with pytest.raises(OSError, match="all 120 places"):
            pickle.loads(pickle.dumps(broadcast))
        for other in others:
            other.close()
    with Broadcast.create(capacity=4096, participants=1) as broadcast:
        pickled = pickle.dumps(broadcast)
        with pytest.raises(OSError, match="all 1 places"):
            pickle.loads(pickled)


@linux
@pytest.mark.parametrize("kind", ["anon", "shm", "file"])
def test_no_room_leaves_nothing(kind: str, make_where: Any, tmp_path: Path) -> None:
    where = make_where(kind)
    result = run_python(create_without_room, where)
    assert result.stdout.split() == ["ENOSPC"] * 4
    assert result.stderr == ""
    assert not list(tmp_path.iterdir())


def create_without_room(where: str | None) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    for create in (Broadcast.create, Latest.create):
        for _ in range(2):
            try:
                create(where, 1 << 24)
            except OSError as error:
                print(errno.errorcode[error.errno or 0])


# ------------------------------------------------------------------ other processes


def test_a_reader_elsewhere(start_process: Any, where: Any, start_method: str) -> None:
    """The broadcast travels as an argument; both ends see every frame."""
    with Broadcast.create(where, 1 << 16) as broadcast, Broadcast.create(None, 1 << 16) as back:
        answers = Reader(back.subscribe())
        child = start_process(read_and_answer, broadcast, back)
        for number in range(300):
            broadcast.publish(numbered(number, 300))
        broadcast.shutdown()
        for _ in range(301):
            answers.get(20)
        child.join(20)
        assert child.exitcode == 0
        assert answers.subscription.lost == 0


def read_and_answer(broadcast: Broadcast, back: Broadcast) -> None:
    with broadcast, back:
        reader = Reader(broadcast.subscribe("oldest"))
        for frame in reader.subscription:
            back.publish(numbered(reader.check(frame), 300))
        back.publish(numbered(reader.got, 300))


def test_a_forked_child_has_a_handle_of_its_own(where: Any, fork: Any) -> None:
    with Broadcast.create(where, 4096) as broadcast:
        subscription = broadcast.subscribe()
        broadcast.publish(b"a")
        broadcast.publish(b"b")
        assert subscription.get() == b"a"
        child = fork(read_in_child, broadcast, subscription)
        assert child.receive() == [b"b", "RoleTaken"]
        asleep(broadcast)
        broadcast.publish(b"c")
        assert child.receive() == b"c"
        assert [subscription.get(0), subscription.get(0)] == [b"b", b"c"]
        broadcast.close()
        child.link.send("yours")
        child.finish()
    assert child.receive() == [b"d", 4, 1]


def read_in_child(link: Any, broadcast: Broadcast, subscription: Any) -> None:
    first = subscription.get(0)
    try:
        broadcast.publish(b"not mine")
    except RoleTaken as error:
        link.send([first, type(error).__name__])
    link.send(subscription.get(20))
    link.recv()
    broadcast.publish(b"d")
    seen = broadcast.statistics()
    link.send([subscription.get(0), seen.published, len(seen.participants)])
    broadcast.close()


def test_threads_share_a_subscription(where: Any) -> None:
    """Each frame goes to exactly one of them."""
    with Broadcast.create(where, 1 << 20) as broadcast, ThreadPoolExecutor(4) as threads:
        subscription = broadcast.subscribe()
        reading = [threads.submit(list, subscription) for _ in range(4)]
        for number in range(4000):
            broadcast.publish(b"%d" % number)
        broadcast.shutdown()
        got = [list(map(int, task.result(20))) for task in reading]
        assert all(numbers == sorted(numbers) for numbers in got)
        assert sorted(chain.from_iterable(got)) == list(range(4000))
        assert subscription.statistics().received == 4000


def test_threads_share_a_publisher(where: Any) -> None:
    with Broadcast.create(where, 1 << 18) as broadcast, ThreadPoolExecutor(4) as threads:
        subscription = broadcast.subscribe()

        def publish(writer: int) -> None:
            for number in range(500):
                broadcast.publish(b"%d %d" % (writer, number) + b"." * (number % 90))

        for task in [threads.submit(publish, writer) for writer in range(4)]:
            task.result(20)
        broadcast.shutdown()
        got = [tuple(map(int, frame.rstrip(b".").split())) for frame in subscription]
        assert sorted(got) == [(w, n) for w in range(4) for n in range(500)]
        for writer in range(4):
            assert [n for w, n in got if w == writer] == list(range(500))


def test_readers_asleep_all_hear_of_each_frame(
    where: Any, fork: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not because they look up now and then: here they do not."""
    monkeypatch.setattr("shmkit.core.SLICE", 60)
    with Broadcast.create(where, 1 << 16) as broadcast:
        children = [fork(answer_each, broadcast) for _ in range(3)]
        for child in children:
            assert child.receive() == "ready"
        for number in range(30):
            asleep(broadcast)
            broadcast.publish(numbered(number, 100))
            for child in children:
                assert child.receive() == number
        broadcast.shutdown()
        for child in children:
            child.finish()


def answer_each(link: Any, broadcast: Broadcast) -> None:
    with broadcast:
        reader = Reader(broadcast.subscribe())
        link.send("ready")
        for frame in reader.subscription:
            link.send(reader.check(frame))


def test_a_shutdown_wakes_all(where: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmkit.core.SLICE", 60)
    with (
        Broadcast.create(where, 4096) as broadcast,
        Latest.create(None, 100) as latest,
        ThreadPoolExecutor(6) as threads,
    ):
        readers = [broadcast.subscribe() for _ in range(3)]
        waiting: list[Any] = [threads.submit(reader.get, 50) for reader in readers]
        waiting += [threads.submit(latest.wait, timeout=50) for _ in range(3)]
        wait_until(lambda: all(reader.statistics().sleeps for reader in readers))
        wait_until(lambda: latest.statistics().sleeps >= 3)
        broadcast.shutdown()
        latest.shutdown()
        for wait in waiting:
            with pytest.raises(ShutDown):
                wait.result(20)


# ------------------------------------------------------------------ death


def test_a_death_is_told_once_to_each_reader(where: Any, fork: Any) -> None:
    with Broadcast.create(where, 4096) as broadcast:
        one, other = broadcast.subscribe(), broadcast.subscribe()
        child = fork(publish_and_wait, broadcast)
        assert child.receive() == "published"
        child.kill()
        for subscription in (one, other):
            assert subscription.get(20) == b"last words"
            with pytest.raises(PeerDied, match="publisher") as caught:
                subscription.get(20 if subscription is one else 0)
            assert (caught.value.pid, caught.value.role) == (child.pid, "publisher")
            with pytest.raises(Empty):
                subscription.get(0.1)
        broadcast.publish(b"of a successor")
        assert one.get(0) == other.get(0) == b"of a successor"
        with pytest.raises(Empty):
            one.get(0.06)


def publish_and_wait(link: Any, broadcast: Broadcast) -> None:
    broadcast.publish(b"last words")
    link.send("published")
    link.recv()


def test_a_publisher_killed_again_and_again(where: Any, fork: Any) -> None:
    """At any moment: nothing torn, everything in order, and every frame was read or counted."""
    dice = random.Random(5)
    with Broadcast.create(where, 1 << 14) as broadcast:
        readers = [fork(read_to_the_end, broadcast, pause) for pause in (0, 0.003)]
        for reader in readers:
            assert reader.receive() == "ready"
        for _ in range(34):  # times three kinds of memory
            child = fork(publish_for_ever, broadcast)
            child.receive()
            time.sleep(dice.random() * 0.012)
            child.kill()
            late = Reader(broadcast.subscribe("oldest"), None)
            late.drain()
            published = broadcast.statistics().published
            assert late.next in (None, published)
            child.link.close()
        broadcast.shutdown()
        for reader in readers:
            got, lost = reader.receive()
            assert got + lost == published
            assert got > 100
            reader.finish()
        assert published > 1000


def publish_for_ever(link: Any, broadcast: Broadcast) -> None:
    number = broadcast.statistics().published
    link.send("ready")
    while True:
        broadcast.publish(numbered(number, 3000))
        number += 1


def read_to_the_end(link: Any, broadcast: Broadcast, pause: float) -> None:
    reader = Reader(broadcast.subscribe("oldest"))
    link.send("ready")
    while True:
        try:
            reader.get(20)
        except PeerDied:
            continue
        except ShutDown:
            break
        if pause and reader.got % 50 == 0:
            time.sleep(pause)
    link.send((reader.got, reader.subscription.lost))
    broadcast.close()


@linux
@pytest.mark.parametrize("quick", [True, False], ids=["common case", "always prepared"])
def test_a_publisher_killed_at_any_line(quick: bool) -> None:
    """What it had published is there, a successor goes on, and the count is right."""
    result = run_python(kill_publishers_everywhere, quick, timeout=50)
    killed, whole = map(int, result.stdout.split())
    assert killed > 25
    assert whole > 0


def kill_publishers_everywhere(quick: bool) -> None:
    """At each seventh line: first of taking the role, then of six frames."""
    killed = whole = 0
    with Broadcast.create(capacity=4096) as broadcast:
        early = Reader(broadcast.subscribe())
        for line in range(2, 10_000, 7):
            before = broadcast.statistics().published
            pid = os.fork()
            if pid == 0:
                publish_until_killed(broadcast, line, quick)
            died = os.waitpid(pid, 0)[1] != 0
            published = broadcast.statistics().published
            assert before <= published <= before + 6
            assert died or published == before + 6
            killed, whole = killed + died, whole + (not died)
            late = Reader(broadcast.subscribe("oldest"), None)
            late.drain()
            assert late.next in (None, published)
            if line % 3 == 0 or not died:
                early.drain()
                assert early.next == published
                assert early.got + early.subscription.lost == published
            if whole == 2:  # frames differ in size, and so in their lines
                break
        print(killed, whole)


def publish_until_killed(broadcast: Broadcast, line: int, quick: bool) -> None:
    number = broadcast.statistics().published
    sys.settrace(kill_at_line(line))
    for number in range(number, number + 6):  # noqa: B020
        if not quick:
            broadcast._tail = -1
        broadcast.publish(numbered(number, 900))
    os._exit(0)


def kill_at_line(line: int) -> Any:
    """A trace function that kills this process at a line of the library."""
    left = line

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        if f"{os.sep}shmkit{os.sep}" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), 9)
        return trace

    return trace


def test_readers_that_are_killed_are_nothing_to_the_publisher(where: Any, fork: Any) -> None:
    with Broadcast.create(where, 1 << 14) as broadcast:
        number = 0
        witness = Reader(broadcast.subscribe())
        for _ in range(10):
            child = fork(read_to_the_end, broadcast, 0)
            assert child.receive() == "ready"
            for number in range(number, number + 200):  # noqa: B020
                broadcast.publish(numbered(number, 500))
            number += 1
            child.kill()
            witness.drain()
        assert witness.got + witness.subscription.lost == number
        assert broadcast.statistics().participants == (os.getpid(),)


class Overtaken:
    """A map whose slices are copied in two steps, between which the publisher laps the reader."""

    def __init__(self, reader: Reader, publish: Any) -> None:
        self.reader, self.publish, self.count = reader, publish, 60
        self.real = reader.subscription._map
        reader.subscription._map = self

    def __getitem__(self, part: slice) -> bytes:
        self.reader.subscription._map = self.real
        before = bytes(self.real[part])
        self.publish(self.count)
        self.count = 0
        half = len(before) // 2
        return before[:half] + bytes(self.real[part])[half:]


def test_a_reader_that_is_overtaken_during_its_copy_throws_it_away() -> None:
    with Broadcast.create(capacity=4096) as broadcast:
        reader = Reader(broadcast.subscribe())
        numbers = iter(range(10_000))

        def publish(count: int) -> None:
            for _ in range(count):
                broadcast.publish(numbered(next(numbers), 200))

        for _ in range(40):
            publish(3)
            reader.get()
            Overtaken(reader, publish)
            reader.get()
            reader.drain()
            assert reader.next == broadcast.statistics().published
        assert reader.got + reader.subscription.lost == 40 * 63


# ------------------------------------------------------------------ hostile bytes


@pytest.mark.parametrize("value", [1, 8, 16, 1 << 20, 1 << 62, 1 << 63, (1 << 64) - 16, 2**64 - 1])
@pytest.mark.parametrize("word", [TAIL, OLDEST, STATE, READERS_BELL, READERS_BELL + 1])
def test_hostile_words_are_answered(word: int, value: int) -> None:
    """With an error that says what, or as if nothing were; never a hang, never outside."""
    with Broadcast.create(capacity=4096) as broadcast:
        subscription, fresh = broadcast.subscribe(), pickle.loads(pickle.dumps(broadcast))
        for number in range(100):
            broadcast.publish(numbered(number, 100))
        broadcast.buffer.view("Q")[word] = value
        calls = [
            lambda: [subscription.get(0) for _ in range(200)],
            lambda: subscription.get(0.01),
            lambda: publish_many(broadcast, broadcast, None),
            lambda: fresh.subscribe("oldest").get(0),
            lambda: fresh.subscribe("now").get(0.01),
            fresh.statistics,
            lambda: succeed_and_publish(broadcast, fresh, None),
            lambda: repr(fresh),
        ]
        for call in calls:
            with suppress(ShmkitError):
                call()
        fresh.close()


@pytest.mark.parametrize("header", [1 << 31, (1 << 32) - 1, 1 << 40, 1 << 48, (1 << 64) - 1, 5000])
def test_a_hostile_frame_header_is_found(header: int) -> None:
    for act in (read_ten, publish_many, succeed_and_publish):
        with Broadcast.create(capacity=4096) as broadcast:
            other, subscription = pickle.loads(pickle.dumps(broadcast)), broadcast.subscribe()
            for _ in range(10):
                broadcast.publish(b"x" * 100)
            words = broadcast.buffer.view("Q")
            words[(len(broadcast.buffer) - 4096) // 8 + 128 // 8] = header
            with pytest.raises(CorruptSegment, match="frame header"):
                act(broadcast, other, subscription)
            with pytest.raises(CorruptSegment, match="before"):
                other.subscribe()
            with pytest.raises(CorruptSegment, match="before"):
                other.publish(b"x")
            other.close()


def read_ten(broadcast: Broadcast, other: Broadcast, subscription: Any) -> None:
    for _ in range(10):
        subscription.get(0)


def publish_many(broadcast: Broadcast, other: Broadcast, subscription: Any) -> None:
    for size in range(100):
        broadcast.publish(b"y" * 2 * size)


def succeed_and_publish(broadcast: Broadcast, other: Broadcast, subscription: Any) -> None:
    broadcast.close()
    publish_many(other, other, None)


def test_a_hostile_number_is_found() -> None:
    for number in (0, 5, 1 << 40, 1 << 63):
        with Broadcast.create(capacity=4096) as broadcast:
            subscription = broadcast.subscribe()
            for _ in range(100):
                broadcast.publish(b"x" * 100)
            words = broadcast.buffer.view("Q")
            at = words[OLDEST] % 4096 + len(broadcast.buffer) - 4096
            words[at // 8 + 1] = number
            if 0 < number < 69:
                assert subscription.get(0) == b"x" * 100  # as good as any
                continue
            if not number:
                subscription._place = 0, 1, 0
            with pytest.raises(CorruptSegment, match="frame"):
                subscription.get(0)


def test_scribbled_data_never_does_worse_than_an_error() -> None:
    dice = random.Random(3)
    for _ in range(60):
        with Broadcast.create(capacity=4096) as broadcast:
            subscription = broadcast.subscribe()
            for number in range(60):
                broadcast.publish(numbered(number, 200))
                if number % 7 == 0:
                    subscription.get(0)
            size = len(broadcast.buffer)
            for _ in range(30):
                at = dice.randrange(size - 4096, size)
                broadcast.buffer[at] = dice.randrange(256)
            with suppress(ShmkitError):
                for _ in range(200):
                    broadcast.publish(bytes(dice.randrange(200)))
                    assert len(subscription.get(0)) < 4096


def test_unknown_flags_are_refused(make_where: Any) -> None:
    where = make_where("file")
    with Broadcast.create(where, 4096) as broadcast:
        path = Path(broadcast.url.name)
    data = bytearray(path.read_bytes())
    data[0x0C] = 1
    data[0x60:0x64] = struct.pack("<I", zlib.crc32(data[8:0x60]))
    path.write_bytes(data)
    with pytest.raises(IncompatibleSegment, match="flags 0x1"):
        Broadcast.attach(where)


# ------------------------------------------------------------------ against a model


class Model(RuleBasedStateMachine):
    """Readers against a list of everything published, each with a position in it."""

    kind = "anon"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp() if self.kind == "file" else None
        where = {"anon": None, "shm": "shm:", "file": f"file:{self.folder}/x"}[self.kind]
        self.broadcast = Broadcast.create(where, capacity=4096, keep=self.kind == "shm")
        self.others: list[Broadcast] = []
        self.sent: list[bytes] = []
        self.readers: list[tuple[Any, list[int]]] = []  # subscription, [position, start]

    @initialize()
    def first(self) -> None:
        self.readers.append((self.broadcast.subscribe(), [0, 0]))

    @rule(size=st.integers(0, LIMIT), count=st.integers(1, 6))
    def publish_large(self, size: int, count: int) -> None:
        for _ in range(count):
            self.publish(size)

    @rule(size=st.integers(0, 70), count=st.integers(1, 60))
    def publish_small(self, size: int, count: int) -> None:
        for _ in range(count):
            self.publish(size)

    def publish(self, size: int) -> None:
        data = (b"%d " % len(self.sent) * (size // 2 + 1))[:size]
        self.broadcast.publish(data)
        self.sent.append(data)

    @rule()
    def succeed(self) -> None:
        following = pickle.loads(pickle.dumps(self.broadcast))
        readers = [(s, p) for s, p in self.readers if s.broadcast is not self.broadcast]
        self.broadcast.close()
        self.readers = [*readers, (following.subscribe(), [len(self.sent)] * 2)]
        self.broadcast = following

    @rule()
    def subscribe_now(self) -> None:
        self.readers.append((self.broadcast.subscribe(), [len(self.sent)] * 2))

    @rule()
    def subscribe_oldest(self) -> None:
        first = len(self.sent) - self.broadcast.statistics().frames
        self.readers.append((self.broadcast.subscribe("oldest"), [first, first]))

    @rule(which=st.integers(0, 100), count=st.integers(1, 50))
    def read(self, which: int, count: int) -> None:
        subscription, position = self.readers[which % len(self.readers)]
        for _ in range(count):
            kept = self.broadcast.statistics().frames
            lost = max(0, len(self.sent) - kept - position[0])
            before = subscription.lost
            if position[0] == len(self.sent):
                with pytest.raises(Empty):
                    subscription.get(0)
                return
            assert subscription.get(0) == self.sent[position[0] + lost]
            assert subscription.lost == before + lost
            position[0] += lost + 1

    @invariant()
    def the_last_are_kept(self) -> None:
        seen = self.broadcast.statistics()
        assert seen.published == len(self.sent)
        if seen.frames < len(self.sent):
            first = len(self.sent) - seen.frames - 1
            spans = [len(data) + 31 & -16 for data in self.sent[first:]]
            # One more would not have fitted: at most a sixteenth, and what fills a lap's end, more.
            assert sum(spans) + 4096 // 16 + 16 + max(spans) > 4096

    @invariant()
    def counts_add_up(self) -> None:
        for subscription, (position, start) in self.readers:
            seen = subscription.statistics()
            assert seen.received + seen.lost == position - start

    def teardown(self) -> None:
        if self.kind == "shm":
            self.broadcast.unlink()
        self.broadcast.close()
        if self.folder is not None:
            shutil.rmtree(self.folder)


class SegmentModel(Model):
    """The same in a segment with a name."""

    kind = "shm"


class FileModel(Model):
    """The same on a file."""

    kind = "file"


@pytest.mark.parametrize("model", [Model, SegmentModel, FileModel])
def test_any_order_of_calls(model: type[Model]) -> None:
    run_state_machine_as_test(
        model, settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )
