"""What workers do in the tests of executors."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from shmkit import ProcessPoolExecutor
from tests.processes import wait_until

SECONDS = 20  # for one result


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def double(number: int) -> int:
    return 2 * number


def divide(one: float, other: float) -> float:
    return one / other


def rebind(name: str, other: str) -> None:
    globals()[name] = globals()[other]


def fail(error: BaseException) -> None:
    raise error


def wait_for(gate: Path) -> int:
    wait_until(gate.exists)
    return os.getpid()


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(status: int) -> None:
    os._exit(status)


STATE = "fresh"


def prepare(state: str) -> None:
    global STATE
    STATE = state


def state() -> str:
    return STATE


class TwoArguments(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, one, other) -> None:
        super().__init__(f"{one} and {other}")


class Unpicklable:
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("not this one")


class Broken:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return fail, (LookupError("not here"),)


def make_unpicklable() -> Unpicklable:
    return Unpicklable()


def make_broken(size: int) -> list[Any]:
    return [np.zeros(size, np.uint8), Broken()]


def raise_unpicklable() -> None:
    error = RuntimeError("it was this")
    error.attachment = Unpicklable()  # type: ignore[attr-defined]
    raise error


def raise_two_arguments() -> None:
    raise TwoArguments(1, 2)


def nest() -> int:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as inner:
        return inner.submit(double, 4).result(SECONDS)
