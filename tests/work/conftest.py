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
    """Have the helper of forkserver started before a test looks at what is left behind."""
    process = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    process.start()
    process.join()


@pytest.fixture
def gate(tmp_path) -> Path:
    """A file to wait for; it is not there yet."""
    return Path(tmp_path) / "open"


@pytest.fixture
def ours(context: BaseContext) -> Iterator[ProcessPoolExecutor]:
    """A pool of two workers of shmkit's, under each start method."""
    with ProcessPoolExecutor(2, context) as executor:
        yield executor


@pytest.fixture
def quick() -> Iterator[ProcessPoolExecutor]:
    """A pool of two forked workers of shmkit's."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
        yield executor
