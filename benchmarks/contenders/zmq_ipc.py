"""pyzmq: push to pull over ipc, each process with a context and its I/O thread."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from contenders.base import Channel, Contender

__all__ = ["CONTENDERS"]


class _PushPull(Channel):
    def make(self) -> None:
        self.home = tempfile.TemporaryDirectory(prefix="shmkit-bench-")
        self.address = f"ipc://{Path(self.home.name, 'socket')}"
        # ZeroMQ counts frames, on either side. Below its default of 1000 small frames are slower.
        self.mark = max(4, min(self.room // self.size, 1000))
        self.context: Any = None

    def _socket(self, kind: int) -> Any:
        self.context = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.set_hwm(self.mark)
        return self.socket

    def producer(self) -> Callable[[Any], object]:
        socket = self._socket(zmq.PUSH)
        socket.connect(self.address)
        send: Callable[[Any], object] = socket.send
        return send

    def consumer(self) -> Callable[[], Any]:
        socket = self._socket(zmq.PULL)
        socket.bind(self.address)
        receive: Callable[[], Any] = socket.recv
        return receive

    def finish(self) -> None:
        self.socket.close(linger=10_000)
        self.context.term()

    def close(self) -> None:
        self.home.cleanup()


CONTENDERS = [Contender("pyzmq ipc", _PushPull)]
