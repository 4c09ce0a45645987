"""Buffers of every kind and access."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from shmkit import SharedBuffer

# How long an example takes is the machine's business, not the test's.
settings.register_profile("memory", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("memory")


@pytest.fixture(params=["r", "rw", "cow"])
def access(request: pytest.FixtureRequest) -> str:
    """Each access in turn."""
    return str(request.param)


@pytest.fixture
def make_buffer(where: Any) -> Iterator[Callable[..., SharedBuffer]]:
    """Make a buffer with a given content; it is unlinked at the end of the test."""
    with ExitStack() as stack:

        def make(content: bytes | int) -> SharedBuffer:
            size = content if isinstance(content, int) else len(content)
            buffer = stack.enter_context(SharedBuffer.create(where, size))
            stack.callback(buffer.unlink)
            if isinstance(content, bytes):
                buffer[:] = content
            return buffer

        yield make
