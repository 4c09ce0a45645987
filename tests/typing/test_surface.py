"""What type checkers are told is what there is; `make types` has them read api.py."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

import pytest

import shmkit
from shmkit.channels.fanout.subscription import Subscription
from shmkit.channels.ring.options import Policy
from shmkit.memory import views
from shmkit.memory.mapping import _ACCESS, Access
from shmkit.memory.records import Records
from shmkit.segment.words import POLICIES

API = Path(__file__).with_name("api.py").read_text()
PUBLIC = [value for name in shmkit.__all__ if inspect.isclass(value := getattr(shmkit, name))]
USED = [kind for kind in PUBLIC if not issubclass(kind, BaseException | shmkit.Acquired)]


@pytest.mark.parametrize("name", shmkit.__all__)
def test_every_public_name_is_used(name) -> None:
    assert len(re.findall(rf"\b{name}\b", API)) > 1, name


@pytest.mark.parametrize("kind", [*USED, Subscription, Records])
def test_every_public_attribute_is_used(kind) -> None:
    names = {name for name in dir(kind) if not name.startswith("_")}
    if kind is shmkit.SharedArray:
        names -= set(dir(__import__("numpy").ndarray)) - set(vars(kind))
    assert not {name for name in names if not re.search(rf"\.{name}\b", API)}


def test_choices_are_those_of_the_run_time() -> None:
    assert get_args(Policy) == POLICIES
    assert get_args(Access) == tuple(_ACCESS)
    codes = [
        code
        for kind in (views.IntFormat, views.FloatFormat, views.BytesFormat, views.BoolFormat)
        for code in get_args(kind)
    ]
    assert sorted(codes) == sorted([*views._FORMATS, *(f"@{code}" for code in views._FORMATS)])
