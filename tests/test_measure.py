"""`make measure`: what is counted in a small package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.measure import main, measure

PACKAGE = '''"""A package."""

import abc


# Who reads this counts the words: others do, too.
class Base(abc.ABC):
    """A class."""

    def shown(self) -> int:
        """Has a docstring."""
        return 1  # noqa: B027

    def bare(self, many):
        for each in many:
            if each and many or not each:
                return [one for one in many]
        return each if many else None


class Middle(Base): ...


class Last(Middle, dict[str, int]):
    def _hidden(self):
        try:
            pass
        except OSError:
            pass
        else:
            pass
        match self:
            case 1 | 2:
                pass
            case _:
                pass
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Three modules, and tests of three lines within."""
    top = tmp_path / "small"
    (top / "tests").mkdir(parents=True)
    (top / "__init__.py").write_text('"""Too short to count as a module."""\n')
    (top / "code.py").write_text(PACKAGE)
    (top / "plain.py").write_text("\n".join(["VALUE = 1"] * 10))
    (top / "tests" / "test_code.py").write_text("def test():\n    pass\n\n")
    return top


def test_lines_of_modules_and_functions(package: Path) -> None:
    found = measure(package)
    lines = len(PACKAGE.splitlines())

    assert sorted(found.modules) == [10, lines]
    assert sorted(found.functions) == [3, 5, 12]
    assert found.source_lines == 1 + 10 + lines
    assert found.rows()["module lines, median / max"] == f"{(10 + lines) / 2:.0f} / {lines}"
    assert found.rows()["function lines, median / p90 / max"] == "5 / 12 / 12"


def test_complexity_counts_each_decision_and_as_mccabe_does(package: Path) -> None:
    found = measure(package)

    # bare: for, if, and, or, comprehension, conditional; _hidden: except, two cases
    assert found.complexities == [1, 7, 4]
    # bare: for, if; _hidden: except, else, two cases
    assert found.mccabe == [1, 3, 5]


def test_mccabe_is_what_ruff_says(tmp_path: Path) -> None:
    """Of a function with everything: ruff agrees to the number, and one less is too much for it."""
    source = tmp_path / "source.py"
    source.write_text(
        "def f(a):\n"
        "    while a:\n        a()\n    else:\n        a(1 if a else 2)\n"
        "    for b in a:\n        if b:\n            pass\n        elif a:\n            pass\n"
        "        else:\n            pass\n"
        "    try:\n        with a:\n            if a:\n                pass\n"
        "    except OSError:\n        if a:\n            pass\n"
        "    except ValueError:\n        pass\n    else:\n        pass\n"
        "    finally:\n        if a and a:\n            pass\n"
        "    def g():\n        return [c for c in a if c]\n"
        "    return g\n"
    )
    (complexity, _) = measure(tmp_path).mccabe
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    for most in (complexity, complexity - 1):
        result = subprocess.run(
            [
                *(ruff, "check", "--isolated", "--no-cache", "--select=C901"),
                *("--config", f"lint.mccabe.max-complexity={most}", source),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ("is too complex" in result.stdout) == (most < complexity), result.stdout


def test_classes_of_the_package_above_each_other(package: Path) -> None:
    assert measure(package).deepest() == 3  # abc.ABC and dict are not its own


def test_a_circle_of_names_ends(tmp_path: Path) -> None:
    (tmp_path / "circle.py").write_text("class One(a.Two): ...\nclass Two(b.One): ...\n")

    assert measure(tmp_path).deepest() == 2


def test_comments_are_those_for_readers(package: Path) -> None:
    found = measure(package)

    assert found.comments == 1
    assert (found.words, found.riddles) == (9, 2)
    assert found.rows()["riddles in 1000 words of comments"] == "222.2"


def test_public_functions_with_a_docstring(package: Path) -> None:
    found = measure(package)

    assert (found.public, found.documented) == (2, 1)
    assert found.rows()["public functions with a docstring, %"] == "50"


def test_tests_are_those_within_and_those_beside(package: Path, tmp_path: Path) -> None:
    beside = tmp_path / "tests"
    beside.mkdir()
    (beside / "test_more.py").write_text("\n" * 5)

    assert measure(package).test_lines == 3
    assert measure(package, beside).test_lines == 8


def test_an_empty_package_has_a_table_of_nothing(tmp_path: Path) -> None:
    rows = measure(tmp_path).rows()

    assert rows["module lines, median / max"] == "-"
    assert rows["tests : source"] == "0.00"


def test_what_is_no_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        measure(tmp_path / "gone")


def test_the_table_has_a_column_for_each_package(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    main([str(package), str(other)])
    head, rule, *rows = capsys.readouterr().out.splitlines()

    assert head == "| | small | other |"
    assert rule == "|---|---|---|"
    assert "| own classes above each other, at most | 3 | 0 |" in rows
    assert {row.count("|") for row in rows} == {4}
