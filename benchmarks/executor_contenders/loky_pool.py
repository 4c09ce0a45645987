"""joblib's executor; its workers are spawned."""

from __future__ import annotations

from loky.process_executor import ProcessPoolExecutor

__all__ = ["CONTENDERS"]


class Pool(ProcessPoolExecutor):
    def close(self) -> None:
        self.shutdown()


CONTENDERS = {"loky": Pool}
