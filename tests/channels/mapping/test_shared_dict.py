"""SharedDict beside compactions, threads, forks, signal handlers, other bytes; its own verbs."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from shmkit import ClosedError, CorruptSegment, Empty, Full, SharedDict
from shmkit.channels.mapping.generation import HEAD
from shmkit.channels.mapping.keys import decode_key, encode_key
from shmkit.segment.words import DICT, DICT_LIVE, DICT_ROOT, DICT_UNSETTLED, DICT_WRITES, PINNED
from tests.processes import in_child, wait_until

HOSTILE = [0, 1, 4096, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def compact(shared: SharedDict, times: int = 1) -> None:
    """Have it compacted so often; with a hostile count, at least written to."""
    root = shared._words[DICT_ROOT]
    for _ in range(20 * times):
        if shared._words[DICT_ROOT] >= root + times:
            break
        shared["filler"] = bytes(1500)


# ------------------------------------------------------------------ keys and values


@pytest.mark.parametrize(
    "key", ["", "a", "\ud800", b"", b"a", 0, -1, 1 << 100, True, (), ("a", (b"b", (3,)), ""), ((),)]
)
def test_keys_come_back(key: Any) -> None:
    assert decode_key(encode_key(key)) == key


@pytest.mark.parametrize("key", [1.0, None, ("a", 1.0), frozenset(), bytearray()])
def test_what_is_no_key(key: Any) -> None:
    with SharedDict.create() as shared:
        for act in shared.get, shared.pop, shared.version, shared.setdefault:
            with pytest.raises(TypeError, match="str, bytes, int, and tuples"):
                act(key)
        with pytest.raises(TypeError):
            shared[key] = 1


def test_a_key_too_deep() -> None:
    key: Any = ()
    for _ in range(100):
        key = (key,)
    with SharedDict.create() as shared, pytest.raises(ValueError, match="50 tuples"):
        shared[key] = 1


@pytest.mark.parametrize("spelled", [b"", b"x", b"s\xff", b"t\1", b"t\5\0\0\0s", b"t" * 999])
def test_no_key_is_spelled_so(spelled: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_key(spelled)


def test_numbers_of_numpy_are_incremented() -> None:
    np = pytest.importorskip("numpy")
    with SharedDict.create() as shared:
        assert shared.increment("n", np.float64(1.5)) == 1.5
        assert shared.increment("n", np.int64(1)) == 2.5
        assert shared.increment("n", True) == 3.5
        for wrong in "1", None, 1j:
            with pytest.raises(TypeError):
                shared.increment("n", wrong)  # type: ignore[arg-type]
        shared["text"] = "x"
        with pytest.raises(TypeError, match="no int or float"):
            shared.increment("text")


def test_operators() -> None:
    with SharedDict.create() as shared:
        shared |= {"a": 1}
        assert shared | {"b": 2} == {"b": 2} | shared == {"a": 1, "b": 2}
        with pytest.raises(TypeError):
            shared | 5
        assert shared == {"a": 1}
        assert "a" in shared
        assert 1.5 not in shared
        with pytest.raises(TypeError):
            assert [] in shared
        assert shared.get("b", 3) == 3


def test_wrong_capacities() -> None:
    for wrong in 0, -1, 1 << 60:
        with pytest.raises(ValueError, match="1 byte to 8 TiB"):
            SharedDict.create(capacity=wrong)
    for wrong in 1.5, "1", True:  # type: ignore[assignment]
        with pytest.raises(TypeError, match="whole number of bytes"):
            SharedDict.create(capacity=wrong)


# ------------------------------------------------------------------ waiting


def test_wait_gives_what_is_newer(where: Any) -> None:
    with SharedDict.create(where) as shared:
        with pytest.raises(Empty, match="no value of 'a' newer than version 0"):
            shared.wait("a", timeout=0)
        shared["a"] = 1
        value, version = shared.wait("a", timeout=0)
        assert (value, version) == (1, shared.version("a"))
        with pytest.raises(Empty):
            shared.wait("a", version, timeout=0.01)
        other = pickle.loads(pickle.dumps(shared))
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(other.wait("a", version, timeout=20)))
        thread.start()
        shared["b"] = 1
        shared["a"] = 2
        thread.join()
        assert got == [(2, shared.version("a"))]
        other.close()
        for wrong, error in (float("nan"), ValueError), ("1", TypeError), (True, TypeError):
            with pytest.raises(error):
                shared.wait("a", version, timeout=wrong)  # type: ignore[arg-type]


def test_a_waiter_is_told_that_its_handle_was_closed() -> None:
    shared = SharedDict.create()
    told: list[BaseException] = []

    def wait() -> None:
        with suppress(ClosedError):
            shared.wait("a")
            return
        told.append(ClosedError())

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: shared._may_sleep)
    shared.close()
    thread.join(20)
    assert told


# ------------------------------------------------------------------ views


def test_a_view_keeps_its_value_over_compactions(where: Any) -> None:
    np = pytest.importorskip("numpy")
    with SharedDict.create(where, capacity=1 << 14, grow=False) as shared:
        shared["array"] = np.arange(100)
        view = shared.get("array", view=True)
        assert not view.flags.writeable
        part = view[50:]
        line = shared._segment.membership.line()
        assert shared._words[line + PINNED]
        shared["array"] = np.zeros(100)
        compact(shared, 8)
        assert (view == np.arange(100)).all()
        size = shared._store.size()
        compact(shared, 8)
        assert shared._store.size() == size, "each compaction took more memory"
        del view
        compact(shared, 4)
        assert (part == np.arange(50, 100)).all()
        del part
        assert shared._words[line + PINNED] == 0
        assert shared.get("array", view=True).sum() == 0
        assert shared.get("filler", view=True) == bytes(1500)
        assert shared.get("missing", 5, view=True) == 5


def test_a_view_of_another_process_is_kept(where: Any) -> None:
    np = pytest.importorskip("numpy")
    with SharedDict.create(where, capacity=1 << 14) as shared:
        shared["array"] = np.arange(100)

        def look() -> bool:
            view = shared.get("array", view=True)
            writer = pickle.loads(pickle.dumps(shared))
            writer["array"] = np.zeros(100)
            compact(writer, 6)
            writer.close()
            return bool((view == np.arange(100)).all())

        assert in_child(look)
        compact(shared, 6)
        assert shared["array"].sum() == 0


def test_arrays_are_copies_and_keep_their_form() -> None:
    np = pytest.importorskip("numpy")
    with SharedDict.create(grow=True) as shared:
        for array in (
            np.zeros(()),
            np.zeros((0, 3)),
            np.asfortranarray(np.arange(6).reshape(2, 3)),
            np.arange(10)[::-2],
            np.array([(1, 2.5)], [("a", "i4"), ("b", ">f8")]),
            np.array([None, "objects"]),
        ):
            shared["a"] = array
            for got in shared["a"], shared.get("a", view=True):
                assert got.dtype == array.dtype
                assert got.shape == array.shape
                assert (got == array).all()
        shared["a"] = np.zeros(3)
        own = shared["a"]
        own[0] = 5
        assert shared["a"][0] == 0


# ------------------------------------------------------------------ close, threads, forks, handlers


def test_readers_beside_compactions_growth_and_close(where: Any) -> None:
    """Each reads one whole value or is told that the handle was closed."""
    shared = SharedDict.create(where, capacity=8192, grow=True)
    shared["x"] = b"0" * 100
    writer = pickle.loads(pickle.dumps(shared))
    wrong: list[Any] = []
    reads = [0, 0]

    def read(number: int) -> None:
        try:
            while True:
                value = shared["x"]
                if value != value[:1] * 100:
                    wrong.append(value)
                if number and shared.copy()["x"] == b"":
                    wrong.append("empty")
                reads[number] += 1
        except ClosedError:
            return
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for number in range(300):
        writer["x"] = b"%d" % (number % 10) * 100
        writer[number] = bytes(60)
    wait_until(lambda: all(reads))
    shared.close()
    for thread in threads:
        thread.join(20)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
    writer.unlink()
    writer.close()


def test_close_waits_for_a_write_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedDict.create()
    inside, go = threading.Event(), threading.Event()
    real = type(shared._writer)._write_entry

    def slow(*given: Any) -> None:
        inside.set()
        go.wait(20)
        real(*given)

    monkeypatch.setattr(type(shared._writer), "_write_entry", slow)
    other = pickle.loads(pickle.dumps(shared))
    write = threading.Thread(target=shared.__setitem__, args=("a", 1))
    write.start()
    inside.wait(20)
    close = threading.Thread(target=shared.close)
    close.start()
    wait_until(lambda: shared.closed)
    close.join(1.3)  # longer than a mutex waits for its holder
    assert close.is_alive()
    go.set()
    write.join(20)
    close.join(20)
    assert other["a"] == 1
    with pytest.raises(ClosedError, match="this handle on shared dict"):
        shared["a"] = 2
    other.close()


def test_threads_count_together() -> None:
    with SharedDict.create() as shared:

        def work() -> None:
            for _ in range(100):
                shared.increment("n")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert shared["n"] == 400


def test_a_forked_child_is_a_participant_of_its_own(where: Any) -> None:
    with SharedDict.create(where) as shared:
        shared["a"] = 1

        def work() -> tuple[Any, int]:
            shared["b"] = shared["a"] + 1
            return shared.wait("b", timeout=5)[0], len(shared.statistics().participants)

        assert in_child(work) == (2, 2)
        assert shared.copy() == {"a": 1, "b": 2}


def test_a_signal_handler_reads_and_is_refused_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    with SharedDict.create() as shared:
        shared["a"] = 1
        real = type(shared._writer)._write_entry
        seen: list[Any] = []

        def handler(*_: Any) -> None:
            seen.append(shared["a"])
            for act in (lambda: shared.update(b=1), lambda: shared.pop("a"), shared.close):
                assert not shared.closed
                with pytest.raises(RuntimeError, match="a call inside another one"):
                    act()

        def interrupted(*given: Any) -> None:
            signal.raise_signal(signal.SIGUSR1)
            real(*given)

        monkeypatch.setattr(type(shared._writer), "_write_entry", interrupted)
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            shared["a"] = 2
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert seen == [1]
        assert shared["a"] == 2


def test_an_interrupted_write_is_the_old_or_the_new(monkeypatch: pytest.MonkeyPatch) -> None:
    with SharedDict.create() as shared:
        shared["a"] = 1

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(type(shared._writer), "_write_entry", interrupt)
            with pytest.raises(KeyboardInterrupt):
                shared["a"] = 2
        assert shared["a"] == 1
        assert shared._words[DICT_UNSETTLED]
        shared["b"] = 1
        assert not shared._words[DICT_UNSETTLED]
        assert len(shared) == 2


# ------------------------------------------------------------------ other bytes


@contextmanager
def only_what_is_told() -> Iterator[None]:
    with suppress(CorruptSegment, KeyError, Full, OSError):
        yield


def use(shared: SharedDict) -> None:
    """Everything; nothing but an error that is told comes out, and nothing hangs."""
    for act in (
        lambda: shared["a"],
        lambda: shared.get("array", view=True),
        lambda: len(shared),
        shared.copy,
        lambda: list(shared),
        shared.statistics,
        lambda: repr(shared),
        lambda: shared.__setitem__("a", 5),
        lambda: shared.__setitem__("new", bytes(200)),
        lambda: shared.increment("n"),
        lambda: shared.pop("a"),
        shared.popitem,
        lambda: compact(shared),
        shared.drop_damaged,
        shared.clear,
    ):
        with only_what_is_told():
            act()


def filled(grow: bool) -> SharedDict:
    shared = SharedDict.create(capacity=8192, grow=grow)
    shared.update({"a": 1, "n": 2.5, "t": "text", ("k", b"b"): [1], "gone": 0})
    del shared["gone"]
    return shared


@pytest.mark.parametrize("field", DICT.fields, ids=lambda field: field.name)
def test_any_word_may_be_overwritten(field: Any) -> None:
    count = int(field.type.split()[0]) if " " in field.type else 1
    for word in range(field.at // 8, field.at // 8 + count):
        for value in HOSTILE:
            with filled(grow=bool(value % 2)) as shared:
                shared._words[word] = value
                use(shared)
    with filled(grow=True) as shared:
        shared._words[shared._segment.membership.line() + PINNED] = (1 << 64) - 1
        use(shared)


def test_any_slot_and_entry_may_be_overwritten() -> None:
    dice = random.Random(7)
    for _ in range(30):
        with filled(grow=dice.random() < 0.5) as shared:
            generation = shared._store.current()
            for _ in range(3):
                if dice.random() < 0.3:
                    slot = dice.choice(generation.words())[0]
                    generation.slots[slot] ^= 1 << dice.randrange(64)
                else:
                    at = dice.randrange(generation.log, shared._store.tail_of(generation))
                    shared._map[at] = dice.randrange(256)
            try:
                use(shared)
            except Exception as error:  # noqa: BLE001 - whatever a broken pickle raises
                assert from_pickle(error) or "increment adds" in str(error), repr(error)


def from_pickle(error: BaseException) -> bool:
    trace = error.__traceback__
    names = set()
    while trace is not None:
        names.add(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return "decode_value" in names and "_decode_plain" not in names


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 1 << 31])
def test_a_value_of_another_kind(kind: int) -> None:
    with SharedDict.create() as shared:
        shared["a"] = b"\xff" * 30
        generation = shared._store.current()
        entry = generation.entry(generation.words()[0][1])
        struct.pack_into("<I", shared._map, entry.at + HEAD.size - 4, kind)
        for act in shared.copy, lambda: shared["a"], lambda: shared.get("a", view=True):
            try:
                value = act()
            except CorruptSegment as error:
                assert "'a'" in str(error)
            else:
                assert kind in (1, 3)
                assert value


def test_a_torn_page_is_told_and_other_keys_go_on(make_where: Any) -> None:
    where = make_where("file")
    with SharedDict.create(where) as shared:
        shared.update(good=1, torn=bytes(100))
        generation = shared._store.current()
        entry = shared._find("torn")
        assert entry is not None
        shared._map[entry[0].value_at + 5] = 1
        for act in (
            lambda: shared["torn"],
            shared.copy,
            lambda: shared.__setitem__("torn", 1),
            lambda: shared.pop("torn"),
            lambda: compact(shared, 99),
        ):
            with pytest.raises(CorruptSegment, match=r"slot \d+.*checksum.*drop_damaged"):
                act()
        # The key itself is torn: it is not taken for one that is not there.
        shared._map[entry[0].at + HEAD.size + 1] = 0
        with pytest.raises(CorruptSegment):
            shared["torn"]
        assert shared["good"] == 1
        shared["good"] = 2
        assert generation is shared._store.current()
        assert shared.drop_damaged() == 1
        assert shared.drop_damaged() == 0
        assert shared.keys() == {"good", "filler"}
        assert len(shared) == 2
        shared["torn"] = 3
        compact(shared)
        assert (shared["good"], shared["torn"]) == (2, 3)


# ------------------------------------------------------------------ files


def test_a_file_comes_back_and_so_does_a_copy_with_holes(tmp_path: Path) -> None:
    path = tmp_path / "dict"
    with SharedDict.create(path, capacity=8192, grow=True) as shared:
        for number in range(300):
            shared[number] = bytes(100)
        shared.flush()
        expected = shared.copy()
    copy = tmp_path / "copy"
    with path.open("rb") as source, copy.open("wb") as target:
        while block := source.read(4096):
            if any(block):
                target.write(block)
            else:
                target.seek(len(block), os.SEEK_CUR)
        target.truncate(source.tell())
    for file in path, copy:
        with SharedDict.attach(file) as again:
            assert again == expected
            again["new"] = 1
            generation = again._store.current()
            assert file.stat().st_blocks * 512 >= generation.end - generation.start
    shutil.copy(path, tmp_path / "cut")
    os.truncate(tmp_path / "cut", path.stat().st_size // 2)
    with pytest.raises(CorruptSegment, match="generation"):
        SharedDict.attach(tmp_path / "cut")


def test_no_room_for_the_next_generation_cuts_nothing(
    make_where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the memory grows, nor where an old place is used again."""
    for times in 0, 1:
        where = make_where("shm")
        with SharedDict.create(where, capacity=8192) as shared:
            shared["a"] = 1
            compact(shared, times)
            size, there = shared._store.size(), shared.copy()

            def full(*_: Any) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            with monkeypatch.context() as patch:
                patch.setattr(os, "posix_fallocate", full)
                with pytest.raises(OSError, match=r"has .* free|no room") as caught:
                    compact(shared)
                assert caught.value.errno == errno.ENOSPC
            assert shared._store.size() == size
            assert shared["a"] == 1
            assert shared.keys() >= there.keys()
            compact(shared, 2)
            assert shared["a"] == 1


def test_a_snapshot_is_of_one_moment(where: Any, start_process: Callable[..., Any]) -> None:
    with SharedDict.create(where, capacity=1 << 14) as shared:
        shared.update(first=0, second=0)
        start_process(_count_both, shared)
        wait_until(lambda: shared["second"])
        for _ in range(100):
            now = shared.copy()
            assert now["first"] - 1 <= now["second"] <= now["first"]


def _count_both(shared: SharedDict) -> None:
    number = 0
    while True:
        number += 1
        shared["first"] = number
        shared["second"] = number


def test_a_death_that_was_not_counted_is_seen_by_snapshots() -> None:
    with SharedDict.create() as shared:
        shared["a"] = 1
        generation = shared._store.current()
        shared._words[DICT_UNSETTLED] = 1
        generation.slots[generation.words()[0][0]] = 1  # a delete, killed at once
        writes = shared._words[DICT_WRITES]
        shared["b"] = 1
        assert shared._words[DICT_WRITES] == writes + 2
        assert shared._words[DICT_LIVE] == 1
        assert shared._words[DICT_ROOT] == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_another_users_is_refused(make_where: Any) -> None:
    where, before = make_where("shm"), os.umask(0)
    try:
        with SharedDict.create(where, mode=0o666):

            def attach() -> str:
                os.setuid(65534)
                told = []
                for trust in False, True:
                    with pytest.raises(PermissionError) as caught:
                        SharedDict.attach(where, trust_owner=trust)
                    told.append(str(caught.value))
                return " ".join(told)

            assert str(in_child(attach)).count("pickles are code") == 2
    finally:
        os.umask(before)
