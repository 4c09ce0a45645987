"""Commands that run a program in namespaces of its own; a skip where none may be made."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest

__all__ = ["in_namespaces"]


@cache
def _works(command: tuple[str, ...]) -> bool:
    if not shutil.which(command[0]):
        return False
    return not subprocess.run([*command, "true"], capture_output=True, check=False).returncode


def in_namespaces(*options: str, setup: str = "true") -> list[str]:
    """A command that starts the one behind it in new namespaces.

    Args:
        options: of `unshare`: "--mount", "--pid" ...
        setup: shell commands to run there first, as mounts.

    Returns:
        Its words. As another user than root it makes a user namespace, too.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, *options, "sh", "-c", f'{setup} && exec "$@"', "sh"]
    if not _works(tuple(command)):
        pytest.skip(f"may not be made here: `{' '.join(command[:-1])}`")
    return command
