"""Wrong uses of rings, broadcasts and latests: what each is told, in the words of the object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from shmkit import Broadcast, Empty, FrameTooLarge, IncompatibleSegment, Latest, Ring, wait


class Handles(NamedTuple):
    """One of each, open."""

    ring: Any
    broadcast: Any
    subscription: Any
    latest: Any


@pytest.fixture(scope="module")
def handles() -> Iterator[Handles]:
    with Ring.create() as ring, Broadcast.create() as broadcast, Latest.create(size=10) as latest:
        yield Handles(ring, broadcast, broadcast.subscribe(), latest)


def entered(context: Any) -> Any:
    with context as value:
        return value


BYTES = r"bytes go in, or an object with a buffer, not .* of type "
NUMBER = r" of type {}: it is a whole number of {}"
WRITABLE = r"get_into needs a writable, contiguous buffer, as a bytearray or an array is, not "
maker: Any = Ring
Call = Callable[[Any], object]

WRONG: list[tuple[Call, type[Exception], str]] = [
    # made in the wrong way
    (lambda _: maker(), TypeError, r"Ring\(\) makes no ring: use Ring.create\(where, ...\)"),
    (lambda _: maker(100), TypeError, r"Ring\(100\) makes no ring: .* Ring.attach\(where\)"),
    (lambda _: maker("x"), TypeError, r"Ring\('x'\) makes no ring: .* Ring.ensure\(where, ...\)"),
    (lambda _: maker(capacity=9), TypeError, r"Ring\(capacity=9\) makes no ring"),
    (lambda _: Latest(b"x"), TypeError, r"Latest\(b'x'\) makes no latest: use Latest.create"),  # type: ignore[arg-type]
    (lambda _: Broadcast("x"), TypeError, r"Broadcast\('x'\) makes no broadcast"),  # type: ignore[arg-type]
    (lambda _: maker.create(100), TypeError, r"where=100 is no place: did you mean capacity=100\?"),
    (lambda _: Latest.create(100), TypeError, r"where=100 .* did you mean size=100\?"),  # type: ignore[arg-type]
    (lambda _: maker.create(capacity=0), ValueError, "capacity=0: a ring has 1 byte or more"),
    (lambda _: maker.create(capacity=-5), ValueError, "capacity=-5: a ring has 1 byte or more"),
    (lambda _: maker.create(capacity=1 << 60), ValueError, "capacity=1152921504606846976"),
    (lambda _: maker.create(capacity=1.5), TypeError, "capacity=1.5" + NUMBER.format("float", "b")),
    (lambda _: maker.create(capacity="1M"), TypeError, "capacity='1M'" + NUMBER.format("str", "b")),
    (lambda _: maker.create(capacity=True), TypeError, "capacity=True of type bool"),
    (lambda _: maker.create(capacity=None), TypeError, "capacity=None of type NoneType"),
    (lambda _: maker.create(producers=2), ValueError, "producers=2: it is one of 'one', 'many'"),
    (lambda _: maker.create(consumers=None), ValueError, "consumers=None: it is one of 'one'"),
    (lambda _: maker.create(when_full="drop"), ValueError, "when_full='drop': .* 'drop-oldest'"),
    (lambda _: maker.create(participants=0), ValueError, "participants=0: .* 1 to"),
    (lambda _: maker.create(participants="x"), TypeError, "participants='x' of type str"),
    (lambda _: Latest.create(size=0), ValueError, "size=0: a latest takes 1 to"),
    (lambda _: Latest.create(size="x"), TypeError, "size='x' of type str"),  # type: ignore[arg-type]
    (lambda _: Broadcast.create(capacity=-1), ValueError, "capacity=-1: a broadcast takes 1 to"),
    (lambda _: Broadcast.create(capacity=1.5), TypeError, "capacity=1.5 of type float"),  # type: ignore[arg-type]
    (lambda _: Ring.attach("wrong-use"), FileNotFoundError, "no shared memory segment of this"),
    (lambda _: maker.attach(None), ValueError, "anonymous memory cannot be attached to by name"),
    (lambda _: maker.attach(5), TypeError, "'where' must be .* not int"),
    # what goes in
    (lambda on: on.ring.put("hello"), TypeError, BYTES + r"str: encode it, .* data.encode\(\)"),
    (lambda on: on.ring.put(None), TypeError, BYTES + "NoneType: use a Queue"),
    (lambda on: on.ring.put({"a": 1}), TypeError, BYTES + "dict: use a Queue"),
    (lambda on: on.ring.put(memoryview(b"abcd")[::2]), TypeError, "contiguous bytes: copy the"),
    (lambda on: on.ring.put_many(["a"]), TypeError, BYTES + "str"),
    (lambda on: on.ring.put_many(b"abc"), TypeError, r"several frames, .* not b'abc': put\(\)"),
    (lambda on: on.ring.put_many("abc"), TypeError, "several frames"),
    (lambda on: on.ring.put_many(5), TypeError, "several frames, as a list of them, not 5"),
    (lambda on: on.ring.put(bytes(2 << 20)), FrameTooLarge, "2097152 bytes.*capacity of 2097168"),
    (lambda on: on.broadcast.publish("x"), TypeError, BYTES + "str"),
    (lambda on: on.broadcast.publish(bytes(1 << 20)), FrameTooLarge, "capacity of 2097184"),
    (lambda on: on.latest.set("x"), TypeError, BYTES + "str"),
    (lambda on: on.latest.set(bytes(11)), FrameTooLarge, "create it with size=11"),
    (lambda on: entered(on.ring.reserve(-1)), ValueError, "a frame of -1 bytes: reserve 0 or more"),
    (lambda on: entered(on.ring.reserve(b"abc")), TypeError, "size=b'abc' of type bytes"),
    # what comes out
    (lambda on: on.ring.get(True), TypeError, "timeout=True: .* there is no `block` here"),
    (
        lambda on: on.ring.get("x"),
        TypeError,
        "'timeout' is a number of seconds, or None for ever, not 'x'",
    ),
    (lambda on: on.ring.get(block=False), TypeError, "unexpected keyword argument 'block'"),
    (lambda on: on.ring.get_many(0), ValueError, "max_frames=0: ask for 1 frame or more"),
    (lambda on: on.ring.get_many("x"), TypeError, "max_frames='x' of type str"),
    (lambda on: entered(on.ring.peek_many(1.5)), TypeError, "max_frames=1.5 of type float"),
    (lambda on: on.ring.get_into(b"abc", 0), TypeError, WRITABLE + "b'abc' of type bytes"),
    (lambda on: on.ring.get_into(5, 0), TypeError, WRITABLE + "5 of type int"),
    (lambda on: on.subscription.get_into("abc", 0), TypeError, WRITABLE + "'abc' of type str"),
    (lambda on: on.latest.get_into(b"abc"), TypeError, WRITABLE + "b'abc' of type bytes"),
    (lambda on: on.latest.get(), Empty, r"has no value yet: wait\(\) waits for the first"),
    (lambda on: on.latest.wait("x"), TypeError, "newer_than='x' of type str"),
    (lambda on: on.broadcast.subscribe("last"), ValueError, "start='last': it is 'now' or 'oldest"),
    (lambda on: on.subscription.get(False), TypeError, "timeout=False"),
    (lambda on: on.ring.skip_damaged(), ValueError, "is not on a file: its frames have no checks"),
    (lambda on: wait([on.broadcast]), TypeError, r"wait for one of its subscribe\(\)"),
    # the end
    (lambda on: on.ring.shutdown("now"), TypeError, "immediate='now': it is True, to throw away"),
    (lambda on: on.broadcast.shutdown("now"), TypeError, "immediate='now'"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_wrong_use_says_cause_value_and_remedy(handles: Handles, number: int) -> None:
    call, error, message = WRONG[number]
    with pytest.raises(error, match=message):
        call(handles)


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_the_wrong_class_is_named(kind: str, make_where: Any) -> None:
    where = make_where(kind)
    with Ring.create(where), pytest.raises(IncompatibleSegment, match=r"ring.* not a latest"):
        Latest.attach(where)


@pytest.mark.parametrize("kind", ["ring", "subscription", "latest"])
def test_get_into_a_buffer(kind: str) -> None:
    """Its size, or ValueError where it does not fit: then it stays."""
    made: Any
    reader: Any
    if kind == "ring":
        made = reader = Ring.create(capacity=4096)
        put = made.put
    elif kind == "subscription":
        made = Broadcast.create(capacity=4096)
        put, reader = made.publish, made.subscribe()
    else:
        made = reader = Latest.create(size=100)
        put = made.set
    with made:
        for size in (0, 1, 17, 64):
            room = bytearray(b"\xaa" * 64)
            put(bytes(range(size)))
            if size:
                with pytest.raises(ValueError, match=f"{size} bytes into a buffer of {size - 1}"):
                    reader.get_into(bytearray(size - 1))
            assert reader.get_into(room) == size
            assert room == bytes(range(size)) + b"\xaa" * (64 - size)
        if kind != "latest":
            with pytest.raises(Empty):
                reader.get_into(room, 0)
