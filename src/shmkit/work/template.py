r"""Template: a process without threads, from which a pool's later workers are forked.

A fork copies one thread. A lock that another thread had at that moment, such as that of a file that
it was writing to, stays locked in the child for ever. A pool has a thread, and the program may have
more by the time a worker has to be replaced. So a pool that forks its workers forks one process
more, before it starts its own thread, and that one does nothing but fork:

    pool                         template                       worker
    slot, a pipe's end --------> fork ------------------------> work(...)
    pid, exit status   <-------- writes them into the pipe <--- ends

This is what multiprocessing's fork server does, from an interpreter of its own; a template has what
the program had at its first call: its functions, lambdas and data.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import weakref
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import forkserver, popen_forkserver, util
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import BaseContext

__all__ = ["Template", "calm_logging"]

_REQUEST: Final = 32  # bytes at most: the number of a slot
_PATIENCE: Final = 1.0  # seconds to wait for the lock of a log's handler; a fork comes all the same

_templates: Final[weakref.WeakSet[Template]] = weakref.WeakSet()


class Template:
    """A process from which others are forked; made under the start method "fork".

    Args:
        context: of `multiprocessing`, with that start method.
        work: what each of the others runs: it is called with the number of a slot.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, context: BaseContext, work: Callable[[int], object]) -> None:
        self._requests, theirs = socket.socketpair()
        try:
            with theirs:
                self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]
                    target=_serve, args=(context, theirs, self._requests, work)
                )
                with calm_logging():
                    self._process.start()
        except BaseException:
            self._requests.close()
            raise
        _templates.add(self)

    def process(self, slot: int) -> BaseProcess:
        """A process that is forked from the template when it is started.

        Its `start` raises OSError if none can be forked, or the template is gone.
        """
        return ForkProcess(self._requests, slot)

    @property
    def is_alive(self) -> bool:
        """Whether it has not been killed."""
        return self._process.is_alive()

    def close(self) -> None:
        """End it, when the processes that were forked from it have ended."""
        _templates.discard(self)
        self._requests.close()
        self._process.join()
        self._process.close()


class ForkProcess(BaseProcess):
    """A worker that a template forked: a process to its pool, although no child of this one."""

    def __init__(self, requests: socket.socket, slot: int) -> None:
        super().__init__()
        self.request = requests, slot

    @staticmethod
    def _Popen(process: ForkProcess) -> _Popen:  # noqa: N802 - as in multiprocessing
        return _Popen(process)


class _Popen(popen_forkserver.Popen):
    """As that of a fork server; a pipe tells the process's id first, and its exit status last."""

    def _launch(self, process: ForkProcess) -> None:
        requests, slot = process.request
        self.sentinel, theirs = os.pipe()
        self.finalizer = util.Finalize(self, os.close, (self.sentinel,))
        try:
            socket.send_fds(requests, [b"%d" % slot], [theirs])
        finally:
            os.close(theirs)
        try:
            pid = forkserver.read_signed(self.sentinel)
        except EOFError:
            raise ChildProcessError("the process that forks workers is gone") from None
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        self.pid = pid


def _serve(
    context: BaseContext,
    requests: socket.socket,
    theirs: socket.socket,
    work: Callable[[int], object],
) -> None:
    """Fork processes until the pool's end of the socket is closed: what a template runs."""
    theirs.close()
    # A Ctrl-C is for the workers, and no handler of the program's is to run twice.
    handlers = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    running: dict[Any, tuple[BaseProcess, int]] = {}  # by sentinels

    def run(slot: int, own: int) -> None:
        requests.close()
        for _, pipe in running.values():
            if pipe != own:  # the end of a pipe tells the end of its worker, should this one die
                os.close(pipe)
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        work(slot)

    while True:
        for ready in wait([requests, *running]):
            if ready is not requests:
                process, pipe = running.pop(ready)
                process.join()
                _tell(pipe, process.exitcode or 0)
                process.close()
                os.close(pipe)
                continue
            message, pipes, _, _ = socket.recv_fds(requests, _REQUEST, 1)
            if not message:
                return  # Python waits for the workers that are left
            [pipe] = pipes
            process = context.Process(  # type: ignore[attr-defined]
                target=run, args=(int(message), pipe)
            )
            try:
                process.start()
            except OSError as error:
                _tell(pipe, -(error.errno or 1))
                os.close(pipe)
            else:
                running[process.sentinel] = process, pipe
                _tell(pipe, process.pid or 0)


def _tell(pipe: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the pool is gone
        forkserver.write_signed(pipe, number)


@contextmanager
def calm_logging() -> Iterator[None]:
    """Fork inside this while no other thread is writing to a log.

    Python gives the handlers of `logging` new locks in a child, but not the files that they write
    to: those stay locked there if another thread was inside one.
    """
    with ExitStack() as locks:
        for reference in list(logging._handlerList):  # type: ignore[attr-defined]
            lock = getattr(reference(), "lock", None)
            if lock is not None and lock.acquire(timeout=_PATIENCE):
                locks.callback(lock.release)
        yield


def _in_forked_child() -> None:
    """Close the pool's ends: a template would not see its pool end while a child has one."""
    for template in list(_templates):
        with suppress(OSError):
            template._requests.close()
    _templates.clear()


os.register_at_fork(after_in_child=_in_forked_child)
