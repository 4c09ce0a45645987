"""SharedBuffer: bytes that processes share, over anonymous memory, named segments and files."""

from __future__ import annotations

import mmap
import re
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, TypeVar, overload

from shmkit.deadline import Deadline
from shmkit.memory import creation
from shmkit.memory.allocation import checked_size
from shmkit.memory.buffer import search
from shmkit.memory.buffer.content import Content
from shmkit.memory.checks import checked_mode, number_of
from shmkit.memory.creation import Opened
from shmkit.memory.mapping import checked_access, checked_range
from shmkit.memory.ownership import refuse_others
from shmkit.memory.searchable import Searchable, compiled_for_bytes
from shmkit.memory.url import Url
from shmkit.memory.views import some_bytes

if TYPE_CHECKING:
    import struct
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from shmkit.memory.buffer.stream import Stream
    from shmkit.memory.creation import Fill
    from shmkit.memory.files import File
    from shmkit.memory.records import Record, Records
    from shmkit.memory.searchable import Index
    from shmkit.memory.url import Where

__all__ = ["SharedBuffer"]

T = TypeVar("T")


class SharedBuffer(Content, Searchable):
    """Bytes that processes share: the same calls on anonymous, named and file memory.

    `SharedBuffer.create(where, size)` makes memory, `attach(where)` maps it in another process,
    `ensure(where, size)` does what is needed. Threads may share a handle.
    """

    __slots__ = ()

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        size: SupportsIndex | None = None,
        *,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Make memory that was not there, filled with zeros, its room reserved.

        A segment goes with its creator, also when the creator is killed. One exception: a segment
        stays after a kill if its name has other characters than ASCII, a colon or a line break.

        Args:
            where: None or "anon:", "shm:NAME" or "NAME" ("shm:" for a fresh name), "file:PATH" or
                a path object.
            size: bytes, at least 1.
            keep: leave the name of a segment in place when its creator goes. Files always stay.
            mode: permissions of a segment or file, less the umask.

        Raises:
            FileExistsError: it is there.
            ValueError: a name or size that cannot be; nothing was made.
            OSError: ENOSPC: no room; nothing stays behind.
        """
        return cls._create_filled(
            Url.parse(where), checked_size(size), None, keep=keep, mode=checked_mode(mode)
        )

    @classmethod
    def attach(
        cls,
        where: Where | Url | SharedBuffer,
        *,
        access: str = "rw",
        offset: SupportsIndex = 0,
        length: SupportsIndex | None = None,
        timeout: float | None = 0,
    ) -> Self:
        """Map memory that is there. It is never resized, never registered, never unlinked.

        Args:
            where: as in `create`; or another buffer, for a second handle on its memory (with
                `offset` and `length` counted in that buffer). Of one with access "cow" that is the
                memory below, without its private changes, which nothing but its own views has.
            access: "r" to read, "rw" to read and write, "cow" for private changes that no other
                handle sees and that are lost at the end.
            offset: first byte; any.
            length: bytes; None for all there are.
            timeout: seconds to wait for it to be made, and for the writer of a pipe that has none;
                None for ever.

        A file that cannot be mapped (a pipe, a file of /proc) is read instead if access is "r":
        `mapped` tells. A pipe that has a writer is read to its end, however long that takes.

        To write to a file, the room that it lacks is reserved: a sparse copy has holes, and with a
        full disk a write into one would kill the process. `PagedFile` writes without.

        A symbolic link is followed to read. To write, it is followed unless other users can write
        to its directory: one of them may have planted it. `url` tells where it led.

        Raises:
            FileNotFoundError: it is not there.
            IncompatibleSegment: a segment without a size, or something that is no segment.
            OSError: ENODEV: a pipe, socket or device that cannot be mapped, or a device without an
                end; ENXIO: a pipe without a writer; ELOOP: a link that is not followed; ENOSPC: no
                room for the holes of a file.
            PermissionError: it is not for this user, or not for writing.
            ValueError: `offset` and `length` reach outside; anonymous memory by name.
        """
        mode, deadline = checked_access(access), Deadline(timeout)
        if isinstance(where, SharedBuffer):
            first, length = checked_range(offset, length, where.size, repr(where))
            opened = Opened(where.url, where.descriptor(mode), where._identity)
            offset = where._offset + first
        else:
            parsed = Url.parse(where)
            opened = creation.open_existing(
                parsed, writable=mode == "rw", timeout=timeout, streams=mode == "r"
            )
        with opened:
            rest = 0.0 if deadline.is_now else deadline.remaining()
            return cls._attached_from(opened, mode, offset, length, rest)

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        size: SupportsIndex,
        *,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Create memory, or attach to all of it if it is there; `created` tells.

        Of several processes that call this at the same time exactly one creates. Memory that is
        there is never changed or resized.

        Args:
            where: as in `create`.
            size: bytes, at least 1; memory that is there may have more.
            keep: as in `create`.
            mode: as in `create`.

        Raises:
            IncompatibleSegment: memory that is there has fewer bytes than asked for.
            ValueError: a name or size that cannot be.
            OSError: ENOSPC: no room.
        """
        return cls._ensure_filled(
            Url.parse(where), checked_size(size), None, keep=keep, mode=checked_mode(mode)
        )

    @classmethod
    def _create_filled(
        cls, url: Url, size: int, fill: Fill | None, *, keep: bool, mode: int = 0o600
    ) -> Self:
        """Make memory that has its content before it has its name.

        `fill` is called with a writable view of all the bytes, zeros. Its exceptions leave nothing
        behind. Where memory is made in two steps, the first 8 bytes that it writes come last.
        """
        with creation.create(url, size, fill, keep=keep, mode=mode) as opened:
            return cls._created_from(opened)

    @classmethod
    def _ensure_filled(
        cls,
        url: Url,
        size: int,
        fill: Fill | None,
        *,
        keep: bool,
        mode: int = 0o600,
        refusal: str = "",
    ) -> Self:
        """Attach to memory of at least `size` bytes, or make it as `_create_filled` does.

        `refusal` says why another user's is refused; "" takes it.

        Where memory is made in two steps, this waits a while for the first 8 bytes of memory that
        is there. The caller checks them.
        """
        with creation.ensure(url, size, fill, keep=keep, mode=mode, refusal=refusal) as opened:
            if opened.created:
                return cls._created_from(opened)
            self = cls._attached_from(opened, "rw")
        if fill is not None:
            pauses = creation.Pauses(creation.PATIENCE)
            while creation.may_be_unfinished(url, self._bytes()) and pauses.take():
                pass
        return self

    @classmethod
    def _attach_filled(
        cls,
        where: Where | Url | SharedBuffer,
        *,
        access: str = "rw",
        timeout: float | None = 0,
        refusal: str = "",
    ) -> Self:
        """Attach to memory that begins with a magic; the caller checks it.

        `refusal` says why another user's is refused; "" takes it.

        Where memory is made in two steps, the timeout is also for the magic to come.
        """
        pauses = creation.Pauses(timeout)
        while True:
            if refusal:
                self = cls._attach_own(where, access, pauses.remaining(), refusal)
            else:
                self = cls.attach(where, access=access, timeout=pauses.remaining())
            try:
                if not creation.may_be_unfinished(self._url, self._bytes()) or not pauses.take():
                    return self
            except BaseException:
                self.close()
                raise
            self.close()  # and attach again: a file may have got its size, too

    @classmethod
    def _attach_own(
        cls, where: Where | Url | SharedBuffer, access: str, timeout: float, refusal: str
    ) -> Self:
        """As `attach`; another user's memory is refused before a byte of it is looked at."""
        mode = checked_access(access)
        if isinstance(where, SharedBuffer):
            with Opened(where.url, where.descriptor(mode)) as opened:
                refuse_others(opened.fd, opened.url, refusal)
            return cls.attach(where, access=access)
        url = Url.parse(where)
        with creation.open_existing(url, writable=mode == "rw", timeout=timeout) as opened:
            refuse_others(opened.fd, opened.url, refusal)
            return cls._attached_from(opened, mode)

    def __reduce__(self) -> tuple[Any, ...]:
        from shmkit.memory.buffer.pickling import reduced

        return reduced(self)

    def resize(self, size: SupportsIndex) -> None:
        """Give the memory another size, and this handle all of it.

        Views made before stay valid, on the bytes they had. Other handles and processes keep
        their maps of the old size. To see more they attach again, or resize to the same size.

        Shrinking is refused while other processes map the memory. But a process that attaches
        between this look and the cut, some milliseconds later, is not seen: it is killed by SIGBUS
        when it touches the part that was cut off. Let no process attach meanwhile, and no other
        thread use this handle.

        Resizes of the same memory wait for each other on its lock of `flock`. A caller that holds
        that lock itself waits for ever. Other programs must not change a file's size meanwhile: if
        there is no room, the file gets back the size that it had.

        Args:
            size: bytes, at least 1. New bytes are zero, and their room is reserved.

        Raises:
            BufferError: it would shrink, and views of this handle are in use, or another handle
                or process maps the memory: it would be killed at the pages cut off.
            ClosedError: the handle was closed.
            FileNotFoundError: the name is gone, or leads to other memory by now.
            OSError: ENOSPC: no room; ENOTSUP: this system cannot resize such memory, or does not
                tell which processes map it.
            ValueError: the handle is not of access "rw", or not on all of the memory.
        """
        from shmkit.memory.buffer.resizing import resize

        resize(self, checked_size(size))

    _find = search.find
    _count = search.count

    def finditer(
        self, pattern: bytes | re.Pattern[bytes], start: Index = None, end: Index = None
    ) -> Iterator[re.Match[bytes]]:
        """Matches of a regular expression, one after the other, as `re.finditer` has them.

        The iterator and each match keep the memory, as a view does.

        Args:
            pattern: of bytes, or compiled from bytes.
            start: as in `find`; "^" still means the beginning of all.
            end: as in `find`.

        Raises:
            ClosedError: the handle was closed.
            TypeError: a pattern of str.
        """
        compiled = compiled_for_bytes(pattern)
        _, _, view = self._pin("finditer()")
        first, last, _ = slice(start, end).indices(len(view))
        return compiled.finditer(view, first, last)

    def replace(self, old: Buffer, new: Buffer, count: SupportsIndex = -1) -> int:
        """Write `new` over each `old`, from the left, in place; only these bytes are written.

        Args:
            old: at least one byte.
            new: as many bytes.
            count: how often at most; negative for all.

        Returns:
            How many were replaced.

        Raises:
            ClosedError: the handle was closed.
            TypeError: the access is "r", or an argument has no bytes.
            ValueError: the lengths differ (`replace_into` can do that), or `old` is empty.
        """
        before, after, most = some_bytes(old), some_bytes(new), number_of(count, "count")
        if len(before) != len(after):
            raise ValueError(
                f"{len(after)} bytes do not replace {len(before)} in place: a buffer keeps its "
                "size; replace_into(path) writes the result to a file"
            )
        search.refuse_empty(before)
        self._check_writable()
        memory, base, view = self._pin("replace()")
        done, size = 0, len(before)
        with view:
            for start, pieces in search.split(view, before, most):
                at = base + start
                pieces.pop()
                for piece in pieces:
                    at += len(piece)
                    memory[at : at + size] = after  # type: ignore[index]
                    at += size
                done += len(pieces)
                if done == most:
                    break
        return done

    def replace_into(
        self,
        path: File,
        old: Buffer,
        new: Buffer,
        count: SupportsIndex = -1,
        *,
        mode: int = 0o600,
    ) -> int:
        """Write the bytes to a file, with `new` for each `old`; the file appears when it is whole.

        The new file takes the place of one at `path` in one step, with its permissions. If that was
        this buffer's own file, the buffer goes over to the new one: it has the new content and size
        then. Other handles and processes stay on the old content, which has no name any more.

        Args:
            path: of the file, as open() takes it, or as a "file:" URL; its directory takes the new
                file while it is made. A symbolic link is followed unless other users can write to
                its directory. Or a descriptor, or an open file, which is written to as by write():
                at its position, and not in one step.
            old: at least one byte.
            new: any number of bytes.
            count: how often at most; negative for all.
            mode: permissions of a file that was not there, less the umask.

        Returns:
            How many were replaced.

        Raises:
            BufferError: it is this buffer's own file, and views of the buffer are in use, by which
                one could write to the old one.
            ClosedError: the handle was closed.
            OSError: the file cannot be written; one that was there is untouched. ESTALE: it is this
                buffer's own file, and it was replaced or changed its size meanwhile.
            TypeError: an argument has no bytes, or `path` is no file, or one for text.
            ValueError: `old` is empty; the URL of other memory; or the buffer's own file, of which
                the buffer is only a part, or which was given open.
        """
        from shmkit.memory.buffer.replacing import write_into

        before, after, most = some_bytes(old), some_bytes(new), number_of(count, "count")
        search.refuse_empty(before)
        view = self._pin("replace_into()")[2]
        done = 0

        def changed() -> Iterator[bytes]:
            nonlocal done
            with view:  # no longer: the buffer may have to leave its map
                for _, pieces in search.split(view, before, most):
                    yield after.join(pieces)
                    done += len(pieces) - 1

        with view:
            write_into(self, path, changed(), mode)
        return done

    def move(self, dest: SupportsIndex, src: SupportsIndex, count: SupportsIndex) -> None:
        """Copy `count` bytes from `src` to `dest` within the buffer; they may overlap.

        Args:
            dest: first byte of the target.
            src: first byte of the source.
            count: bytes.

        Raises:
            ClosedError: the handle was closed.
            TypeError: the access is "r".
            ValueError: they reach outside.
        """
        self._check_writable()
        _, _, view = self._pin("move()")
        with view:
            source, length = checked_range(src, count, len(view), repr(self))
            target, length = checked_range(dest, length, len(view), repr(self))
            view[target : target + length] = view[source : source + length]

    def open(self) -> Stream:
        """A file object on the bytes, at position 0: for `csv`, `json`, `zipfile`, `numpy.load`.

        It is a view: it keeps the memory, also when the buffer is closed. For text put it into
        `io.TextIOWrapper`.

        Raises:
            ClosedError: the handle was closed.
        """
        from shmkit.memory.buffer.stream import Stream

        return Stream(self, self.resize)

    def chunks(self, size: SupportsIndex, *, release: bool = False) -> Iterator[memoryview]:
        """All bytes, in views of `size` bytes each and a last one of the rest.

        Args:
            size: bytes, at least 1.
            release: give the pages of each chunk back to the system when the next one is asked for,
                so that the process does not grow by all that it went through. The bytes stay where
                they are, and older chunks stay valid: touching one brings its pages back.

        Raises:
            ClosedError: the handle was closed.
            ValueError: `size` is less than 1; or `release` with access "cow", whose private changes
                are in those pages.
        """
        step = number_of(size, "size")
        if step < 1:
            raise ValueError(f"'size' must be at least 1 byte, not {step}")
        if release:
            return self._released_chunks(step)
        view = self._pin("chunks()")[2]
        return (view[at : at + step] for at in range(0, len(view), step))

    def _released_chunks(self, step: int) -> Iterator[memoryview]:
        if self._access == "cow":
            raise ValueError(
                f"{self!r}: release=True would throw its private changes away; leave it out"
            )
        memory, base, view = self._pin("chunks()")
        option = getattr(mmap, "MADV_DONTNEED", None)

        def chunks() -> Iterator[memoryview]:
            released = 0  # index in the map: a page may be of two chunks
            for at in range(0, len(view), step):
                yield view[at : at + step]
                if isinstance(memory, mmap.mmap) and option is not None:
                    end = base + min(at + step, len(view))
                    memory.madvise(option, released, end - released)
                    released = end - end % mmap.PAGESIZE

        return chunks()

    def lines(self) -> Iterator[bytes]:
        r"""All lines, each with the b"\n" at its end; the last may have none.

        Raises:
            ClosedError: the handle was closed.
        """
        from shmkit.memory.buffer.stream import lines

        return lines(self._pin("lines()")[2])

    @overload
    def records(
        self,
        layout: str | struct.Struct,
        offset: SupportsIndex = 0,
        stride: SupportsIndex | None = None,
        *,
        count: SupportsIndex | None = None,
        names: str | Sequence[str] | None = None,
    ) -> Records[Record]: ...
    @overload
    def records(
        self,
        layout: type[T],
        offset: SupportsIndex = 0,
        stride: SupportsIndex | None = None,
        *,
        count: SupportsIndex | None = None,
        packed: bool = False,
    ) -> Records[T]: ...
    def records(
        self,
        layout: str | struct.Struct | type[Any],
        offset: SupportsIndex = 0,
        stride: SupportsIndex | None = None,
        *,
        count: SupportsIndex | None = None,
        names: str | Sequence[str] | None = None,
        packed: bool = False,
    ) -> Records[Any]:
        """The bytes as records: `records(Vertex)[3].red = 7` writes two bytes in place.

        Args:
            layout: a format of `struct` ("<3f3H2x"), a `struct.Struct`, a dataclass or NamedTuple
                (see `shmkit.memory.records` for what its fields may be), or a structure of ctypes.
            offset: first byte of the first record; any.
            stride: bytes from one record to the next; None for the size of a record.
            count: records; None for as many as fit.
            names: of the fields of a format: "x y z red green blue", or a sequence.
            packed: lay out a class without the gaps that C has for alignment.

        Returns:
            A view: it keeps the memory, also when the buffer is closed.

        Raises:
            ClosedError: the handle was closed.
            TypeError: `layout` is none of these, or a field has no fixed size, or holds an address.
            ValueError: no such format, `stride` is less than a record, or it reaches outside.
        """
        from shmkit.memory.records import layout_of, records_in

        laid = layout_of(layout, names, packed=packed)
        _, _, view = self._pin(f"records({laid.kind})")
        return records_in(view, laid, offset, stride, count, repr(self))
