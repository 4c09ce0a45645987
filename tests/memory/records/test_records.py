"""Records: formats and dataclasses, over every kind of memory, compared with struct and numpy."""

from __future__ import annotations

import operator
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmkit import ClosedError, CorruptSegment, SharedBuffer
from shmkit.memory import records as room
from shmkit.memory.records import Record, Records

layout_of: Any = room.layout_of

VERTEX = "<3f3H2x"


@dataclass
class Vertex:
    x: Annotated[float, "f"]
    y: Annotated[float, "f"]
    z: Annotated[float, "f"]
    red: Annotated[int, "H"] = 0
    green: Annotated[int, "H"] = 0
    blue: Annotated[int, "H"] = 0


@dataclass(frozen=True)
class Person:
    flag: bool
    age: Annotated[int, "B"]
    name: Annotated[str, 20]
    raw: Annotated[bytes, 7]
    fixed: Annotated[bytes, "5s"]
    pascal: Annotated[bytes, "6p"]
    spot: Annotated[tuple[float, ...], "3d"]
    number: int
    weight: float


ADA = Person(
    True, 36, "Ада 小林\0\0", b"a\0\0", b"12345", b"p\0", (1.5, -2.0, 0.0), -(1 << 60), 0.1
)


@pytest.fixture
def vertices(make_buffer) -> Iterator[tuple[SharedBuffer, Records[Vertex]]]:
    buffer = make_buffer(3 + 20 * 10)
    for number in range(10):
        struct.pack_into(VERTEX, buffer.buf, 3 + 20 * number, number, 0.5, -number, number, 5, 6)
    records = buffer.records(Vertex, offset=3)
    yield buffer, records
    records._view.release()  # pytest holds what it gave out for a while


def whole(buffer: SharedBuffer) -> list[tuple[Any, ...]]:
    return list(struct.iter_unpack(VERTEX, buffer[3:]))


# ------------------------------------------------------------------ in place


def test_fields_by_name(vertices) -> None:
    buffer, records = vertices
    assert (len(records), records.itemsize, records.stride) == (10, 20, 20)
    assert (records[3].red, records[-1].x, records[4].z) == (3, 9.0, -4.0)
    expected = whole(buffer)
    records[3].red = 7
    expected[3] = (3.0, 0.5, -3.0, 7, 5, 6)
    assert whole(buffer) == expected
    assert records[3] == Vertex(3, 0.5, -3, 7, 5, 6)
    assert repr(records[3]) == "Vertex(x=3.0, y=0.5, z=-3.0, red=7, green=5, blue=6)"


def test_a_write_touches_its_own_bytes_alone(make_buffer) -> None:
    buffer = make_buffer(b"\xee" * 60)
    records = buffer.records(Vertex)
    records[1].green = 0x1234
    assert buffer[:] == b"\xee" * 34 + b"\x34\x12" + b"\xee" * 24
    records[1] = Vertex(0, 0, 0)
    assert buffer[:] == b"\xee" * 20 + bytes(18) + b"\xee" * 22, "padding is left alone"


def test_misspelt_fields_are_errors(vertices) -> None:
    _, records = vertices
    with pytest.raises(AttributeError):
        records[0].rde = 1
    with pytest.raises(AttributeError):
        records[0].rde  # noqa: B018


def test_plain_formats_have_numbered_fields(vertices) -> None:
    buffer, _ = vertices
    records = buffer.records(VERTEX, offset=3)
    assert len(records) == 10
    assert (len(records[2]), records[2][3], records[2][-1], records[2][:2]) == (6, 2, 6, (2.0, 0.5))
    assert tuple(records[2]) == records[2] == (2.0, 0.5, -2.0, 2, 5, 6)
    records[2][3] = 99
    assert whole(buffer)[2][3] == 99
    assert repr(records[2]) == "Record(2.0, 0.5, -2.0, 99, 5, 6)"
    for key in (6, -7):
        with pytest.raises(IndexError):
            records[2][key]
        with pytest.raises(IndexError):
            records[2][key] = 0


def test_names_for_plain_formats(vertices) -> None:
    buffer, _ = vertices
    for names in (
        "x y z red green blue",
        "x,y,z,red,green,blue",
        ["x", "y", "z", "red", "green"] + ["blue"],
    ):
        records = buffer.records(struct.Struct(VERTEX), 3, names=names)
        records[1].blue = 77
        assert (records[1].blue, records[1][5]) == (77, 77)
    for names, message in (
        ("x y", "6 fields, and there are 2 names"),
        ("x y z red green x", "'x' cannot be the name"),
        (["x", "y", "z", "a b", "c", "d"], "'a b' cannot be"),
        ("x y z _shm_at g b", "'_shm_at' cannot be"),
    ):
        with pytest.raises(ValueError, match=message):
            buffer.records(VERTEX, names=names)


def test_records_are_a_sequence(vertices) -> None:
    records: Any = vertices[1]
    assert issubclass(type(records), Sequence)
    reds = list(range(10))
    assert [vertex.red for vertex in records] == reds
    assert [vertex.red for vertex in reversed(records)] == reds[::-1]
    for part in (
        slice(None),
        slice(2, 5),
        slice(None, None, 3),
        slice(None, None, -1),
        slice(-2, 0, -3),
        slice(5, 2),
        slice(50),
    ):
        assert [vertex.red for vertex in records[part]] == reds[part], part
        assert len(records[part]) == len(reds[part])
        assert [vertex.red for vertex in records[part][::-2]] == reds[part][::-2]
    assert records.index(Vertex(4, 0.5, -4, 4, 5, 6)) == 4
    assert Vertex(1, 2, 3) not in records
    for key in (10, -11):
        with pytest.raises(IndexError, match=rf"record {key} is outside: there are 10"):
            records[key]
        with pytest.raises(IndexError):
            records[key] = Vertex(0, 0, 0)
        with pytest.raises(IndexError):
            records.read(key)
    with pytest.raises(TypeError):
        records["x"]
    assert repr(records) == "<Records of Vertex: 10 of 20 bytes, 20 apart>"


def test_whole_records_are_written(vertices) -> None:
    buffer, records = vertices
    expected = whole(buffer)
    records[0] = Vertex(1, 2, 3, 4, 5, 6)
    records[1] = (1, 2, 3, 4, 5, 6)
    records[2] = records[0]
    records[3:5] = [records[0], Vertex(1, 2, 3, 4, 5, 6)]
    expected[:5] = [(1.0, 2.0, 3.0, 4, 5, 6)] * 5
    assert whole(buffer) == expected
    with pytest.raises(ValueError, match="6 fields, not 2"):
        records[0] = (1, 2)
    with pytest.raises(ValueError, match="1 records do not replace 2"):
        records[0:2] = [records[0]]
    with pytest.raises(ValueError, match="field red"):
        records[5:7] = [Vertex(0, 0, 0), Vertex(0, 0, 0, 70_000)]
    assert whole(buffer) == expected, "all or nothing is written"


def test_copies_do_not_change(vertices) -> None:
    _, records = vertices
    copy, view = records.read(-1), records[-1]
    records[-1].red = 1000
    assert type(copy) is Vertex
    assert (copy.red, view.red) == (9, 1000)
    assert copy != view
    assert records.read(-1) == view


def test_views_keep_the_memory(make_buffer) -> None:
    made = make_buffer(40)
    buffer = SharedBuffer.attach(made)
    records = buffer.records(Vertex)
    with pytest.raises(BufferError, match=r"records\(Vertex\)"):
        buffer.close(strict=True)
    record = records[1]
    buffer.close()
    record.red = 5
    del records
    assert record.red == 5
    assert made.records(Vertex)[1].red == 5
    with pytest.raises(ClosedError):
        buffer.records(Vertex)
    del record


def test_read_only_memory_is_not_written(make_buffer) -> None:
    made = make_buffer(40)
    with SharedBuffer.attach(made, access="r") as buffer:
        records = buffer.records(Vertex)
        for use in (
            lambda: setattr(records[0], "red", 1),
            lambda: operator.setitem(records[0], 0, 1.0),  # type: ignore[call-overload]
            lambda: records.__setitem__(0, Vertex(1, 2, 3)),
        ):
            with pytest.raises(TypeError, match="read-only: attach with access='rw'"):
                use()
        assert not records.to_numpy().flags.writeable
    assert made[:] == bytes(40)


# ------------------------------------------------------------------ text


def test_every_kind_of_field_keeps_its_value(make_buffer) -> None:
    buffer = make_buffer(b"\xaa" * 300)
    people = buffer.records(Person, offset=1)
    people[1] = ADA
    assert people.read(1) == ADA
    assert people[1] == ADA
    record = people[1]
    record.name = "kürzer"
    record.raw = b""
    record.fixed = b"ab"
    record.pascal = b"\0\0\0"
    record.spot = [0.0, 0.0, 1.0]
    assert (record.name, record.raw, record.pascal) == ("kürzer", b"", b"\0\0\0")
    assert record.fixed == b"ab\0\0\0", "without a stored length it is filled up"
    assert record.spot == (0.0, 0.0, 1.0)
    assert (record.flag, record.age, record.number) == (True, 36, -(1 << 60))


@pytest.mark.parametrize("text", ["", "\0", "a\0\0", "é" * 10, "小林", "a" * 20, "\0" * 20])
def test_text_keeps_its_length(make_buffer, text: str) -> None:
    people = make_buffer(200).records(Person)
    people[0].name = "x" * 20
    people[0].name = text
    assert people[0].name == text


def test_values_that_do_not_fit_change_nothing(make_buffer) -> None:
    buffer = make_buffer(200)
    record: Any = buffer.records(Person)[0]
    before = buffer[:]
    for name, value, kind, message in (
        ("name", "é" * 11, ValueError, "22 bytes, 20 fit"),
        ("name", b"bytes", TypeError, "it takes str"),
        ("raw", b"12345678", ValueError, "8 bytes, 7 fit"),
        ("raw", "text", TypeError, "it takes bytes"),
        ("fixed", b"123456", ValueError, "6 bytes, 5 fit"),
        ("fixed", "text", TypeError, "it takes bytes"),
        ("pascal", b"123456", ValueError, "6 bytes, 5 fit"),
        ("age", 256, ValueError, "field age of 1 bytes cannot hold 256"),
        ("age", -1, ValueError, "field age"),
        ("number", 1 << 63, ValueError, "field number"),
        ("number", 1.5, ValueError, "field number"),
        ("spot", (1.0, 2.0), ValueError, "field spot"),
        ("spot", 1.0, TypeError, "float"),
    ):
        with pytest.raises(kind, match=message):
            setattr(record, name, value)
    assert buffer[:] == before


def test_a_wrong_length_is_corrupt_not_read(make_buffer) -> None:
    buffer = make_buffer(200)
    people = buffer.records(Person)
    at = next(f.offset for f in layout_of(Person).fields if f.name == "name")
    buffer[at : at + 2] = (21).to_bytes(2, "little")
    with pytest.raises(CorruptSegment, match="says that it holds 21 bytes, and has 20"):
        people[0].name  # noqa: B018


# ------------------------------------------------------------------ layout


def test_dataclasses_are_laid_out_as_c_does() -> None:
    assert layout_of(Vertex).size == struct.calcsize(VERTEX)
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    fields = [("flag", "?"), ("age", "B"), ("name", "u2"), ("text", "V20"), ("raw", "u2")]
    fields += [("bytes", "V7"), ("fixed", "V5"), ("pascal", "V6"), ("spot", "3d"), ("number", "i8")]
    theirs = np.dtype([*fields, ("weight", "d")], align=True)
    ours = layout_of(Person)
    assert ours.size == theirs.itemsize
    for name in ("flag", "age", "name", "raw", "fixed", "pascal", "spot", "number", "weight"):
        assert next(f.offset for f in ours.fields if f.name == name) == theirs.fields[name][1], name


def test_packed_dataclasses_have_no_gaps(make_buffer) -> None:
    assert layout_of(Person, packed=True).size == struct.calcsize("<?BH20sH7s5s6s3dqd")
    buffer = make_buffer(200)
    buffer.records(Person, packed=True)[1] = ADA
    assert buffer.records(Person, packed=True).read(1) == ADA


def test_stride_offset_and_count(make_buffer) -> None:
    buffer = make_buffer(bytes(range(100)))
    for offset, stride, count in ((0, 2, 50), (1, 7, 14), (98, 5, 1), (99, 2, 0), (100, 2, 0)):
        records = buffer.records("<H", offset, stride)
        assert [record[0] for record in records] == [
            int.from_bytes(bytes(range(100))[at : at + 2], "little")
            for at in range(offset, 99, stride)
        ]
        assert len(records) == count
    assert len(buffer.records("<H", 10, 20, count=3)) == 3
    for arguments, message in (
        (("<H", 0, 1), "'stride' is 1, and a record has 2 bytes"),
        (("<H", 0, -2), "'stride'"),
        (("<H", 101), "'offset' 101 is outside"),
        (("<H", -1), "'offset'"),
    ):
        with pytest.raises(ValueError, match=message):
            buffer.records(*arguments)
    for count in (51, -1):
        with pytest.raises(ValueError, match="there is room for 50"):
            buffer.records("<H", count=count)


def test_layouts_that_cannot_be(make_buffer) -> None:
    buffer = make_buffer(10)

    @dataclass
    class Unsized:
        name: str

    @dataclass
    class Nothing:
        pass

    @dataclass
    class Odd:
        a: Annotated[int, "HH"]

    @dataclass
    class Texts:
        a: Annotated[str, "5s"]

    @dataclass
    class Huge:
        a: Annotated[bytes, 70_000]

    layout: Any
    for layout, kind, message in (
        ("<Z", ValueError, "no format of struct"),
        ("", ValueError, "has no bytes"),
        ("0s", ValueError, "has no bytes"),
        ("B0p", ValueError, "a 'p' has a length"),
        (5, TypeError, "not 5"),
        (int, TypeError, "not <class 'int'>"),
        (ADA, TypeError, "not Person"),
        (Unsized, TypeError, "Unsized.name is .*whose size is not known"),
        (Nothing, ValueError, "has no bytes"),
        (Odd, ValueError, "'HH' is not one code"),
        (Texts, TypeError, "does not say how long a text is"),
        (Huge, ValueError, "1 to 65535 bytes, not 70000"),
    ):
        with pytest.raises(kind, match=message):
            buffer.records(layout)
    with pytest.raises(ValueError, match="'packed' is for dataclasses"):
        buffer.records("<H", packed=True)
    with pytest.raises(ValueError, match="'names' is for formats"):
        buffer.records(Vertex, names="a")


def test_fields_that_are_not_of_the_constructor(make_buffer) -> None:
    @dataclass
    class Computed:
        a: int
        b: int = field(init=False, default=3)

    globals()["Computed"] = Computed
    records = make_buffer(32).records(Computed)
    records[1] = (5, 6)
    copy = records.read(1)
    assert (copy.a, copy.b) == (5, 6)


CODES = "cbB?hHiIlLqQefdspnNP"


@st.composite
def formats(draw: st.DrawFn) -> str:
    order = draw(st.sampled_from(["", "@", "=", "<", ">", "!"]))
    codes = CODES if order in ("", "@") else CODES[:-3]
    item = st.tuples(st.sampled_from(["", "0", "1", "2", "3"]), st.sampled_from(codes + "x "))
    item = item.filter(lambda item: item != ("0", "p"))
    items = draw(st.lists(item, min_size=1, max_size=6))
    return order + "".join(" " if code == " " else count + code for count, code in items)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=300,
)
@given(format=formats(), data=st.data())
def test_formats_mean_what_they_mean_to_struct(format, data) -> None:  # noqa: A002
    size = struct.calcsize(format)
    if not size:
        with pytest.raises(ValueError, match="has no bytes"):
            layout_of(format)
        return
    raw = data.draw(st.binary(min_size=2 * size, max_size=2 * size))
    with SharedBuffer.create(size=2 * size + 1) as buffer:
        buffer[1:] = raw
        records = buffer.records(format, 1)
        assert (len(records), records.itemsize) == (2, size)
        for number, record in enumerate(records):
            values = struct.unpack_from(format, raw, size * number)
            assert [repr(value) for value in record] == [repr(value) for value in values]
        records[1] = tuple(records[0])
        copied = struct.unpack_from(format, buffer[1 + size :])
        assert [repr(value) for value in copied] == [repr(value) for value in records[0]]
        assert buffer[: 1 + size] == b"\0" + raw[:size]
        assert records.to_numpy().itemsize == size


def test_native_numbers_are_one_copy() -> None:
    """Little-endian fields of a size that the machine has are read and written by native codes."""
    for layout in (layout_of("<hiqd"), layout_of("=lL"), layout_of(Vertex)):
        for part in layout.fields:
            assert part.format[0] == "@", part.name
    assert layout_of(">h").fields[0].format[0] == ">"


# ------------------------------------------------------------------ numpy


def test_arrays_are_the_same_memory(vertices) -> None:
    np = pytest.importorskip("numpy", reason="numpy is not installed")
    buffer, records = vertices
    array = records.to_numpy()
    assert array.dtype.names == ("x", "y", "z", "red", "green", "blue")
    assert array["red"].tolist() == list(range(10))
    array["red"] += 1
    records[0].green = 42
    assert (records[9].red, array["green"][0]) == (10, 42)
    assert records[::-3].to_numpy()["red"].tolist() == [10, 7, 4, 1]
    assert records[2:2].to_numpy().shape == (0,)
    assert records[2:2].to_numpy().dtype == array.dtype
    plain = buffer.records(VERTEX, 3).to_numpy()
    assert plain.dtype.names == ("f0", "f1", "f2", "f3", "f4", "f5")
    assert plain["f3"].tolist() == array["red"].tolist()
    wide = buffer.records(VERTEX, 3, 40).to_numpy()
    assert wide["f3"].tolist() == array["red"].tolist()[::2]
    assert np.shares_memory(wide, array)


def test_arrays_of_every_kind_of_field(make_buffer) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    buffer = make_buffer(400)
    people = buffer.records(Person)
    people[2] = ADA
    array = people.to_numpy()
    item = array[2]
    assert (item["flag"], item["age"], item["number"], item["weight"]) == (1, 36, -(1 << 60), 0.1)
    assert item["spot"].tolist() == [1.5, -2.0, 0.0]
    length = item["name"]["length"]
    assert item["name"]["bytes"].tobytes()[:length].decode() == ADA.name
    assert item["fixed"].tobytes() == b"12345"
    codes = "<cbB?hHiIlLqQefd5s6p"
    names = buffer.records(codes).to_numpy().dtype
    assert names.itemsize == struct.calcsize(codes)
    assert [names[n].itemsize for n in range(14)] == [1, 1, 1, 1, 2, 2, 4, 4, 4, 4, 8, 8, 2, 4]
    big = buffer.records(">Hd")
    big[0] = (258, 1.5)
    assert big.to_numpy()[0].item() == (258, 1.5)
    del array, item


def test_arrays_outlive_the_buffer(make_buffer) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    buffer = SharedBuffer.attach(make_buffer(40))
    array = buffer.records(Vertex).to_numpy()
    buffer.close()
    array["red"] = 3
    assert array["red"].tolist() == [3, 3]


def test_a_single_number_is_never_seen_half_written(start_child) -> None:
    """While another process changes a field between two values, only these two are read."""
    with SharedBuffer.create(size=4096) as buffer:
        records = buffer.records("<Q", 8, 16)
        child = start_child(
            """
            from shmkit import SharedBuffer
            records = link.recv().records("<Q", 8, 16)
            link.send("go")
            while not link.poll(0):
                for _ in range(2000):
                    records[3][0] = 0xFFFFFFFFFFFFFFFF
                    records[3][0] = 0x0123456789ABCDEF
            """,
        )
        child.send(buffer)
        assert child.receive() == "go"
        seen = {records[3][0] for _ in range(30_000)}
        child.send("stop")
        child.finish()
    assert seen <= {0, 0xFFFFFFFFFFFFFFFF, 0x0123456789ABCDEF}
    assert isinstance(records[3], Record)
    assert os.getpid() != child.pid
