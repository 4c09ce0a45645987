"""Counting words in chunks gives what counting the whole file gives."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmkit.tools.demo import pipeline as _pipeline
from shmkit.tools.demo import wordcount as _wordcount
from shmkit.tools.demo.wordcount import FileCount, FileTally, Report

# Few letters, much whitespace, and bytes that are no UTF-8.
DATA = st.lists(st.sampled_from(b"ab \n\t\x0b\x0c\r\0\x1c\x85\xa0\xff"), max_size=60).map(bytes)


@given(data=DATA, cuts=st.lists(st.integers(0, 60)))
def test_chunks_do_not_change_the_counts(data: bytes, cuts: list[int]) -> None:
    tally, words = FileTally(), Counter[bytes]()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        tally.feed(data[start:end])
    count = tally.finish(words)

    assert words == Counter(data.split())
    assert count == FileCount(
        hashlib.sha256(data).digest(), len(data), data.count(b"\n"), len(data.split())
    )


@given(chunks=st.lists(st.lists(st.sampled_from(b"ab "), min_size=1, max_size=9).map(bytes)))
def test_counts_are_the_same_when_words_are_folded_early(chunks: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_wordcount, "_PENDING_WORDS", 2)
        tally, words = FileTally(), Counter({b"a": 1})
        for chunk in chunks:
            tally.feed(chunk)
        tally.finish(words)

    assert words == Counter(b"".join(chunks).split()) + Counter({b"a": 1})


def test_dropped_tally_leaves_no_trace() -> None:
    words = Counter[bytes]()
    dropped, kept = FileTally(), FileTally()
    dropped.feed(b"one two thr")
    kept.feed(b"three")
    kept.finish(words)

    assert words == {b"three": 1}


@given(st.dictionaries(DATA.map(lambda data: b"".join(data.split())), st.integers(1, 2**63)))
def test_words_survive_the_way_between_processes(words: dict[bytes, int]) -> None:
    words.pop(b"", None)

    assert _pipeline._unpack_words(_pipeline._pack_words(Counter(words))) == words


@pytest.mark.parametrize(
    "size", [0, 1, _wordcount.CHUNK - 1, _wordcount.CHUNK, _wordcount.CHUNK + 1]
)
def test_serial_count_of_a_file_is_exact_at_chunk_borders(tmp_path: Path, size: int) -> None:
    data = (b"word\xff and\n" * (size // 10 + 1))[:size]
    path = tmp_path / "file"
    path.write_bytes(data)

    report = _wordcount.count_serially([str(path)])

    assert report.words == Counter(data.split())
    assert report.files[str(path)].sha256 == hashlib.sha256(data).digest()
    assert report.files[str(path)].size == size


def test_equally_frequent_words_come_in_byte_order() -> None:
    report = Report(words=Counter({b"b": 2, b"a": 2, b"c": 3, b"d": 1}))

    assert report.top(3) == [(b"c", 3), (b"a", 2), (b"b", 2)]


def test_digest_does_not_depend_on_the_order_of_arrival() -> None:
    one, two = FileCount(b"1" * 32, 1, 2, 3), FileCount(b"2" * 32, 4, 5, 6)

    assert Report({"a": one, "b": two}).digest() == Report({"b": two, "a": one}).digest()


@pytest.mark.parametrize(
    "other",
    [
        Report({"b": FileCount(b"1" * 32, 1, 2, 3)}, words=Counter({b"w": 3})),
        Report({"a": FileCount(b"2" * 32, 1, 2, 3)}, words=Counter({b"w": 3})),
        Report({"a": FileCount(b"1" * 32, 1, 2, 4)}, words=Counter({b"w": 3})),
        Report({"a": FileCount(b"1" * 32, 1, 2, 3)}, words=Counter({b"w": 4})),
    ],
)
def test_digest_covers_paths_hashes_counts_and_words(other: Report) -> None:
    report = Report({"a": FileCount(b"1" * 32, 1, 2, 3)}, words=Counter({b"w": 3}))

    assert report.digest() != other.digest()
    assert report != other


def test_directories_give_every_file_below_each_once(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    files = [tmp_path / "a.txt", tmp_path / "b" / "c", tmp_path / "b" / "deep" / "d.py"]
    for file in files:
        file.touch()

    found = _wordcount.find_files([files[2], tmp_path, tmp_path / "b", tmp_path / "gone"])

    assert sorted(found) == sorted(map(str, [*files, tmp_path / "gone"]))


def test_standard_library_holds_python_files_and_no_packages() -> None:
    found = _wordcount.standard_library()

    assert os.__file__ in found
    assert all(path.endswith(".py") and "site-packages" not in path for path in found)


def test_what_cannot_be_read_is_reported_not_raised(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "good").write_bytes(b"one word\n")
    paths = [str(tmp_path / name) for name in ("gone", "pipe", "loop", "good", "")]

    report = _wordcount.count_serially(paths)

    assert list(report.files) == [paths[3]]
    assert report.unread == {
        paths[0]: "No such file or directory",
        paths[1]: "not a regular file",
        paths[2]: "Too many levels of symbolic links",
        paths[4]: "Is a directory",
    }
    assert report.words == {b"one": 1, b"word": 1}
