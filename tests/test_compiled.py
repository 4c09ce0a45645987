"""Which core is used, and what is said when it is the plain one; and in subinterpreters."""

from __future__ import annotations

import sys

import pytest

from shmkit import compiled
from tests.processes import run_python

needs_core = pytest.mark.skipif(
    compiled.core is None, reason=f"no compiled core: {compiled.WHY_PURE}"
)

TELL = "from shmkit import compiled; print(compiled.core is None, compiled.WHY_PURE)"


@pytest.mark.parametrize("variable", ["SHMKIT_PURE=1", "SHMKIT_SEMAPHORES=named"])
def test_the_environment_asks_for_plain_python(variable) -> None:
    name, value = variable.split("=")
    told = run_python(TELL, env={"SHMKIT_PURE": "", name: value}).stdout
    assert told == f"True {variable}\n"


@pytest.mark.parametrize(("which", "module"), [("", "_core"), ("steps", "_core_steps")])
def test_where_it_was_not_built_it_says_so_and_all_works(which, module) -> None:
    source = f"""
        import sys
        sys.modules["shmkit.{module}"] = None
        {TELL}
        from shmkit import Ring
        with Ring.create(capacity=4096) as ring:
            ring.put(b"works")
            print(ring.get())
    """
    env = {"SHMKIT_PURE": "", "SHMKIT_SEMAPHORES": "", "SHMKIT_CORE": which}
    told, works = run_python(source, env=env).stdout.splitlines()
    assert told.startswith("True it was not built")
    assert works == "b'works'"


@needs_core
def test_one_that_was_built_from_other_sources_is_refused() -> None:
    source = """
        from shmkit import compiled
        from types import SimpleNamespace
        name, _, number = compiled.core.NUMBERS.split()[0].partition("=")
        compiled.core = SimpleNamespace(NUMBERS=f"{name}={int(number) + 8}")
        try:
            from shmkit import core
        except ImportError as error:
            print(error)
    """
    told = run_python(source).stdout
    assert told.startswith("shmkit._core was built with ")
    assert told.endswith("install shmkit again, or set SHMKIT_PURE=1\n")


IN_ANOTHER = '''
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

SOURCE = """
from shmkit import Lock, Ring, compiled
with Ring.create(capacity=4096, producers="many", consumers="many") as ring:
    for number in range(2000):
        ring.put(b"%d" % number)
        assert ring.get() == b"%d" % number
lock = Lock()
for _ in range(2000):
    with lock:
        pass
lock.close()
print(compiled.core is None, compiled.WHY_PURE, flush=True)
"""
run = interpreters.exec if hasattr(interpreters, "exec") else interpreters.run_string
new = interpreters.create(*args)
failed = run(new, SOURCE)
assert not failed, failed
interpreters.destroy(new)

from shmkit import Ring
with Ring.create(capacity=4096) as ring:
    ring.put(b"works")
    assert ring.get() == b"works"
'''
PLAIN = {"PYTHONWARNINGS": "ignore", "SHMKIT_CORE": ""}


@needs_core
def test_a_subinterpreter_that_shares_the_gil_has_the_core() -> None:
    shared = "legacy" if sys.version_info >= (3, 13) else False
    source = IN_ANOTHER if shared else IN_ANOTHER.replace("*args", "isolated=False")
    assert run_python(source, shared, env=PLAIN).stdout == "False \n"


@needs_core
@pytest.mark.skipif(sys.version_info < (3, 13), reason="posix_ipc is refused there as well")
def test_a_subinterpreter_with_a_gil_of_its_own_takes_plain_python() -> None:
    told = run_python(IN_ANOTHER, "isolated", env=PLAIN).stdout
    assert told.startswith("True it was not built, or is of another system (module shmkit._core ")
