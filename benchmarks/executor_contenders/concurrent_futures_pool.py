"""The standard library's executor."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

__all__ = ["CONTENDERS"]


class Pool(ProcessPoolExecutor):
    def close(self) -> None:
        self.shutdown()


def make(workers: int) -> Pool:
    return Pool(workers, multiprocessing.get_context("fork"))


CONTENDERS = {"concurrent.futures.ProcessPoolExecutor": make}
