"""ProcessPoolExecutor: the standard library's executor, over rings.

This is the class that a program uses. It checks arguments, encodes calls, and starts a `Pool` at
the first of them, which does the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar

from shmkit.channels.objects.codec import encode
from shmkit.deadline import Deadline
from shmkit.work.backlog import Call
from shmkit.work.future import CallFuture
from shmkit.work.pool import Pool, nested
from shmkit.work.supervisor import Orders
from shmkit.work.worker import run_chunk, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess
    from types import TracebackType

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
        elif not isinstance(max_workers, int):
            raise TypeError(
                f"max_workers must be an integer, not {max_workers!r}: the number of processes, or "
                "None for one for each core"
            )
        elif max_workers <= 0:
            raise ValueError(
                f"max_workers must be greater than 0, not {max_workers}: with None there is one "
                "for each core"
            )
        if mp_context is None:
            # As in the standard library: replacing workers does not go with "fork".
            mp_context = multiprocessing.get_context(
                None if max_tasks_per_child is None else "spawn"
            )
        elif not hasattr(mp_context, "get_start_method"):
            raise TypeError(
                f"mp_context must be a context of multiprocessing, not {mp_context!r}: "
                'multiprocessing.get_context("spawn"), for one'
            )
        if initializer is not None and not callable(initializer):
            raise TypeError(
                f"initializer must be a callable, not {initializer!r}: a function that each worker "
                "calls first; its arguments go into initargs"
            )
        try:
            initargs = tuple(initargs)
        except TypeError:
            raise TypeError(
                f"initargs must be a tuple of arguments, not {initargs!r}: for one argument "
                f"({initargs!r},)"
            ) from None
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError(
                    f"max_tasks_per_child must be an integer, not {max_tasks_per_child!r}: how "
                    "many calls a worker runs, or None for any number"
                )
            if max_tasks_per_child <= 0:
                raise ValueError(
                    f"max_tasks_per_child must be >= 1, not {max_tasks_per_child}: how many calls "
                    "a worker runs, or None for any number"
                )
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
        self._starting = threading.RLock()  # re-entrant only to see that this thread has it
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
        if not callable(fn):
            raise TypeError(f"fn must be a callable, not {fn!r}: submit(fn, *args, **kwargs)")
        if self._is_inherited():  # before any lock: another thread may have held it at the fork
            raise RuntimeError(
                f"this executor belongs to process {self._pid}, of which this one is a fork: make "
                "an executor here"
            )
        self._check_free()
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

    def _check_free(self) -> None:
        """Refuse a call of a signal handler or finalizer that came while this thread is inside."""
        if self._pool is not None:
            self._pool.check_free()
        elif self._starting._is_owned():  # type: ignore[attr-defined]
            raise nested()

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
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Call `fn` with one item of each iterable at a time.

        Args:
            fn: what to call.
            iterables: where its arguments come from; without `buffersize` they are read to their
                ends at once.
            timeout: seconds, counted from now, in which all results have to be there; None for
                ever.
            chunksize: how many calls to send as one.
            buffersize: how many results to be ahead of what was taken from the iterator (chunks of
                them, if `chunksize` is not 1); None for all of them.

        Returns:
            An iterator of the results, in the order of the items. It raises what a call raised,
            where its result would be.

        Raises:
            ValueError: `chunksize` or `buffersize` below 1, a timeout that is not a number.
            TypeError: a number that is none; what can not be called or iterated.
            TimeoutError: from the iterator: a result was not there in time.
        """
        _check_count("chunksize", chunksize)
        if buffersize is not None:
            _check_count("buffersize", buffersize)
        if timeout is not None and not isinstance(timeout, int | float):
            raise TypeError(f"timeout must be seconds or None, not {timeout!r}")
        if not callable(fn):
            raise TypeError(f"fn must be a callable, not {fn!r}: map(fn, *iterables)")
        items: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        if chunksize == 1:
            return self._results(fn, items, timeout, buffersize)
        chunks = ((chunk,) for chunk in _chunks(items, chunksize))
        return _flat(self._results(partial(run_chunk, fn), chunks, timeout, buffersize))

    def _results(
        self,
        fn: Callable[..., Any],
        items: Iterator[tuple[Any, ...]],
        timeout: float | None,
        ahead: int | None,
    ) -> Iterator[Any]:
        """The results of calls with these arguments, submitted from now on."""
        deadline = Deadline(None if timeout is None else max(timeout, 0))
        futures = deque(self.submit(fn, *args) for args in islice(items, ahead))
        executor = weakref.ref(self)  # the iterator does not keep it

        def results() -> Iterator[Any]:
            try:
                while futures:
                    submitting = executor() if ahead is not None else None
                    if submitting is not None:
                        futures.extend(submitting.submit(fn, *args) for args in islice(items, 1))
                    del submitting
                    yield _result(futures.popleft(), deadline)
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """End the `with`: wait until the calls are done.

        After a Ctrl-C or an exit of the program only the calls that run are waited for: the others
        are cancelled.
        """
        is_leaving = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit)
        self.shutdown(cancel_futures=is_leaving)
        return None

    def terminate_workers(self) -> None:
        """Send SIGTERM to all workers, and shut the executor down without waiting.

        Calls that wait are cancelled, and calls that run fail with `WorkerDied`, unless a worker
        goes on in spite of the signal. As of CPython 3.14.
        """
        self._stop("terminate")

    def kill_workers(self) -> None:
        """Send SIGKILL to all workers, and shut the executor down without waiting.

        Calls that wait are cancelled, and calls that run fail with `WorkerDied`. As of CPython
        3.14.
        """
        self._stop("kill")

    def _stop(self, how: Literal["terminate", "kill"]) -> None:
        if self._is_inherited():
            return  # in a forked child: the workers are the parent's
        self._check_free()
        pool = self._pool
        if pool is not None:
            pool.stop(how)
        self.shutdown(wait=False, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; calls that were submitted still run.

        Args:
            wait: return only when they are done and every worker has ended.
            cancel_futures: cancel the calls that are not running yet.
        """
        if self._is_inherited():
            return  # in a forked child: the workers are the parent's
        self._check_free()
        with self._starting:
            self._is_shut_down = True
            pool, thread = self._pool, self._executor_manager_thread
        if pool is not None:
            pool.shut(cancel_futures)
            if wait and thread is not None:
                thread.join()
        self._executor_manager_thread = None
        self._processes = None


def _check_count(name: str, count: object) -> None:
    if not isinstance(count, int):
        raise TypeError(f"{name} must be an integer, not {count!r}")
    if count < 1:
        raise ValueError(f"{name} must be >= 1, not {count}")


def _result(future: Future[_T], deadline: Deadline) -> _T:
    """Its result; nothing keeps the future, and no call runs that is not waited for."""
    try:
        try:
            left = deadline.remaining()
            return future.result(None if left == inf else left)
        finally:
            future.cancel()
    finally:
        del future  # a traceback must not keep the result


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
