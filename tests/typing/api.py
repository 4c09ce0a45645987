"""The public surface as a type checker sees it: mypy and pyright read this, and nothing runs it.

Each `assert_type` says what a user's program gets. A `type: ignore` here is a mistake that has to
be found: mypy and pyright complain of one that is not needed.
"""

from __future__ import annotations

import array
import io
import mmap
import re
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from concurrent.futures import Future
from contextlib import AbstractContextManager
from ctypes import Structure, c_float
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, assert_type

import numpy as np
import numpy.typing as npt

import shmkit
from shmkit import (
    Acquired,
    Broadcast,
    ClosedError,
    CorruptSegment,
    Empty,
    Event,
    FrameTooLarge,
    Full,
    IncompatibleSegment,
    JoinableQueue,
    Latest,
    Lock,
    PagedFile,
    PeerDied,
    ProcessPoolExecutor,
    Queue,
    Ring,
    RoleTaken,
    Semaphore,
    SharedArray,
    SharedBuffer,
    SharedDict,
    SharedMemory,
    ShmkitError,
    ShutDown,
    WorkerDied,
    once,
    open_bytes,
    wait,
)
from shmkit.channels.aio import AsyncQueue, AsyncRing
from shmkit.channels.fanout.broadcast import BroadcastStatistics
from shmkit.channels.fanout.latest import LatestStatistics
from shmkit.channels.fanout.subscription import Subscription, SubscriptionStatistics
from shmkit.channels.mapping.keys import Key
from shmkit.channels.mapping.shared_dict import DictStatistics
from shmkit.channels.ring.in_place import Frame
from shmkit.channels.ring.ring import RingStatistics
from shmkit.memory.buffer.stream import Stream
from shmkit.memory.paged.pages import PagedStatistics
from shmkit.memory.paged.search import Match
from shmkit.memory.records import Record, Records
from shmkit.memory.url import Url
from shmkit.sync.page import PageStatistics
from shmkit.work.once import SharedArrays

Access = Literal["r", "rw", "cow"]


@dataclass
class Vertex:
    """A record."""

    x: float
    red: int


class Point(NamedTuple):
    """A record."""

    x: float


class Sample(Structure):
    """A record."""

    _fields_ = (("x", c_float),)


def misspelled_names() -> None:
    from shmkit import Rnig  # type: ignore[attr-defined] # noqa: F401
    from shmkit.errors import Epmty  # type: ignore[attr-defined] # noqa: F401

    shmkit.Rnig  # type: ignore[attr-defined] # noqa: B018


def shared_buffer(path: Path) -> None:
    with SharedBuffer.create("shm:name", 100, keep=True, mode=0o600) as b:
        assert_type(b, SharedBuffer)
    SharedBuffer.create()
    SharedBuffer.create(path, 10)
    b = SharedBuffer.ensure("name", 100)
    b = SharedBuffer.attach(b, access="cow", offset=1, length=2, timeout=None)
    SharedBuffer.attach("name", access="w")  # type: ignore[arg-type]
    SharedBuffer.create(10)  # type: ignore[arg-type]

    assert_type(b.buf, memoryview)
    assert_type(b.url, Url)
    assert_type(b.url.scheme, Literal["anon", "shm", "file"])
    assert_type(b.name, str)
    assert_type(b.size, int)
    assert_type(b.offset, int)
    assert_type(b.access, Access)
    assert_type(b.created, bool)
    assert_type(b.mapped, bool)
    assert_type(b.owner, bool)
    assert_type(b.closed, bool)
    assert_type(b.raw, tuple[mmap.mmap, int])
    assert_type(b.descriptor("r"), int)

    assert_type(len(b), int)
    assert_type(b[0], int)
    assert_type(b[0:2], bytes)
    assert_type(list(b), list[int])
    assert_type(bytes(b), bytes)
    assert_type(memoryview(b), memoryview)
    b[0] = 1
    b[0:2] = b"ab"
    b[0:2] = SharedBuffer.create(None, 2)
    b[0:2] = np.zeros(2, np.uint8)
    b.find(np.zeros(2, np.uint8))
    b[0:2] = "ab"  # type: ignore[call-overload]

    assert_type(b.view("I"), memoryview)
    assert_type(b.view("@q", 8, 2), memoryview)
    assert_type(b.view("f"), memoryview[float])
    assert_type(b.view("d")[0], float)
    assert_type(b.view("c"), memoryview[bytes])
    assert_type(b.view("?"), memoryview[bool])
    b.view("<I")  # type: ignore[call-overload]

    assert_type(b.ndarray((2, 3), np.float32), npt.NDArray[np.float32])
    assert_type(b.ndarray(4, np.dtype(np.int8), 2), npt.NDArray[np.int8])
    assert_type(b.ndarray(4, "u1"), npt.NDArray[Any])
    assert_type(np.asarray(b), npt.NDArray[np.uint8])

    assert_type(b.find(b"x"), int)
    assert_type(b.rfind(7, 1, -1), int)
    assert_type(b.index(b"x"), int)
    assert_type(b.count(b"x"), int)
    assert_type(b.finditer(rb"\d"), Iterator[re.Match[bytes]])
    assert_type(b.replace(b"a", bytearray(1), 3), int)
    assert_type(b.replace_into(path, b"a", b"bc"), int)
    b.move(0, 1, 2)
    b.flush(0, 10)
    b.advise("willneed", 0, 10)
    b.advise("later")  # type: ignore[arg-type]
    b.resize(200)
    assert_type(b.chunks(10, release=True), Iterator[memoryview])
    assert_type(b.lines(), Iterator[bytes])

    stream = b.open()
    assert_type(stream, Stream)
    assert_type(stream.read(3), bytes)
    assert_type(stream.read1(), bytes)
    assert_type(stream.readinto(bytearray(3)), int)
    io.TextIOWrapper(stream)
    b.close(strict=True)
    b.unlink()


def records(b: SharedBuffer) -> None:
    vertices = b.records(Vertex, 0, 16, count=3, packed=True)
    assert_type(vertices, Records[Vertex])
    assert_type(vertices[0], Vertex)
    assert_type(vertices[0].red, int)
    assert_type(vertices[0:2], Records[Vertex])
    assert_type(vertices.read(0), Vertex)
    assert_type(vertices.buf, memoryview)
    assert_type(vertices.itemsize, int)
    assert_type(vertices.stride, int)
    assert_type(vertices.to_numpy(), npt.NDArray[np.void])
    vertices[0] = Vertex(1.0, 2)
    vertices[0:1] = [(1.0, 2)]
    assert_type(list(vertices), list[Vertex])
    assert_type(b.records(Point)[0].x, float)
    assert_type(b.records(Sample)[0], Sample)
    assert_type(b.records("<3f", names="x y z"), Records[Record])


def files(path: Path) -> None:
    assert_type(open_bytes(path, small=10), SharedBuffer)
    open_bytes(0)
    with path.open("rb") as file:
        open_bytes(file)
    with PagedFile(path, page_size=4096, max_pages=2, access="rw") as paged:
        assert_type(paged, PagedFile)
    PagedFile(path, access="cow")  # type: ignore[arg-type]
    assert_type(paged.name, str)
    assert_type(paged.access, Literal["r", "rw"])
    assert_type(paged.page_size, int)
    assert_type(paged.max_pages, int)
    assert_type(paged.size, int)
    assert_type(paged.closed, bool)
    assert_type(paged.stats(), PagedStatistics)
    assert_type(paged[0], int)
    assert_type(paged[1:2], bytes)
    assert_type(np.asarray(paged), npt.NDArray[np.uint8])
    paged[0:1] = b"a"
    assert_type(paged.find(b"x"), int)
    assert_type(paged.finditer(b"x"), Iterator[Match])
    assert_type(paged.chunks(10), Iterator[bytes])
    assert_type(paged.lines(), Iterator[bytes])
    assert_type(paged.open(), io.BufferedReader | io.BufferedRandom)
    paged.flush()


def shared_memory() -> None:
    block = SharedMemory("name", create=True, size=10, track=False)
    assert_type(block.buf, memoryview)
    assert_type(block.name, str)
    assert_type(block.size, int)
    block.close()
    block.unlink()


def shared_array(where: str) -> None:
    with SharedArray.create(where, (2, 3), np.float32, order="F", keep=True) as a:
        assert_type(a, SharedArray[np.float32])
    assert_type(SharedArray.create(where, 3), SharedArray[np.float64])
    assert_type(SharedArray.create(where, 3, "u1"), SharedArray[Any])
    assert_type(SharedArray.ensure(where, 3, np.dtype(np.int8)), SharedArray[np.int8])
    assert_type(SharedArray.attach(where, access="r"), SharedArray[Any])
    assert_type(SharedArray.attach(where, dtype=np.int8), SharedArray[np.int8])
    assert_type(SharedArray.from_array(np.zeros(3, np.int16)), SharedArray[np.int16])
    SharedArray.create(where, 3, order="A")  # type: ignore[call-overload]
    SharedArray.attach(where, access="w")  # type: ignore[call-overload]

    assert_type(a.array, npt.NDArray[np.float32])
    assert_type(a[0:2], npt.NDArray[np.float32])
    assert_type(a[...], npt.NDArray[np.float32])
    assert_type(np.asarray(a), npt.NDArray[np.float32])
    assert_type(a.part[0:2], SharedArray[np.float32])
    assert_type(a.part["x"], SharedArray[Any])
    assert_type(a.read_only(), SharedArray[np.float32])
    assert_type(a.shape, tuple[int, ...])
    assert_type(a.strides, tuple[int, ...])
    assert_type(a.dtype, np.dtype[np.float32])
    assert_type(a.itemsize, int)
    assert_type(a.ndim, int)
    assert_type(a.size, int)
    assert_type(a.nbytes, int)
    assert_type(a.buffer, SharedBuffer)
    assert_type(a.url, Url)
    assert_type(a.name, str)
    assert_type(a.access, Access)
    assert_type(a.created, bool)
    assert_type(a.closed, bool)
    assert_type(len(a), int)
    assert_type(memoryview(a), memoryview)
    a[0] = 1
    a.flush()
    a.close(strict=True)
    a.unlink()


def ring(where: str) -> None:
    with Ring.create(
        where, capacity=4096, producers="many", consumers="one", when_full="drop-oldest"
    ) as r:
        assert_type(r, Ring)
    Ring.create(producers="two")  # type: ignore[arg-type]
    Ring.ensure(where, when_full="drop")  # type: ignore[arg-type]
    assert_type(Ring.ensure(where, consumers="many", trust_owner=True), Ring)
    assert_type(Ring.attach(where, timeout=1.5), Ring)

    r.put(b"frame", timeout=1)
    r.put(memoryview(b"frame"))
    r.put(array.array("d"))
    r.put(SharedBuffer.create(None, 2))
    r.put(SharedArray.create(None, 2))
    r.put(np.zeros(3))
    r.put("text")  # type: ignore[arg-type]
    r.put_nowait(b"frame")
    assert_type(r.put_many([b"a", bytearray(b"b")], timeout=1), int)
    assert_type(r.reserve(10), AbstractContextManager[Frame])
    with r.reserve(10) as frame:
        frame[:] = bytes(10)
        frame[0] = 1
        assert_type(frame[0], int)
        assert_type(frame[0:2], memoryview)
        assert_type(frame.buf, memoryview)
        frame.truncate(5)
    assert_type(r.get(), bytes)
    assert_type(r.get(1.5), bytes)
    assert_type(r.get_nowait(), bytes)
    assert_type(r.get_many(10, timeout=0), list[bytes])
    assert_type(r.get_into(bytearray(10)), int)
    with r.peek(timeout=1) as view:
        assert_type(view, memoryview)
    with r.peek_many(10) as views:
        assert_type(views, list[memoryview])
    assert_type(list(r), list[bytes])
    assert_type(r.qsize(), int)
    assert_type(r.empty(), bool)
    assert_type(r.full(), bool)
    assert_type(r.fileno(), int)
    assert_type(r.skip_damaged(), int)
    assert_type(r.statistics(), RingStatistics)
    assert_type(r.buffer, SharedBuffer)
    assert_type(r.capacity, int)
    assert_type(r.closed, bool)
    assert_type(r.name, str)
    assert_type(r.url, Url)
    assert_type(wait([r], timeout=1), list[Ring])
    r.flush()
    r.shutdown(immediate=True)
    r.close()
    r.unlink()


def fanout(where: str) -> None:
    b = Broadcast.create(where, 4096, participants=10)
    assert_type(Broadcast.ensure(where), Broadcast)
    assert_type(Broadcast.attach(where), Broadcast)
    b.publish(b"frame")
    b.publish(1)  # type: ignore[arg-type]
    assert_type(b.capacity, int)
    assert_type(b.statistics(), BroadcastStatistics)
    b.subscribe("last")  # type: ignore[arg-type]
    with b.subscribe("oldest") as s:
        assert_type(s, Subscription)
    assert_type(s.get(timeout=1), bytes)
    assert_type(s.get_nowait(), bytes)
    assert_type(s.get_into(bytearray(10)), int)
    assert_type(list(s), list[bytes])
    assert_type(s.lost, int)
    assert_type(s.broadcast, Broadcast)
    assert_type(s.closed, bool)
    assert_type(s.fileno(), int)
    assert_type(s.statistics(), SubscriptionStatistics)

    latest = Latest.create(where, 4096)
    assert_type(Latest.ensure(where), Latest)
    assert_type(Latest.attach(where), Latest)
    assert_type(latest.set(b"value"), int)
    assert_type(latest.get(), bytes)
    assert_type(latest.get_into(bytearray(10)), int)
    assert_type(latest.wait(newer_than=3, timeout=1), tuple[int, bytes])
    assert_type(latest.version, int)
    assert_type(latest.size, int)
    assert_type(latest.statistics(), LatestStatistics)
    latest.shutdown()


def queues(where: str) -> None:
    q: Queue[str] = Queue(10, where=where, capacity=4096, participants=4, keep=True, mode=0o600)
    q.put("object", block=False, timeout=1)
    q.put(1)  # type: ignore[arg-type]
    q.put_nowait("object")
    assert_type(q.put_many(["a"], timeout=1), int)
    assert_type(q.get(), str)
    assert_type(q.get_nowait(), str)
    assert_type(q.get_many(10, timeout=0), list[str])
    assert_type(list(q), list[str])
    assert_type(q.qsize(), int)
    assert_type(q.empty(), bool)
    assert_type(q.full(), bool)
    assert_type(q.fileno(), int)
    assert_type(q.maxsize, int)
    assert_type(q.is_shutdown, bool)
    assert_type(q.closed, bool)
    assert_type(q.name, str)
    assert_type(q.url, Url)
    assert_type(q.statistics(), RingStatistics)
    q.shutdown()
    q.close()
    q.join_thread()
    q.cancel_join_thread()
    q.unlink()
    ensured: Queue[int] = Queue.ensure(where)
    assert_type(ensured.get(), int)
    j: JoinableQueue[int] = JoinableQueue()
    j.task_done()
    j.join()
    assert_type(j.unfinished_tasks, int)


async def asynchronous(r: Ring, q: Queue[str]) -> None:
    frames = AsyncRing(r)
    await frames.put(b"frame")
    assert_type(await frames.get(), bytes)
    assert_type(await frames.get_many(3), list[bytes])
    async for frame in frames:
        assert_type(frame, bytes)
    objects = AsyncQueue(q)
    await objects.put("object")
    assert_type(await objects.get(), str)
    async for each in objects:
        assert_type(each, str)
    objects.put_nowait("object")
    assert_type(objects.get_nowait(), str)
    objects.task_done()
    await objects.join()


def dicts(where: str) -> None:
    shared = SharedDict.create(where, capacity=1 << 20, grow=True, keep=True, participants=9)
    assert_type(SharedDict.ensure(where, mode=0o600), SharedDict)
    assert_type(SharedDict.attach(where, timeout=1), SharedDict)
    shared["key"] = shared[b"key"] = shared["a", 1] = [1]
    assert_type(shared.get("key"), Any)
    assert_type(shared.get("key", view=True), Any)
    assert_type(shared.pop("key", None), Any)
    assert_type(shared.popitem(), tuple[Key, Any])
    assert_type(shared.setdefault("key", 1), Any)
    assert_type(shared.increment("n", 2), Any)
    assert_type(shared.compare_and_set("n", 1, 2), bool)
    assert_type(shared.version("n"), int)
    assert_type(shared.wait("n", newer_than=3, timeout=1), tuple[Any, int])
    assert_type(shared.copy(), dict[Key, Any])
    assert_type(shared.items(), ItemsView[Key, Any])
    assert_type(shared.keys(), KeysView[Key])
    assert_type(shared.values(), ValuesView[Any])
    assert_type(shared.statistics(), DictStatistics)
    assert_type(shared.capacity, int)
    assert_type(shared.drop_damaged(), int)
    assert_type(len(shared), int)
    assert_type(shared.buffer, SharedBuffer)
    assert_type((shared.name, shared.url, shared.closed), tuple[str, Url, bool])
    shared.update({"a": 1})
    shared.flush()
    shared.clear()
    shared.unlink()
    shared.close()


def locks() -> None:
    lock = Lock("name", participants=10, keep=True, mode=0o600, trust_owner=True)
    assert_type(Lock.create(), Lock)
    assert_type(Lock.ensure("name"), Lock)
    assert_type(Lock.attach("name"), Lock)
    assert_type(lock.acquire(timeout=1), Acquired)
    assert_type(lock.held, bool)
    assert_type(lock.statistics(), PageStatistics)
    with lock as acquired:
        assert_type(acquired, Acquired)
    lock.release()

    semaphore = Semaphore(2, "name", posix=True)
    assert_type(Semaphore.create("name", 1), Semaphore)
    assert_type(Semaphore.ensure("file:x", 1, keep=True), Semaphore)
    assert_type(semaphore.statistics(), PageStatistics)
    assert_type(semaphore.url, Url)
    assert_type(Semaphore.attach("name"), Semaphore)
    assert_type(semaphore.acquire(False), bool)
    assert_type(semaphore.get_value(), int)
    assert_type(semaphore.value, int)
    semaphore.release()

    event = Event("name")
    assert_type(Event.create(), Event)
    assert_type(event.wait(1), bool)
    assert_type(event.is_set(), bool)
    event.set()
    event.clear()


def double(x: int) -> float:
    return 2.0 * x


def work() -> None:
    with ProcessPoolExecutor(4, initializer=print, initargs=(1,), max_tasks_per_child=10) as pool:
        assert_type(pool, ProcessPoolExecutor)
    assert_type(pool.submit(double, 3), Future[float])
    pool.submit(double, "3")  # type: ignore[arg-type]
    assert_type(pool.map(double, [1, 2], timeout=1, chunksize=2, buffersize=3), Iterator[float])
    pool.kill_workers()
    pool.terminate_workers()
    pool.shutdown(wait=False, cancel_futures=True)

    assert_type(once("a", lambda: np.zeros(3, np.int8), timeout=1), SharedArray[np.int8])
    assert_type(once("b", lambda: b"bytes", participants=3), SharedBuffer)
    arrays = once("c", lambda: {"x": np.zeros(3)})
    assert_type(arrays, SharedArrays)
    assert_type(arrays["x"], SharedArray[Any])
    arrays.close()


def errors(error: ShmkitError) -> None:
    if isinstance(error, PeerDied | RoleTaken):
        assert_type(error.pid, int)
        assert_type(error.role, str)
    if isinstance(error, FrameTooLarge):
        assert_type((error.size, error.limit), tuple[int, int])
    if isinstance(error, IncompatibleSegment | CorruptSegment):
        assert_type(error.where, str)
    if isinstance(error, CorruptSegment):
        assert_type(error.detail, str)
    if isinstance(error, WorkerDied):
        assert_type(error.pid, int)
        assert_type(error.exitcode, int | None)
    closed: ValueError = ClosedError()
    timed_out: Exception = Full()
    print(closed, timed_out, Empty(), ShutDown())
    assert_type(shmkit.__version__, str)
