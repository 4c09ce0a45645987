"""Links at the end of a path: followed as open() does, unless others may have planted them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmkit import SharedBuffer
from shmkit.memory.opening import followed


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A link to a link to a file, in directories that nobody else can write to."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "target").write_bytes(b"precious")
    (tmp_path / "files" / "inner").symlink_to("target")
    (tmp_path / "link").symlink_to("files/inner")
    return tmp_path / "link"


def test_links_of_ones_own_are_followed(link: Path, access: str) -> None:
    target = link.parent / "files" / "target"
    with SharedBuffer.attach(link, access=access) as buffer:
        assert (buffer[:], buffer.name) == (b"precious", str(target))
        os.close(buffer.descriptor())
        if access == "rw":
            buffer[:] = b"PRECIOUS"
    assert target.read_bytes() == (b"PRECIOUS" if access == "rw" else b"precious")
    assert link.is_symlink()
    with SharedBuffer.ensure(link, 8) as buffer:
        assert not buffer.created
        with pytest.raises(FileExistsError):
            SharedBuffer.create(link, 8)
        buffer.unlink()
    assert not target.exists()


@pytest.mark.parametrize("folder", [".", "files"])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_links_that_others_may_have_planted(
    link: Path, access: str, folder: str, mode: int, monkeypatch
) -> None:
    (link.parent / folder).chmod(mode)
    if mode == 0o770:
        monkeypatch.setattr(os, "getegid", lambda: 12345)
    if access != "rw":  # to be read it is followed, as open() does
        with SharedBuffer.attach(link, access=access) as buffer:
            assert buffer[:] == b"precious"
    else:
        with pytest.raises(OSError, match=r"others can write to.*os\.path\.realpath"):
            SharedBuffer.attach(link)
        with pytest.raises(OSError, match="others can write to"):
            SharedBuffer.ensure(link, 8)
    assert (link.parent / "files" / "target").read_bytes() == b"precious"


def test_a_link_in_another_users_directory(link: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if link.parent.stat().st_uid == 0:
        os.chown(link.parent, 54321, 0)
    with pytest.raises(OSError, match="others can write to"):
        SharedBuffer.attach(link)


def test_a_link_to_nothing(link: Path) -> None:
    """It is not there to attach to, and `ensure` makes it where the link leads, as open() does."""
    target = link.parent / "files" / "target"
    target.unlink()
    for access in ("r", "rw"):
        with pytest.raises(FileNotFoundError, match="link"):
            SharedBuffer.attach(link, access=access)
    with pytest.raises(FileExistsError):
        SharedBuffer.create(link, 8)
    assert not target.exists()
    with SharedBuffer.ensure(link, 8) as buffer:
        assert (buffer.created, buffer.name) == (True, str(target))
    target.unlink()
    link.parent.chmod(0o1777)
    with pytest.raises(OSError, match="others can write to"):
        SharedBuffer.ensure(link, 8)
    assert not target.exists()


def test_links_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for access in ("r", "rw"):
        with pytest.raises(OSError, match=r"[Tt]oo many levels"):
            SharedBuffer.attach(tmp_path / "a", access=access)
    with pytest.raises(OSError, match=r"[Tt]oo many levels"):
        followed(str(tmp_path / "a"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc")
def test_links_of_the_kernel(tmp_path: Path) -> None:
    """They lead to an open file, whether it has a path or not."""
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("r+b") as file:
        where = f"file:/proc/self/fd/{file.fileno()}"
        for unlink in (False, True):
            if unlink:
                (tmp_path / "file").unlink()
            for access in ("r", "rw"):
                with SharedBuffer.attach(where, access=access) as buffer:
                    assert buffer[:] == b"content"
