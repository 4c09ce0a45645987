"""told: a read-only property in a line, for what an object keeps or passes on."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

__all__ = ["told"]


def told(path: str, doc: str) -> Any:
    """A property that reads an attribute, also one of an attribute: "_url.name"."""
    return property(attrgetter(path), doc=doc)
