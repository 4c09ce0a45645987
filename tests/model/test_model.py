"""The models say what the code does, step by step; and Spin finds what it has to."""

from __future__ import annotations

import shutil

import pytest

from shmkit.sync import evidence, mutex, waiting
from shmkit.tools.testing import kill_points
from tests.model.run import CASES, HERE, HINT, Case, check, steps

MODELS = {"mutex": (mutex, evidence), "bell": (waiting,)}

needs_spin = pytest.mark.skipif(not (shutil.which("spin") and shutil.which("gcc")), reason=HINT)


@pytest.mark.parametrize("model", MODELS)
def test_the_steps_of_a_model_are_those_of_the_code(model):
    assert steps(model) == {point for module in MODELS[model] for point in kill_points(module)}


def test_every_model_is_checked():
    assert {case.model for case in CASES} == {path.stem for path in HERE.glob("*.pml")}
    assert {case.model for case in CASES} == set(MODELS)


@needs_spin
@pytest.mark.parametrize("case", [case for case in CASES if case.quick], ids=lambda case: case.name)
def test_spin_finds_what_it_has_to(case: Case):
    outcome = check(case)

    assert outcome.states > 10
    assert (outcome.errors == 0) == case.holds, outcome.text


def test_without_spin_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="apt-get install spin"):
        check(CASES[0])
