"""Executors under test, and what their workers wait for."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from shmkit import ProcessPoolExecutor


@pytest.fixture(scope="module")
def forkserver() -> None:
    """Start the fork server before a test, which would count it as a child left behind."""
    process = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    process.start()
    process.join()


@pytest.fixture
def gate(tmp_path) -> Path:
    """A file to wait for; it is not there yet."""
    return Path(tmp_path) / "open"


@pytest.fixture
def ours(context: BaseContext) -> Iterator[ProcessPoolExecutor]:
    """A pool of shmkit, with two workers, under each start method."""
    with ProcessPoolExecutor(2, context) as executor:
        yield executor


@pytest.fixture
def quick() -> Iterator[ProcessPoolExecutor]:
    """A pool of shmkit, with two forked workers."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
        yield executor
