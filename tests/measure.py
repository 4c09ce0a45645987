"""How readable a package's sources are, in numbers: a table to set packages side by side.

    python -m tests.measure                              src/shmkit, with tests/
    python -m tests.measure PACKAGE[:TESTS] ...          other directories, each a column
    make measure ARGS="src/shmkit:tests ../trio/src/trio"

Only the sources are read; nothing is imported. Directories named `tests` or `_tests` within a
package are its tests, besides the directory that is given. The rows:

- modules: lines of each; modules of five lines or fewer, which hold a docstring at most, are left
  out.
- functions: lines of each, from `def` to its last line, docstring included, at every depth.
- complexity: decisions of one function plus 1: branches, loops, handlers, cases, comprehensions,
  conditional expressions, and each `and` or `or`. An inner function counts for itself and for the
  function around it.
- mccabe: the same as the tool of that name and ruff's C901 count it: statements only.
- classes above each other: the longest chain of classes of the package, each the base of the next.
- comments: those that are not for tools (`noqa`, `type:`, `step:`), per line of code and docstring.
- documented: functions and methods with a docstring, among those whose name has no underscore in
  front.
- riddles: words such as "who" and "somebody", which hide what they mean, in 1000 words of comments.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Measures", "main", "measure", "table"]

_USAGE = "Measure the sources of packages; PACKAGE is a directory, or DIRECTORY:TESTS."

RIDDLES = frozenset({"who", "somebody", "nobody", "others", "those"})
TEST_FOLDERS = frozenset({"tests", "_tests"})
SHORT = 5  # lines of a module that is left out

_FOR_TOOLS = re.compile(r"#[!:]?\s*(noqa|type:|step:|pragma|fmt:|mypy:|ruff:|pyright:)")
_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_STATEMENTS = ast.If | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.match_case


@dataclass
class Measures:
    """What was counted in one package.

    Attributes:
        modules: lines of each module that is not left out.
        functions: lines of each function.
        complexities: of each function.
        mccabe: of each function, as mccabe counts.
        bases: for each class of the package the names of its bases.
        source_lines: all lines of all modules.
        test_lines: all lines of its tests.
        code_lines: lines with code or docstring.
        comments: comments that are not for tools.
        words: words in these.
        riddles: how many of the words are riddles.
        public: functions whose name has no underscore in front.
        documented: how many of these have a docstring.
    """

    modules: list[int] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)
    complexities: list[int] = field(default_factory=list)
    mccabe: list[int] = field(default_factory=list)
    bases: dict[str, set[str]] = field(default_factory=dict)
    source_lines: int = 0
    test_lines: int = 0
    code_lines: int = 0
    comments: int = 0
    words: int = 0
    riddles: int = 0
    public: int = 0
    documented: int = 0

    def deepest(self) -> int:
        """How many classes of the package stand above each other at most."""
        return max((self._depth(name, ()) for name in self.bases), default=0)

    def _depth(self, name: str, below: tuple[str, ...]) -> int:
        if name not in self.bases or name in below:
            return 0
        below = (*below, name)
        return 1 + max((self._depth(base, below) for base in self.bases[name]), default=0)

    def rows(self) -> dict[str, str]:
        """The rows of the table, as text."""
        return {
            "module lines, median / max": _spread(self.modules, 1),
            "function lines, median / p90 / max": _spread(self.functions, 0.9, 1),
            "max complexity": str(max(self.complexities, default=0)),
            "max complexity, as mccabe counts": str(max(self.mccabe, default=0)),
            "own classes above each other, at most": str(self.deepest()),
            "tests : source": f"{_share(self.test_lines, self.source_lines):.2f}",
            "comments, % of code": f"{100 * _share(self.comments, self.code_lines):.1f}",
            "public functions with a docstring, %": (
                f"{100 * _share(self.documented, self.public):.0f}"
            ),
            "source lines": f"{self.source_lines:,}",
            "riddles in 1000 words of comments": f"{1000 * _share(self.riddles, self.words):.1f}",
        }


def measure(package: Path, tests: Path | None = None) -> Measures:
    """Count what is in the sources of a package.

    Args:
        package: its directory.
        tests: the directory of its tests; None for those within the package alone.

    Raises:
        FileNotFoundError: one of the two is not a directory.
        SyntaxError: a module is not Python that this interpreter reads.
    """
    found = Measures()
    for folder in (package, tests):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a directory")
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if TEST_FOLDERS.isdisjoint(path.relative_to(package).parts[:-1]):
            _count_module(found, text)
        else:
            found.test_lines += len(text.splitlines())
    for path in sorted(tests.rglob("*.py")) if tests is not None else ():
        found.test_lines += len(path.read_text(encoding="utf-8").splitlines())
    return found


def _count_module(found: Measures, text: str) -> None:
    lines = len(text.splitlines())
    found.source_lines += lines
    if lines > SHORT:
        found.modules.append(lines)
    _count_comments(found, text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _Function):
            found.functions.append((node.end_lineno or node.lineno) - node.lineno + 1)
            found.complexities.append(_complexity(node))
            found.mccabe.append(1 + _branches(node.body))
            if not node.name.startswith("_"):
                found.public += 1
                found.documented += ast.get_docstring(node) is not None
        elif isinstance(node, ast.ClassDef):
            bases = {name for base in node.bases for name in _name_of(base)}
            found.bases.setdefault(node.name, set()).update(bases)


def _name_of(base: ast.expr) -> Iterator[str]:
    """The last part of a base's name, without what stands in brackets."""
    while isinstance(base, ast.Subscript):
        base = base.value
    if isinstance(base, ast.Attribute):
        yield base.attr
    elif isinstance(base, ast.Name):
        yield base.id


def _count_comments(found: Measures, text: str) -> None:
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not _FOR_TOOLS.match(token.string):
            words = re.findall(r"[a-z]+", token.string.lower())
            found.comments += 1
            found.words += len(words)
            found.riddles += sum(word in RIDDLES for word in words)
        elif token.type not in _NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    found.code_lines += len(code)


def _complexity(function: _Function) -> int:
    count = 1
    for node in ast.walk(function):
        if isinstance(node, _STATEMENTS | ast.IfExp | ast.comprehension):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
    return count


def _branches(body: list[ast.stmt]) -> int:
    """Branches of some statements as mccabe and ruff count them."""
    count = 0
    for node in body:
        if isinstance(node, _STATEMENTS | _Function):
            count += 1
        if isinstance(node, ast.Try | ast.TryStar):
            count += len(node.handlers) + bool(node.orelse)
            count += sum(_branches(handler.body) for handler in node.handlers)
        elif isinstance(node, ast.Match):
            count += sum(1 + _branches(case.body) for case in node.cases)
        for part in ("body", "orelse", "finalbody"):
            count += _branches(getattr(node, part, []))
    return count


def _spread(values: list[int], *shares: float) -> str:
    """The median, and the values below which these shares of all lie; 1 stands for the largest."""
    if not values:
        return "-"
    ranked = sorted(values)
    last = len(ranked) - 1
    picked = [ranked[min(int(share * len(ranked)), last)] for share in shares]
    return " / ".join(f"{value:.0f}" for value in [statistics.median(ranked), *picked])


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def table(columns: dict[str, Measures]) -> str:
    """The table in Markdown, a column for each package.

    Args:
        columns: what was counted, by the name of the column.
    """
    rows = {name: found.rows() for name, found in columns.items()}
    text = ["| | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    text += [
        f"| {row} | " + " | ".join(each[row] for each in rows.values()) + " |"
        for row in Measures().rows()
    ]
    return "\n".join(text)


def main(arguments: list[str] | None = None) -> None:
    """Print the table for the packages named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.measure", description=_USAGE)
    parser.add_argument("packages", nargs="*", default=["src/shmkit:tests"], metavar="PACKAGE")
    columns = {}
    for package in parser.parse_args(arguments).packages:
        where, _, tests = package.partition(":")
        columns[Path(where).name] = measure(Path(where), Path(tests) if tests else None)
    print(table(columns))


if __name__ == "__main__":
    main()
