"""What the build makes: the header and the hooks of the compiled core, and wheels."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from runpy import run_path

import pytest

from shmkit import compiled, core
from shmkit.segment import words

setuptools = pytest.importorskip("setuptools", minversion="77")

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "shmkit" / "_core.c"
COMPILER = shutil.which((sysconfig.get_config_var("CC") or "none").split()[0])
HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")


@pytest.fixture
def build(monkeypatch):
    """The functions of setup.py, which builds nothing here."""
    monkeypatch.setattr(setuptools, "setup", lambda **_options: None)
    return run_path(str(ROOT / "setup.py"))


def test_the_core_is_there_if_it_has_to_be() -> None:
    """As CI asks for where there is a compiler: no test may be passed over for want of it."""
    required = os.environ.get("SHMKIT_BUILD_CORE") == "1"
    if required and compiled.WHY_PURE != "SHMKIT_PURE=1":
        assert compiled.core is not None, compiled.WHY_PURE


# -- what is made ------------------------------------------------------------------------------


def test_the_numbers_of_the_header_are_those_of_the_python(build) -> None:
    header = build["header"]()
    numbers = dict(re.findall(r"^#define ([A-Z_]+) ([\d.e-]+)(?:ULL)?$", header, re.MULTILINE))
    assert {"PAGE", "HEAD", "TAIL", "YIELDS", "LARGE_COPY", "YIELDING"} <= numbers.keys()
    homes = [vars(words), vars(core)]
    for name, number in numbers.items():
        values = {home[name] for home in homes if name in home}
        assert values == {float(number) if set(number) & set(".e") else int(number)}, name
    told = re.search(r'^#define NUMBERS "(.*)"$', header, re.MULTILINE)
    assert told is not None
    assert dict(item.split("=") for item in told[1].split()) == numbers
    if compiled.core is not None:
        assert told[1] == compiled.core.NUMBERS


def test_every_step_in_c_calls_its_hook(build) -> None:
    source, text = SOURCE.read_text(), build["with_steps"]()
    steps = re.findall(r"/\* step: (\S+) \*/", source)
    assert steps
    assert re.findall(r'step\("(\S+)"\); ', text) == steps
    assert "/* step:" not in text
    assert "step(" not in source


def test_constants_are_counted_whatever_headers_compile_them() -> None:
    """Headers of 3.12 and later make a build whose Py_RETURN_NONE ends a process of 3.11."""
    assert re.findall(r"Py_RETURN_\w+;", SOURCE.read_text()) == []


@pytest.mark.skipif(compiled.core is None, reason=f"no compiled core: {compiled.WHY_PURE}")
def test_a_compiled_method_has_the_signature_and_the_docstring_of_the_plain_one() -> None:
    assert compiled._twins
    for kind, name, plain in compiled._twins:
        if name in ("__iter__", "__next__"):
            continue  # of these the interpreter has a docstring of its own
        method = getattr(kind, name)
        assert inspect.getdoc(method) == inspect.getdoc(plain), (kind, name)
        taken = inspect.signature(method).parameters.values()
        expected = inspect.signature(plain).parameters.values()
        assert [(each.name, each.default) for each in taken] == [
            (each.name, each.default) for each in expected
        ], (kind, name)


# -- what is built -----------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path):
    """A copy of what is built from, in which builds for tests and an old core lie about."""
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "tests"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    made = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=made)
    for name in ("_core.abi3.so", "_core_steps.abi3.so"):
        (tmp_path / "src" / "shmkit" / name).write_bytes(b"")
    return tmp_path


def make(sources, *arguments, check=True, **env):
    """Run setup.py; its exit status and the files in what it made, by their name."""
    inherited = {name: value for name, value in os.environ.items() if "SHMKIT" not in name}
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", *arguments],
        cwd=sources,
        env={**inherited, **env},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    found = {}
    for path in sources.glob("dist/*"):
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                found[path.name] = set(archive.namelist())
        else:
            with tarfile.open(path) as archive:
                found[path.name] = {name.partition("/")[2] for name in archive.getnames()}
    return done.returncode, found


def binaries(names):
    """Files of the core but its types."""
    return {name for name in names if "_core" in name and not name.endswith("_core.pyi")}


@pytest.mark.skipif(COMPILER is None or not HAS_GIL, reason="there is no compiler")
def test_a_wheel_has_the_core_and_not_its_build_for_tests(sources) -> None:
    make(sources, "build_ext", "--inplace", SHMKIT_STEPS="1", SHMKIT_BUILD_CORE="1")
    assert (sources / "src" / "shmkit" / "_core_steps.abi3.so").stat().st_size
    _, made = make(sources, "bdist_wheel", SHMKIT_STEPS="1")
    ((name, files),) = made.items()
    assert "-cp311-abi3-" in name
    assert binaries(files) == {"shmkit/_core.abi3.so"}
    assert {"shmkit/_core.pyi", "shmkit/py.typed", "shmkit/core.py"} <= files


def test_without_a_compiler_the_wheel_is_made_and_has_no_core(sources) -> None:
    _, made = make(sources, "bdist_wheel", CC="/nowhere/cc")
    ((_, files),) = made.items()
    assert not binaries(files)
    assert "shmkit/core.py" in files


@pytest.mark.skipif(not HAS_GIL, reason="no core is built for an interpreter without a GIL")
def test_without_a_compiler_a_core_that_is_required_fails_the_build(sources) -> None:
    status, made = make(
        sources, "bdist_wheel", check=False, CC="/nowhere/cc", SHMKIT_BUILD_CORE="1"
    )
    assert status
    assert not made


def test_a_pure_wheel_is_for_every_system(sources) -> None:
    _, made = make(sources, "bdist_wheel", SHMKIT_BUILD_CORE="0")
    ((name, files),) = made.items()
    assert name.endswith("-py3-none-any.whl")
    assert not binaries(files)


def test_an_sdist_has_what_a_wheel_and_the_tests_need(sources) -> None:
    _, made = make(sources, "sdist")
    ((_, files),) = made.items()
    assert binaries(files) == {"src/shmkit/_core.c", "tests/test_core.py"}
    assert {"setup.py", "pyproject.toml", "src/shmkit/_core.pyi", "tests/conftest.py"} <= files
