"""Where memory lives: the `where` that every create and attach takes, as a value."""

from __future__ import annotations

import os
import sys
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["MAX_NAME", "Scheme", "Url", "Where", "checked_name"]

Scheme: TypeAlias = Literal["anon", "shm", "file"]
Where: TypeAlias = "str | os.PathLike[str] | None"

# NAME_MAX is 255 on Linux; the rest is for what glibc and tools put before a name.
# On macOS it is PSHMNAMLEN, 31 with the leading slash.
MAX_NAME: Final = 30 if sys.platform == "darwin" else 250


class Url(NamedTuple):
    """Where memory lives; `str()` of it is a `where` again.

    Args:
        scheme: "anon", "shm" or "file".
        name: "" for "anon", the segment's name for "shm" ("" asks creation for a fresh one), an
            absolute path for "file".
    """

    scheme: Scheme
    name: str = ""

    @classmethod
    def parse(cls, where: Where | Url) -> Url:
        """Understand a `where`.

        Args:
            where: None or "anon:" (anonymous), "shm:NAME" or plain "NAME" (named), "file:PATH" or
                a path object (a file). Relative paths are taken from the working directory now.

        Raises:
            TypeError: `where` is none of these types.
            ValueError: no such scheme, or a name that cannot be.
        """
        if where is None:
            return cls("anon")
        if isinstance(where, Url):
            return where
        if isinstance(where, os.PathLike):
            return cls("file", _checked_path(os.fsdecode(os.fspath(where)), where))
        if not isinstance(where, str):
            raise TypeError(
                f"'where' must be None, a str or a path object, not {type(where).__name__}: "
                "'anon:', 'shm:NAME', 'file:PATH' or pathlib.Path(...)"
            )
        scheme, colon, rest = where.partition(":")
        if not colon:
            return cls("shm", checked_name(where, where))
        if scheme == "shm":
            return cls("shm", checked_name(rest, where) if rest else "")
        if scheme == "file":
            return cls("file", _checked_path(rest, where))
        if scheme != "anon":
            raise ValueError(
                f"unknown scheme {scheme + ':'!r} in {where!r}: use 'anon:', 'shm:NAME', "
                "'file:PATH' or a pathlib.Path"
            )
        if rest:
            raise ValueError(
                f"{where!r}: anonymous memory has no name; use 'shm:{rest}' for a named segment"
            )
        return cls("anon")

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}"


def checked_name(name: str, given: object) -> str:
    """The name of a segment; a ValueError if it cannot be one."""
    if not name:
        raise ValueError("the name of a segment is empty: use 'shm:' for a fresh one, or None")
    if "/" in name:
        raise ValueError(
            f"{given!r}: the name of a segment has no '/'; for a file use 'file:PATH' or a "
            "pathlib.Path"
        )
    if "\0" in name:
        raise ValueError(f"{given!r}: the name of a segment has no NUL byte")
    if name in (".", ".."):
        raise ValueError(f"{given!r}: '.' and '..' are directories, not names of segments")
    length = len(os.fsencode(name))
    if length > MAX_NAME:
        raise ValueError(
            f"{name[:20] + '...'!r}: the name is {length} bytes long, a segment's name has at most "
            f"{MAX_NAME}"
        )
    return name


def _checked_path(path: str, given: object) -> str:
    if not path:
        raise ValueError(f"{given!r}: the path is empty")
    if "\0" in path:
        raise ValueError(f"{given!r}: a path has no NUL byte")
    if path[0] == "/" and "//" not in path and "/." not in path and path[-1] != "/":
        return path  # as the next lines would have it, in a tenth of the time
    from pathlib import Path

    return str(Path(path).absolute())
