"""A fork beside a thread that imports a part of the package for the first time."""

from __future__ import annotations

from tests.processes import run_python

BESIDE_AN_IMPORT = """if True:
    import os, signal, sys, threading, time, types
    from importlib.abc import MetaPathFinder
    from importlib.util import spec_from_loader
    import shmkit.memory.backends

    [package] = args
    if package == "others":
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = []
    is_inside, may_end = threading.Event(), threading.Event()

    class Slow(MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == package + ".late":
                return spec_from_loader(name, self)

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            is_inside.set()
            may_end.wait()

    sys.meta_path.insert(0, Slow())

    def load():
        __import__(package + ".late")

    threading.Thread(target=load).start()
    is_inside.wait()
    sleep = time.sleep
    time.sleep = lambda seconds: (may_end.set(), sleep(seconds))  # the import ends when waited for
    child = os.fork()
    if not child:
        signal.alarm(5)
        load()
        os._exit(0)
    print(may_end.is_set())
    may_end.set()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    load()  # the import lock is free on this side, too
"""


def test_a_fork_waits_for_an_import_of_this_package() -> None:
    """Else the child, which has the module's lock but not the thread, could never import it."""
    assert run_python(BESIDE_AN_IMPORT, "shmkit").stdout == "True\n0\n"


def test_it_does_not_wait_for_others() -> None:
    """A program may run as a whole inside the import of a module of its own."""
    source = BESIDE_AN_IMPORT.replace("load()\n        os._exit", "os._exit")
    assert run_python(source, "others").stdout == "False\n0\n"
