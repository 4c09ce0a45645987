"""Libraries that take an executor: the programs of docs/executors.md that need another library.

The others, which need nothing but shmkit, are run with those of all documents.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from shmkit import ProcessPoolExecutor
from tests.processes import run_python, wait_until

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "executors.md"
SECONDS = 20

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def programs() -> list[Any]:
    """Each block of the document that names the modules it needs, beside the language."""
    blocks = re.findall(
        r"^```python (\S[^\n]*)\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    return [pytest.param(needed.split(), text, id=needed.split()[0]) for needed, text in blocks]


@pytest.mark.slow
@pytest.mark.parametrize(("needed", "source"), programs())
def test_programs_of_other_libraries_run(needed, source, tmp_path) -> None:
    missing = [module for module in needed if find_spec(module) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    run_python(source, cwd=tmp_path, timeout=50)


def test_dask_and_joblib_are_among_them() -> None:
    assert {program.id for program in programs()} == {"dask", "joblib"}


# -- the standard library --------------------------------------------------------------------------


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    """One forked worker."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        yield executor


def hold(gate: Path) -> int:
    wait_until(gate.exists)
    return os.getpid()


def test_a_wait_takes_futures_of_several_executors(pool, tmp_path) -> None:
    gate = tmp_path / "open"
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        held, quick = pool.submit(hold, gate), threads.submit(os.getpid)
        first = concurrent.futures.wait([held, quick], SECONDS, concurrent.futures.FIRST_COMPLETED)
        assert first.done == {quick}
        gate.touch()
        order = list(concurrent.futures.as_completed([held, quick], SECONDS))
    assert order == [quick, held]
    assert held.result() != quick.result() == os.getpid()


def test_a_cancelled_await_takes_out_what_has_not_begun(pool, tmp_path) -> None:
    gate, log = tmp_path / "open", tmp_path / "log"

    async def main() -> None:
        run = asyncio.get_running_loop().run_in_executor
        held = [run(pool, hold, gate) for _ in range(20)]
        waiting = run(pool, log.touch)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # What is awaited was done: only now the loop passes the cancel on to the pool's future.
        await asyncio.sleep(0)
        gate.touch()
        assert len(set(await asyncio.wait_for(asyncio.gather(*held), SECONDS))) == 1

    asyncio.run(main())
    pool.shutdown()
    assert not log.exists()
