"""Processes by fork: the ledger and the ring come to them as they are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from tests.processes import reap


@pytest.fixture
def start_process_fork() -> Iterator[Callable[..., BaseProcess]]:
    """Start a process that runs `target(*args)`; at the end of the test it is killed."""
    context = multiprocessing.get_context("fork")
    started: list[BaseProcess] = []

    def start(target: Callable[..., Any], *args: Any) -> BaseProcess:
        process = context.Process(target=target, args=args)
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        reap(process)
