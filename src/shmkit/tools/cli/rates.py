"""Rates since the last look: what `shmkit ls` saw is kept in a small file of the user's cache."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shmkit.tools.inspection import Segment

__all__ = ["rates_since_last_look"]


def rates_since_last_look(segments: Iterable[Segment]) -> dict[str, float]:
    """What passes through each channel in a second, by its `where`; notes this look for the next.

    There is none for what was not there at the last look, or if the file cannot be kept.
    """
    path, now = _path(), time.monotonic()  # since boot: of all processes the same
    before = _read(path)
    rates: dict[str, float] = {}
    noted: dict[str, list[float]] = {}
    for segment in segments:
        if segment.passed is None:
            continue
        key = f"{segment.device}:{segment.inode}:{segment.created}"
        noted[key] = [now, segment.passed]
        then, passed = before.get(key, (now, 0))
        # A later time is of before the last boot.
        if now > then and segment.passed >= passed:
            rates[segment.where] = (segment.passed - passed) / (now - then)
    _write(path, noted)
    return rates


def _path() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home, "shmkit", "looks.json").expanduser()


def _read(path: Path) -> dict[str, tuple[float, int]]:
    try:
        noted = json.loads(path.read_text())
        return {key: (float(then), int(passed)) for key, (then, passed) in noted.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # the first look, or a file of something else


def _write(path: Path, noted: dict[str, list[float]]) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    # Without it there are no rates: no reason to fail.
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps(noted))
        draft.replace(path)
