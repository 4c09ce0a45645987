"""wait and fileno: several channels at once, sockets among them; readable says: get again."""

from __future__ import annotations

import multiprocessing
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shmkit import (
    Broadcast,
    ClosedError,
    Empty,
    Latest,
    PeerDied,
    Queue,
    Ring,
    ShutDown,
    wait,
)
from tests.processes import TIMEOUT, wait_until

GET: dict[str, Callable[[Any], Any]] = {
    "ring": lambda ring: ring.get(0),
    "many": lambda ring: ring.get(0),
    "queue": lambda queue: queue.get(False),
    "subscription": lambda subscription: subscription.get(0),
    "latest": lambda latest: latest.get(),
}
KINDS = list(GET)


class Channel:
    """A channel of some kind, for one test."""

    def __init__(self, kind: str, where: Any) -> None:
        self.kind = kind
        made: Any
        if kind in ("ring", "many"):
            many: Any = "many" if kind == "many" else "one"
            made = Ring.create(where, capacity=4096, consumers=many, producers=many)
            self.put, self.reader = made.put, made
        elif kind == "queue":
            made = Queue(where=where, capacity=4096)
            self.put, self.reader = made.put, made
        elif kind == "subscription":
            made = Broadcast.create(where, 4096)
            self.put, self.reader = made.publish, made.subscribe()
        else:
            made = Latest.create(where, 100)
            self.put, self.reader = made.set, made
        self.made = made

    def get(self) -> Any:
        return GET[self.kind](self.reader)


@pytest.fixture
def channels(where: Any) -> Iterator[list[Channel]]:
    """One of each kind."""
    made = [Channel(kind, where if kind == "many" else None) for kind in KINDS]
    yield made
    for channel in made:
        channel.made.close()
        if channel.kind == "many":
            channel.made.unlink()


@pytest.fixture(params=KINDS)
def channel(request: pytest.FixtureRequest) -> Iterator[Channel]:
    channel = Channel(request.param, None)
    yield channel
    channel.made.close()


def test_the_ready_ones_in_their_order(channels: list[Channel]) -> None:
    readers = [channel.reader for channel in channels]
    assert wait(readers, 0) == wait(readers, -1) == wait([], 0) == []
    for first in range(len(channels)):
        for channel in (channels[first], channels[(first + 2) % len(channels)]):
            channel.put(b"x")
        due = {first, (first + 2) % len(channels)}
        assert wait(readers, TIMEOUT) == [readers[n] for n in sorted(due)]
        assert wait(readers) == [readers[n] for n in sorted(due)]
        for n in due:
            assert channels[n].get() == b"x"
        assert wait(readers, 0) == []
        assert wait(readers, 0.01) == []


def test_one_is_woken(channels: list[Channel]) -> None:
    readers = [channel.reader for channel in channels]
    with ThreadPoolExecutor(1) as threads:
        for lap in range(3):
            for n, channel in enumerate(channels):
                waiting = threads.submit(wait, readers, TIMEOUT)
                if lap:
                    wait_until(partial(is_asleep, readers[n]))
                channel.put(b"%d" % lap)
                assert waiting.result(TIMEOUT) == [readers[n]]
                assert channel.get() == b"%d" % lap


def is_asleep(reader: Any) -> bool:
    """Whether the thread of its watch sleeps, or is about to."""
    ring = getattr(reader, "_ring", reader)
    watch = ring._reader.watch if isinstance(ring, Ring) else ring._watch
    return watch is not None and bool(watch._armed)


def test_sockets_and_pipes_are_waited_for_too(channel: Channel) -> None:
    ours, theirs = socket.socketpair()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    read, write = os.pipe()
    everything = [ours, channel.reader, receiver, read]
    with ours, theirs, receiver, sender, ThreadPoolExecutor(1) as threads:
        assert wait(everything, 0.01) == []
        for act, due in (
            (lambda: theirs.send(b"x"), ours),
            (lambda: sender.send(1), receiver),
            (lambda: os.write(write, b"x"), read),
        ):
            waiting = threads.submit(wait, [channel.reader, due], TIMEOUT)
            act()
            assert waiting.result(TIMEOUT) == [due]
        channel.put(b"x")
        assert wait(everything) == everything
        os.close(write)
        os.close(read)
        with pytest.raises(ValueError, match="not open"):
            wait([read])


def test_a_descriptor_is_readable_until_nothing_is_there(channel: Channel) -> None:
    """As a socket's is: readable at once if something is there, and no longer after an Empty."""
    channel.put(b"before")
    descriptor = channel.reader.fileno()
    assert descriptor == channel.reader.fileno()
    assert not os.get_inheritable(descriptor)
    for data in (b"before", b"first", b"second"):
        assert select.select([channel.reader], [], [], TIMEOUT)[0] == [channel.reader]
        assert channel.get() == data
        if channel.kind == "latest":
            assert channel.get() == data  # nothing newer
        else:
            with pytest.raises(Exception, match=r"empty|nothing new"):
                channel.get()
        assert select.select([descriptor], [], [], 0)[0] == []
        channel.put(data := {b"before": b"first", b"first": b"second"}.get(data, b"last"))
    assert select.select([descriptor], [], [], TIMEOUT)[0] == [descriptor]


def test_a_shutdown_is_ready(channel: Channel) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait, [channel.reader], TIMEOUT)
        channel.made.shutdown()
        assert waiting.result(TIMEOUT) == [channel.reader]
    with pytest.raises((ShutDown, Empty)):
        channel.get()


@pytest.mark.parametrize("kind", ["ring", "many", "subscription", "latest"])
def test_a_death_is_ready_and_told_by_the_next_get(kind: str, fork: Any) -> None:
    channel = Channel(kind, None)
    with channel.made:
        child = fork(put_and_wait, channel)
        assert wait([channel.reader], TIMEOUT) == [channel.reader]
        assert channel.get() == b"last words"
        child.receive()
        assert wait([channel.reader], 0) == []
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(wait, [channel.reader], TIMEOUT)
            child.kill()
            assert waiting.result(TIMEOUT) == [channel.reader]
        with pytest.raises(PeerDied):
            channel.get()
        assert wait([channel.reader], 0.01) == []


def put_and_wait(link: Any, channel: Channel) -> None:
    channel.put(b"last words")
    link.send("put")
    link.recv()


def test_a_closed_one_is_an_error(channel: Channel) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait, [channel.reader], TIMEOUT)
        wait_until(lambda: is_asleep(channel.reader))
        channel.made.close()
        with pytest.raises((ClosedError, ValueError)):
            waiting.result(TIMEOUT)
    with pytest.raises((ClosedError, ValueError)):
        wait([channel.reader], 0)


def test_nothing_is_left_of_a_watch(channel: Channel) -> None:
    """Neither its thread nor its descriptor, when the handle is closed."""
    before = set(threading.enumerate())
    ring = getattr(channel.reader, "_ring", channel.reader)
    descriptor = ring._armed_fileno()
    assert wait([channel.reader], 0.01) == []
    assert len(set(threading.enumerate()) - before) == 1
    channel.made.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)
    wait_until(lambda: set(threading.enumerate()) <= before)


@pytest.mark.parametrize("again", [True, False])
def test_a_descriptor_that_became_another_files(
    channel: Channel, tmp_path: Path, again: bool
) -> None:
    """A daemon closes every descriptor: what gets the number then is not touched."""
    (tmp_path / "other").write_bytes(bytes(20))
    ring = getattr(channel.reader, "_ring", channel.reader)
    with (tmp_path / "other").open("r+b") as other:
        number = ring._armed_fileno()
        os.close(number)
        if again:
            os.dup2(other.fileno(), number)
        channel.put(b"x")
        watch = ring._reader.watch if hasattr(ring, "_reader") else ring._watch
        wait_until(lambda: not watch._armed)
        with pytest.raises(OSError, match="closed the descriptor of a channel"):
            channel.reader.fileno()
        channel.made.close()
        if again:
            assert os.path.sameopenfile(other.fileno(), number)
            os.close(number)
        assert other.tell() == 0
        assert other.read() == bytes(20)


def test_a_forked_child_has_a_watch_of_its_own(channel: Channel, fork: Any) -> None:
    assert wait([channel.reader], 0.01) == []
    child = fork(wait_in_child, channel)
    assert child.receive() == "waits"
    channel.put(b"x")
    assert child.receive() == 1
    child.finish()
    assert wait([channel.reader], TIMEOUT) == [channel.reader]


def wait_in_child(link: Any, channel: Channel) -> None:
    link.send("waits")
    link.send(len(wait([channel.reader], TIMEOUT)))
    channel.made.close()


@pytest.mark.parametrize("wrong", [None, "ring", b"x", object()])
def test_what_can_not_be_waited_for_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="can not be waited for: give a Ring, a Queue"):
        wait([wrong], 0)
    with pytest.raises(TypeError, match="subscribe"), Broadcast.create() as broadcast:
        wait([broadcast], 0)


def test_one_in_place_of_several_is_refused_and_keeps_its_frames(channel: Channel) -> None:
    """Iterating over a ring or queue takes what is there, and waits for more."""
    channel.put(b"stays")
    with pytest.raises(TypeError, match=r"several channels, not .* itself: give \[it\]"):
        wait(channel.reader, 0)
    assert wait([channel.reader], 0) == [channel.reader]


def test_nothing_to_wait_for_is_not_waited_for() -> None:
    assert wait([]) == wait(()) == wait([], 0) == []
