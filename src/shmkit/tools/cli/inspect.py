"""`shmkit inspect`: all there is to know of a segment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shmkit.tools.cli import output

if TYPE_CHECKING:
    from rich.console import Console

    from shmkit.tools.inspection import Deadlock, Inspection

__all__ = ["inspect", "print_inspection"]

_APART: Final = 0.15  # seconds between two looks for a deadlock: a wait has three slices in it


def inspect(
    where: Annotated[
        list[str],
        typer.Argument(
            metavar="WHERE...",
            help="NAME, shm:NAME, file:PATH, a path, or anon:INODE as `ls` shows it.",
            autocompletion=output.complete_where,
        ),
    ],
    frames: Annotated[int, typer.Option(min=0, help="Waiting frames to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Decode a segment, in use or not: header, participants, locks, frames, and what is wrong.

    The exit status is 1 if something is wrong with it.
    """
    from shmkit.tools import inspection

    looks = []
    for each in where:
        try:
            looks.append(inspection.inspect(each, frames=frames))
        except ValueError as error:
            output.usage("inspect", error)
        except OSError as error:
            output.fail("inspect", error)
    deadlocks = find_deadlocks(looks)
    if as_json:
        output.print_json(
            inspections=looks,
            deadlocks=[{"waits": each.waits, "sentence": each.sentence} for each in deadlocks],
        )
    else:
        screen = output.console()
        for number, look in enumerate(looks):
            if number:
                screen.print()
            print_inspection(screen, look)
        for deadlock in deadlocks:
            screen.print()
            screen.print(deadlock.sentence, style="bold red", markup=False)
    if deadlocks or any(look.segment.wrong for look in looks):
        raise typer.Exit(1)


def find_deadlocks(looks: list[Inspection]) -> list[Deadlock]:
    """The deadlocks that processes at the locks of these segments are in."""
    from shmkit.tools import inspection

    at_locks = {
        pid
        for look in looks
        for lock in look.locks
        if lock.waiters
        for pid in (*lock.holders, *lock.waiters)
    }
    if not at_locks:
        return []
    before = inspection.survey()
    time.sleep(_APART)
    found = inspection.find_deadlocks(before, inspection.survey())
    return [each for each in found if at_locks & {wait.pid for wait in each.waits}]


def print_inspection(screen: Console, look: Inspection, *, header: bool = True) -> None:
    """Print it for people; with every field of its header, or without."""
    _print_facts(screen, look)
    for sentence in look.segment.wrong:
        screen.print(f"wrong: {output.printable(sentence)}", style="bold red", markup=False)
    _print_participants(screen, look)
    _print_locks(screen, look)
    _print_frames(screen, look)
    if header:
        _print_header(screen, look)


def _print_facts(screen: Console, look: Inspection) -> None:
    from rich.text import Text

    segment, now = look.segment, time.time()
    screen.print(Text(output.printable(segment.where), "bold"), Text(segment.kind), segment.status)
    facts = [
        ("memory", f"{output.size(segment.size)}, {output.size(segment.resident)} resident"),
        ("owner", f"{output.user(segment.owner)}, mode {segment.mode:04o}"),
        ("state", segment.state),
        ("depth", _depth(look)),
        ("passed", _passed(look)),
        ("lost", f"{segment.lost:,} frames" if segment.lost else None),
        ("asleep", f"{segment.waiting} threads" if segment.waiting else None),
        ("content", ", ".join(filter(None, (segment.says, look.content)))),
        ("belongs to", segment.belongs_to),
        ("created", output.age(now - segment.created) + " ago" if segment.created else None),
        ("processes", ", ".join(map(str, segment.pids)) or "none"),
    ]
    made = output.table("", "")
    made.show_header = False
    for name, text in facts:
        if text:
            made.add_row(Text(name, "dim"), output.printable(text))
    screen.print(made)


def _depth(look: Inspection) -> str | None:
    segment = look.segment
    if segment.depth is None:
        return None
    text = output.amount(segment.depth, segment.unit)
    if segment.capacity:
        text += f" of {output.amount(segment.capacity, segment.unit)}"
    if segment.unit == "objects":
        text += " objects"
    if segment.unit == "bytes":
        least = "" if look.frames_counted else "at least "
        text += f", {least}{look.frame_count:,} frames"
    return text


def _passed(look: Inspection) -> str | None:
    segment = look.segment
    if segment.passed is None:
        return None
    text = output.amount(segment.passed, segment.passed_unit)
    return text if segment.passed_unit == "bytes" else f"{text} {segment.passed_unit}"


def _print_participants(screen: Console, look: Inspection) -> None:
    if not look.participants:
        return
    from rich.text import Text

    made = output.table(
        "PID", "ALIVE", "ROLES", "AT LOCKS", "SINCE", "COMMAND", title="\nparticipants"
    )
    for person in look.participants:
        locks = ", ".join(f"{phase} {name}" for name, phase in person.locks.items())
        made.add_row(
            str(person.pid),
            Text("yes", "green") if person.alive else Text("died", "red"),
            ", ".join(person.roles),
            locks,
            output.age(max(0, time.time() - person.attached)),
            Text(output.printable(person.command)),
        )
    screen.print(output.give_way(made, "COMMAND"))


def _print_locks(screen: Console, look: Inspection) -> None:
    if not any((lock.holders, lock.waiters, lock.dead) != ((), (), ()) for lock in look.locks):
        return
    made = output.table("LOCK", "HELD BY", "WAITING", "DIED AT IT", title="\nlocks")
    for lock in look.locks:
        pids = (", ".join(map(str, each)) for each in (lock.holders, lock.waiters, lock.dead))
        made.add_row(lock.name, *pids)
    screen.print(made)


def _print_frames(screen: Console, look: Inspection) -> None:
    if not look.frames:
        return
    from rich.text import Text

    objects = any(frame.type is not None for frame in look.frames)
    shown = f" (the first {len(look.frames)})" if look.frame_count > len(look.frames) else ""
    made = output.table(
        "POSITION",
        "BYTES",
        "TYPE" if objects else "CONTENT",
        right=("POSITION", "BYTES"),
        title=f"\nwaiting{shown}",
    )
    for frame in look.frames:
        count = frame.size if frame.object_size is None else frame.object_size
        shown_as = frame.type if frame.type is not None else _hexadecimal(frame.preview)
        made.add_row(str(frame.position), f"{count:,}", Text(output.printable(shown_as)))
    screen.print(made)


def _hexadecimal(preview: str) -> str:
    """The first 12 bytes, as numbers and as text: more would not fit into 80 columns."""
    content = bytes.fromhex(preview)[:12]
    text = "".join(chr(c) if 32 <= c < 127 else "." for c in content)
    return f"{content.hex(' '):35}  {text}"


def _print_header(screen: Console, look: Inspection) -> None:
    if not look.header:
        return
    from rich.text import Text

    made = output.table("AT", "FIELD", "VALUE", "MEANING", title="\nheader")
    made.columns[3].no_wrap = False
    for each in look.header:
        value = each.value
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        made.add_row(f"0x{each.at:03x}", each.name, shown, Text(each.meaning, "dim"))
    screen.print(made)
