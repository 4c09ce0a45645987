"""The suites of queues: of `multiprocessing` between processes, of `queue` between threads."""

from __future__ import annotations

import multiprocessing
import queue
import unittest
from typing import Any
from unittest import mock

from test import _test_multiprocessing as processes
from test import test_queue as threads

import shmkit

__all__ = ["PROCESSES", "SKIPS", "THREADS"]


class ProcessesTestQueue(processes._TestQueue, processes.ProcessesMixin, unittest.TestCase):
    """`_test_multiprocessing._TestQueue`, as its own module makes it for processes."""

    Queue = staticmethod(shmkit.Queue)
    JoinableQueue = staticmethod(shmkit.JoinableQueue)

    def setUp(self) -> None:
        """Some of its cases take the queues from the module."""
        super().setUp()
        for name in "Queue", "JoinableQueue":
            patch = mock.patch.object(multiprocessing, name, getattr(shmkit, name))
            patch.start()
            self.addCleanup(patch.stop)


# The suite of `queue` looks at the name of the class for the order to expect, and joins.
Queue = type("Queue", (shmkit.JoinableQueue,), {})


class ThreadsQueueTest(threads.BaseQueueTestMixin, unittest.TestCase):
    """`test_queue.BaseQueueTestMixin`, as its own module makes it for `queue.Queue`."""

    type2test: Any = Queue
    queue = queue


class ThreadsSimpleQueueTest(threads.BaseSimpleQueueTest, unittest.TestCase):
    """`test_queue.BaseSimpleQueueTest`, as its own module makes it for `queue.SimpleQueue`."""

    type2test: Any = shmkit.Queue
    queue = queue

    def setUp(self) -> None:
        """What the suite of each of the standard library's classes does, too."""
        self.q = self.type2test()
        super().setUp()


PROCESSES = [ProcessesTestQueue]
THREADS = [ThreadsQueueTest, ThreadsSimpleQueueTest]

_FEEDER = "difference: no feeder thread; what does not pickle raises in put, and takes no place"
_NEGATIVE = "difference: as in multiprocessing, a negative timeout is none"

SKIPS = {
    "ProcessesTestQueue.test_queue_feeder_donot_stop_onexc": _FEEDER,
    "ProcessesTestQueue.test_queue_feeder_on_queue_feeder_error": (
        "private: Queue._on_queue_feeder_error, of the feeder thread"
    ),
    "ProcessesTestQueue.test_closed_queue_empty_exceptions": (
        "difference: a closed queue is closed, whether its feeder thread was started or not; "
        "empty() raises ValueError as put() and get() do"
    ),
    "ThreadsQueueTest.test_negative_timeout_raises_exception": _NEGATIVE,
    "ThreadsSimpleQueueTest.test_negative_timeout_raises_exception": _NEGATIVE,
    "ThreadsQueueTest.test_shrinking_queue": (
        "private: assignment to Queue.maxsize, which multiprocessing's queues do not have"
    ),
    "ThreadsSimpleQueueTest.test_references": (
        "difference: objects are pickled, and its class is local to the test"
    ),
}
