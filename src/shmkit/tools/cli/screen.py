"""The screen of `shmkit top`."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.coordinate import Coordinate
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from shmkit.tools import inspection
from shmkit.tools.cli.inspect import print_inspection
from shmkit.tools.cli.output import printable
from shmkit.tools.cli.rows import COLUMNS, in_order, line, titles

if TYPE_CHECKING:
    from shmkit.tools.sampling import Row, Sampler

__all__ = ["Top"]

_NAME = COLUMNS[0].width
_REST = sum(column.width + 1 for column in COLUMNS[1:])
_MARGIN = 3  # for a scroll bar


class Opened(Screen[None]):
    """One segment, in full, as of a moment.

    Args:
        where: the segment.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "back"),
        Binding("r", "look", "look again"),
        Binding("q", "app.quit", "quit"),
    ]

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def compose(self) -> ComposeResult:
        """A page to scroll."""
        with VerticalScroll():
            yield Static(id="page")
        yield Footer()

    def on_mount(self) -> None:
        """Show it."""
        self.action_look()

    def action_look(self) -> None:
        """Look at the segment, and show what is seen."""
        made = io.StringIO()
        screen = Console(
            file=made, width=max(40, self.app.size.width - _MARGIN), force_terminal=True,
            highlight=False, emoji=False,
        )  # fmt: skip
        try:
            print_inspection(screen, inspection.inspect(self._where))
        except (OSError, ValueError) as error:
            screen.print(str(error), markup=False)
        self.query_one("#page", Static).update(Text.from_ansi(made.getvalue()))


class Top(App[None]):
    """The table of all channels, live.

    Args:
        sampler: looks at them.
        interval: seconds from one look to the next.
    """

    CSS = """
    DataTable { height: 1fr; }
    #line { height: 1; background: $panel; }
    Input { display: none; dock: bottom; }
    Input.asked { display: block; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("p", "pause", "pause"),
        Binding("s", "sort", "sort"),
        Binding("r", "turn", "reverse"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("escape", "unfilter", show=False),
    ]

    def __init__(self, sampler: Sampler, interval: float = 1.0) -> None:
        super().__init__()
        self._sampler, self._interval = sampler, interval
        self._rows: list[Row] = []
        self._shown: list[Row] = []  # in the order of the table
        self._lines: list[Text] = []  # what it shows
        self._sorted, self._turned = "MB/s", False
        self._paused, self._filter = False, ""

    @property
    def _base(self) -> Screen[object]:
        """The screen with the table, which may be below that of a segment."""
        return self.screen_stack[0]

    @property
    def _table(self) -> DataTable[object]:
        return self._base.query_one(DataTable)

    def compose(self) -> ComposeResult:
        """A line about it all, the table, and the keys."""
        yield Static(id="line")
        yield DataTable(cursor_type="row", cell_padding=0, zebra_stripes=True)
        yield Input(placeholder="part of a name or kind")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self._table.focus()
        self._add_column()
        self._look()
        self.set_interval(self._interval, self._look)

    def on_resize(self) -> None:
        """Give the names the room that there is."""
        if self._table.columns:
            self._rebuild()

    def _add_column(self) -> None:
        """One column for all: a cell for each number would take ten times as long to draw."""
        table, width = self._table, self._name_width()
        table.clear(columns=True)
        self._lines = []
        table.add_column(titles(width, self._sorted, turned=self._turned), width=width + _REST)

    def _rebuild(self) -> None:
        """Show it with other columns."""
        marked = self._marked()
        self._add_column()
        self._show(marked)

    def _name_width(self) -> int:
        return max(_NAME, self.size.width - _REST - _MARGIN)

    def _look(self) -> None:
        if not self._paused:
            self._rows = self._sampler.sample()
            self._show()

    def _show(self, marked: str = "") -> None:
        table = self._table
        marked = marked or self._marked()
        wanted = self._filter.lower()
        rows = [row for row in self._rows if wanted in f"{row.where} {row.kind}".lower()]
        rows = in_order(rows, self._sorted, turned=self._turned)
        self._fill(table, rows)
        places = {row.where: place for place, row in enumerate(rows)}
        place = places.get(marked, 0)
        if place != table.cursor_row:
            table.move_cursor(row=place, animate=False)
        self._show_line(rows)

    def _fill(self, table: DataTable[object], rows: list[Row]) -> None:
        """Have the table show these rows; what is shown already is not drawn again."""
        width = self._name_width()
        lines = [line(row, width) for row in rows]
        if len(lines) != table.row_count:
            table.clear()
            self._lines = []
        for place, shown in enumerate(lines):
            if place >= len(self._lines):
                table.add_row(shown)
            elif shown != self._lines[place]:
                table.update_cell_at(Coordinate(place, 0), shown)
        self._lines, self._shown = lines, rows

    def _show_line(self, rows: list[Row]) -> None:
        total = sum(row.megabytes or 0 for row in rows)
        parts = [f"shmkit top  {time.strftime('%H:%M:%S')}", f"{len(rows)} segments"]
        parts.append(f"{total:,.1f} MB/s")
        wrong = sum(bool(row.wrong) for row in rows)
        orphans = sum(row.status == "orphan" for row in rows)
        parts += [f"{wrong} wrong"] * bool(wrong) + [f"{orphans} orphaned"] * bool(orphans)
        parts += [f"filter {printable(self._filter)!r}"] * bool(self._filter)
        parts += ["PAUSED"] * self._paused
        self._base.query_one("#line", Static).update(Text("  ".join(parts)))

    def _marked(self) -> str:
        """Where the segment under the cursor is."""
        place = self._table.cursor_row
        return self._shown[place].where if place < len(self._shown) else ""

    # -- keys --------------------------------------------------------------------------------------

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self._paused = not self._paused
        self._show()

    def action_sort(self) -> None:
        """Sort by the next column."""
        titles = [column.title for column in COLUMNS]
        self._sorted = titles[(titles.index(self._sorted) + 1) % len(titles)]
        self._rebuild()

    def action_turn(self) -> None:
        """Turn the order around."""
        self._turned = not self._turned
        self._rebuild()

    def action_filter(self) -> None:
        """Ask for what names have to contain."""
        asked = self._base.query_one(Input)
        asked.add_class("asked")
        asked.focus()

    def action_unfilter(self) -> None:
        """Show all again."""
        self._base.query_one(Input).value = ""
        self._end_of_input()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as it is typed."""
        self._filter = event.value
        self._show()

    def on_input_submitted(self) -> None:
        """Go back to the table."""
        self._end_of_input()

    def _end_of_input(self) -> None:
        self._base.query_one(Input).remove_class("asked")
        self._table.focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the segment under the cursor."""
        self.push_screen(Opened(self._shown[event.cursor_row].where))
