"""Kill points: the steps at which a process may be killed, as the sources name them.

A line that ends in `# step: NAME` is a step. A process that is killed just before it executes that
line leaves shared memory in a state of its own, from which the other processes must go on.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["KillPoint", "choose", "kill_points"]

_STEP = re.compile(r"#\s*step:\s*(\S+)$")


class KillPoint(NamedTuple):
    """One line that is a step.

    Attributes:
        name: the step; several lines may be the same one, on different paths.
        function: qualified name of the function the line is in.
        file: path of the source.
        line: its number, from 1 on.
    """

    name: str
    function: str
    file: str
    line: int

    @property
    def path(self) -> str:
        """`name@function`: this step on this path only."""
        return f"{self.name}@{self.function}"


def kill_points(*modules: ModuleType | str, paths: bool = False) -> tuple[str, ...]:
    """The names of the steps in the sources of some modules, sorted.

    Args:
        modules: modules or packages, or their names; `shmkit` if there are none. A package is
            searched with everything below it. Only parent packages are imported.
        paths: list the step of each function by itself, as `name@function`.

    Raises:
        ModuleNotFoundError: there is no such module.
        ValueError: a module has no source file to read.
    """
    points = _points(modules)
    return tuple(sorted({point.path if paths else point.name for point in points}))


def choose(point: str, modules: tuple[ModuleType | str, ...]) -> dict[str, frozenset[int]]:
    """Find the lines that are a step.

    Args:
        point: its name, or `name@function`.
        modules: where to look.

    Returns:
        For each file its lines, counted from 1.

    Raises:
        ValueError: there is no such step.
    """
    points = _points(modules)
    name, _, function = point.partition("@")
    chosen = [place for place in points if place.name == name and function in ("", place.function)]
    if not chosen:
        known = {place.name for place in points} | {place.path for place in points}
        close = difflib.get_close_matches(point, sorted(known), 3)
        raise ValueError(
            f"there is no kill point {point!r}: "
            + (f"is it {' or '.join(map(repr, close))}?" if close else "see kill_points()")
        )
    files = {place.file for place in chosen}
    return {file: frozenset(place.line for place in chosen if place.file == file) for file in files}


def _points(modules: tuple[ModuleType | str, ...]) -> list[KillPoint]:
    sources = {source for module in modules or ("shmkit",) for source in _sources(module)}
    return [point for source in sorted(sources) for point in _steps_of(source)]


def _sources(module: ModuleType | str) -> Iterator[Path]:
    name = module if isinstance(module, str) else module.__name__
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"no module named {name!r}", name=name)
    if spec.submodule_search_locations is not None:
        for folder in spec.submodule_search_locations:
            yield from Path(folder).rglob("*.py")
    elif spec.origin and spec.origin.endswith(".py"):
        yield Path(spec.origin)
    else:
        raise ValueError(f"module {name!r} has no source file: its kill points are comments there")


# By source, with its time of change: tests ask for the same steps again and again.
_read: dict[Path, tuple[int, list[KillPoint]]] = {}


def _steps_of(source: Path) -> list[KillPoint]:
    changed = source.stat().st_mtime_ns
    if source not in _read or _read[source][0] != changed:
        _read[source] = changed, list(_parse(source))
    return _read[source][1]


def _parse(source: Path) -> Iterator[KillPoint]:
    text = source.read_text(encoding="utf-8")
    if "step:" not in text:
        return
    functions = list(_functions(ast.parse(text), ""))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        found = _STEP.search(token.string) if token.type == tokenize.COMMENT else None
        # A comment on a line of its own is no step: nothing is executed there.
        if found and token.line.split("#", 1)[0].strip():
            line = token.start[0]
            # The innermost function comes last.
            around = [name for first, last, name in functions if first <= line <= last]
            yield KillPoint(found[1], around[-1] if around else "", str(source), line)


def _functions(tree: ast.AST, prefix: str) -> Iterator[tuple[int, int, str]]:
    """First and last line and qualified name of every function, the outer before the inner."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.end_lineno or node.lineno, prefix + node.name
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(
                node, f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
            )
