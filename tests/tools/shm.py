"""A /dev/shm of its own for a child of a test, where this system allows it."""

from __future__ import annotations

import functools
import subprocess

import pytest

__all__ = ["in_own_shm"]

_ENTER = 'mount -t tmpfs shm /dev/shm && exec "$@"'


def in_own_shm(*command: str) -> list[str]:
    """The command line that runs a command where /dev/shm is empty, and nobody else's.

    The test is skipped where mounting is not allowed.
    """
    for unshare in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        if _works(tuple(unshare)):
            return [*unshare, "sh", "-c", _ENTER, "sh", *command]
    pytest.skip("no private /dev/shm can be mounted here")


@functools.cache
def _works(unshare: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run(
            [*unshare, "sh", "-c", _ENTER, "sh", "true"], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0
