"""Located: what every handle on a segment says of where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmkit.memory.url import Url
    from shmkit.segment.segment import Segment

__all__ = ["Located"]


class Located:
    """A handle on a segment of its own."""

    __slots__ = ()

    _segment: Segment
    _closed: bool

    @property
    def url(self) -> Url:
        """Where it is; `str` of it is what `attach` takes."""
        return self._segment.buffer.url

    @property
    def name(self) -> str:
        """Name of the segment, path of the file, "" for anonymous memory."""
        return self._segment.buffer.name

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._closed

    def unlink(self) -> None:
        """Remove the name: no process can attach any more; handles that are open go on."""
        self._segment.unlink()
