"""The rooms of memory/: no circles of imports, one door each, few classes above a public one."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import shmkit
from shmkit import PagedFile, SharedArray, SharedBuffer, memory
from shmkit.compiled import Exporter
from shmkit.memory.records import Records

ROOT = Path(shmkit.__file__).parent
FOLDER = Path(memory.__file__).parent
ROOMS = {"buffer", "records", "paged"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FOLDER.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Every module of memory/ that a file imports: at its top, in a function, or for types."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return (found & MODULES.keys()) - {name_of(path)}


def test_no_file_imports_itself_by_a_detour() -> None:
    """Neither at run time nor for the type checker."""
    graph = {name: imports_of(path) for name, path in MODULES.items()}
    assert "shmkit.memory.buffer.handle" in graph["shmkit.memory.buffer.content"]
    tuple(TopologicalSorter(graph).static_order())


def test_rooms_are_entered_by_their_door() -> None:
    for path in ROOT.rglob("*.py"):
        inside = path.relative_to(FOLDER).parts[0] if path.is_relative_to(FOLDER) else ""
        for name in imports_of(path):
            room = name.removeprefix("shmkit.memory.").split(".")
            assert room[0] not in ROOMS or len(room) == 1 or room[0] == inside, (path, name)


@pytest.mark.parametrize("public", [SharedBuffer, SharedArray, PagedFile, Records])
def test_at_most_three_classes_are_above_a_public_one(public: type) -> None:
    ours = [kind for kind in public.__mro__[1:] if kind.__module__.startswith("shmkit")]
    ours = [kind for kind in ours if kind is not Exporter]  # a slot of the language: the buffer's
    assert len(ours) <= 3
