"""Build the compiled core, if there is a compiler: src/shmkit/_core.c, for the stable ABI.

The numbers it shares with the Python code are written once, in segment/words.py and core.py: the
header that it includes is made from them here. Environment:

    SHMKIT_BUILD_CORE=1    a core that cannot be built fails the install
    SHMKIT_BUILD_CORE=0    none is built: the wheel is for every system
    SHMKIT_CFLAGS, SHMKIT_LDFLAGS
                           more for the compiler and the linker
    SHMKIT_STEPS=1         with `build_ext --inplace`: the build for tests as well, never in a wheel
"""

from __future__ import annotations

import ast
import json
import os
import re
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path(__file__).parent / "src" / "shmkit"
MODULES = ("segment/words.py", "core.py")
"""Modules whose constants the C code has, too."""
DOCUMENTED = ("core.py", "channels/ring/ring.py", "sync/lock.py", "sync/semaphore.py")
"""Modules whose methods it has, with their docstrings."""

WANTED = os.environ.get("SHMKIT_BUILD_CORE")
STEP = re.compile(r"^( *)(\S.*) /\* step: (\S+) \*/$", re.MULTILINE)
NAME = re.compile(r"\b[A-Z][A-Z_]+\b")


def constants(path: Path) -> dict[str, int | float]:
    """The numbers that a module assigns at its top level.

    words.py, which imports nothing of the package, is run: many of its numbers come from tables. Of
    the others, what is no plain number is passed over.
    """
    text = path.read_text(encoding="utf-8")
    values: dict[str, Any] = {"__name__": path.stem}
    if path.stem == "words":
        exec(compile(text, str(path), "exec"), values)
    else:
        for node in ast.parse(text).body:
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                names = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
                calls = any(isinstance(part, ast.Call) for part in ast.walk(node.value))
                if not calls and names <= values.keys():
                    values[ast.unparse(node.target)] = eval(ast.unparse(node.value), values)
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def docstrings(path: Path) -> dict[str, str]:
    """`DOC_Class_method` of a module: what help() shows, with its signature in front."""
    found = {}
    for kind in ast.parse(path.read_text(encoding="utf-8")).body:
        for method in kind.body if isinstance(kind, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and not method.decorator_list:
                for part in ast.walk(method.args):
                    if isinstance(part, ast.arg):
                        part.annotation = None  # help() of a C function knows none
                arguments = ast.unparse(method.args).replace("self", "$self", 1)
                text = f"{method.name}({arguments})\n--\n\n{ast.get_docstring(method) or ''}"
                found[f"DOC_{kind.name}_{method.name.strip('_')}"] = text
    return found


def header() -> str:
    """The text of `_core_words.h`: the numbers that _core.c uses, as macros and as one string."""
    used = set(NAME.findall((SOURCES / "_core.c").read_text(encoding="utf-8")))
    numbers = {
        name: value
        for module in MODULES
        for name, value in constants(SOURCES / module).items()
        if name in used
    }
    lines = ["/* Made by setup.py. */"]
    for name, value in numbers.items():
        lines.append(f"#define {name} {value!r}" + ("ULL" if value > 1 << 31 else ""))
    for module in DOCUMENTED:
        for name, text in docstrings(SOURCES / module).items():
            lines.append(f"#define {name} {json.dumps(text)}")
    text = " ".join(f"{name}={value!r}" for name, value in numbers.items())
    return "\n".join([*lines, f'#define NUMBERS "{text}"', ""])


HOOK = r"""
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
static struct { char name[40]; long left; int link, signal; } armed;
static void step(const char *name)
{
    if (armed.left > 0 && !strcmp(name, armed.name) && --armed.left == 0) {
        if (write(armed.link, "\0\0\0\4here", 8) != 8) abort();
        pthread_kill(pthread_self(), armed.signal);
    }
}
static PyObject *arm(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    int failed = !PyArg_ParseTuple(
        args, "slii", &name, &armed.left, &armed.link, &armed.signal);
    if (failed) return NULL;
    strncpy(armed.name, name, sizeof(armed.name) - 1);
    Py_RETURN_NONE;
}
"""


def with_steps() -> str:
    """The C source in which each `step` comment is a call of a hook: for tests that kill there."""
    text = (SOURCES / "_core.c").read_text(encoding="utf-8")
    text = STEP.sub(r'\1step("\3"); \2', text)
    for before, after in (
        ('#include "_core_words.h"', '#include "_core_words.h"' + HOOK),
        (
            '{"copy",',
            '{"arm", arm, METH_VARARGS, "End at a step."}, {"copy",',
        ),
        ("PyInit__core(", "PyInit__core_steps("),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


class Build(build_ext):
    """Make the sources that are made, before anything is compiled."""

    def finalize_options(self) -> None:
        """Add the build for tests, if it is asked for and stays in this directory."""
        if self.inplace and os.environ.get("SHMKIT_STEPS") == "1":
            self.distribution.ext_modules.append(extension("_core_steps"))
            self.build_lib = "build/steps"  # what lies in build/lib is in the next wheel
        super().finalize_options()

    def build_extension(self, ext: Extension) -> None:
        """Write the header into the folder of what is built, and compile."""
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "_core_words.h").write_text(header(), encoding="utf-8")
        ext.include_dirs.append(str(folder))
        if ext.name == "shmkit._core_steps":
            (folder / "_core_steps.c").write_text(with_steps(), encoding="utf-8")
            ext.sources = [str(folder / "_core_steps.c")]
        super().build_extension(ext)


def extension(name: str) -> Extension:
    """The compiled core, under a name."""
    return Extension(
        f"shmkit.{name}",
        ["src/shmkit/_core.c"],
        depends=["setup.py", *(f"src/shmkit/{module}" for module in {*MODULES, *DOCUMENTED})],
        py_limited_api=True,
        optional=WANTED != "1",  # without a compiler the plain Python is used
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"]
        + os.environ.get("SHMKIT_CFLAGS", "").split(),
        extra_link_args=["-pthread"] + os.environ.get("SHMKIT_LDFLAGS", "").split(),
    )


# The core's steps rely on the GIL, and the stable ABI is of interpreters that have one.
if sysconfig.get_config_var("Py_GIL_DISABLED") or WANTED == "0":
    setup()
else:
    setup(
        ext_modules=[extension("_core")],
        cmdclass={"build_ext": Build},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
