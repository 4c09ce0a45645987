"""One file per contender. A library that is not here or does not load is named with the reason."""

from __future__ import annotations

from options import import_each

from contenders.base import Channel, Contender, Program

__all__ = ["FILES", "Channel", "Contender", "Program", "load"]

FILES = {
    "ring": "shmkit",
    "mp_queue": "multiprocessing.Queue",
    "mp_simple_queue": "multiprocessing.SimpleQueue",
    "mp_pipe": "multiprocessing.Pipe",
    "zmq_ipc": "pyzmq",
    "fifo": "faster-fifo",
    "iox": "iceoryx2",
    "posix_mq": "posix_ipc.MessageQueue",
    "raw_c": "raw C",
}


def load() -> tuple[list[Contender], dict[str, str]]:
    """Import every contender.

    Returns:
        Those that are here, and for each library (or part of one) that is not, the reason.
    """
    modules, missing = import_each(__name__, FILES)
    for module in modules:
        missing |= getattr(module, "SKIPPED", {})
    return [contender for module in modules for contender in module.CONTENDERS], missing
