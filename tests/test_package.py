"""The package as a whole: what it exports, what it imports, what its documents say."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
import sysconfig
from importlib import import_module, metadata
from pathlib import Path

import pytest

import shmkit
from shmkit import errors
from tests.processes import run_python

ROOT = Path(__file__).parent.parent
SOURCE = Path(shmkit.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
CORE = [path for path in MODULES if path.relative_to(SOURCE).parts[0] != "tools"]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
ERRORS = [getattr(errors, name) for name in errors.__all__]
FIELDS = {
    "pid": 41,
    "role": "producer",
    "size": 7,
    "limit": 5,
    "where": "shm:t",
    "detail": "tail 9",
    "exitcode": -9,
}


def relative(path: Path) -> str:
    """A test id."""
    base = SOURCE if SOURCE in path.parents else ROOT
    return str(path.relative_to(base))


def test_version_is_that_of_the_installed_package() -> None:
    assert shmkit.__version__ == metadata.version("shmkit")


def test_typed_marker_is_installed() -> None:
    assert (SOURCE / "py.typed").is_file()


@pytest.mark.parametrize("name", shmkit.__all__)
def test_every_public_name_is_there(name) -> None:
    value = getattr(shmkit, name)
    assert value.__name__ == name
    assert name in dir(shmkit)


def test_public_names_are_said_the_same_three_times() -> None:
    """The list, the table of homes and what type checkers see."""
    source = ast.parse(Path(shmkit.__file__).read_text())
    block = next(node for node in source.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == shmkit._HOME
    assert shmkit.__all__ == sorted(shmkit._HOME)


def test_star_import_gives_every_public_name() -> None:
    names: dict[str, object] = {}
    exec("from shmkit import *", names)
    assert set(shmkit.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'shmkit' has no attribute 'Rign'$"):
        shmkit.Rign  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_says_what_it_exports(path) -> None:
    source = ast.parse(path.read_text())
    assert ast.get_docstring(source) or not source.body
    if path.name in {"__init__.py", "__main__.py"}:
        return
    name = ".".join(("shmkit", *path.relative_to(SOURCE).with_suffix("").parts))
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "dask":
            raise
        pytest.skip("dask is not installed")
    for exported in module.__all__:
        assert hasattr(module, exported), exported


def top_level(path: Path, *, lazy: bool) -> set[str]:
    """Distributions a module imports: when it is imported itself, or `lazy`, at any time."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "shmkit").partition(".")[0])
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo.extend(node.orelse)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))
    return found - set(sys.stdlib_module_names) - {"shmkit"}


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_the_core_needs_posix_ipc_alone(path) -> None:
    assert top_level(path, lazy=False) <= {"posix_ipc"}
    assert top_level(path, lazy=True) <= {"posix_ipc", "numpy"}


def test_importing_takes_nothing_that_is_not_used() -> None:
    source = """
        import sys
        before = set(sys.modules)
        import shmkit
        print(*sorted(set(sys.modules) - before))
    """
    loaded = run_python(source).stdout.split()
    assert [name for name in loaded if name.startswith("shmkit")] == ["shmkit"]
    used = """
        import sys
        from shmkit import *
        print(*sorted(sys.modules))
    """
    roots = {name.partition(".")[0] for name in run_python(used).stdout.split()}
    assert not roots & {"numpy", "rich", "psutil", "typer", "click", "dask", "pytest"}


# A WorkerDied makes its own message: tests/work/test_executor_own.py pickles it.
@pytest.mark.parametrize("error", [error for error in ERRORS if error is not errors.WorkerDied])
def test_errors_survive_pickling_with_their_fields(error) -> None:
    taken = inspect.signature(error.__init__).parameters
    fields = {name: value for name, value in FIELDS.items() if name in taken}
    raised = error("the message", **fields)
    raised.extra = "kept"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(raised, protocol))
        assert type(copy) is error
        assert (str(copy), copy.args) == ("the message", ("the message",))
        assert vars(copy) == {**fields, "extra": "kept"}


def test_every_error_is_listed_and_drawn() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type)}
    assert {each for each in classes if issubclass(each, errors.ShmkitError)} == set(ERRORS)
    assert [error.__name__ for error in ERRORS] == sorted(errors.__all__) == errors.__all__
    for error in ERRORS:
        assert f"{error.__name__} (" in errors.__doc__ or error is errors.ShmkitError


def examples() -> list[object]:
    """Each ```python block of the documents."""
    return [
        pytest.param(block[1], id=f"{relative(path)}:{text.count(chr(10), 0, block.start()) + 1}")
        for path in DOCUMENTS
        for text in [path.read_text()]
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize("source", examples())
def test_examples_in_the_documents_run(source, tmp_path) -> None:
    run_python(source, cwd=tmp_path)


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_in_the_documents_lead_somewhere(path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def lint_imports(config: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    return subprocess.run(
        [command, "--no-cache", "--config", config],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=ROOT,
    )


def test_the_floors_hold() -> None:
    result = lint_imports(ROOT / "pyproject.toml")
    assert result.returncode == 0, result.stdout


def test_a_wrong_import_breaks_the_floors(tmp_path) -> None:
    """The contract looks at what it says it looks at: turned upside down, it fails."""
    text = (ROOT / "pyproject.toml").read_text()
    swapped = text.replace('"channels",\n    "sync",', '"sync",\n    "channels",')
    assert swapped != text
    config = tmp_path / "pyproject.toml"
    config.write_text(swapped)
    result = lint_imports(config)
    assert result.returncode == 1
    assert "shmkit.channels is not allowed to import shmkit.sync" in result.stdout
