"""Where memory lives."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from shmkit import SharedBuffer
from shmkit.memory.url import MAX_NAME, Url


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (None, "anon:"),
        ("anon:", "anon:"),
        ("shm:cam0", "shm:cam0"),
        ("cam0", "shm:cam0"),
        ("shm:a:b", "shm:a:b"),
        ("shm:anon", "shm:anon"),
        ("anon", "shm:anon"),
        ("shm:", "shm:"),
        ("...", "shm:..."),
        ("café", "shm:café"),
        ("file:/tmp/a", "file:/tmp/a"),
        ("file:/tmp/a:b", "file:/tmp/a:b"),
        (Path("/tmp/a"), "file:/tmp/a"),
        (Path("shm:x"), f"file:{Path.cwd()}/shm:x"),
        ("file:a/b", f"file:{Path.cwd()}/a/b"),
        ("x" * MAX_NAME, "shm:" + "x" * MAX_NAME),
    ],
)
def test_url_is_a_where_again(where: Any, text: str) -> None:
    url = Url.parse(where)
    assert str(url) == text
    assert Url.parse(text) == Url.parse(url) == url
    assert hash(Url.parse(text)) == hash(url)
    assert pickle.loads(pickle.dumps(url)) == url


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "empty"),
        ("/cam0", "has no '/'"),
        ("shm:/cam0", "has no '/'"),
        ("a/b", "has no '/'"),
        ("../x", "has no '/'"),
        ("..", "directories"),
        (".", "directories"),
        ("shm:..", "directories"),
        ("a\0b", "NUL"),
        ("shm:\0", "NUL"),
        ("file:a\0b", "NUL"),
        (Path("a\0b"), "NUL"),
        ("file:", "empty"),
        ("x" * (MAX_NAME + 1), f"at most {MAX_NAME}"),
        ("é" * MAX_NAME, f"{2 * MAX_NAME} bytes long"),
        ("http://x", "unknown scheme 'http:'"),
        (":x", "unknown scheme ':'"),
        ("C:\\x", r"unknown scheme 'C:'.*pathlib\.Path"),
        ("SHM:x", "unknown scheme 'SHM:'"),
        ("anon:x", "anonymous memory has no name"),
    ],
)
def test_bad_names_are_refused_before_anything_is_made(
    where: Any, message: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(Path("/dev/shm").iterdir())
    for use in (
        lambda: SharedBuffer.create(where, 1),
        lambda: SharedBuffer.ensure(where, 1),
        lambda: SharedBuffer.attach(where),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert list(tmp_path.iterdir()) == []
    assert not {
        name for name in set(Path("/dev/shm").iterdir()) - before if name.name in str(where)
    }


@pytest.mark.parametrize("where", [1, b"shm:x", ["x"], object()])
def test_other_types(where: Any) -> None:
    with pytest.raises(TypeError, match="'where' must be"):
        SharedBuffer.create(where, 1)
