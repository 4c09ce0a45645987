"""The models say what the code does, step by step; and Spin finds what it has to."""

from __future__ import annotations

import shutil

import pytest

from shmkit import core
from shmkit.segment import recovery
from shmkit.sync import doorbell, mutex
from shmkit.tools.testing import kill_points
from tests.model import run
from tests.model.run import CASES, HERE, HINT, Case, Outcome, check, choose, main, steps

# Modules of each model, and how their steps begin: the core has those of others, too.
MODELS = {
    "mutex": ((core, mutex, recovery), ("mutex.", "settle.")),
    "bell": ((core, doorbell), ("bell.",)),
}

# Steps that a doorbell does not come to.
EVENTCOUNT = {"bell.count", "bell.pass_on"}

needs_spin = pytest.mark.skipif(not (shutil.which("spin") and shutil.which("gcc")), reason=HINT)


@pytest.mark.parametrize("model", MODELS)
def test_the_steps_of_a_model_are_those_of_the_code(model):
    modules, beginnings = MODELS[model]
    found = {point for point in kill_points(*modules) if point.startswith(beginnings)}
    assert steps(model) == found - EVENTCOUNT


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
    assert main([]) == 2


def test_the_short_run_says_what_it_leaves_out(monkeypatch, capsys):
    done = []

    def know_it(case: Case) -> Outcome:
        done.append(case)
        return Outcome(int(not case.holds), 100, 0.1, 1, "")

    monkeypatch.setattr(run, "check", know_it)
    monkeypatch.setattr(run, "installed", lambda: None)
    assert main([]) == 0
    _, _, said = capsys.readouterr().out.splitlines()[-1].partition(": ")
    assert said.split("; ") == [case.name for case in CASES if case.full]
    assert {case.name for case in done} == {case.name for case in CASES if not case.full}
    done.clear()
    assert main(["--full"]) == 0
    assert {case.name for case in done} == {case.name for case in CASES}
    assert "left" not in capsys.readouterr().out


def test_a_case_that_is_not_as_expected_fails_the_run(monkeypatch, capsys):
    monkeypatch.setattr(run, "check", lambda case: Outcome(int(case.holds), 100, 0.1, 1, ""))
    monkeypatch.setattr(run, "installed", lambda: None)
    assert main(["bell, one producer"]) == 1
    assert "<--" in capsys.readouterr().out


def test_every_promise_is_in_the_short_run():
    """With smaller bounds perhaps; the wide ones are for the full run."""
    for model in MODELS:
        assert any(case.holds for case in choose([], full=False) if case.model == model)
    assert any(case.holds and case.progress for case in choose([], full=False))
    with pytest.raises(SystemExit, match="no case"):
        choose(["nonsense"], full=True)
