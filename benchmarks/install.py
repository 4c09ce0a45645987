"""Install what the benchmarks use, one library at a time: one that fails stops no other.

The list is the dependency group "bench" of pyproject.toml. Exit status 1 says that some are
missing; `ring.py` runs without what it compares with, and names it; `plot.py` needs matplotlib.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def main() -> int:
    """Install them all into this interpreter's environment."""
    groups = tomllib.loads(PROJECT.read_text())["dependency-groups"]
    missing = 0
    for requirement in groups["bench"]:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        ended = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        if ended.returncode:
            lines = ended.stderr.strip().splitlines() or [f"pip gave {ended.returncode}"]
            errors = [line for line in lines if line.startswith("ERROR")]
            print(f"could not install {requirement}: {(errors or lines)[-1]}", file=sys.stderr)
            missing += 1
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
