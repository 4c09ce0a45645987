"""Functions that run elsewhere: built once for all processes, or called in worker processes."""

from __future__ import annotations

__all__: list[str] = []
