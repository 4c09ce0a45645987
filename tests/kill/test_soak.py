"""The soak, for a few seconds; `make soak SECONDS=300` is the real one."""

from __future__ import annotations

import sys

import pytest

from tests.kill.ledger import make_frame
from tests.kill.soak import Counts, Report, _account, hidden, main, soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its names are looked for in /dev")


@pytest.mark.slow
def test_a_short_soak(where):
    report = soak(2, where, pace=0.02)

    assert report.good, report
    assert report.killed > 10
    assert report.stops > 0
    assert report.messages > 1000


def test_it_prints_what_came_of_it(capsys):
    assert main(["--seconds", "0.5", "--where", "shm", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed 1, 0.5 s, shm"
    assert lines[-1] == "ok"
    assert any(line.startswith("lost                  0") for line in lines)


@pytest.mark.parametrize(
    ("came", "field", "found"),
    [([0, 1, 3], "lost", 1), ([0, 1, 2, 3], "lost", 0), ([0, 1, 1, 2, 3], "again", 1)],
)
def test_it_can_fail(came, field, found):
    counts, report = Counts(), Report()
    hidden.clear()
    counts.end(0, counts.begin(0, 4) + 4)
    for number in came:
        counts.note(2, make_frame(0, number, 30))
    _account(report, counts)
    assert getattr(report, field) == found
    assert report.good == (found == 0)


def test_it_knows_a_torn_frame():
    counts, report = Counts(), Report()
    hidden.clear()
    counts.end(1, counts.begin(1, 1) + 1)
    counts.note(0, make_frame(1, 0, 30))
    counts.note(0, make_frame(1, 0, 30)[:-1] + b"?")
    _account(report, counts)
    assert report.torn == 1
    assert not report.good
