"""What every benchmark can be told, and what comes of the contenders' files."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

__all__ = ["import_each", "is_wanted", "new_parser"]


def new_parser(
    description: str | None, *, rounds: int, seconds: float | None = None, contenders: bool = True
) -> argparse.ArgumentParser:
    """A parser with the options all benchmarks have.

    Args:
        description: the benchmark's docstring; its first line is shown.
        rounds: measurements of each cell, unless told.
        seconds: of each measurement, unless told; None: it cannot be told.
        contenders: some can be left out.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, help=f"measurements of each cell (default: {rounds})")
    if seconds is not None:
        parser.add_argument(
            "--seconds", type=float, help=f"of each measurement (default: {seconds:g})"
        )
    parser.add_argument("--quick", action="store_true", help="one short round")
    if contenders:
        parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these")
    parser.add_argument("--markdown", action="store_true", help="tables for a document")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser


def is_wanted(name: str, only: Iterable[str]) -> bool:
    """Whether a contender is among those asked for with `--only`; without that, all are."""
    parts = [part.lower() for part in only]
    return not parts or any(part in name.lower() for part in parts)


def import_each(
    package: str, libraries: Mapping[str, str]
) -> tuple[list[ModuleType], dict[str, str]]:
    """Import every file of contenders.

    Args:
        package: that they are in.
        libraries: a file's name -> the library it is about.

    Returns:
        The modules, and for each library that is not here or does not load the reason.
    """
    found: list[ModuleType] = []
    missing: dict[str, str] = {}
    for file, library in libraries.items():
        try:
            found.append(importlib.import_module(f"{package}.{file}"))
        except (ImportError, OSError, AttributeError) as error:
            missing[library] = f"{type(error).__name__}: {error}"
    return found, missing
