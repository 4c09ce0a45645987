"""The loop in a worker process: take a call, run it, put its result.

A call is pickled as `(function, args, kwargs)`; or, because a pickler takes its time to look a
function up and an unpickler to import it, as `(module, name, args, kwargs)`, where the function is
found in a module by its name. That is what a pickle of it says, too.

A result is `(id, kind, value)`, pickled as one object; `number_of` reads the id even of a result
that does not unpickle. An exception that a call raised is pickled by itself, and put into the
result beside its traceback as text: if it does not unpickle, the text is still there.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import pickletools
import sys
from time import monotonic
from traceback import format_exception
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.objects.codec import encode, load
from shmkit.errors import ClosedError, PeerDied, ShutDown
from shmkit.segment.words import NOTE_READY, NOTE_STARTED, NOTE_TAKEN
from shmkit.work.calls import Notes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shmkit.channels.objects.codec import Encoded, Received
    from shmkit.memory.buffer import SharedBuffer
    from shmkit.work.calls import CallRing, ResultRing

__all__ = [
    "BROKEN",
    "FAILED",
    "LAST",
    "RETURNED",
    "WAKE",
    "Task",
    "number_of",
    "revive",
    "run_chunk",
    "task_of",
    "unpack",
    "unreadable",
    "work",
]

# Kinds of results.
RETURNED: Final = 0
FAILED: Final = 1  # the value is (the pickled exception, its traceback)
LAST: Final = 2  # added to one of these two: the worker ends after it
BROKEN: Final = 4  # not of a call: the initializer failed, the value is its traceback
WAKE: Final = 5  # not of a call: the collector is to look at its orders

LOOK: Final = 0.001  # seconds; so often at most a busy worker looks whether its pool is gone

Args = tuple[Any, ...]
Task = tuple[Any, Args, dict[str, Any]] | tuple[str, str, Args, dict[str, Any]]
"""What a call is a pickle of."""

# How a ring tells a worker that the pool has ended.
_END: Final = (ShutDown, PeerDied, ClosedError)


def work(
    calls: CallRing,
    results: ResultRing,
    memory: SharedBuffer,
    slot: int,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    most_calls: int | None,
) -> None:
    """Run calls until the pool is shut down or the parent is gone: what a worker process runs.

    Args:
        calls: where calls come from.
        results: where results go.
        memory: the workers' notes.
        slot: which of them is this worker's.
        initializer: called first; None for nothing.
        initargs: its arguments.
        most_calls: how many calls to run before leaving; None for any number.
    """
    with calls, results, memory:
        if calls.is_orphaned():
            return  # a wait for calls would not be told: it was dead when this process joined
        if initializer is not None:
            try:
                initializer(*initargs)
            except BaseException as error:
                # As the standard library's executor logs it.
                logging.getLogger("concurrent.futures").critical(
                    "Exception in initializer:", exc_info=True
                )
                results.put_encoded(encode((0, BROKEN, _text(error))))
                return
        note = Notes(memory).own(slot)
        calls.note_in(note)
        note[NOTE_READY] = 1
        try:
            _loop(calls, results, note, most_calls)
        except KeyboardInterrupt:
            return  # between two calls: another worker gets a call that was taken and not started
        except _END:
            return


def _loop(
    calls: CallRing, results: ResultRing, note: memoryview[int], most_calls: int | None
) -> None:
    left = -1 if most_calls is None else most_calls
    writer = results.cursors[0]
    looked = 0.0
    while left:
        left -= 1
        last = 0 if left else LAST
        before = note[NOTE_TAKEN]
        try:
            frame = calls.take()
        except _END:
            raise
        except Exception as error:
            if note[NOTE_TAKEN] == before:
                raise  # no call was taken: it is not the error of one
            note[NOTE_STARTED] = number = note[NOTE_TAKEN]
            error.add_note(f"the call is lost: worker {os.getpid()} could not take it whole")
            content = _encode_failure(number, last, error)
        else:
            # What was in the ring when the owner was killed is not to be begun.
            now = monotonic()
            if now - looked > LOOK:
                looked = now
                if calls.is_orphaned():
                    return
            note[NOTE_STARTED] = number = note[NOTE_TAKEN]  # step: call.started
            content = _run(number, last, frame)
            del frame
        try:
            # The common case is one call: a small result, and room for it.
            if type(content) is not bytes or not writer.put(content):  # step: call.result
                results.put_encoded(content)
        except OSError as error:
            if isinstance(error, PeerDied):
                raise  # the collector's process is dead
            # No room for a large result: the call fails, and the worker goes on.
            results.put_encoded(_encode_failure(number, last, error))
        # Nothing of this call is kept during the next wait.
        del content


def _run(number: int, last: int, frame: bytes | Received) -> bytes | Encoded:
    """Run one call, and encode its result."""
    is_called = False
    try:
        function, args, kwargs = _call_in(unpack(frame))
        is_called = True
        result = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - passed to the future
        if not is_called:
            error.add_note(f"the call did not unpickle in worker process {os.getpid()}")
        return _encode_failure(number, last, error)
    try:
        return encode((number, RETURNED | last, result))
    except BaseException as error:  # noqa: BLE001 - passed to the future
        return _encode_failure(number, last, error)


def task_of(function: Callable[..., Any], args: Args, kwargs: dict[str, Any]) -> Task:
    """What to pickle of a call."""
    # Only what a pickler, too, sends by its name, whatever reducers there are: functions. If it is
    # not found under its name, the pickler says why.
    if type(function) is FunctionType:
        module, name = function.__module__, function.__qualname__
        if type(module) is str and _function_at(module, name) is function:
            return module, name, args, kwargs
    return function, args, kwargs


def _call_in(task: Task) -> tuple[Any, Args, dict[str, Any]]:
    """Function, arguments and keyword arguments of a call."""
    if len(task) == 3:
        return task
    module, name, args, kwargs = task
    function = _function_at(module, name)
    if function is None:  # to be imported, or an error: as the unpickler does it
        function = pickle.Unpickler(io.BytesIO(), fix_imports=False).find_class(module, name)
    return function, args, kwargs


def _function_at(module: str, name: str) -> Any:
    """What a module that is loaded has under a name; None if there is nothing."""
    found = sys.modules.get(module)
    # What is no module may stand there, too: the pickler is to deal with it.
    return found.__dict__.get(name) if isinstance(found, ModuleType) else None


def _encode_failure(number: int, last: int, error: BaseException) -> bytes | Encoded:
    text = _text(error)
    error.__traceback__ = None  # its frames keep the arguments alive
    try:
        packed = pickle.dumps(error)
    except BaseException as reason:  # noqa: BLE001 - passed to the future
        reason.add_note(f"what the call raised does not pickle:\n{text}")
        text = _text(reason)
        reason.__traceback__ = reason.__context__ = None
        packed = pickle.dumps(reason)
    return encode((number, FAILED | last, (packed, text)))


def _text(error: BaseException) -> str:
    return "".join(format_exception(error))


def revive(failure: tuple[bytes, str]) -> BaseException:
    """The exception that a call raised, with the remote traceback as its cause.

    Args:
        failure: the value of a result whose kind is FAILED.

    Returns:
        The exception, or one that says why it does not unpickle.
    """
    from concurrent.futures.process import _RemoteTraceback

    packed, text = failure
    try:
        error: BaseException = pickle.loads(packed)
        if not isinstance(error, BaseException):
            raise TypeError(f"it unpickles to {error!r}")
    except BaseException as reason:  # noqa: BLE001 - passed to the future
        error = pickle.UnpicklingError(
            f"what the call raised does not unpickle here ({type(reason).__name__}: {reason}); "
            "its traceback is the cause of this"
        )
    error.__cause__ = _RemoteTraceback(f'\n"""\n{text}"""')  # type: ignore[arg-type]
    return error


def unpack(frame: bytes | Received) -> Any:
    """Unpickle a call or a result that a ring gave."""
    return load(frame) if isinstance(frame, bytes) else frame.load()


def unreadable(reason: BaseException) -> BaseException:
    """Make the exception for a call whose result does not unpickle.

    Args:
        reason: what unpickling raised.
    """
    error = pickle.UnpicklingError(
        f"what the call returned does not unpickle here ({type(reason).__name__}: {reason})"
    )
    error.__cause__ = reason
    return error


def number_of(frame: bytes | Received) -> int:
    """The id of a result that does not unpickle: the first integer its pickle puts on the stack."""
    stream = frame if isinstance(frame, bytes) else frame._stream
    for opcode, argument, _ in pickletools.genops(stream):
        if isinstance(argument, int) and opcode.name not in ("PROTO", "FRAME"):
            return argument
    return 0


def run_chunk(function: Callable[..., Any], chunk: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call a function for each tuple of arguments: one call of the pool for a chunk of `map`."""
    return [function(*args) for args in chunk]
