"""The suites of executors, where the interpreter's `test` package has them."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

__all__ = ["PROCESSES", "SKIPS"]

PROCESSES: list[Any] = []
SKIPS: dict[str, str] = {}

# Some builds leave parts of the package out.
if find_spec("test.test_concurrent_futures") is not None:
    from conformance.executor_suites import *  # noqa: F403
else:
    print("no test.test_concurrent_futures in this interpreter: executors not run", file=sys.stderr)
