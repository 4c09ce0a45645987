"""One file per contender. A library that is not here or does not load is named with the reason."""

from __future__ import annotations

import importlib

from contenders.base import Channel, Contender

__all__ = ["FILES", "Channel", "Contender", "load"]

FILES = {
    "ring": "shmkit",
    "mp_queue": "multiprocessing.Queue",
    "mp_simple_queue": "multiprocessing.SimpleQueue",
    "mp_pipe": "multiprocessing.Pipe",
    "zmq_ipc": "pyzmq",
    "fifo": "faster-fifo",
    "iox": "iceoryx2",
    "posix_mq": "posix_ipc.MessageQueue",
}


def load() -> tuple[list[Contender], dict[str, str]]:
    """Import every contender.

    Returns:
        Those that are here, and for each library (or part of one) that is not, the reason.
    """
    found: list[Contender] = []
    missing: dict[str, str] = {}
    for file, library in FILES.items():
        try:
            module = importlib.import_module(f"contenders.{file}")
        except (ImportError, OSError, AttributeError) as error:
            missing[library] = f"{type(error).__name__}: {error}"
        else:
            found += module.CONTENDERS
            missing |= getattr(module, "SKIPPED", {})
    return found, missing
