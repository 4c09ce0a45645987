"""posix_ipc.MessageQueue: the kernel's message queues, as deep as the system lets anybody have."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import posix_ipc

from contenders.base import SMALL, Channel, Contender

__all__ = ["CONTENDERS"]

if not posix_ipc.MESSAGE_QUEUES_SUPPORTED:
    raise ImportError("this system has no message queues")

_LIMIT = Path("/proc/sys/fs/mqueue/msg_max")


class _Messages(Channel):
    def make(self) -> None:
        depth = int(_LIMIT.read_text()) if _LIMIT.exists() else 10
        self.queue = posix_ipc.MessageQueue(
            f"/shmkit-bench-{uuid.uuid4().hex}",
            posix_ipc.O_CREX,
            max_messages=depth,
            max_message_size=self.size,
        )
        self.queue.unlink()

    def producer(self) -> Callable[[Any], object]:
        send: Callable[[Any], object] = self.queue.send
        return send

    def consumer(self) -> Callable[[], Any]:
        receive = self.queue.receive

        def get() -> bytes:
            data: bytes = receive()[0]
            return data

        return get

    def close(self) -> None:
        self.queue.close()


CONTENDERS = [Contender("posix_ipc.MessageQueue", _Messages, sizes=SMALL)]
