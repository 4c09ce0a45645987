"""pickled: the type of a pickled object, told without running the pickle."""

from __future__ import annotations

import collections
import datetime as dt
import os
import pickle
import random

import pytest

from shmkit.errors import Full
from shmkit.tools.inspection.pickled import type_of

OBJECTS = [
    (None, "NoneType"),
    (True, "bool"),
    (3, "int"),
    (1 << 80, "int"),
    (1.5, "float"),
    ("text", "str"),
    (b"bytes", "bytes"),
    (bytearray(b"x"), "bytearray"),
    ((1, (2, 3)), "tuple"),
    ([[1], {2: 3}], "list"),
    ({"a": [1, 2]}, "dict"),
    ({1, 2}, "set"),
    (frozenset([1]), "frozenset"),
    (1j, "complex"),
    (range(3), "range"),
    (ValueError("x"), "ValueError"),
    (dt.date(2020, 1, 2), "datetime.date"),
    (collections.OrderedDict(a=1), "collections.OrderedDict"),
    (Full("x"), "shmkit.errors.Full"),
    (int, "type"),
]


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(("obj", "name"), OBJECTS, ids=[name for _, name in OBJECTS])
def test_the_type_of_a_pickle_is_told(obj, name, protocol) -> None:
    assert type_of(pickle.dumps(obj, protocol)) == name


def test_of_a_pickle_that_is_cut_off_the_outermost_type_is_told() -> None:
    whole = pickle.dumps({"key": list(range(100_000))})
    assert type_of(whole[:5000]) == "dict"


class Trap:
    """Loading it ends the process."""

    def __reduce__(self):
        return os.abort, ()


def test_nothing_in_the_pickle_is_called() -> None:
    assert type_of(pickle.dumps(Trap())) == "posix.abort"


def test_any_bytes_have_an_answer() -> None:
    chance = random.Random(1)
    whole = [pickle.dumps(obj, protocol) for obj, _ in OBJECTS for protocol in (0, 2, 5)]
    for _ in range(1500):
        mutant = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(4)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        assert isinstance(type_of(bytes(mutant)), str)
        assert isinstance(type_of(chance.randbytes(chance.randrange(60))), str)


def test_a_name_that_doubles_with_each_opcode_stays_short() -> None:
    bomb = b"\x80\x05\x8c\x01a" + b"2\x93" * 200 + b"."
    assert len(type_of(bomb)) <= 210
