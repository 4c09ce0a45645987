"""The suites of executors: submit, map, shutdown, initializers, as_completed, wait, deadlocks."""

from __future__ import annotations

import multiprocessing
import os
from concurrent import futures
from typing import Any
from unittest import mock

from test.test_concurrent_futures import test_as_completed as as_completed
from test.test_concurrent_futures import test_deadlock as deadlock
from test.test_concurrent_futures import test_init as init
from test.test_concurrent_futures import test_process_pool as pool
from test.test_concurrent_futures import test_shutdown as shutdown
from test.test_concurrent_futures import test_wait as wait
from test.test_concurrent_futures import util

import shmkit

__all__ = [
    "PROCESSES",
    "SKIPS",
    "AsCompletedTest",
    "ExecutorDeadlockTest",
    "FailingInitializerTest",
    "InitializerTest",
    "ProcessPoolExecutorTest",
    "ProcessPoolShutdownTest",
    "WaitTest",
]


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


PROCESSES = [
    ProcessPoolExecutorTest,
    ProcessPoolShutdownTest,
    InitializerTest,
    FailingInitializerTest,
    AsCompletedTest,
    WaitTest,
    ExecutorDeadlockTest,
]

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
