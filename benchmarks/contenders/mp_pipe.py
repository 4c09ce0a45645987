"""multiprocessing.Pipe, its send_bytes and recv_bytes: one way, no pickles."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from contenders.base import Channel, Contender

__all__ = ["CONTENDERS"]


class _Pipe(Channel):
    def make(self) -> None:
        self.reader, self.writer = multiprocessing.Pipe(duplex=False)

    def producer(self) -> Callable[[Any], object]:
        return self.writer.send_bytes

    def consumer(self) -> Callable[[], Any]:
        return self.reader.recv_bytes

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


CONTENDERS = [Contender("multiprocessing.Pipe", _Pipe)]
