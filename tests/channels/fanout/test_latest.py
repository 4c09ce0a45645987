"""Latest: the contract, writers that are killed, readers that are overtaken, hostile bytes."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from shmkit import (
    Broadcast,
    CorruptSegment,
    Empty,
    IncompatibleSegment,
    Latest,
    PeerDied,
    RoleTaken,
    ShmkitError,
    ShutDown,
)
from shmkit.segment.words import (
    LATEST_LENGTHS,
    LATEST_SIZE,
    LATEST_VERSION,
    READERS_BELL,
    STATE,
)
from tests.channels.fanout.test_broadcast import kill_at_line
from tests.contracts.broadcast import asleep
from tests.contracts.latest import CASES, SIZE, checked, value
from tests.processes import run_python


@pytest.mark.parametrize("name", CASES)
def test_one_handle(name: str, where: Any) -> None:
    with Latest.create(where, SIZE) as both:
        CASES[name](both, both)


@pytest.mark.parametrize("name", CASES)
def test_two_handles(name: str, where: Any) -> None:
    with Latest.create(where, SIZE) as reader, pickle.loads(pickle.dumps(reader)) as writer:
        CASES[name](writer, reader)


# ------------------------------------------------------------------ making, joining


@pytest.mark.parametrize("size", [1, 1000, 1024, 1025, 1 << 16, (1 << 16) + 1, 1 << 20])
def test_its_size_is_what_was_asked_for(size: int) -> None:
    with Latest.create(size=size) as latest:
        for fill in (b"a", b"b", b"c", b"d", b"e"):
            latest.set(fill * size)
            assert latest.get() == fill * size
        with pytest.raises(ValueError, match=str(size)):
            latest.set(bytes(size + 1))
        assert latest.get() == b"e" * size


@pytest.mark.parametrize("size", [0, -1, (1 << 44) + 1, 1 << 70])
def test_a_size_that_cannot_be_is_refused(where: Any, size: int) -> None:
    for make in (Latest.create, Latest.ensure):
        with pytest.raises(ValueError, match="size"):
            make(where or "shm:never-made", size=size)
    with pytest.raises(TypeError):
        Latest.create(where, size=10.0)  # type: ignore[arg-type]


def test_names_are_those_of_the_memory(make_where: Any) -> None:
    for kind in ("shm", "file"):
        where = make_where(kind)
        with pytest.raises(FileNotFoundError):
            Latest.attach(where)
        with Latest.ensure(where, 100) as first, Latest.ensure(where, 8192) as second:
            assert str(first.url) == str(second.url) == where
            assert second.size == 100
            with pytest.raises(FileExistsError):
                Latest.create(where)
            first.set(b"x")
            assert second.get() == b"x"
            with pytest.raises(IncompatibleSegment, match="kind 3"):
                Broadcast.attach(where)
        if kind == "file":
            with Latest.attach(where) as again:
                assert again.get() == b"x"
                assert again.set(b"y") == 2
                assert again.get() == b"y"
                again.unlink()
        with pytest.raises(FileNotFoundError):
            Latest.attach(where)


def test_keep_leaves_the_name(unique_name: str) -> None:
    with Latest.create(unique_name, 100, keep=True) as first:
        first.set(b"x")
    with Latest.attach(unique_name) as second:
        assert second.get() == b"x"
        second.unlink()


def test_a_dropped_handle_is_reported() -> None:
    latest = Latest.create()
    with pytest.warns(ResourceWarning, match="unclosed latest"):
        del latest


def test_what_is_said_of_the_size_is_checked() -> None:
    for said in (0, 1 << 20, (1 << 64) - 1):
        with Latest.create(size=1024) as latest:
            latest.buffer.view("Q")[LATEST_SIZE] = said
            assert latest.size == 1024
            with pytest.raises(ValueError, match="1024"):
                latest.set(bytes(1025))


# ------------------------------------------------------------------ other processes


def test_a_reader_elsewhere(start_process: Any, where: Any, start_method: str) -> None:
    """It never sees a torn value, never an older one, and the last one in the end."""
    with Latest.create(where, 3000) as latest, Latest.create(None, 100) as back:
        child = start_process(follow, latest, back)
        assert back.wait(timeout=20) == (1, b"ready")
        for version in range(1, 3000):
            latest.set(value(version, 3000))
        assert back.wait(1, 20)[1] == b"2999"
        latest.shutdown()
        child.join(20)
        assert child.exitcode == 0


def follow(latest: Latest, back: Latest) -> None:
    with latest, back:
        back.set(b"ready")
        version = 0
        while True:
            try:
                now, data = latest.wait(version, 20)
            except ShutDown:
                return
            assert now > version
            assert checked(data) == now
            version = now
            assert checked(latest.get()) >= now
            if now == 2999:
                back.set(b"%d" % now)


def test_a_forked_child_has_a_handle_of_its_own(where: Any, fork: Any) -> None:
    with Latest.create(where, SIZE) as latest:
        latest.set(b"a")
        child = fork(set_in_child, latest)
        assert child.receive() == [b"a", "RoleTaken"]
        asleep(latest)
        latest.set(b"b")
        assert child.receive() == (2, b"b")
        latest.close()
        child.link.send("yours")
        child.finish()
    assert child.receive() == (3, b"c", 1)


def set_in_child(link: Any, latest: Latest) -> None:
    try:
        latest.set(b"not mine")
    except RoleTaken as error:
        link.send([latest.get(), type(error).__name__])
    link.send(latest.wait(1, 20))
    link.recv()
    link.send((latest.set(b"c"), latest.get(), len(latest.statistics().participants)))
    latest.close()


def test_threads_share_a_handle(where: Any) -> None:
    with Latest.create(where, 100) as latest, ThreadPoolExecutor(6) as threads:

        def write() -> list[int]:
            return [latest.set(b"%d" % number * 20) for number in range(500)]

        def read() -> int:
            version = 0
            while version < 1500:
                now, data = latest.wait(version, 20)
                assert now > version
                assert data == data[: len(data) // 20] * 20
                version = now
            return version

        reading = [threads.submit(read) for _ in range(3)]
        writing = [threads.submit(write) for _ in range(3)]
        versions = [task.result(20) for task in writing]
        assert sorted(chain.from_iterable(versions)) == list(range(1, 1501))
        assert [task.result(20) for task in reading] == [1500] * 3


# ------------------------------------------------------------------ death


def test_a_death_is_told_once_to_each_handle(where: Any, fork: Any) -> None:
    with Latest.create(where, SIZE) as latest, pickle.loads(pickle.dumps(latest)) as other:
        child = fork(set_and_wait, latest)
        assert child.receive() == "set"
        child.kill()
        for handle in (latest, other):
            assert handle.wait(timeout=20) == (1, b"last words")
            with pytest.raises(PeerDied, match="writer") as caught:
                handle.wait(1, 20)
            assert (caught.value.pid, caught.value.role) == (child.pid, "writer")
            with pytest.raises(Empty):
                handle.wait(1, 0.1)
            assert handle.get() == b"last words"
        assert latest.set(b"of a successor") == 2
        assert other.wait(1, 20) == (2, b"of a successor")


def test_a_poller_is_told_of_a_death_once(where: Any, fork: Any) -> None:
    """It has the last value first, keeps it, and reads what a successor sets."""
    with Latest.create(where, SIZE) as latest:
        child = fork(set_and_wait, latest)
        assert child.receive() == "set"
        for _ in range(3):
            assert latest.get() == b"last words"
        child.kill()
        with pytest.raises(PeerDied, match="writer") as caught:
            poll(latest)
        assert (caught.value.pid, caught.value.role) == (child.pid, "writer")
        end = time.monotonic() + 0.7  # longer than between two looks
        while time.monotonic() < end:
            assert latest.get() == b"last words"
        with pickle.loads(pickle.dumps(latest)) as other:
            other.set(b"of a successor")
            assert latest.get() == b"of a successor"


def poll(latest: Latest) -> None:
    """Get what is there for up to 20 s, without a wait."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        latest.get()


def set_and_wait(link: Any, latest: Latest) -> None:
    latest.set(b"last words")
    link.send("set")
    link.recv()


@pytest.mark.parametrize("largest", [200, 100_000])
def test_a_writer_killed_again_and_again(where: Any, fork: Any, largest: int) -> None:
    """At any moment: no value is torn, none is older than the one before."""
    dice = random.Random(5)
    with Latest.create(where, largest) as latest:
        readers = [fork(watch, latest) for _ in range(2)]
        for reader in readers:
            assert reader.receive() == "ready"
        for _ in range(17):  # times three kinds of memory, times two sizes
            child = fork(set_for_ever, latest, largest)
            child.receive()
            time.sleep(dice.random() * 0.012)
            child.kill()
            child.link.close()
            if latest.version:
                assert checked(latest.wait(0)[1]) == latest.version
        latest.shutdown()
        assert latest.version > 17
        for reader in readers:
            last, seen = reader.receive()
            assert last == latest.version
            assert seen > 5
            reader.finish()


def set_for_ever(link: Any, latest: Latest, largest: int) -> None:
    link.send("ready")
    version = latest.version
    while True:
        version += 1
        latest.set(value(version, largest))


def watch(link: Any, latest: Latest) -> None:
    link.send("ready")
    version = seen = 0
    while True:
        try:
            now, data = latest.wait(version, 20)
            assert now > version
            assert checked(data) == now
            version, seen = now, seen + 1
            for _ in range(5):
                later = checked(latest.get())
                assert later >= version
        except PeerDied:
            continue
        except ShutDown:
            break
    link.send((version, seen))
    latest.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork while tracing")
@pytest.mark.parametrize("quick", [True, False], ids=["common case", "always prepared"])
def test_a_writer_killed_at_any_line(quick: bool) -> None:
    """The newest value is whole, and a successor goes on."""
    result = run_python(kill_writers_everywhere, quick, timeout=50)
    killed, whole = map(int, result.stdout.split())
    assert killed > 15
    assert whole > 0


def kill_writers_everywhere(quick: bool) -> None:
    killed = whole = 0
    with Latest.create(size=SIZE) as latest:
        for line in range(2, 10_000, 6):
            before = latest.version
            pid = os.fork()
            if pid == 0:
                sys.settrace(kill_at_line(line))
                for version in range(before + 1, before + 5):
                    if not quick:
                        latest._largest = -1
                    latest.set(value(version))
                os._exit(0)
            died = os.waitpid(pid, 0)[1] != 0
            version = latest.version
            assert before <= version <= before + 4
            assert died or version == before + 4
            if version:
                assert checked(latest.get()) == version
            killed, whole = killed + died, whole + (not died)
            if whole == 2:
                break
        print(killed, whole)


# ------------------------------------------------------------------ overtaken


class Overtaken:
    """A map whose slices are copied in two steps, between which the writer sets values."""

    def __init__(self, latest: Latest, times: int) -> None:
        self.latest, self.times = latest, times
        self.real = latest._map
        latest._map = self  # type: ignore[assignment]

    def __getitem__(self, part: slice) -> bytes:
        self.latest._map = self.real
        before = bytes(self.real[part])
        while self.times:
            self.times -= 1
            self.latest.set(value(self.latest.version + 1))
        return before[: len(before) // 2] + bytes(self.real[part])[len(before) // 2 :]


@pytest.mark.parametrize("times", range(10))
def test_a_copy_that_was_overtaken_is_made_anew(times: int) -> None:
    with Latest.create(size=SIZE) as latest:
        for start in range(8):
            latest.set(value(latest.version + 1))
            version = latest.version
            for get in (latest.get, lambda: latest.wait()[1]):
                Overtaken(latest, times)
                got = checked(get())
                assert version <= got <= latest.version
                assert got > latest.version - 3
                version = latest.version
            assert start < version


# ------------------------------------------------------------------ hostile bytes


@pytest.mark.parametrize("said", [0, 1, 6, 1 << 20, 1 << 62, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize(
    "word",
    [
        LATEST_VERSION,
        LATEST_SIZE,
        *range(LATEST_LENGTHS, LATEST_LENGTHS + 4),
        STATE,
        READERS_BELL,
        READERS_BELL + 1,
    ],
)
def test_hostile_words_are_answered(word: int, said: int) -> None:
    """With an error that says what, or as if nothing were; never a hang, never outside."""
    with Latest.create(size=SIZE) as latest:
        fresh = pickle.loads(pickle.dumps(latest))
        for version in range(1, 6):
            latest.set(value(version))
        latest.buffer.view("Q")[word] = said
        for call in (
            latest.get,
            lambda: latest.wait(timeout=0.01),
            lambda: latest.wait(latest.version, 0.01),
            lambda: [latest.set(b"x" * n) for n in range(100)],
            fresh.get,
            fresh.statistics,
            latest.close,
            lambda: fresh.set(b"x"),
            fresh.get,
            lambda: repr(fresh),
        ):
            with suppress(ShmkitError):
                call()
        fresh.close()


def test_a_hostile_length_is_found() -> None:
    for length in (1025, 1 << 20, 1 << 40, (1 << 64) - 1):
        with Latest.create(size=1024) as latest:
            latest.set(b"x")
            latest.buffer.view("Q")[LATEST_LENGTHS + 1] = length
            with pytest.raises(CorruptSegment, match=f"{length} bytes in a cell of 1024"):
                latest.get()
            for call in (latest.get, latest.wait, lambda latest=latest: latest.set(b"y")):
                with pytest.raises(CorruptSegment, match="before"):
                    call()


def test_a_damaged_header_is_told(make_where: Any) -> None:
    where = make_where("file")
    with Latest.create(where, SIZE) as latest:
        path = Path(latest.url.name)
    whole = path.read_bytes()
    dice = random.Random(1)
    for _ in range(40):
        data = bytearray(whole)
        data[dice.randrange(0x60)] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        with pytest.raises((IncompatibleSegment, CorruptSegment)):
            Latest.attach(where)
    for size in (0, 1, 8, 4095, 4096, 8191, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises((IncompatibleSegment, CorruptSegment)):
            Latest.attach(where)


# ------------------------------------------------------------------ against a model


class Model(RuleBasedStateMachine):
    """Handles against a list of everything that was set."""

    kind = "anon"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp() if self.kind == "file" else None
        where = {"anon": None, "shm": "shm:", "file": f"file:{self.folder}/x"}[self.kind]
        self.handles = [Latest.create(where, SIZE, keep=self.kind == "shm")]
        self.sent: list[bytes] = []
        self.writer: Latest | None = None

    @rule(size=st.integers(0, SIZE), count=st.integers(1, 7), which=st.integers(0, 9))
    def set_values(self, size: int, count: int, which: int) -> None:
        latest = self.handles[which % len(self.handles)]
        if self.writer not in (None, latest):
            with pytest.raises(RoleTaken):
                latest.set(b"")
            return
        self.writer = latest
        for _ in range(count):
            data = (b"%d " % len(self.sent) * size)[:size]
            self.sent.append(data)
            assert latest.set(data) == len(self.sent)

    @rule(size=st.integers(SIZE + 1, 5 * SIZE))
    def set_too_much(self, size: int) -> None:
        with pytest.raises(ValueError, match=str(SIZE)):
            self.handles[0].set(bytes(size))

    @rule()
    def attach(self) -> None:
        if len(self.handles) < 5:
            self.handles.append(pickle.loads(pickle.dumps(self.handles[0])))

    @rule(which=st.integers(0, 9))
    def close(self, which: int) -> None:
        if len(self.handles) > 1:
            latest = self.handles.pop(which % len(self.handles))
            latest.close()
            if self.writer is latest:
                self.writer = None

    @rule(which=st.integers(0, 9), back=st.integers(-1, 3))
    def wait(self, which: int, back: int) -> None:
        latest = self.handles[which % len(self.handles)]
        newer_than = len(self.sent) - back
        if back > 0 and self.sent:
            assert latest.wait(newer_than) == (len(self.sent), self.sent[-1])
        else:
            with pytest.raises(Empty):
                latest.wait(newer_than, 0)

    @invariant()
    def all_get_the_newest(self) -> None:
        for latest in self.handles:
            assert latest.version == len(self.sent)
            if self.sent:
                assert latest.get() == self.sent[-1]
            else:
                with pytest.raises(Empty):
                    latest.get()

    def teardown(self) -> None:
        if self.kind == "shm":
            self.handles[0].unlink()
        for latest in self.handles:
            latest.close()
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
