"""One vocabulary for all that lives in memory: what it is called, and that it does that."""

from __future__ import annotations

import errno
import inspect
import os
import pickle
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import shmkit
from shmkit import (
    Broadcast,
    ClosedError,
    Event,
    IncompatibleSegment,
    JoinableQueue,
    Latest,
    Lock,
    Queue,
    Ring,
    Semaphore,
    SharedDict,
    once,
)
from shmkit.memory.url import Url


class Kind(NamedTuple):
    """One public class.

    Args:
        make: makes one at a `where`.
        goes_with: whose end removes the name of a segment: its creator's, or the last user's.
    """

    cls: Any
    make: Callable[..., Any]
    goes_with: str = "creator"


KINDS = {
    "Ring": Kind(Ring, Ring.create),
    "Broadcast": Kind(Broadcast, Broadcast.create),
    "Latest": Kind(Latest, Latest.create),
    "Queue": Kind(Queue, lambda where=None, **options: Queue(where=where, **options)),
    "JoinableQueue": Kind(
        JoinableQueue, lambda where=None, **options: JoinableQueue(where=where, **options)
    ),
    "SharedDict": Kind(SharedDict, SharedDict.create),
    "Lock": Kind(Lock, Lock.create, "last"),
    "Event": Kind(Event, Event.create, "last"),
    "Semaphore": Kind(Semaphore, Semaphore.create, "last"),
}
OPTIONS = {"keep": False, "mode": 0o600}


@pytest.fixture(params=KINDS)
def kind(request: Any) -> Kind:
    return KINDS[request.param]


def exists(where: Any) -> bool:
    url = Url.parse(where)
    return Path(url.name if url.scheme == "file" else f"/dev/shm/{url.name}").exists()


def path_of(where: Any) -> Path:
    url = Url.parse(where)
    return Path(url.name if url.scheme == "file" else f"/dev/shm/{url.name}")


# ------------------------------------------------------------------ how it is spelled


def options_of(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", ["create", "ensure", "__init__"])
def test_options_are_spelled_alike_and_by_keyword(name: str, method: str) -> None:
    function = getattr(KINDS[name].cls, method, None)
    parameters = options_of(function) if function else {}
    if method == "__init__" and "name" not in parameters and "maxsize" not in parameters:
        return  # no constructor for users
    if not parameters:
        assert "Queue" in name  # which has a constructor
        return
    for option, default in OPTIONS.items():
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[option].default == default
    assert parameters["participants"].kind is inspect.Parameter.KEYWORD_ONLY
    if method != "create" and "Queue" not in name and name != "SharedDict":  # with pickles
        assert parameters["trust_owner"].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters["trust_owner"].default is False


def test_where_comes_first(kind: Kind) -> None:
    for method in "create", "attach", "ensure":
        function = getattr(kind.cls, method, None)
        if function is not None:
            assert next(iter(options_of(function))) == "where", method
    timeout = options_of(kind.cls.attach)["timeout"]
    assert (timeout.kind, timeout.default) == (inspect.Parameter.KEYWORD_ONLY, 0)


def test_once_has_the_options_that_make_sense() -> None:
    parameters = options_of(once)
    for option in "mode", "participants", "trust_owner":
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY


def test_each_has_the_words(kind: Kind) -> None:
    for word in "attach", "close", "unlink", "closed", "name", "url", "statistics":
        member = inspect.getattr_static(kind.cls, word)
        assert inspect.getdoc(member), word
    assert kind.cls.__name__ in shmkit.__all__


# ------------------------------------------------------------------ what it does


def test_it_says_where_it_is_and_is_found_there(kind: Kind, where: Any) -> None:
    made = kind.make(where)
    assert made.url == Url.parse(where)
    assert made.name == made.url.name
    assert str(made.url) in repr(made)
    assert not made.closed
    if where is not None:
        for way in str(made.url), made.url:
            other = kind.cls.attach(way)
            assert other.url == made.url
            assert os.getpid() in made.statistics().participants
            other.close()
        with pytest.raises(FileExistsError):
            kind.make(where)
    made.unlink()
    made.unlink()
    assert where is None or not exists(where)
    made.close()
    made.close()
    assert made.closed
    with pytest.raises(ClosedError):
        made.statistics()
    with pytest.raises(ClosedError):
        pickle.dumps(made)


def test_it_is_ensured_once(kind: Kind, make_where: Any) -> None:
    if not hasattr(kind.cls, "ensure"):
        return
    for scheme in "shm", "file":
        where = make_where(scheme)
        first = kind.cls.ensure(where)
        second = kind.cls.ensure(where)
        assert first.url == second.url
        assert len(first.statistics().participants) == 2
        first.unlink()
        second.close()
        first.close()


def test_it_pickles(kind: Kind, where: Any) -> None:
    with closing(kind.make(where)) as made:
        other = pickle.loads(pickle.dumps(made))
        assert type(other) is kind.cls
        assert other.url == made.url
        assert len(made.statistics().participants) == 2
        other.close()
        made.unlink()


class closing:  # noqa: N801 - contextlib's, for a Lock's own `with` acquires it
    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __enter__(self) -> Any:
        return self.handle

    def __exit__(self, *_: object) -> None:
        self.handle.close()


def test_its_mode_is_the_files(kind: Kind, make_where: Any) -> None:
    before = os.umask(0o026)
    try:
        for scheme in "shm", "file":
            for make in kind.make, getattr(kind.cls, "ensure", kind.make):
                where = make_where(scheme)
                with closing(make(where, mode=0o666)) as made:
                    assert stat.S_IMODE(path_of(where).stat().st_mode) == 0o640
                    made.unlink()
    finally:
        os.umask(before)


def test_its_name_goes_unless_it_is_kept(kind: Kind, make_where: Any) -> None:
    """With the creator's `with`, or the last user of a lock; files always stay."""
    for scheme, keep in ("shm", False), ("shm", True), ("file", False):
        where = make_where(scheme)
        if kind.goes_with == "creator":
            with kind.make(where, keep=keep):
                pass
        else:
            first, second = kind.make(where, keep=keep), kind.cls.attach(where)
            first.close()
            assert exists(where)
            second.close()
        assert exists(where) == (keep or scheme == "file")
        if exists(where):
            with closing(kind.cls.attach(where)) as again:
                again.unlink()


def test_it_takes_so_many_participants(kind: Kind, make_where: Any) -> None:
    for make in kind.make, getattr(kind.cls, "ensure", kind.make):
        where = make_where("shm")
        with closing(make(where, participants=2)) as made:
            with closing(kind.cls.attach(where)):
                with pytest.raises(OSError, match=r"all 2 places.*`participants`") as caught:
                    kind.cls.attach(where)
                assert caught.value.errno == errno.EUSERS
            kind.cls.attach(where).close()
            made.unlink()
        for wrong in 0, -1, 1 << 20:
            with pytest.raises(ValueError, match="participants"):
                make(make_where("shm"), participants=wrong)


def test_another_kind_is_told_in_words(kind: Kind, unique_name: str) -> None:
    """As "this is a queue, not a ring: use Queue.attach", without numbers."""
    with closing(kind.make(unique_name)) as made:
        for name, other in KINDS.items():
            if other is kind:
                continue
            with pytest.raises(IncompatibleSegment) as caught:
                other.cls.attach(unique_name)
            text = str(caught.value)
            assert f"use {kind.cls.__name__}.attach" in text, (name, text)
            assert not re.search(r"kind|[^-\w]\d", text), text
        made.unlink()


# ------------------------------------------------------------------ names

# What is given for `where` to attach, and what is said then.
NO_NAMES: list[tuple[Any, type[Exception], str]] = [
    ("", ValueError, "the name of a segment is empty"),
    (None, ValueError, "anonymous memory cannot be attached to by name.*fork.*pickle"),
    ("anon:", ValueError, "anonymous memory cannot be attached to by name"),
    ("anon:x", ValueError, "use 'shm:x'"),
    ("shm:", ValueError, "name the segment"),
    ("a:b", ValueError, "unknown scheme 'a:' in 'a:b'"),
    ("a/b", ValueError, "no '/'; for a file use 'file:PATH'"),
    ("shm:a/b", ValueError, "no '/'"),
    (".", ValueError, "directories"),
    ("a\0b", ValueError, "NUL"),
    ("x" * 300, ValueError, "300 bytes long.*at most 250"),
    ("file:", ValueError, "the path is empty"),
    (5, TypeError, "not int: .*'shm:NAME', 'file:PATH'"),
    (b"name", TypeError, "not bytes"),
    (Path("missing/x"), FileNotFoundError, "missing/x"),
    (Path(), IsADirectoryError, "directory"),
]


@pytest.mark.parametrize(("given", "error", "text"), NO_NAMES)
def test_what_is_no_name_is_told(kind: Kind, given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        kind.cls.attach(given)


def test_a_file_of_the_name_is_told(
    kind: Kind, unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        kind.cls.attach(unique_name)
    assert unique_name in str(caught.value)
    assert "file:" not in str(caught.value)
    Path(unique_name).touch()
    with pytest.raises(FileNotFoundError, match=f"but a file: use 'file:{unique_name}'"):
        kind.cls.attach(unique_name)


def test_a_name_may_have_any_letters(kind: Kind, unique_name: str) -> None:
    name = f"{unique_name}-jürgen 名前"
    with closing(kind.make(name)) as made, closing(kind.cls.attach(name)) as other:
        assert made.name == other.name == name
        made.unlink()


@pytest.mark.parametrize("cls", [Lock, Event])
@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ("", ValueError, "the name is empty"),
        ("a/b", ValueError, "no '/'"),
        ("shm:x", ValueError, r"is a url.*ensure\('shm:x'\).*'x'"),
        ("file:/x", ValueError, r"is a url.*ensure\('file:/x'\)"),
        (5, TypeError, "is a str, or None for one without a name, not 5"),
        (b"x", TypeError, "is a str"),
        (Path("x"), TypeError, "is a str"),
    ],
)
def test_what_is_no_name_for_a_constructor(cls: Any, given: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        cls(given)
