"""Named segments elsewhere than on Linux: POSIX shared memory by the package posix_ipc."""

from __future__ import annotations

import errno
import os

from shmkit.memory.backends.base import fresh_name
from shmkit.memory.identity import Identity, identity_of

try:
    import posix_ipc
except ImportError as _missing:
    raise OSError(
        errno.ENOTSUP,
        "named memory needs POSIX shared memory and the package posix_ipc "
        f"({_missing}): use 'anon:' or 'file:PATH' instead",
    ) from _missing

__all__ = ["PosixBackend"]


class PosixBackend:
    """A segment lives until its name is unlinked and its last map is gone."""

    creator_unlinks = True

    fresh_name: staticmethod[[], str] = staticmethod(fresh_name)

    def create_unnamed(self, name: str, mode: int) -> int:  # noqa: ARG002
        """POSIX has no segments without a name."""
        return -1

    def link(self, fd: int, name: str) -> bool:  # noqa: ARG002
        """There are none to link."""
        return False

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
        """Open a segment."""
        try:
            # No size: with one, posix_ipc would resize a live segment.
            return _descriptor(posix_ipc.SharedMemory(f"/{name}", read_only=not writable))
        except posix_ipc.ExistentialError:
            raise _not_there(name) from None
        except posix_ipc.PermissionsError as error:
            raise _no_permission(name) from error
        except OSError as error:
            raise OSError(
                error.errno, f"cannot be opened: {error.strerror}", f"shm:{name}"
            ) from error

    def identify(self, name: str) -> Identity:
        """Look at what the name leads to, by opening it."""
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
            raise _not_there(name) from None
        except posix_ipc.PermissionsError as error:
            raise _no_permission(name) from error


def _descriptor(segment: posix_ipc.SharedMemory) -> int:
    # The object closes nothing when it goes: the descriptor is ours. It is close-on-exec.
    return int(segment.fd)


def _not_there(name: str) -> FileNotFoundError:
    return FileNotFoundError(
        errno.ENOENT, "there is no shared memory segment of this name", f"shm:{name}"
    )


def _no_permission(name: str) -> PermissionError:
    return PermissionError(
        errno.EACCES, "another user's segment, or one without this access", f"shm:{name}"
    )
