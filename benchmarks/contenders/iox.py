"""iceoryx2: samples lent from shared memory, copied in and out here; its receiver is polled.

`receive` does not wait, so a core spins on it. Samples are delivered without loss: no overflow, and
a publisher that tries again until there is room.
"""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Callable
from typing import Any

import iceoryx2 as iox2

from contenders.base import Channel, Contender

__all__ = ["CONTENDERS"]


class _Samples(Channel):
    def make(self) -> None:
        self.slots = max(4, min(self.room // self.size, 1000))
        self.name = f"shmkit-bench-{uuid.uuid4().hex}"
        self.parts: list[Any] = []

    def _service(self) -> Any:
        iox2.set_log_level(iox2.LogLevel.Error)
        builder = iox2.NodeBuilder.new()
        builder = builder.signal_handling_mode(iox2.SignalHandlingMode.Disabled)
        node = builder.create(iox2.ServiceType.Ipc)
        service = (
            node.service_builder(iox2.ServiceName.new(self.name))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(self.slots)
            .open_or_create()
        )
        self.parts += [node, service]
        return service

    def producer(self) -> Callable[[Any], object]:
        publisher = (
            self._service()
            .publisher_builder()
            .initial_max_slice_len(self.size)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self.parts.append(publisher)
        loan, copy = publisher.loan_slice_uninit, ctypes.memmove

        def put(data: bytes) -> None:
            size, receivers = len(data), 0
            while not receivers:  # a full buffer waits, but not before the subscriber looked once
                sample = loan(size)
                copy(sample.payload_ptr, data, size)
                receivers = sample.assume_init().send()

        return put

    def consumer(self) -> Callable[[], Any]:
        subscriber = self._service().subscriber_builder().create()
        self.parts.append(subscriber)
        receive, copy = subscriber.receive, ctypes.string_at

        def get() -> bytes:
            sample = receive()
            while sample is None:
                sample = receive()
            return copy(sample.payload_ptr, sample.header.number_of_elements)

        return get

    def finish(self) -> None:
        while self.parts:
            del self.parts[-1]


CONTENDERS = [Contender("iceoryx2, polled", _Samples)]
