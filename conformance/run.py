r"""Run CPython's own suites against shmkit's classes: `python conformance/run.py`.

Nothing of the suites is copied: they are imported from the `test` package of this interpreter, and
subclassed with another class to test. Each class of tests runs under each start method in an
interpreter of its own, under a deadline. A case that does not apply is skipped by name, with the
private of the standard library or the deliberate difference it rests on.

`--write docs/conformance.md` puts the table between the marks for it there:

    <!-- queues 3.13 -->  ...  <!-- end queues 3.13 -->
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("fork", "spawn", "forkserver")
# Modules of this folder: which have PROCESSES (run under each start method), THREADS, and SKIPS.
SUITES = ("queues", "locks", "executors", "shared_memory")
SECONDS = 600


def run_here(module: str, name: str, method: str) -> dict[str, Any]:
    """Run one class of tests in this process."""
    if method != "threads":
        multiprocessing.set_start_method(method, force=True)
    suite = importlib.import_module(f"conformance.{module}")
    cases = unittest.defaultTestLoader.loadTestsFromTestCase(getattr(suite, name))
    skips: dict[str, str] = {}
    kept = unittest.TestSuite()
    for case in cases:
        key = f"{name}.{case.id().rpartition('.')[2]}"
        if key in suite.SKIPS:
            skips[key] = suite.SKIPS[key]
        else:
            kept.addTest(case)
    text = io.StringIO()
    result = unittest.TextTestRunner(text, verbosity=2).run(kept)
    skips.update({test.id().split(".", 2)[-1]: reason for test, reason in result.skipped})
    bad = [test.id() for test, _ in result.failures + result.errors]
    return {
        "passed": result.testsRun - len(bad) - len(result.skipped),
        "skipped": skips,
        "failed": bad,
        "text": text.getvalue(),
    }


def run_apart(module: str, name: str, method: str) -> dict[str, Any]:
    """Run one class of tests in an interpreter of its own."""
    command = [sys.executable, str(Path(__file__)), "--one", module, name, method]
    # What was there stays: it may say where a `test` package is that is not installed.
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    lost = {"passed": 0, "skipped": {}, "failed": [f"{name} ({method})"]}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        return {**lost, "text": f"not done after {SECONDS} s\n{error.stderr!r}"}
    if done.returncode:
        return {**lost, "text": f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(rows: list[tuple[str, str, dict[str, Any]]]) -> str:
    """The results as Markdown, and a list of the skips."""
    lines = ["| class | start method | passed | skipped | failed |", "|---|---|--:|--:|--:|"]
    reasons: dict[str, str] = {}
    for name, method, result in rows:
        counts = result["passed"], len(result["skipped"]), len(result["failed"])
        lines.append(f"| {name} | {method} | {counts[0]} | {counts[1]} | {counts[2]} |")
        reasons.update(result["skipped"])
    if reasons:
        lines += ["", "Skipped:", ""]
        lines += [f"- `{case}`: {reason}" for case, reason in sorted(reasons.items())]
    return "\n".join(lines)


def write(path: Path, module: str, text: str) -> None:
    """Put a table between its marks."""
    version = "{}.{}".format(*sys.version_info)
    begin, end = f"<!-- {module} {version} -->", f"<!-- end {module} {version} -->"
    old = path.read_text()
    if begin not in old:
        print(f"{path} has no mark {begin}: not written")
        return
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    path.write_text(re.sub(pattern, lambda _: f"{begin}\n\n{text}\n\n{end}", old, flags=re.DOTALL))


def main() -> int:
    """Run what the arguments name; the exit status is 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("suites", nargs="*", default=[], help=", ".join(SUITES))
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one")
    parser.add_argument("--write", type=Path, help="a Markdown file with marks")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print("\n" + json.dumps(run_here(*options.one)))
        return 0
    failed = 0
    for module in options.suites or [s for s in SUITES if (ROOT / f"conformance/{s}.py").exists()]:
        suite = importlib.import_module(f"conformance.{module}")
        rows = []
        jobs = [(c, m) for c in suite.PROCESSES for m in options.method or METHODS]
        jobs += [(c, "threads") for c in getattr(suite, "THREADS", [])]
        if not jobs:
            continue  # this interpreter has no such suite, and that was said
        for kind, method in jobs:
            result = run_apart(module, kind.__name__, method)
            rows.append((kind.__name__, method, result))
            failed += len(result["failed"])
            if result["failed"]:
                print(result["text"])
        print(f"\n{module}, CPython {sys.version.split()[0]}\n\n{table(rows)}")
        if options.write:
            write(options.write, module, table(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    sys.exit(main())
