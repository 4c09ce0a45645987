"""A handle that a process was handed, and drops open, is no mistake of that process."""

from __future__ import annotations

import pytest

from tests.processes import run_python

HANDED = """
import multiprocessing, sys
import numpy
import shmkit

def use(handle):
    return type(handle).__name__

def main():
    context = multiprocessing.get_context(args[0])
    made = [
        shmkit.Ring.create(),
        shmkit.Latest.create(),
        shmkit.Broadcast.create(),
        shmkit.Queue(),
        shmkit.SharedBuffer.create(size=100),
        shmkit.SharedArray.create(None, (4,), "f8"),
        shmkit.Lock(),
        shmkit.Event(),
        shmkit.Semaphore(1),
    ]
    with shmkit.ProcessPoolExecutor(1, context) as pool:
        for handle in made:
            assert pool.submit(use, handle).result(20) == type(handle).__name__
    for handle in made:
        process = context.Process(target=use, args=(handle,))
        process.start()
        process.join()
        assert process.exitcode == 0
        handle.close()

if __name__ == "__main__":
    main()
"""
DEVELOPING = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"}


def test_what_a_process_was_handed_warns_nowhere(start_method) -> None:
    assert run_python(HANDED, start_method, env=DEVELOPING, timeout=120).stderr == ""


LEFT = """
import os, sys
import shmkit
handle = eval(args[0])
child = os.fork()
if child:
    os.waitpid(child, 0)
    handle.close()
else:
    sys.stderr.write("child\\n")
del handle
"""


@pytest.mark.parametrize(
    "made",
    [
        "shmkit.Ring.create()",
        "shmkit.Latest.create()",
        "shmkit.Broadcast.create()",
        "shmkit.SharedBuffer.create(size=100)",
        "shmkit.PagedFile(args[1])",
    ],
)
def test_a_forked_child_may_drop_it(made, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    assert run_python(LEFT, made, path, env=DEVELOPING).stderr == "child\n"


def test_what_it_made_itself_warns(tmp_path) -> None:
    source = LEFT.replace("child = os.fork()", "child = 0")
    for made in "shmkit.Ring.create()", "shmkit.Latest.create()":
        assert "ResourceWarning: unclosed" in run_python(source, made, env=DEVELOPING).stderr
