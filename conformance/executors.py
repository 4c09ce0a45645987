"""The suites of executors, where the interpreter's `test` package has them."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

__all__ = ["PROCESSES", "SKIPS", "SUITES"]

SUITES = "test.test_concurrent_futures"
PROCESSES: list[Any] = []
SKIPS: dict[str, str] = {}

# 3.11.7 and 3.12.1 do not install it: it is not among the TESTSUBDIRS of their Makefile.
if find_spec(SUITES) is not None:
    from conformance.executor_suites import *  # noqa: F403
else:
    print(f"no {SUITES} in this interpreter: executors not run", file=sys.stderr)
