"""The suites of executors: submit, map, shutdown, initializers, as_completed, wait, deadlocks."""

from __future__ import annotations

import multiprocessing
import os
from concurrent import futures
from importlib import import_module
from typing import Any
from unittest import mock

import shmkit
from conformance.executors import SUITES
from shmkit.work.future import CallFuture

__all__ = [
    "PROCESSES",
    "SKIPS",
    "THREADS",
    "AsCompletedTest",
    "ExecutorDeadlockTest",
    "FailingInitializerTest",
    "FutureTest",
    "InitializerTest",
    "ProcessPoolExecutorTest",
    "ProcessPoolShutdownTest",
    "WaitTest",
]


def _part(name: str) -> Any:
    """A module of the suites; the first releases of 3.11 have them all in one."""
    whole = import_module(SUITES)
    return import_module(f"{SUITES}.{name}") if hasattr(whole, "__path__") else whole


as_completed = _part("test_as_completed")
deadlock = _part("test_deadlock")
future = _part("test_future")
init = _part("test_init")
pool = _part("test_process_pool")
shutdown = _part("test_shutdown")
wait = _part("test_wait")
util = _part("util")


def _assert_python_ok(*args: str) -> Any:
    """Run a script of the suite with the executor under test in place of the library's own."""
    scripts = [
        text.replace("from concurrent.futures import Process", "from shmkit import Process")
        for text in args
    ]
    return script_helper(*scripts, PYTHONPATH=os.environ["PYTHONPATH"])


script_helper = shutdown.assert_python_ok


class Mixin(util.ProcessPoolForkMixin):
    """What the suites call an executor mixin, for the start method of this run."""

    executor_type = shmkit.ProcessPoolExecutor

    @property
    def ctx(self) -> str:  # type: ignore[override]
        """The start method."""
        return multiprocessing.get_start_method()

    def setUp(self) -> None:
        """Some cases take the executor from the module, or write a script that does."""
        for patch in (
            mock.patch.object(futures, "ProcessPoolExecutor", shmkit.ProcessPoolExecutor),
            mock.patch.object(shutdown, "assert_python_ok", _assert_python_ok),
        ):
            patch.start()
            self.addCleanup(patch.stop)  # type: ignore[attr-defined]
        super().setUp()


class ProcessPoolExecutorTest(pool.ProcessPoolExecutorTest, Mixin, util.BaseTestCase):
    """`test_process_pool`."""


class ProcessPoolShutdownTest(shutdown.ProcessPoolShutdownTest, Mixin, util.BaseTestCase):
    """`test_shutdown`."""


class InitializerTest(init.InitializerMixin, Mixin, util.BaseTestCase):
    """`test_init`, of one that works."""


class FailingInitializerTest(init.FailingInitializerMixin, Mixin, util.BaseTestCase):
    """`test_init`, of one that fails."""


class AsCompletedTest(as_completed.AsCompletedTests, Mixin, util.BaseTestCase):
    """`test_as_completed`."""


class WaitTest(wait.WaitTests, Mixin, util.BaseTestCase):
    """`test_wait`."""


class ExecutorDeadlockTest(deadlock.ExecutorDeadlockTest, Mixin, util.BaseTestCase):
    """`test_deadlock`."""


# The suite looks for the name of the class in what a future says of itself.
Future: Any = type("Future", (CallFuture,), {})


class FutureTest(future.FutureTests):
    """`test_future`, of the futures that the executor gives."""

    def setUp(self) -> None:
        """The suite has futures in all states ready, and makes others."""
        patch = mock.patch.object(util, "Future", Future)
        patch.start()
        self.addCleanup(patch.stop)
        for name, ready in list(vars(future).items()):
            if name == "Future" or isinstance(ready, futures.Future):
                ours = Future if name == "Future" else self._copy(ready)
                patch = mock.patch.object(future, name, ours)
                patch.start()
                self.addCleanup(patch.stop)
        super().setUp()

    def _copy(self, ready: Any) -> Any:
        made = util.create_future(ready._state, ready._exception, ready._result)
        assert isinstance(made, CallFuture)
        return made


PROCESSES = [
    ProcessPoolExecutorTest,
    ProcessPoolShutdownTest,
    InitializerTest,
    FailingInitializerTest,
    AsCompletedTest,
    WaitTest,
    ExecutorDeadlockTest,
]
THREADS = [FutureTest]

_ALONE = "difference: what does not unpickle fails its own call, and the pool goes on"
_QUEUE = "private: ProcessPoolExecutor._call_queue"

_UNPICKLABLE = (
    "difference: a call that does not pickle fails in submit, and no worker is started for it"
)

SKIPS = {
    "ProcessPoolShutdownTest.test_processes_terminate": _UNPICKLABLE,
    "ProcessPoolExecutorTest.test_saturation": _UNPICKLABLE,
    "ProcessPoolExecutorTest.test_killed_child": (
        "difference: a killed worker is replaced, and the pool is not broken"
    ),
    "ProcessPoolExecutorTest.test_python_finalization_error": (
        "private: the feeder thread of its queue of calls, which is made to fail"
    ),
    "ProcessPoolShutdownTest.test_del_shutdown": _QUEUE,
    "ProcessPoolShutdownTest.test_shutdown_no_wait": _QUEUE,
    "ExecutorDeadlockTest.test_exit_at_task_unpickle": _ALONE,
    "ExecutorDeadlockTest.test_error_at_task_unpickle": _ALONE,
    "ExecutorDeadlockTest.test_error_during_result_unpickle_in_result_handler": _ALONE,
    "ExecutorDeadlockTest.test_exit_during_result_unpickle_in_result_handler": _ALONE,
}
