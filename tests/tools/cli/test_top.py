"""`shmkit top`: what is sampled, what is shown in 80 columns, and what the keys do."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Input, Static
from typer.testing import CliRunner

import shmkit
from shmkit.tools.cli._app import app
from shmkit.tools.cli.rows import COLUMNS, cells, in_order, line, titles
from shmkit.tools.cli.screen import Top
from shmkit.tools.sampling import Row, Sampler


def row(where: str, **changes: Any) -> Row:
    """A row of a ring on which nothing happens."""
    plain: dict[str, Any] = {
        "where": where,
        "kind": "ring",
        "status": "live",
        "rate": 0.0,
        "rate_is_exact": True,
        "megabytes": 0.0,
        "depth": 0.0,
        "history": (0.0,),
        "waits": 0,
        "lost": 0,
        "dead": 0,
        "cpu": 0.0,
        "pids": (1,),
        "wrong": (),
    }
    return Row(**{**plain, **changes})


class Given:
    """A sampler that gives what it was given."""

    def __init__(self, *rows: Row) -> None:
        self.rows, self.samples = list(rows), 0

    def sample(self) -> list[Row]:
        self.samples += 1
        return self.rows


BUSY = row(
    "shm:busy",
    rate=123_456.0,
    megabytes=789.0,
    depth=0.75,
    history=(0.0, 0.5, 1.0),
    waits=12,
    lost=98_765,
    dead=3,
    cpu=199.0,
)


def drive(act: Callable[[Top, Any], Awaitable[None]], *rows: Row, width: int = 80) -> Given:
    """Run the screen without a terminal, and act on it."""
    sampler = Given(*rows)

    async def run() -> None:
        screen = Top(sampler, 3600)  # type: ignore[arg-type]
        async with screen.run_test(size=(width, 24)) as pilot:
            await pilot.pause()
            await act(screen, pilot)

    asyncio.run(run())
    return sampler


def names(screen: Top) -> list[str]:
    """The names in the table, from above."""
    table = screen.screen_stack[0].query_one(DataTable)
    assert table.row_count == len(screen._shown)
    for place, each in enumerate(screen._shown):
        name = str(table.get_cell_at(Coordinate(place, 0))).split()[0]
        assert name.lstrip("…") in each.where
    return [each.where for each in screen._shown]


def test_a_ring_is_sampled(unique_name) -> None:
    """Rate, megabytes, depth, CPU: between two looks."""
    sampler = Sampler(cpu=lambda pid: 50.0 if pid == os.getpid() else None)
    with shmkit.Ring.create(unique_name, capacity=1 << 16) as ring:

        def look() -> Row:
            (found,) = [each for each in sampler.sample() if each.where == f"shm:{unique_name}"]
            return found

        first = look()
        assert (first.rate, first.megabytes, first.depth) == (None, None, 0)
        began = time.monotonic()
        ring.put_many([bytes(1008)] * 32)
        second = look()
        assert time.monotonic() - began > 0
        assert second.depth == 0.5
        assert second.history == (0, 0.5)
        assert second.megabytes is not None
        assert second.rate is not None
        assert second.megabytes * 1e6 / second.rate == pytest.approx(1024)
        assert (second.rate_is_exact, second.cpu, second.pids) == (False, 50.0, (os.getpid(),))
    assert f"shm:{unique_name}" not in {each.where for each in sampler.sample()}


def test_a_row_fits_into_80_columns() -> None:
    for cell, column in zip(cells(BUSY), COLUMNS, strict=True):
        assert len(cell) <= column.width, cell
    width = COLUMNS[0].width
    assert len(line(BUSY, width)) == len(titles(width, "MB/s", turned=True)) <= 79
    assert str(line(BUSY, width)).split() == (
        ["busy", "ring", "123k", "789", "████▌", "▁▅█", "12", "98.8k", "3", "199"]
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.6, "1.0k"), (1234, "1.2k"), (99_960, "100k"), (5e6, "5.0M")],
)
def test_numbers_are_short(number, text) -> None:
    assert str(cells(row("shm:x", rate=float(number)))[2]) == text


def test_a_long_name_keeps_its_end() -> None:

    name = str(cells(row("file:/a/long/path/to/a/ring"))[0])
    assert len(name) == 17
    assert name.endswith("path/to/a/ring")


def test_rows_are_sorted_by_a_column_either_way() -> None:
    rows = [row("shm:b", lost=1), row("shm:a", lost=5), row("shm:c", lost=1)]
    assert [each.where for each in in_order(rows, "LOST")] == ["shm:a", "shm:b", "shm:c"]
    assert [each.where for each in in_order(rows, "NAME")] == ["shm:a", "shm:b", "shm:c"]
    assert next(each.where for each in in_order(rows, "NAME", turned=True)) == "shm:c"


def test_keys_sort_pause_filter_and_quit() -> None:
    async def act(screen: Top, pilot: Any) -> None:
        assert names(screen) == ["shm:busy", "shm:idle", "shm:other"]
        await pilot.press("r")
        assert names(screen)[-1] == "shm:busy"
        await pilot.press("s")
        assert screen._sorted == "DEPTH"
        await pilot.press("slash", *"idl", "enter")
        assert names(screen) == ["shm:idle"]
        assert not screen.query_one(Input).has_class("asked")
        await pilot.press("escape")
        assert len(names(screen)) == 3
        await pilot.press("p")
        assert "PAUSED" in str(screen.query_one("#line", Static).render())
        screen._look()
        await pilot.press("p")
        screen._look()
        await pilot.press("q")
        assert screen._exit

    sampler = drive(act, BUSY, row("shm:idle"), row("shm:other"))
    assert sampler.samples == 2  # the first, and the one that was not in the pause


def test_enter_opens_one_and_escape_goes_back(unique_name) -> None:
    with shmkit.Ring.create(unique_name) as ring:
        ring.put(b"seen inside")

        async def act(screen: Top, pilot: Any) -> None:
            await pilot.press("enter")
            screen._look()  # the table goes on below
            assert "seen inside" in str(screen.screen.query_one("#page", Static).render())
            await pilot.press("escape")
            assert names(screen) == [f"shm:{unique_name}"]

        drive(act, row(f"shm:{unique_name}"))


def test_what_changes_is_shown_and_what_goes_is_not() -> None:
    async def act(screen: Top, pilot: Any) -> None:
        given: Any = screen._sampler
        given.rows = [row("shm:busy", megabytes=1.0), row("shm:new", megabytes=2.0, lost=7)]
        screen._look()
        assert names(screen) == ["shm:new", "shm:busy"]
        table = screen.query_one(DataTable)
        lines = [str(table.get_row_at(place)[0]).split() for place in range(2)]
        assert lines == [
            ["new", "ring", "0", "2.00", "▁", "7", "0"],
            ["busy", "ring", "0", "1.00", "▁", "0"],
        ]
        given.rows = []
        screen._look()
        assert names(screen) == []
        await pilot.press("enter")

    drive(act, BUSY, row("shm:other"))


def test_the_mark_stays_on_its_segment() -> None:
    async def act(screen: Top, pilot: Any) -> None:
        await pilot.press("down", "down")
        assert screen._marked() == "shm:other"
        screen._look()
        assert screen._marked() == "shm:other"
        await pilot.press("r")
        assert screen._marked() == "shm:other"

    drive(act, BUSY, row("shm:idle"), row("shm:other"))


def test_a_wide_terminal_gives_its_room_to_the_names() -> None:
    async def act(screen: Top, pilot: Any) -> None:
        assert screen._name_width() > 50

    drive(act, BUSY, width=130)


def test_once_is_for_scripts(unique_name) -> None:
    with shmkit.Ring.create(unique_name):
        result = CliRunner().invoke(app, ["top", "--once", "--interval", "0.05"])
        assert result.exit_code == 0
        assert result.stdout.split()[:3] == ["NAME", "KIND", "RATE/s"]
        result = CliRunner().invoke(app, ["top", "--once", "--interval", "0.05", "--json"])
        rows = json.loads(result.stdout)["rows"]
        assert f"shm:{unique_name}" in {each["where"] for each in rows}
    assert CliRunner().invoke(app, ["top", "--json"]).exit_code == 2
