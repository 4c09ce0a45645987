"""The tables of all layouts: they fit each other, docs are made of them, and all code uses them."""

from __future__ import annotations

import ast
import io
import struct
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmkit
from shmkit.segment import words
from shmkit.segment.words import Table

SOURCES = Path(shmkit.__file__).parent
ROOT = Path(__file__).resolve().parents[2]

# Numbers of others: what a system call takes, or a file format.
OTHERS = {
    "channels/objects/codec.py": "an opcode of pickle, and what is inside of one frame's payload",
    "memory/allocation.py": "the size of an address space",
    "memory/creation.py": "how many bytes a magic has; it is below the tables",
    "memory/identity.py": "a number of the kernel",
    "memory/process.py": "a pid and a count of forks in one number of this process",
    "memory/records/layout.py": "a mask for a user's record",
    "segment/presence.py": "struct flock of the kernel",
    "tools/cli/output.py": "the version of the output for programs",
    "tools/demo/pipeline.py": "a record of the demo",
    "tools/demo/wordcount.py": "a record of the demo",
    "tools/inspection/decode.py": "a semaphore of glibc, an encoded object, the largest pid",
}
SIZES = {"u16": 2, "u32": 4, "u64": 8, "byte": 1, "sem_t": words.SEMAPHORE_ROOM, "text": 1}
SIZES["bytes"] = 1


def size(kind: str) -> int:
    count, _, unit = kind.partition(" ")
    return int(count) * (1 if unit == "bytes" else SIZES[unit]) if unit else SIZES[kind]


def taken(table: Table) -> dict[int, str]:
    """Each byte of a table, and the field it is of."""
    return {
        at: f"{table.title}: {field.name}"
        for field in table.fields
        for at in range(field.at, field.at + size(field.type))
    }


# ------------------------------------------------------------------ the tables


@pytest.mark.parametrize("table", words.TABLES, ids=lambda table: table.title)
def test_fields_do_not_overlap(table: Table) -> None:
    assert len(taken(table)) == sum(size(field.type) for field in table.fields)
    assert [field.at for field in table.fields] == sorted(field.at for field in table.fields)
    assert len({field.name for field in table.fields}) == len(table.fields)
    if table is not words.LOCK_BYTES:
        for field in table.fields:
            count, _, unit = field.type.partition(" ")
            assert field.at % SIZES[unit if count.isdigit() else field.type] == 0


@pytest.mark.parametrize(
    "together",
    [
        (words.RING, words.QUEUE),
        (words.BROADCAST,),
        (words.LATEST,),
        (words.EVENT,),
        (words.ONCE,),
    ],
    ids=lambda tables: tables[-1].title,
)
def test_tables_of_one_segment_do_not_overlap(together: tuple[Table, ...]) -> None:
    tables = (words.HEADER, *together, words.SEMAPHORES)
    assert len({at for table in tables for at in taken(table)}) == sum(
        len(taken(table)) for table in tables
    )
    assert max(at for table in tables for at in taken(table)) < words.PARTICIPANTS_AT * 8


def test_a_participant_fits_its_place() -> None:
    assert max(taken(words.PARTICIPANT)) < words.LINE
    phases = next(field for field in words.PARTICIPANT.fields if field.name == "phases")
    assert size(phases.type) == 8 * words.LOCKS * words.LOCK_WORDS


def test_kinds() -> None:
    for number, kind in words.KINDS.items():
        assert number == kind.number
        names = [name for name, _ in kind.semaphores]
        assert set(names) <= set(words.SEMAPHORE_AT)
        assert set(kind.locks) <= set(names)
        assert all(dict(kind.semaphores)[lock] == 1 for lock in kind.locks)
        assert len(kind.locks) <= words.LOCKS


def test_formats() -> None:
    assert struct.calcsize(words.FIXED) == words.CHECKSUM_AT - words.FIXED_AT
    with pytest.raises(KeyError):
        words.HEADER.at("nothing")


def test_the_page_of_documentation_is_made_from_them() -> None:
    page = (ROOT / "docs" / "layout.md").read_text()
    assert page == words.as_markdown(), "python -m shmkit.segment.words > docs/layout.md"


# ------------------------------------------------------------------ and all code uses them


def test_no_other_module_has_such_a_number() -> None:
    found = {
        path.relative_to(SOURCES).as_posix(): list(numbers(path.read_text()))
        for path in sorted(SOURCES.rglob("*.py"))
        if path != Path(words.__file__)
    }
    offenders = {file for file, what in found.items() if what} - set(OTHERS)
    assert not offenders, "\n".join(
        f"{file}: {', '.join(found[file])}" for file in sorted(offenders)
    )


def numbers(source: str) -> Iterator[str]:
    """What looks like an offset, a magic, a version, a kind, a lock byte or a header's format."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NUMBER and token.string.lower().startswith("0x"):
            yield f"line {token.start[0]}: {token.string}"
    for node in ast.walk(ast.parse(source)):
        why = looks_like_one(node)
        if why:
            yield f"line {getattr(node, 'lineno', 0)}: {why}"


def looks_like_one(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=bytes(content)) if b"SHMKIT" in content:
            return "a magic"
        case ast.BinOp(left=ast.Constant(value=int()), op=ast.FloorDiv(), right=ast.Constant()):
            return "an offset made an index"
        case ast.BinOp(op=ast.LShift(), right=ast.Constant(value=int(by))) if by in (32, 48, 62):
            return f"<< {by}"
        case ast.BinOp(op=ast.RShift(), right=ast.Constant(value=int(by))) if by in (32, 48, 62):
            return f">> {by}"
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int() | bytes()))
            | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=int() | bytes()))
        ) if name.strip("_").split("_")[-1] in ("KIND", "MAGIC", "VERSION", "BYTE", "OFFSET"):
            return f"{name} is a number"
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(at))) if (
            name.endswith("words") and at > 1
        ):
            return f"{name}[{at}]"
        case ast.Subscript(value=ast.Attribute(attr=name), slice=ast.Constant(value=int(at))) if (
            name.endswith("words") and at > 1
        ):
            return f"{name}[{at}]"
        case ast.Call(func=function, args=[ast.Constant(value=str(text)), *_]) if (
            getattr(function, "attr", getattr(function, "id", "")) in STRUCT
            and sum(letter.isalpha() and letter != "x" for letter in text) > 1
        ):
            return f"format {text!r}"
    return ""


STRUCT = ("Struct", "pack", "pack_into", "unpack", "unpack_from", "iter_unpack", "calcsize")


@pytest.mark.parametrize(
    "line",
    [
        "STATE = 0x068 // 8",
        "STATE = 104 // 8",
        "x = words[0X10]",
        "words[13] = 1",
        "self._words[13]",
        "_KIND = 9",
        "_KIND: Final = 9",
        "RESCUE_BYTE: Final = 8",
        "_VERSION = 1",
        'MAGIC = b"SHMKIT\\x01\\0"',
        "_BASE = 1 << 62",
        "kind = word >> 32",
        's = struct.Struct("<HHHxxQQQQ16s")',
        'HEAD = Struct("<IHH")',
        'struct.unpack_from("<QQ", view, at)',
    ],
)
def test_what_such_a_number_looks_like(line: str) -> None:
    assert list(numbers(line)), line


@pytest.mark.parametrize(
    "line",
    [
        "words[STATE] = READY",
        "at = words[0]",
        "size = 1 << 20",
        "mode = 0o600",
        'word = struct.Struct("<Q")',
        "KINDS[number]",
        "half = len(data) // 8",
    ],
)
def test_what_does_not(line: str) -> None:
    assert not list(numbers(line)), line
