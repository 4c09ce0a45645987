"""ProcessPoolExecutor: the standard library's executor, over rings.

This is the class that a program uses. It checks arguments, encodes calls, and starts a `Pool` at
the first of them, which does the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from shmkit.channels.objects.codec import encode
from shmkit.work.backlog import Call
from shmkit.work.future import CallFuture
from shmkit.work.pool import Pool
from shmkit.work.supervisor import Orders
from shmkit.work.worker import run_chunk, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

__all__ = ["ProcessPoolExecutor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ProcessPoolExecutor(Executor):
    """Calls run in worker processes; a worker that is killed fails the one call it was running.

    It has the arguments and methods of `concurrent.futures.ProcessPoolExecutor`. What is different:
    arguments and results travel through shared memory; a killed worker is replaced, the call it ran
    fails with `WorkerDied`, and all other calls go on; an argument or result that does not
    unpickle fails only its own call.

    Args:
        max_workers: how many processes at most; None for as many as this process may use cores.
        mp_context: a `multiprocessing` context, which sets the start method; None for the default.
        initializer: called first in each worker.
        initargs: its arguments.
        max_tasks_per_child: how many calls a worker runs before another takes its place; None for
            any number. Not with the start method "fork".

    Raises:
        ValueError: a number below 1, or `max_tasks_per_child` with "fork".
        TypeError: an initializer that can not be called.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if max_workers is None:
            max_workers = _cores()
        elif max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if mp_context is None:
            # As in the standard library: replacing workers does not go with "fork".
            mp_context = multiprocessing.get_context(
                None if max_tasks_per_child is None else "spawn"
            )
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
            if mp_context.get_start_method() == "fork":
                raise ValueError(
                    "max_tasks_per_child is incompatible with the 'fork' multiprocessing start "
                    "method; supply a different mp_context"
                )
        # Named as in the standard library: schedulers read the number of workers, debuggers and
        # tests their pids.
        self._max_workers = max_workers
        self._mp_context = mp_context
        self._processes: dict[int, BaseProcess] | None = {}
        self._executor_manager_thread: threading.Thread | None = None
        self._orders = Orders(mp_context, max_workers, initializer, initargs, max_tasks_per_child)
        self._pool: Pool | None = None
        self._is_shut_down = False
        self._starting = threading.Lock()
        self._pid = 0  # of the process that has started workers

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have `fn(*args, **kwargs)` called in a worker.

        Arguments are pickled before this returns, except large arrays while many calls are waiting:
        leave arrays unchanged until the call is done.

        Args:
            fn: what to call; it has to pickle, as its arguments have to.
            args: its arguments.
            kwargs: its keyword arguments.

        Returns:
            A future. It fails with what the call raises; with `WorkerDied` if its worker died; with
            what pickling or unpickling raised.

        Raises:
            BrokenProcessPool: no worker can be started, or the initializer failed.
            RuntimeError: the executor was shut down, the interpreter is about to end, or this
                process was forked from one that has used the executor.
        """
        if self._is_inherited():  # before any lock: another thread may have held it at the fork
            raise RuntimeError(
                f"this executor belongs to process {self._pid}, of which this one is a fork: make "
                "an executor here"
            )
        pool = self._pool or self._start()
        future: CallFuture[_T] = CallFuture()
        task = task_of(fn, args, kwargs)
        try:
            content = encode(task)
        except Exception as error:  # noqa: BLE001 - passed to the future
            self._check(pool)
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return future
        call = Call(future, content if isinstance(content, bytes) else None, task)
        with pool.lock:
            self._check(pool)
            pool.submit(call, content)
        if pool.backlog.failed:
            pool.backlog.tell_failed()
        return future

    def _is_inherited(self) -> bool:
        return self._pid not in (0, os.getpid())

    def _check(self, pool: Pool) -> None:
        if pool.closing or _exiting or self._is_shut_down:
            if pool.broken:
                raise BrokenProcessPool(pool.broken)
            if not self._is_shut_down and _exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _start(self) -> Pool:
        with self._starting:
            if self._pool is not None:
                return self._pool
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            self._pid = os.getpid()  # before workers are forked, which inherit it
            pool = Pool(self._orders)
            try:
                # Before the thread: a process with threads should not fork.
                pool.start()
                thread = threading.Thread(
                    target=pool.collect,
                    # A weak reference: an executor that is dropped ends its pool.
                    args=(_abandoned(weakref.ref(self)),),
                    name="shmkit-collector",
                )
                thread.start()
            except BaseException:
                pool.abandon()
                raise
            _collectors[thread] = pool
            self._processes = pool.processes
            self._executor_manager_thread = thread
            self._pool = pool
            return pool

    @property
    def _broken(self) -> str:
        return self._pool.broken if self._pool is not None else ""

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[_T]:
        """Call `fn` with one item of each iterable at a time.

        Args:
            fn: what to call.
            iterables: where its arguments come from; they are read to their ends at once.
            timeout: seconds, counted from now, in which all results have to be there; None for
                ever.
            chunksize: how many calls to send as one.

        Returns:
            An iterator of the results, in the order of the items. It raises what a call raised,
            where its result would be.

        Raises:
            ValueError: `chunksize` below 1.
            TimeoutError: from the iterator: a result was not there in time.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        chunks = _chunks(zip(*iterables, strict=False), chunksize)
        return _flat(super().map(partial(run_chunk, fn), chunks, timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; calls that were submitted still run.

        Args:
            wait: return only when they are done and every worker has ended.
            cancel_futures: cancel the calls that are not running yet.
        """
        if self._is_inherited():
            return  # in a forked child: the workers are the parent's
        with self._starting:
            self._is_shut_down = True
            pool, thread = self._pool, self._executor_manager_thread
        if pool is not None:
            with pool.lock:
                pool.cancelling = pool.cancelling or cancel_futures
                pool.closing = True
            pool.wake()
            if wait and thread is not None:
                thread.join()
        self._executor_manager_thread = None
        self._processes = None


def _cores() -> int:
    count = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


def _chunks(items: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(islice(items, size)):
        yield chunk


def _flat(chunks: Iterator[list[_T]]) -> Iterator[_T]:
    """The items of the lists; none is kept once it is given out."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


# -- the end of the interpreter --------------------------------------------------------------------

_exiting = False
_collectors: Final = weakref.WeakKeyDictionary[threading.Thread, Pool]()


def _abandoned(executor: weakref.ref[ProcessPoolExecutor]) -> Callable[[], bool]:
    def is_abandoned() -> bool:
        return _exiting or executor() is None

    return is_abandoned


def _finish_calls() -> None:
    """Have every pool run the calls it has, before the interpreter waits for threads."""
    global _exiting
    _exiting = True
    collectors = list(_collectors.items())
    for thread, pool in collectors:
        if thread.is_alive():
            pool.wake()
    for thread, _ in collectors:
        thread.join()


def _forget_collectors() -> None:
    """In a forked child, even one that a collector forked: the collectors are its parent's."""
    global _exiting
    _exiting = False
    _collectors.clear()


os.register_at_fork(after_in_child=_forget_collectors)
# As the standard library's executors do: atexit functions run only after the wait for threads.
threading._register_atexit(_finish_calls)  # type: ignore[attr-defined]
