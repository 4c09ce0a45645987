"""`python -m shmkit` is the `shmkit` command."""

from __future__ import annotations

from shmkit.tools.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
