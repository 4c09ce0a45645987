"""The suite of shared memory: blocks, and lists and managers made of them."""

from __future__ import annotations

import unittest
from multiprocessing import shared_memory
from unittest import mock

from test import _test_multiprocessing as processes

import shmkit

__all__ = ["PROCESSES", "SKIPS"]


class SharedMemory(shmkit.SharedMemory):
    """With two private names of the standard library's class, which the suite looks at."""

    @staticmethod
    def _fresh_name() -> str:
        return shared_memory._make_filename().removeprefix("/")

    @property
    def _name(self) -> str:
        return self._plain_name if self._plain_name.startswith("/") else f"/{self._plain_name}"

    @_name.setter
    def _name(self, name: str) -> None:
        self._plain_name = name

    @property
    def name(self) -> str:
        """Without the slash that the private name has."""
        return self._name.removeprefix("/")


class ProcessesTestSharedMemory(
    processes._TestSharedMemory, processes.ProcessesMixin, unittest.TestCase
):
    """`_test_multiprocessing._TestSharedMemory`, with ShareableList and managers over ours, too."""

    def setUp(self) -> None:
        """Its cases take the class from the module."""
        super().setUp()
        patch = mock.patch.object(shared_memory, "SharedMemory", SharedMemory)
        patch.start()
        self.addCleanup(patch.stop)


PROCESSES = [ProcessesTestSharedMemory]

SKIPS: dict[str, str] = {}
