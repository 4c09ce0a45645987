"""Every exception crosses between processes whole: its text, its fields, its cause."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import shmkit
from shmkit import errors

FIELDS: dict[str, dict[str, Any]] = {
    "ShmkitError": {},
    "ClosedError": {},
    "Full": {},
    "Empty": {},
    "ShutDown": {},
    "PeerDied": {"pid": 12, "role": "producer"},
    "RoleTaken": {"pid": 12, "role": "consumer"},
    "FrameTooLarge": {"size": 5000, "limit": 4080},
    "IncompatibleSegment": {"where": "shm:x"},
    "CorruptSegment": {"where": "shm:x", "detail": "tail 5"},
    "WorkerDied": {"pid": 12, "exitcode": -9},
}


def make(name: str) -> BaseException:
    cls = getattr(errors, name)
    error: BaseException = (
        cls(**FIELDS[name]) if name == "WorkerDied" else cls("cause: remedy", **FIELDS[name])
    )
    return error


def test_these_are_all() -> None:
    assert sorted(FIELDS) == sorted(errors.__all__)
    assert set(FIELDS) <= set(shmkit.__all__)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_pickles_whole(name: str, protocol: int) -> None:
    error = make(name)
    error.__cause__ = KeyError("why")
    error.add_note("while it was tried")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert {field: getattr(again, field) for field in FIELDS[name]} == FIELDS[name]
    assert again.__notes__ == ["while it was tried"]
    assert repr(again.__cause__) == repr(error.__cause__)


@pytest.mark.parametrize("name", FIELDS)
def test_it_copies_whole(name: str) -> None:
    error = make(name)
    again = copy.copy(error)
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


class _NeedsTwo(Exception):
    """It pickles, and does not unpickle, as many exceptions."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_a_cause_that_does_not_pickle_is_left_out() -> None:
    error = errors.PeerDied("gone", pid=3, role="producer")
    for cause in ValueError(lambda: None), _NeedsTwo("a", "b"):
        error.__cause__ = cause
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.pid, again.__cause__) == ("gone", 3, None)
