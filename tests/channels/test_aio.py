"""AsyncRing and AsyncQueue: nothing lost, no thread left, many loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from shmkit import (
    ClosedError,
    FrameTooLarge,
    Full,
    JoinableQueue,
    PeerDied,
    Queue,
    Ring,
    ShutDown,
)
from shmkit.channels.aio import _TURN, AsyncQueue, AsyncRing, _Waiting
from tests.processes import TIMEOUT, wait_until


@pytest.fixture
def queue() -> Iterator[Queue[Any]]:
    with Queue[Any](2) as queue:
        yield queue


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity=4096) as ring:
        yield ring


def run(awaitable: Any) -> Any:
    """In a loop of its own, under a deadline; threads end with what they waited for."""
    before = set(threading.enumerate())
    result = asyncio.run(asyncio.wait_for(awaitable, TIMEOUT))
    gc.collect()
    wait_until(lambda: set(threading.enumerate()) <= before)
    return result


async def asleep(*sides: Any) -> None:
    """Until each of these sides has a thread that sleeps for it."""
    while not all(any(m._watch._armed for m in side._moves.values()) for side in sides):  # noqa: ASYNC110 - threads
        await asyncio.sleep(0.001)


# ------------------------------------------------------------------ putting and getting


def test_there_and_back_between_tasks(queue: Queue[Any]) -> None:
    async def main() -> list[Any]:
        both = AsyncQueue(queue)

        async def put() -> None:
            for number in range(300):
                await both.put(number)
            await both.put(np.arange(2_000_000))

        task = asyncio.create_task(put())
        got = [await both.get() for _ in range(301)]
        await task
        return got

    got = run(main())
    assert got[:300] == list(range(300))
    assert (got[300] == np.arange(2_000_000)).all()


def echo(there: Any, back: Any) -> None:
    while (obj := there.get()) is not None:
        back.put(obj)


def test_there_and_back_with_another_process(
    start_process: Callable[..., Any], queue: Queue[Any]
) -> None:
    async def main(back: Queue[Any]) -> None:
        put, get = AsyncQueue(queue), AsyncQueue(back)
        for number in range(100):
            await put.put(number)
            assert await get.get() == number
        await put.put(None)

    with Queue[Any]() as back:
        process = start_process(echo, queue, back)
        run(main(back))
        process.join(TIMEOUT)
        assert process.exitcode == 0


def test_a_full_queue_is_waited_for(queue: Queue[Any]) -> None:
    async def main() -> None:
        both = AsyncQueue(queue)
        both.put_nowait(0)
        both.put_nowait(1)
        task = asyncio.create_task(both.put(2))
        await asleep(both._writable)
        assert not task.done()
        assert both.get_nowait() == 0
        await task
        assert [await both.get(), await both.get()] == [1, 2]

    run(main())


def test_the_loop_goes_on_while_a_task_waits(queue: Queue[Any]) -> None:
    async def main() -> None:
        both = AsyncQueue(queue)
        task = asyncio.create_task(both.get())
        await asleep(both._readable)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        await both.put("at last")
        assert await task == "at last"

    run(main())


def test_frames_of_a_ring(ring: Ring) -> None:
    async def main() -> None:
        both = AsyncRing(ring)
        with pytest.raises(FrameTooLarge):
            await both.put(b"x" * 5000)

        async def put() -> None:
            for number in range(200):
                await both.put(b"%d" % number * 30)

        task = asyncio.create_task(put())
        got = [await both.get()]
        while len(got) < 200:
            got += await both.get_many(7)
        await task
        assert got == [b"%d" % number * 30 for number in range(200)]

    run(main())


def test_a_ring_that_raises_raises(ring: Ring) -> None:
    async def main() -> None:
        with Ring.create(capacity=4096, when_full="raise") as other:
            both = AsyncRing(other)
            await both.put(b"x" * 4000)
            with pytest.raises(Full):
                await both.put(b"x" * 4000)

    run(main())


def test_async_for_ends_with_the_shutdown(queue: Queue[Any], ring: Ring) -> None:
    async def main() -> None:
        objects, frames = AsyncQueue(queue), AsyncRing(ring)

        async def collect(channel: Any) -> list[Any]:
            return [item async for item in channel]

        tasks = [asyncio.create_task(collect(channel)) for channel in (objects, frames)]
        for number in range(5):
            await objects.put(number)
            await frames.put(b"%d" % number)
        await asleep(objects._readable, frames._readable)
        queue.shutdown()
        ring.shutdown()
        assert await tasks[0] == list(range(5))
        assert await tasks[1] == [b"%d" % number for number in range(5)]
        with pytest.raises(ShutDown):
            await objects.put(1)
        with pytest.raises(ShutDown):
            await frames.get()

    run(main())


def test_what_does_not_pickle_raises(queue: Queue[Any]) -> None:
    async def main() -> None:
        both = AsyncQueue(queue)
        with pytest.raises((AttributeError, TypeError, ValueError)):
            await both.put(threading.Lock())
        await both.put(1)
        assert await both.get() == 1

    run(main())


def test_tasks_are_joined() -> None:
    async def main(queue: JoinableQueue[int]) -> None:
        both = AsyncQueue(queue)
        await both.put(1)
        await both.put(2)
        joined = asyncio.create_task(both.join())
        for left in (2, 1):
            assert queue.unfinished_tasks == left
            assert not joined.done()
            await both.get()
            both.task_done()
            await asyncio.sleep(0)
        await joined
        with pytest.raises(ValueError, match="too many"):
            both.task_done()

    with JoinableQueue[int]() as queue:
        run(main(queue))


def test_only_a_joinable_queue_is_joined(queue: Queue[Any]) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="JoinableQueue"):
            await AsyncQueue(queue).join()

    run(main())


# ------------------------------------------------------------------ the end of a wait


def test_cancelled_gets_have_taken_nothing(queue: Queue[Any]) -> None:
    async def main() -> None:
        both = AsyncQueue(queue)
        for lap in range(30):
            tasks = [asyncio.create_task(both.get()) for _ in range(10)]
            await asyncio.sleep(0.001 * (lap % 5))
            await both.put(lap)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            got = [result for result in results if result == lap]
            got += [both.get_nowait()] if not got else []
            assert got == [lap]
            assert queue.empty()

    run(main())


def test_a_cancelled_put_has_put_nothing(queue: Queue[Any]) -> None:
    async def main() -> None:
        both = AsyncQueue(queue)
        await both.put(0)
        await both.put(1)
        task = asyncio.create_task(both.put(2))
        await asleep(both._writable)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [both.get_nowait(), both.get_nowait()] == [0, 1]
        assert queue.empty()

    run(main())


@pytest.fixture(params=["queue", "ring"])
def channel(request: pytest.FixtureRequest) -> AsyncQueue[Any] | AsyncRing:
    wrap: Any = AsyncQueue if request.param == "queue" else AsyncRing
    wrapped: AsyncQueue[Any] | AsyncRing = wrap(request.getfixturevalue(request.param))
    return wrapped


def test_calls_that_never_wait_let_other_tasks_run(channel: Any) -> None:
    async def main() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(count())
        for _ in range(5 * _TURN):
            await channel.put(b"frame")
            assert await channel.get() == b"frame"
        task.cancel()
        assert 5 <= turns <= 20, "a turn now and then, not with each call"

    run(main())


@pytest.mark.parametrize("verb", ["put", "get"])
def test_cancelled_while_others_have_their_turn_nothing_moved(channel: Any, verb: str) -> None:
    async def main() -> None:
        await channel.put(b"there")
        channel._left = 0  # the next call lets others run first
        call = channel.put(b"more") if verb == "put" else channel.get()
        task = asyncio.create_task(call)
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await channel.get() == b"there"
        assert getattr(channel, "queue", None) is None or channel.queue.empty()
        assert getattr(channel, "ring", None) is None or channel.ring.empty()

    run(main())


def test_the_common_case_takes_no_careful_path(
    channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await channel.put(b"first")  # it takes the roles
        assert await channel.get() == b"first"
        monkeypatch.setattr(_Waiting, "until", None)
        await channel.put(b"second")
        assert await channel.get() == b"second"

    run(main())


def test_one_thread_sleeps_for_all_who_wait(queue: Queue[Any]) -> None:
    async def main() -> None:
        both = AsyncQueue(queue)
        before = threading.active_count()
        tasks = [asyncio.create_task(both.get()) for _ in range(100)]
        await asleep(both._readable)
        await asyncio.sleep(0.12)
        assert threading.active_count() <= before + 2
        for number in range(100):
            await both.put(number)
        assert sorted(await asyncio.gather(*tasks)) == list(range(100))

    run(main())


def test_a_loop_that_ends_with_waiters_leaves_no_thread(queue: Queue[Any], ring: Ring) -> None:
    async def main() -> None:
        for channel in (AsyncQueue(queue), AsyncRing(ring)):
            task = asyncio.create_task(channel.get())
            await asleep(channel._readable)
            assert not task.done()

    run(main())
    queue.put(1)
    assert queue.get() == 1


def test_an_idle_wait_wakes_the_loop_for_news_only(queue: Queue[Any]) -> None:
    async def main() -> None:
        both = AsyncQueue(queue)
        task = asyncio.create_task(both.get())
        await asleep(both._readable)
        loop, turns = asyncio.get_running_loop(), 0
        select = loop._selector.select  # type: ignore[attr-defined]

        def counted(timeout: float | None) -> Any:
            nonlocal turns
            turns += 1
            return select(timeout)

        loop._selector.select = counted  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        assert turns <= 4
        await both.put("news")
        assert await task == "news"

    run(main())


def test_tasks_that_are_cancelled_leave_nothing_behind(queue: Queue[Any]) -> None:
    async def main() -> None:
        both = AsyncQueue(queue)
        for _ in range(3):
            task = asyncio.create_task(both.get())
            await asleep(both._readable)
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert all(moves._next is None for moves in both._readable._moves.values())
        task = asyncio.create_task(both.get())
        await both.put("kept")
        assert await task == "kept"

    run(main())


def test_closing_ends_a_wait(queue: Queue[Any]) -> None:
    async def main() -> None:
        both = AsyncQueue(queue)
        task = asyncio.create_task(both.get())
        await asleep(both._readable)
        bell = queue._ring._data_bell
        while not bell.sleeps:  # noqa: ASYNC110 - the watch's thread, at the bell
            await asyncio.sleep(0.001)
        queue.close()
        with pytest.raises(ClosedError):
            await task

    run(main())


def test_a_dead_producer_is_told_by_a_ring(ring: Ring, start_process: Callable[..., Any]) -> None:
    process = start_process(_put_and_wait, ring)
    assert ring.get(TIMEOUT) == b"one"

    async def main() -> None:
        task = asyncio.create_task(AsyncRing(ring).get())
        await asyncio.sleep(0.01)
        process.kill()
        with pytest.raises(PeerDied):
            await task

    run(main())


def _put_and_wait(ring: Ring) -> None:
    ring.put(b"one")
    time.sleep(TIMEOUT)


# ------------------------------------------------------------------ many loops


def test_many_loops_share_a_queue(queue: Queue[Any]) -> None:
    both: AsyncQueue[Any] = AsyncQueue(queue)
    got: list[int] = []

    async def put(start: int) -> None:
        for number in range(100):
            await both.put(start + number)

    async def get() -> None:
        for _ in range(100):
            got.append(await both.get())  # noqa: PERF401

    work = [lambda n=n: asyncio.run(put(1000 * n)) for n in range(3)]
    threads = [threading.Thread(target=job) for job in [*work, *[lambda: asyncio.run(get())] * 3]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(got) == [1000 * n + number for n in range(3) for number in range(100)]


def test_they_say_what_they_are(queue: Queue[Any], ring: Ring) -> None:
    assert repr(AsyncQueue(queue)) == f"<AsyncQueue {queue!r}>"
    assert repr(AsyncRing(ring)) == f"<AsyncRing {ring!r}>"
