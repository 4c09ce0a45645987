"""Codec: what goes in comes out, copied once each way."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmkit.channels.objects.codec import (
    LEAST_ARRAY,
    LEAST_PAYLOAD,
    Encoded,
    Memory,
    decode,
    encode,
    load,
)


def there_and_back(obj: Any) -> Any:
    """Through a frame in memory that is written over before the object is made."""
    content = encode(obj)
    if isinstance(content, bytes):
        return load(content)
    frame = bytearray(content.size)
    content.write(memoryview(frame))
    received = decode(Memory(memoryview(frame)))
    frame[:] = b"\xff" * len(frame)
    return received.load()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        facts = [(each.dtype, each.shape, each.tobytes()) for each in (one, other)]
        return bool(facts[0] == facts[1])
    return type(one) is type(other) and bool(one == other)


@dataclass
class Record:
    name: str
    data: Any = None
    more: dict[str, Any] = field(default_factory=dict)


LARGE = LEAST_PAYLOAD + 1
ARRAY = np.arange(8000, dtype="f8").reshape(64, -1)

SMALL_OBJECTS = [
    None,
    0,
    "text",
    b"bytes",
    bytearray(b"bytearray"),
    {"a": [1, 2.5, (3, {4})]},
    Record("r", b"x", {"k": 1}),
    "t" * LARGE,
    list(range(40_000)),
    b"x" * (LEAST_PAYLOAD - 1),
    np.arange(3),
    np.float64(1.5),
    np.array(["a", None], dtype=object),
]
LARGE_OBJECTS = [
    b"x" * LEAST_PAYLOAD,
    bytearray(b"y" * LARGE),
    (b"x" * LARGE, bytearray(b"y" * LARGE), "t" * LARGE, b"z" * LARGE),
    Record("r", b"x" * LARGE, {"array": ARRAY, "again": [ARRAY.copy(), b"y" * LARGE]}),
    {"large": b"x" * LARGE, "list": list(range(40_000)), "after": bytearray(LARGE)},
    ARRAY,
    ARRAY.astype(">i4"),
    ARRAY.astype("M8[ms]"),
    ARRAY.astype("U9"),
    np.zeros(5000, [("a", "i4"), ("b", "f8", 2)]),
    np.full(LEAST_ARRAY, b"ab", "S2"),
    np.full((LEAST_ARRAY,), True),
]


@pytest.mark.parametrize("obj", SMALL_OBJECTS, ids=lambda obj: type(obj).__name__)
def test_small_objects_are_their_pickle(obj: Any) -> None:
    content = encode(obj)

    assert isinstance(content, bytes)
    assert same(pickle.loads(content), obj) or isinstance(obj, np.ndarray)
    assert same(there_and_back(obj), obj) or obj.dtype == object


@pytest.mark.parametrize("obj", LARGE_OBJECTS, ids=lambda obj: type(obj).__name__)
def test_large_objects_come_back(obj: Any) -> None:
    assert isinstance(encode(obj), Encoded)
    back = there_and_back(obj)

    if isinstance(obj, Record):
        assert same(back.data, obj.data)
        assert same(back.more["array"], ARRAY)
        assert same(back.more["again"][1], obj.more["again"][1])
    else:
        assert same(back, obj)


def pieces_of(obj: Any) -> list[memoryview]:
    content = encode(obj)
    assert isinstance(content, Encoded)
    return [memoryview(piece) for _, piece in content.pieces]


@pytest.mark.parametrize("make", [bytes, bytearray])
def test_a_large_buffer_is_not_copied_by_encoding(make: Callable[[bytes], Any]) -> None:
    data = make(b"x" * LARGE)

    assert any(piece.obj is data for piece in pieces_of({"data": data}))


def test_an_array_is_not_copied_by_encoding() -> None:
    for array in (ARRAY, ARRAY.T):
        views = [np.frombuffer(piece, "u1") for piece in pieces_of([array]) if len(piece)]
        assert any(np.shares_memory(view, array) for view in views)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("size", [3, LEAST_ARRAY])
def test_arrays_own_their_memory_and_are_writable(order: Any, size: int) -> None:
    array = np.asarray(np.arange(4 * size).reshape(4, size), order=order)
    array.flags.writeable = False
    back = there_and_back(array)

    assert back.flags.owndata
    assert back.flags.writeable
    assert back.flags.c_contiguous == array.flags.c_contiguous
    assert back.flags.f_contiguous == array.flags.f_contiguous
    assert (back == array).all()


def test_a_strided_array_comes_out_contiguous() -> None:
    array = np.arange(8000).reshape(64, -1)[::2, ::3]
    back = there_and_back(array)

    assert same(back, np.ascontiguousarray(array))
    assert back.flags.c_contiguous


def test_one_buffer_that_is_there_twice_is_one_afterwards() -> None:
    data = b"x" * LARGE
    one, two, three, four = there_and_back([data, data, ARRAY, ARRAY])

    assert one is two
    assert three is four


class Labelled(np.ndarray):
    """A subclass, as users write them."""


@pytest.mark.parametrize("subclass", [Labelled, np.ma.MaskedArray])
def test_subclasses_of_arrays_stay_what_they_are(subclass: Any) -> None:
    array = np.arange(20_000).reshape(100, 200).view(subclass)
    back = there_and_back(array)

    assert type(back) is subclass
    assert (back == array).all()


def test_a_dtype_with_metadata_keeps_it() -> None:
    dtype = np.dtype("f8", metadata={"unit": "m"})
    back = there_and_back(np.ones(LEAST_ARRAY, dtype))

    assert back.dtype.metadata == {"unit": "m"}
    assert (back == 1).all()


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"abc"),
        memoryview(bytearray(b"x" * LARGE)),
        memoryview(b"x" * LARGE),
        memoryview(ARRAY.data),
        memoryview(b"abcdef")[::2],
        memoryview(b""),
        np.zeros(0).data,
    ],
    ids=lambda view: f"{view.format}{view.shape}",
)
def test_a_memoryview_comes_back_on_memory_of_its_own(view: memoryview) -> None:
    back = there_and_back(view)

    assert back == view
    assert back.format == view.format
    assert back.readonly == view.readonly


def test_a_foreign_buffer_comes_back_as_bytes_or_bytearray() -> None:
    readonly = pickle.PickleBuffer(b"x" * LARGE)
    writable = pickle.PickleBuffer(bytearray(b"y" * LARGE))

    assert there_and_back([readonly, writable]) == [b"x" * LARGE, bytearray(b"y" * LARGE)]
    assert type(there_and_back(writable)) is bytearray


@pytest.mark.parametrize("head", [b"\x95", b"\x80\x05\x95", b"B", b"\x8e", b"\x96"])
def test_bytes_that_look_like_a_pickle_are_bytes(head: bytes) -> None:
    for length in (LEAST_PAYLOAD, LARGE, 2 * LARGE):
        for frame in (0, length - 9, length - 14, length - 18):
            data = (head + frame.to_bytes(8, "little")).ljust(length, b"x")
            header = b"B" + len(data).to_bytes(4, "little")
            assert same(
                there_and_back((header, data, header * 20_000, data[::-1])),
                (
                    header,
                    data,
                    header * 20_000,
                    data[::-1],
                ),
            )


def test_a_list_of_small_bytes_may_end_its_frames_like_a_header() -> None:
    # A frame of the pickle ends here in what would announce the next piece as a buffer.
    header = b"B" + (LEAST_PAYLOAD + 64).to_bytes(4, "little")
    items = [header + bytes([n % 256]) * n for n in range(200)] * 30
    for shift in range(0, 300, 7):
        obj = [b"s" * shift, *items]
        assert there_and_back(obj) == obj


leaves = st.one_of(
    st.none(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=40),
    st.sampled_from([b"\x95" * LARGE, b"b" * LEAST_PAYLOAD, bytearray(LARGE), "u" * LARGE]),
    st.builds(bytearray, st.binary(max_size=40)),
)
objects = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.text(max_size=5), inner, max_size=5),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)


@given(objects)
@settings(max_examples=150, deadline=None)
def test_any_nest_of_plain_objects_comes_back(obj: Any) -> None:
    assert there_and_back(obj) == obj


@given(
    st.sampled_from("?bBhHiIqQefdFDSU"),
    st.lists(st.integers(0, 70), min_size=0, max_size=4),
    st.sampled_from("CF"),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_any_array_comes_back(code: str, shape: list[int], order: Any, reverse: bool) -> None:
    if np.prod(shape, dtype="i8") > 300_000:
        shape = shape[:2]
    array = (np.arange(np.prod(shape, dtype="i8")) % 100).reshape(shape).astype(code, order)
    array = array[..., ::-1] if reverse and shape else array
    back = there_and_back((1, array))[1]

    assert same(back, array)
    assert back.flags.owndata
    assert back.flags.writeable


# ------------------------------------------------------------------ reducers, errors, threads


class Registered:
    def __reduce__(self) -> Any:
        raise TypeError("only through multiprocessing's reducer")


def test_reducers_registered_with_multiprocessing_are_used() -> None:
    ForkingPickler.register(Registered, lambda _: (str, ("reduced",)))

    assert there_and_back([Registered()]) == ["reduced"]


class Grumpy:
    """Pickles after a buffer was seen, and then not."""

    def __reduce__(self) -> Any:
        raise ValueError("I do not pickle")


def test_what_does_not_pickle_raises_and_leaves_nothing_behind() -> None:
    for obj in ([b"x" * LARGE, Grumpy()], lambda: None, [ARRAY, sys]):
        with pytest.raises((ValueError, pickle.PicklingError, AttributeError, TypeError)):
            encode(obj)
        assert encode(1) == pickle.dumps(1, 5)
        assert same(there_and_back(ARRAY), ARRAY)


class Nested:
    """Encodes something else while it is pickled."""

    def __reduce__(self) -> Any:
        return there_and_back, ([b"i" * LARGE, encode(1)],)


def test_encoding_inside_encoding() -> None:
    inner, number = there_and_back((b"o" * LARGE, Nested()))[1]

    assert inner == b"i" * LARGE
    assert load(number) == 1


def test_threads_encode_at_once() -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        data = bytes([number]) * LARGE
        backs = [there_and_back([data, number, ARRAY]) for _ in range(50)]
        wrong.extend(number for back in backs if back[:2] != [data, number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_object_keeps_nothing_of_itself_in_the_pickler() -> None:
    data = bytearray(LARGE)
    content = encode([data])
    del content
    data.append(1)  # BufferError if a view of it were left
