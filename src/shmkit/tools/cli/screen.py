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
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from shmkit.tools import inspection
from shmkit.tools.cli.inspect import print_inspection
from shmkit.tools.cli.output import printable
from shmkit.tools.cli.rows import COLUMNS, Column, cells, in_order

if TYPE_CHECKING:
    from rich.console import RenderableType

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
        self._add_columns()
        self._look()
        self.set_interval(self._interval, self._look)

    def on_resize(self) -> None:
        """Give the names the room that there is."""
        if self._table.columns:
            self._rebuild()

    def _add_columns(self) -> None:
        table = self._table
        table.clear(columns=True)
        for column in COLUMNS:
            mark = "" if column.title != self._sorted else "▴" if self._turned else "▾"
            width = self._name_width() if column is COLUMNS[0] else column.width
            title = column.title + mark
            shown = Text(title + " " * (len(title) <= width))
            shown.justify = "right" if column.is_number else "left"
            table.add_column(shown, width=width + 1, key=column.title)

    def _rebuild(self) -> None:
        """Show it with other columns."""
        marked = self._marked()
        self._add_columns()
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
        table.clear()
        for row in rows:
            shown = zip(COLUMNS, cells(row, self._name_width()), strict=True)
            table.add_row(*(_aligned(column, cell) for column, cell in shown), key=row.where)
        places = {row.where: place for place, row in enumerate(rows)}
        table.move_cursor(row=places.get(marked, 0), animate=False)
        self._show_line(rows)

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
        table = self._table
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

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
        self.push_screen(Opened(str(event.row_key.value)))


def _aligned(column: Column, cell: RenderableType) -> RenderableType:
    if not column.is_number:
        return cell
    text = cell if isinstance(cell, Text) else Text(str(cell))
    text.justify = "right"
    return text.append(" ")
