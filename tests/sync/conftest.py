"""Fixtures of the tests of what lets processes wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sync.peers import WAYS, Family, by_name


@pytest.fixture(params=WAYS)
def family(
    request: pytest.FixtureRequest, unique_name: Callable[[], str], monkeypatch: Any
) -> Iterator[Family]:
    """Processes that share a lock or an event, in each way in turn."""
    if "named semaphores" in request.param:
        by_name(monkeypatch)
    made = Family(request.param, unique_name)
    yield made
    made.close()


@pytest.fixture(params=["fork", "unrelated"])
def kin(request: pytest.FixtureRequest, unique_name: Callable[[], str]) -> Iterator[Family]:
    """The same in two ways: forked, and strangers that know a name."""
    made = Family(request.param, unique_name)
    yield made
    made.close()


@pytest.fixture(params=["anonymous", "named", "named semaphores"])
def name(request: Any, unique_name: Any, monkeypatch: Any) -> str | None:
    """A name for a lock or an event, or None; and a name with semaphores that have names, too."""
    if request.param == "named semaphores":
        by_name(monkeypatch)
    return None if request.param == "anonymous" else unique_name()
