"""A SharedDict is a dict: CPython's suite for mappings, and a machine beside a plain dict."""

from __future__ import annotations

import pickle
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shmkit import SharedDict

mapping_tests = pytest.importorskip("test.mapping_tests", reason="this Python has no test package")


class TestAsAMapping(mapping_tests.BasicTestMappingProtocol):  # type: ignore[name-defined,misc]
    """What CPython asks of every mapping."""

    type2test = SharedDict

    def setUp(self) -> None:
        self.made: list[SharedDict] = []

    def tearDown(self) -> None:
        for made in self.made:
            made.close()

    def _empty_mapping(self) -> SharedDict:
        made = SharedDict.create()
        self.made.append(made)
        return made

    def _full_mapping(self, data: dict[Any, Any]) -> SharedDict:
        made = self._empty_mapping()
        made.update(data)
        return made

    def _reference(self) -> dict[Any, Any]:
        return {"1": 2, "key1": "value1", "key2": (1, 2, 3)}

    def test_constructor(self) -> None:
        assert self._empty_mapping() == {}


KEYS = st.one_of(
    st.sampled_from(["a", "b", b"a", 1, 0, (), ("a", 1)]),
    st.integers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.tuples(st.text(max_size=2), st.integers()),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.binary(max_size=200),
    st.lists(st.integers(), max_size=5),
)


class Machine(RuleBasedStateMachine):
    """Two handles on one dict, and a plain dict with the same content."""

    make: Any = None

    @initialize(grow=st.booleans(), capacity=st.sampled_from([8192, 1 << 17]))
    def begin(self, grow: bool, capacity: int) -> None:
        grow = grow or capacity < 1 << 17
        self.model: dict[Any, Any] = {}
        self.first = SharedDict.create(type(self).make(), capacity=capacity, grow=grow)
        self.second = pickle.loads(pickle.dumps(self.first))

    def teardown(self) -> None:
        if hasattr(self, "first"):
            self.second.close()
            self.first.__exit__()

    @rule(key=KEYS, value=VALUES)
    def put(self, key: Any, value: Any) -> None:
        self.first[key] = self.model[key] = value
        assert self.second[key] == value
        assert type(self.second[key]) is type(value)

    @rule(count=st.integers(1, 30), size=st.integers(0, 900))
    def put_many(self, count: int, size: int) -> None:
        new = {number: bytes(size) for number in range(count)}
        self.second.update(new)
        self.model.update(new)

    @rule(key=KEYS)
    def delete(self, key: Any) -> None:
        expected = self.model.pop(key, "none")
        assert self.second.pop(key, "none") == expected
        assert key not in self.first

    @rule(key=KEYS, value=VALUES)
    def set_default(self, key: Any, value: Any) -> None:
        assert self.second.setdefault(key, value) == self.model.setdefault(key, value)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), new=VALUES)
    def compare_and_set(self, data: Any, new: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.model, key=repr)))
        old = self.model[key]
        assert not self.first.compare_and_set(key, ["another"], new)
        assert self.first.compare_and_set(key, old, new)
        self.model[key] = new

    @rule(by=st.integers())
    def increment(self, by: int) -> None:
        old = self.model.get("count", 0)
        if type(old) not in (int, float):  # compare_and_set may make it anything
            with pytest.raises(TypeError):
                self.second.increment("count", by)
            return
        if isinstance(old, float):
            by %= 1000  # a larger one may be no float
        self.model["count"] = old + by
        assert self.second.increment("count", by) == old + by

    @precondition(lambda self: self.model)
    @rule()
    def pop_item(self) -> None:
        key, value = self.first.popitem()
        assert self.model.pop(key) == value

    @rule()
    def clear(self) -> None:
        self.second.clear()
        self.model.clear()

    @rule()
    def attach_again(self) -> None:
        self.second.close()
        self.second = pickle.loads(pickle.dumps(self.first))

    @invariant()
    def same(self) -> None:
        if hasattr(self, "first"):
            assert self.second.copy() == self.model
            assert len(self.first) == len(self.model)
            assert set(self.first) == set(self.model)


def test_beside_a_plain_dict(backend: str, make_where: Any) -> None:
    class Here(Machine):
        make = staticmethod(lambda: make_where(backend))

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=15,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
