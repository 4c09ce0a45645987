"""The suites of `multiprocessing`'s Lock, Semaphore and Event."""

from __future__ import annotations

import unittest

from test import _test_multiprocessing as processes

import shmkit

__all__ = ["PROCESSES", "SKIPS"]


class ProcessesTestLock(processes._TestLock, processes.ProcessesMixin, unittest.TestCase):
    """`_test_multiprocessing._TestLock`, as its own module makes it for processes."""

    Lock = staticmethod(shmkit.Lock)


class ProcessesTestSemaphore(processes._TestSemaphore, processes.ProcessesMixin, unittest.TestCase):
    """`_test_multiprocessing._TestSemaphore`, likewise."""

    Semaphore = staticmethod(shmkit.Semaphore)


class ProcessesTestEvent(processes._TestEvent, processes.ProcessesMixin, unittest.TestCase):
    """`_test_multiprocessing._TestEvent`, likewise."""

    Event = staticmethod(shmkit.Event)


PROCESSES = [ProcessesTestLock, ProcessesTestSemaphore, ProcessesTestEvent]

_OTHER = "difference: shmkit has no such class yet; it would test multiprocessing's own"

SKIPS = {
    "ProcessesTestLock.test_rlock": _OTHER,
    "ProcessesTestSemaphore.test_bounded_semaphore": _OTHER,
    "ProcessesTestEvent.test_repr": (
        "difference: the repr says where the event is, and whether it is set: <Event anon: not set>"
    ),
}
