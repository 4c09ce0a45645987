"""Records of every kind: nested, NamedTuples, structures of ctypes; what they are, and buffers."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import gc
import hashlib
import pickle
import struct
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import pytest

from shmkit import CorruptSegment, SharedBuffer, compiled

IS_BUFFER = compiled.core is not None or sys.version_info >= (3, 12)


class Vector(NamedTuple):
    x: Annotated[float, "f"]
    y: Annotated[float, "f"]
    z: Annotated[float, "f"] = 0.0

    def length(self) -> float:
        return float((self.x**2 + self.y**2 + self.z**2) ** 0.5)


@dataclass
class Color:
    red: Annotated[int, "B"]
    green: Annotated[int, "B"] = 0
    blue: Annotated[int, "B"] = 0

    WHITE = 255

    @property
    def gray(self) -> int:
        return (self.red + self.green + self.blue) // 3

    def brighten(self) -> None:
        self.red = min(self.WHITE, 2 * self.red)


@dataclass
class Vertex:
    position: Vector
    color: Color
    label: Annotated[str, 6] = ""
    weight: float = field(default=1.0)


@dataclass(frozen=True)
class Edge:
    a: Vertex
    b: Vertex
    flag: bool


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int32), ("y", ctypes.c_int32), ("tag", ctypes.c_char * 4))


class Bits(ctypes.BigEndianStructure):
    _pack_ = 1
    _fields_ = (("kind", ctypes.c_uint16), ("points", ctypes.c_uint32.__ctype_be__ * 2))


class Line(ctypes.Structure):
    _fields_ = (("ends", Point * 2), ("low", ctypes.c_uint8, 3), ("high", ctypes.c_uint8, 5))


RED = Vertex(Vector(3.0, 4.0), Color(200, 1, 3), "üü", 0.5)


# ------------------------------------------------------------------ nested


def test_nested_records_in_place(make_buffer) -> None:
    buffer = make_buffer(b"\xee" * 200)
    vertices = buffer.records(Vertex)
    vertices[1] = RED
    assert vertices.itemsize == struct.calcsize("<3f3Bx8sd")
    expected = struct.pack("<3f3B", 3, 4, 0, 200, 1, 3) + b"\xee"
    expected += struct.pack("<H6s", 4, "üü".encode()) + struct.pack("<d", 0.5)
    assert buffer[:] == b"\xee" * 32 + expected + b"\xee" * 136, "gaps are left alone"
    vertex = vertices[1]
    vertex.color.green = 77
    expected = expected[:13] + b"\x4d" + expected[14:]
    assert buffer[32:64] == expected
    vertex.position = Vector(7.0, 8.0, 9.0)
    vertex.color = (1, 2, 3)
    assert vertices.read(1) == Vertex(Vector(7, 8, 9), Color(1, 2, 3), "üü", 0.5)
    assert repr(vertex) == (
        "Vertex(position=Vector(x=7.0, y=8.0, z=9.0), color=Color(red=1, green=2, blue=3), "
        "label='üü', weight=0.5)"
    )


def test_nested_twice(make_buffer) -> None:
    edges = make_buffer(300).records(Edge)
    edges[2] = Edge(RED, dataclasses.replace(RED, weight=2.0), True)
    edges[2].b.color.red = 9
    copied = edges.read(2)
    assert copied == Edge(RED, Vertex(RED.position, Color(9, 1, 3), "üü", 2.0), True)
    assert type(copied) is Edge
    assert type(copied.b) is Vertex
    assert type(copied.b.position) is Vector
    assert edges[2] == copied
    with pytest.raises(ValueError, match="field red of 1 bytes cannot hold 256"):
        edges[1] = Edge(RED, Vertex(RED.position, Color(256)), True)
    with pytest.raises(ValueError, match="a record of Vector has 3 fields, not 2"):
        edges[1].a.position = (1, 2)
    with pytest.raises(TypeError, match="a record of Color is set to one, or to a value for each"):
        edges[1].a.color = 5
    assert bytes(edges[1:2].buf) == bytes(edges.itemsize)


def test_nested_records_without_gaps(make_buffer) -> None:
    buffer = make_buffer(300)
    edges = buffer.records(Edge, packed=True)
    assert edges.itemsize == 2 * (12 + 3 + 8 + 8) + 1
    edges[1] = Edge(RED, RED, True)
    assert edges.read(1) == Edge(RED, RED, True)


def test_nested_records_as_arrays(make_buffer) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    edges = make_buffer(300).records(Edge)
    edges[1] = Edge(RED, RED, True)
    array = edges.to_numpy()
    array["b"]["color"]["blue"] = 5
    assert [edge.b.color.blue for edge in edges] == [5] * len(edges)
    assert array["a"]["position"]["y"][1] == 4.0
    theirs = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4")])
    assert array.dtype["a"]["position"] == theirs
    del array


def test_types_that_hold_themselves(make_buffer) -> None:
    with pytest.raises(TypeError, match=r"Chain\.next is a Chain, which holds itself"):
        make_buffer(100).records(Chain)


@dataclass
class Chain:
    number: int
    next: Chain


# ------------------------------------------------------------------ what they are


def test_records_are_what_they_are_made_of(make_buffer) -> None:
    vertices = make_buffer(200).records(Vertex)
    vertices[1] = RED
    vertex = vertices[1]
    assert isinstance(vertex, Vertex)
    assert isinstance(vertex.color, Color)
    assert vertex == RED
    assert vertex == RED
    assert vertices[0] != RED
    assert vertex.position == (3.0, 4.0, 0.0)
    assert vertex.position.length() == 5.0
    assert vertex.color.gray == 68
    vertex.color.brighten()
    assert vertex.color.red == 255
    as_dict = dataclasses.asdict(vertex)
    assert as_dict["color"] == {"red": 255, "green": 1, "blue": 3}
    assert as_dict["position"] == Vector(3, 4, 0)
    changed = dataclasses.replace(vertex, weight=7.0)
    assert type(changed) is Vertex
    assert (changed.weight, vertex.weight) == (7.0, 0.5)
    assert vertex.position._asdict() == {"x": 3.0, "y": 4.0, "z": 0.0}
    match vertex:
        case Vertex(color=Color(blue=blue), label=label):
            assert (blue, label) == (3, "üü")
        case _:
            raise AssertionError


def test_they_pickle_as_copies(make_buffer) -> None:
    buffer = make_buffer(200)
    vertices = buffer.records(Vertex)
    vertices[1] = RED
    for copied in (pickle.loads(pickle.dumps(vertices[1])), copy.deepcopy(vertices[1])):
        assert type(copied) is Vertex
        assert copied == RED
    plain = buffer.records("<2H", 100)[1]
    assert pickle.loads(pickle.dumps(plain)) == (0, 0)


def test_named_tuples(make_buffer) -> None:
    buffer = make_buffer(36)
    vectors = buffer.records(Vector)
    vectors[1] = Vector(1, 2, 3)
    vectors[2] = (4, 5, 6)
    x, y, z = vectors[2]
    assert (x, y, z) == (4, 5, 6)
    assert struct.unpack_from("<3f", buffer[:], 12) == (1, 2, 3)
    assert type(vectors.read(1)) is Vector
    assert vectors[1] == Vector(1, 2, 3)
    assert [vector.x for vector in vectors[::-1]] == [4, 1, 0]


# ------------------------------------------------------------------ ctypes


def test_structures_of_ctypes(make_buffer) -> None:
    buffer = make_buffer(60)
    points = buffer.records(Point)
    assert (len(points), points.itemsize) == (5, 12)
    points[1].x = -5
    points[1].tag = b"ab"
    points[2] = Point(7, 8, b"cd")
    points[3:5] = [(1, 2, b""), points[2]]
    assert buffer[12:36] == struct.pack("<2i4s2i4s", -5, 0, b"ab", 7, 8, b"cd")
    assert (points[-1].x, points[3].y) == (7, 2)
    assert type(points[0]) is type(points.read(0)) is Point
    copied = points.read(1)
    points[1].x = 6
    assert (copied.x, points[1].x) == (-5, 6)
    assert [point.x for point in points[::-2]] == [7, 7, 0]
    assert bytes(points[2:3].buf) == bytes(Point(7, 8, b"cd"))
    gc.collect()


def test_arrays_bit_fields_and_big_endian(make_buffer) -> None:
    buffer = make_buffer(100)
    lines = buffer.records(Line)
    lines[1].ends[1].x = 5
    lines[1].low, lines[1].high = 7, 1
    size = ctypes.sizeof(Line)
    assert buffer[size + 12] == 5
    assert buffer[size + 24] == 0b00001_111
    bits = buffer.records(Bits, 60)
    bits[0].points[1] = 1
    assert buffer[60 : 60 + 10] == b"\0\0\0\0\0\0\0\0\0\1"
    threes = buffer.records(ctypes.c_int16 * 3)
    threes[2] = (1, 2, 3)
    assert struct.unpack_from("<3h", buffer[:], 12) == (1, 2, 3)
    gc.collect()


def test_structures_keep_the_memory(make_buffer) -> None:
    made = make_buffer(24)
    buffer = SharedBuffer.attach(made)
    point = buffer.records(Point)[1]
    with pytest.raises(BufferError):
        buffer.close(strict=True)
    buffer.close()
    point.x = 9
    assert made[12] == 9
    del point
    gc.collect()


def test_structures_on_read_only_memory(make_buffer) -> None:
    made = make_buffer(36)
    made.records(Point)[1].x = 4
    with SharedBuffer.attach(made, access="r") as buffer:
        points = buffer.records(Point)
        assert points[1].x == 4
        assert isinstance(points[1], Point)
        for use in (
            lambda: setattr(points[1], "x", 1),
            lambda: points.__setitem__(1, Point()),
            lambda: buffer.records(ctypes.c_int * 3)[0].__setitem__(0, 1),
        ):
            with pytest.raises(TypeError, match="read-only: attach with access='rw'"):
                use()
    assert made[12] == 4
    gc.collect()


def test_structures_as_arrays(make_buffer) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    points = make_buffer(36).records(Point)
    points.to_numpy()["y"] = [1, 2, 3]
    assert [point.y for point in points] == [1, 2, 3]
    gc.collect()


# ------------------------------------------------------------------ buffers


def test_the_bytes_of_records(make_buffer) -> None:
    buffer = make_buffer(range_bytes(100))
    for layout in (Vector, Point, "<3f"):
        records: Any = buffer.records(layout, 1)
        assert bytes(records.buf) == buffer[1:97]
        assert bytes(records[2:4].buf) == buffer[25:49]
        one = records[3:4].buf
        one[0] = 0xAB
        assert buffer[37] == 0xAB
        buffer[37] = 37
        assert bytes(records[5:5].buf) == b""
        with pytest.raises(BufferError, match="do not lie side by side: take one of them"):
            records[::2].buf  # noqa: B018
        with pytest.raises(BufferError, match="do not lie side by side"):
            records[::-1].buf  # noqa: B018
        del one


def range_bytes(count: int) -> bytes:
    return bytes(range(count))


@pytest.mark.skipif(not IS_BUFFER, reason="__buffer__ is of 3.12: .buf is there instead")
def test_records_are_buffers(make_buffer) -> None:
    buffer = make_buffer(range_bytes(100))
    for layout in (Vector, Point, "<3f"):
        records: Any = buffer.records(layout, 1)
        assert hashlib.sha256(records[2]).digest() == hashlib.sha256(buffer[25:37]).digest()
        assert bytes(memoryview(records[1:3])) == buffer[13:37]
        part = memoryview(records[2]).cast("B")[4:8]
        part[0] = 0xCD
        assert buffer[29] == 0xCD
        buffer[29] = 29
        del part
        with pytest.raises(BufferError):
            memoryview(records[::2])
    gc.collect()


# ------------------------------------------------------------------ wrong uses


class Pointing(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p),)


class Deep(Pointing):
    _anonymous_ = ()


class Deeper(ctypes.Structure):
    _fields_ = (("inner", Deep * 2),)


class Callback(ctypes.Structure):
    _fields_ = (("call", ctypes.CFUNCTYPE(None)),)


class Empty(ctypes.Structure):
    _fields_ = ()


Untyped = namedtuple("Untyped", "a b")  # noqa: PYI024 - that is the point


@dataclass
class Listed:
    items: list[Vector]


def any_records(layout: Any, **options: Any) -> Callable[[SharedBuffer], Any]:
    return lambda buffer: buffer.records(layout, **options)


WRONG: list[tuple[Callable[[SharedBuffer], Any], type[Exception], str]] = [
    (any_records(Pointing), TypeError, "Pointing.name is a c_char_p, an address.*array of c_char"),
    (any_records(Deeper), TypeError, "Deeper.inner.name is a c_char_p, an address"),
    (any_records(Callback), TypeError, "Callback.call is a .*, an address"),
    (any_records(ctypes.POINTER(Point)), TypeError, "not <class"),
    (any_records(Empty), ValueError, "a record of Empty has no bytes"),
    (any_records(Point, packed=True), ValueError, "Point says _pack_ = 1 itself"),
    (any_records(Point, names="a b"), ValueError, "'names' is for formats"),
    (any_records(Vector, names="a b"), ValueError, "'names' is for formats"),
    (any_records(Untyped), TypeError, "Untyped.a is None, whose size is not known"),
    (any_records(Listed), TypeError, "Listed.items is .*whose size is not known.* a dataclass"),
    (any_records(tuple), TypeError, "a dataclass, a NamedTuple or a structure of ctypes, not"),
    (any_records([Vector]), TypeError, "a dataclass, a NamedTuple or a structure of ctypes, not"),
    (any_records(Vector, stride=5), ValueError, "'stride' is 5, and a record has 12 bytes"),
    (any_records(Vector, count=100), ValueError, "100 records of 12 bytes.*room for 8"),
    (any_records(Vector, offset=101), ValueError, "'offset' 101 is outside"),
    (lambda b: b.records(Vector)[8], IndexError, "record 8 is outside: there are 8"),
    (lambda b: b.records(Vector)["x"], TypeError, "integer"),  # type: ignore[call-overload]
    (
        lambda b: any_records(Vector)(b).__setitem__(0, 5),
        TypeError,
        "is set to one, or to a value for",
    ),
    (lambda b: b.records(Vector).__setitem__(0, (1, 2)), ValueError, "3 fields, not 2"),
    (lambda b: b.records(Point).__setitem__(0, (1, 2, "x")), ValueError, "Point cannot be made of"),
    (lambda b: b.records(Point).__setitem__(0, (1, 2, b"", 3)), ValueError, "too many"),
    (lambda b: any_records(Point)(b).__setitem__(0, 3), TypeError, "is set to one, or to a value"),
    (lambda b: setattr(b.records(Color)[0], "red", -1), ValueError, "field red of 1 bytes cannot"),
    (lambda b: setattr(b.records(Color)[0], "rde", 1), AttributeError, "rde"),
]


@pytest.mark.parametrize(("use", "kind", "message"), WRONG)
def test_wrong_uses(make_buffer, use: Any, kind: type[Exception], message: str) -> None:
    buffer = make_buffer(100)
    with pytest.raises(kind, match=message):
        use(buffer)
    assert buffer[:] == bytes(100)


def test_types_inside_of_functions_say_so(make_buffer) -> None:
    @dataclass
    class Inner:
        a: int

    @dataclass
    class Outer:
        inner: Inner

    with pytest.raises(TypeError, match="'Inner' is not defined: define the types of its fields"):
        make_buffer(100).records(Outer)


def test_damage_in_a_nested_record_is_told(make_buffer) -> None:
    buffer = make_buffer(100)
    buffer[16:18] = b"\xff\xff"
    for use in (lambda r: r[0].label, lambda r: r.read(0), lambda r: r[0] == RED):
        with pytest.raises(CorruptSegment, match="says that it holds 65535 bytes, and has 6"):
            use(buffer.records(Vertex))
