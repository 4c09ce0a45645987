"""Named segments: POSIX shared memory, the same names as multiprocessing.shared_memory's."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from pathlib import Path
from typing import Final

from shmkit.memory.backends.base import Identity, identity_of

try:
    import posix_ipc
except ImportError as missing:
    raise OSError(
        errno.ENOTSUP,
        "named memory needs POSIX shared memory and the package posix_ipc "
        f"({missing}): use 'anon:' or 'file:PATH' instead",
    ) from missing

__all__ = ["NamedBackend"]

_SHOWN: Final = sys.platform == "linux"  # as files in /dev/shm


class NamedBackend:
    """A segment lives until its name is unlinked and nobody maps it."""

    creator_unlinks = True
    empty_is_unfinished = True

    def fresh_name(self) -> str:
        """A name nobody can guess: 88 random bits, and short enough for macOS."""
        return f"shmkit_{secrets.token_hex(11)}"

    def create(self, name: str, mode: int) -> int:
        """Make an empty segment; `mode` loses the bits of the umask."""
        try:
            return _descriptor(posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, mode))
        except posix_ipc.ExistentialError:
            raise FileExistsError(
                errno.EEXIST,
                "there is a shared memory segment of this name; attach() to it, or use ensure()",
                f"shm:{name}",
            ) from None
        except posix_ipc.PermissionsError as error:
            raise _no_permission(name) from error

    def open(self, name: str, *, writable: bool) -> int:
        """Open a segment; a symlink in its place is not followed (shm_open uses O_NOFOLLOW)."""
        try:
            # No size: with one, posix_ipc would resize a live segment.
            return _descriptor(posix_ipc.SharedMemory(f"/{name}", read_only=not writable))
        except posix_ipc.ExistentialError:
            raise FileNotFoundError(
                errno.ENOENT, "there is no shared memory segment of this name", f"shm:{name}"
            ) from None
        except posix_ipc.PermissionsError as error:
            raise _no_permission(name) from error
        except OSError as error:
            raise OSError(
                error.errno, f"cannot be opened: {error.strerror}", f"shm:{name}"
            ) from error

    def identify(self, name: str) -> Identity:
        """Look at the name without opening it where the system shows it as a file."""
        if _SHOWN:
            return identity_of(Path("/dev/shm", name).lstat())
        fd = self.open(name, writable=False)
        try:
            return identity_of(os.fstat(fd))
        finally:
            os.close(fd)

    def unlink(self, name: str) -> None:
        """Remove the name; maps of the segment stay."""
        try:
            posix_ipc.unlink_shared_memory(f"/{name}")
        except posix_ipc.ExistentialError:
            raise FileNotFoundError(
                errno.ENOENT, "there is no shared memory segment of this name", f"shm:{name}"
            ) from None
        except posix_ipc.PermissionsError as error:
            raise _no_permission(name) from error


def _descriptor(segment: posix_ipc.SharedMemory) -> int:
    # The object closes nothing when it goes: the descriptor is ours. It is close-on-exec.
    return int(segment.fd)


def _no_permission(name: str) -> PermissionError:
    return PermissionError(
        errno.EACCES, "another user's segment, or one without this access", f"shm:{name}"
    )
