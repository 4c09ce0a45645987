"""SharedArray, used as an array: operators, numpy's functions, parts that travel by reference."""

from __future__ import annotations

import gc
import operator
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="numpy is not installed")

from shmkit import (  # noqa: E402
    ClosedError,
    CorruptSegment,
    IncompatibleSegment,
    ProcessPoolExecutor,
    Ring,
    SharedArray,
    SharedBuffer,
    compiled,
)
from tests.processes import Child  # noqa: E402

# numpy knows more operators than a type checker knows of numpy.
create: Any = SharedArray.create


@pytest.fixture
def shared(where) -> Any:
    with create(where, (3, 4), "i4") as made:
        made[...] = np.arange(12).reshape(3, 4)
        yield made
        made.unlink()


@pytest.fixture
def plain() -> Any:
    return np.arange(12, dtype="i4").reshape(3, 4)


# ------------------------------------------------------------------ as an array


USES: dict[str, Callable[[Any], Any]] = {
    "item": lambda a: a[1, 2],
    "row": lambda a: a[1],
    "slice": lambda a: a[:, 1:3],
    "mask": lambda a: a[a > 5],
    "list": lambda a: a[[2, 0]],
    "iteration": lambda a: np.stack(list(a)),
    "length": len,
    "in": lambda a: (7 in a, 70 in a),
    "array": np.asarray,
    "copy": lambda a: np.array(a, dtype="f8", copy=True),
    "add": lambda a: a + 1,
    "radd": lambda a: 1 + a,
    "two": lambda a: a * a,
    "mixed": lambda a: np.ones((3, 4), "i4") - a,
    "list radd": lambda a: [1, 2, 3, 4] + a,
    "power": lambda a: a**2,
    "rpow": lambda a: 2**a,
    "div": lambda a: a / 3,
    "floor": lambda a: a // 3,
    "mod": lambda a: 100 % (a + 1),
    "divmod": lambda a: np.stack(divmod(a, 5)),
    "matmul": lambda a: a @ np.ones(4),
    "rmatmul": lambda a: np.ones(3) @ a,
    "shift": lambda a: a << 2,
    "bits": lambda a: (a & 6) | (a ^ 1),
    "minus": lambda a: -a,
    "plus": lambda a: +a,
    "abs": lambda a: abs(a - 5),
    "invert": lambda a: ~a,
    "equal": lambda a: a == 5,
    "unequal": lambda a: a != a[0],
    "order": lambda a: (a < 3) | (a >= 9) | (a > 10) | (a <= 0),
    "sum": np.sum,
    "mean": lambda a: np.mean(a, axis=0),
    "max": np.max,
    "sort": lambda a: np.sort(a, axis=None)[::-1],
    "concatenate": lambda a: np.concatenate([a, a]),
    "reshape": lambda a: np.reshape(a, (4, 3)),
    "transpose": np.transpose,
    "where": lambda a: np.where(a > 3, a, 0),
    "einsum": lambda a: np.einsum("ij->j", a),
    "ufunc": np.sqrt,
    "reduce": lambda a: np.add.reduce(a, axis=1),
    "outer": lambda a: np.multiply.outer(a, a),
    "masked ufunc": lambda a: np.add(a, 1, out=np.zeros((3, 4), "i4"), where=a > 3),
    "attributes": lambda a: (a.shape, a.ndim, a.size, a.nbytes, a.itemsize, a.strides, a.dtype),
    "sum of it": lambda a: a.sum(),
    "mean of it": lambda a: a.mean(axis=0),
    "T": lambda a: a.T,
    "reshaped": lambda a: a.reshape(-1)[::-1],
    "as type": lambda a: a.astype("f8"),
    "to list": lambda a: a.tolist(),
    "copied": lambda a: a.copy(),
    "dlpack": np.from_dlpack,
    "device": lambda a: a.__dlpack_device__(),
}


@pytest.mark.parametrize("use", USES)
def test_it_is_used_as_an_array(shared, plain, use: str) -> None:
    found, expected = USES[use](shared), USES[use](plain)
    assert type(found) is type(expected)
    assert np.array_equal(found, expected) or found == expected
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
    assert np.array_equal(shared.array, plain)


def test_single_items_are_numbers() -> None:
    with create(None, (), "i4") as one, create(None, 2, "f4") as two:
        one[...] = 3
        assert (int(one), float(one), complex(one), bool(one)) == (3, 3.0, 3, True)
        assert operator.index(one) == [0, 1, 2, 3][one] == 3
        for use in (len, iter):
            with pytest.raises(TypeError):
                use(one)
        with pytest.raises(ValueError, match="ambiguous"):
            bool(two)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "floordiv", "mod", "pow", "lshift", "xor"])
def test_in_place_operators_write_through(shared, plain, name: str) -> None:
    act = getattr(operator, f"i{name}")
    handle = shared
    shared = act(shared, 2)
    assert shared is handle
    assert np.array_equal(shared.array, act(plain, 2))


def test_writing(shared) -> None:
    with SharedArray.attach(shared.buffer) as other:
        shared[...] = 5
        shared[0, 1:3] = [7, 8]
        assert np.add(shared, other, out=other) is other
        assert other.array.tolist() == [[10, 14, 16, 10], [10] * 4, [10] * 4]
        shared[other == 10] = 0
        assert other.array.tolist() == [[0, 14, 16, 0], [0] * 4, [0] * 4]
        quotient, rest = np.divmod(shared, 5, out=(other, None))
        assert quotient is other
        assert rest[0, 1] == 4


def test_read_only_arrays_say_so(shared) -> None:
    with shared.read_only() as reader:
        for write in (
            lambda: reader.__setitem__(0, 1),
            lambda: operator.iadd(reader, 1),
            lambda: np.add(reader, 1, out=reader),
            lambda: reader.part[1:].__setitem__(0, 1),
        ):
            with pytest.raises(ValueError, match="is read-only: attach with access='rw', or 'cow'"):
                write()
    assert shared[0, 0] == 0


def test_dlpack_shares_the_memory(shared) -> None:
    other = np.from_dlpack(shared)
    shared[2, 3] = -1
    assert other[2, 3] == -1
    shared.close()
    assert other[2, 3] == -1
    del other


@pytest.mark.skipif(
    compiled.core is None and sys.version_info < (3, 12), reason="__buffer__ is of 3.12"
)
def test_it_is_a_buffer(shared) -> None:
    view = memoryview(shared)
    assert (view.shape, view.format, view.readonly) == ((3, 4), "i", False)
    assert bytes(shared) == np.arange(12, dtype="i4").tobytes()
    shared[0, 0] = 99
    assert view[0, 0] == 99
    view.release()


def test_methods_of_an_array(shared) -> None:
    shared.fill(7)
    assert shared.array.tolist() == [[7] * 4] * 3
    assert not hasattr(shared, "clsoe")
    with pytest.raises(AttributeError, match="'SharedArray' object has no attribute 'smu'"):
        shared.smu()
    shared.close()
    assert not hasattr(shared, "clsoe")
    with pytest.raises(ClosedError, match="was closed"):
        shared.sum()


def test_generic_at_run_time() -> None:
    kind: Any = SharedArray
    with kind[np.float32].create(None, 3, np.float32) as made:
        assert made.dtype == "f4"


# ------------------------------------------------------------------ parts


PARTS: dict[str, Any] = {
    "slice": slice(1, 3),
    "row": 1,
    "numpy number": np.int64(-1),
    "item": (1, 2),
    "column": (slice(None), 1),
    "steps": (slice(None, None, 2), slice(3, None, -2)),
    "backwards": (slice(None, None, -1), slice(None, None, -1)),
    "ellipsis": (..., 2),
    "new axis": (None, 2, slice(1, 3)),
    "all": ...,
    "none": slice(3, 3),
}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("key", PARTS)
def test_parts(key: str, order: str) -> None:
    where = PARTS[key]
    with create(None, (3, 4), "i4", order=order) as whole:
        whole[...] = np.arange(12).reshape(3, 4)
        part = whole.part[where]
        expected = np.asarray(whole[where])
        assert type(part) is SharedArray
        assert (part.shape, part.dtype) == (expected.shape, expected.dtype)
        for one in (part, part.part[...], pickle.loads(pickle.dumps(part)), part.read_only()):
            assert np.array_equal(one.array, expected)
            assert not part.size or one.array.strides == whole[where].strides or not part.ndim
            one.close()
        part = whole.part[where]
        part += 100
        assert np.array_equal(whole[where], part)
        assert (whole.array >= 100).sum() == part.size


def test_parts_of_structures(where) -> None:
    kind = [("x", "f4"), ("color", [("red", "u1"), ("green", "u1")])]
    with create(where, 5, kind) as whole:
        whole.part["color"].part["green"].part[1:3][...] = 7
        assert [int(row["color"]["green"]) for row in whole] == [0, 7, 7, 0, 0]
        one = pickle.loads(pickle.dumps(whole.part[2]))
        assert one.shape == ()
        assert one["color"]["green"] == 7
        one["x"] = 2.5
        one.close()
        assert whole[2]["x"] == 2.5
        whole.unlink()


@pytest.mark.parametrize("key", [[0, 1], ([0], [1]), np.array([True, False, True])])
def test_copies_are_no_parts(shared, key) -> None:
    with pytest.raises(TypeError, match="makes a copy, which is no part of <SharedArray"):
        shared.part[key]
    with pytest.raises(IndexError):
        shared.part[3]


def test_a_part_needs_no_closing_and_closes_nothing(shared) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = shared.part[1:]
        assert (part.created, part.name, part.access) == (False, shared.name, "rw")
        del part
        gc.collect()
    with shared.part[1:] as part:
        pass
    assert part.closed
    with pytest.raises(ClosedError):
        part[0]
    assert not shared.closed
    part = shared.part[1:]
    with pytest.raises(BufferError, match="array of"):
        shared.close(strict=True)
    shared.close()
    assert part[0, 0] == 4  # the memory is there as long as the part
    for use in (lambda: pickle.dumps(part), lambda: shared.part, part.read_only):
        with pytest.raises(ClosedError, match="was closed"):
            use()


@pytest.fixture
def three(make_where) -> Any:
    """An array in each kind of memory."""
    made = [create(make_where(kind), (3, 4), "i4") for kind in ("anon", "shm", "file")]
    yield made
    for one in made:
        one.unlink()
        one.close()


def fill(parts: list[SharedArray], link: Any) -> None:
    for part in parts:
        part += 100
        link.send((len(pickle.dumps(part)), part.shape))
        part.close()


def test_a_part_as_an_argument(three, context, start_process) -> None:
    ours, theirs = context.Pipe()
    with ours, theirs:
        start_process(fill, [one.part[:, 1::2] for one in three], theirs)
        for one in three:
            assert ours.poll(20)
            size, shape = ours.recv()
            assert size < 1000
            assert shape == (3, 2)
            assert one.array.tolist() == [[0, 100] * 2] * 3


def double(part: SharedArray, row: int) -> int:
    part += row
    return int(np.sum(part))


def test_parts_to_workers(three, context) -> None:
    with ProcessPoolExecutor(1, context) as pool:
        for one in three:
            sums = list(pool.map(double, [one.part[row] for row in range(3)], range(3)))
            assert sums == [0, 4, 8]
            assert one.array.tolist() == [[0] * 4, [1] * 4, [2] * 4]


# ------------------------------------------------------------------ ensure, after everything died


GROUP = """
import os, sys, time
from multiprocessing import get_context
from shmkit import SharedArray

def work(array):
    array[1:] += 1
    print("ready", flush=True)
    time.sleep(100)

if __name__ == "__main__":
    array = SharedArray.ensure(sys.argv[1], 3, "i8")
    array[0] += 1
    get_context("fork").Process(target=work, args=(array,)).start()
    time.sleep(100)
"""


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_ensure_after_the_whole_group_was_killed(make_where, tmp_path, kind: str) -> None:
    where, script = make_where(kind), tmp_path / "group.py"
    script.write_text(GROUP)
    for run in (1, 2):
        with subprocess.Popen(
            [sys.executable, script, where],
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            os.killpg(program.pid, signal.SIGKILL)
        with SharedArray.attach(where) as array:
            assert array.array.tolist() == [run, run, run]
    with SharedArray.ensure(where, (3,), "i8") as array:
        assert not array.created
        array.unlink()


def test_exactly_one_creates(make_where) -> None:
    program = """
    from shmkit import SharedArray
    link.recv()
    array = SharedArray.ensure(*args)
    link.send(array.created)
    link.recv()
    array.close()
    """
    where = make_where("file")
    with (
        Child(program, where, 3) as a,
        Child(program, where, 3) as b,
        Child(program, where, 3) as c,
    ):
        for child in (a, b, c):
            child.send("go")
        assert sorted(child.receive() for child in (a, b, c)) == [False, False, True]
        for child in (a, b, c):
            child.send("end")
            child.finish()


# ------------------------------------------------------------------ wrong uses


any_array: Any = SharedArray
WRONG: list[tuple[Callable[[], Any], type[BaseException], str]] = [
    (lambda: any_array(3, "f4"), TypeError, r"no constructor: use SharedArray.create\(where, sh"),
    (
        lambda: create((3, 4), "f4"),
        TypeError,
        "'where' must be None, a str or a path.*where, shape",
    ),
    (lambda: any_array.ensure(3), TypeError, "missing 1 required positional argument: 'shape'"),
    (lambda: create(None, "f4"), TypeError, r"'shape' must be a number.*as in \(3, 4\), not 'f4'"),
    (lambda: create(None, 1.5), TypeError, "'shape' must be a number.* not 1.5"),
    (lambda: create(None, (3, 1.5)), TypeError, "'shape' must be a number"),
    (lambda: create(None, -3), ValueError, "'shape' must not be negative"),
    (lambda: create(None, 3, "nonsense"), TypeError, "nonsense"),
    (lambda: create(None, 3, object), TypeError, "holds Python objects.*use a fixed-size dtype"),
    (lambda: create(None, 3, str), TypeError, "has no size: say how many bytes"),
    (lambda: create("a/b", 3), ValueError, "has no '/'; for a file use 'file:PATH'"),
    (lambda: create(None, 3, order="K"), ValueError, "'order' must be 'C' or 'F', not 'K'"),
    (lambda: create(None, 1 << 60), ValueError, "more than addresses reach"),
    (lambda: any_array.attach(None), ValueError, ""),
    (lambda: any_array.attach("x", access="w"), ValueError, "'access' must be 'r'"),
    (lambda: any_array.attach("there-is-none"), FileNotFoundError, "no shared memory segment"),
    (lambda: any_array.attach("x", timeout=float("nan")), ValueError, "timeout"),
    (lambda: any_array.from_array([{}]), TypeError, "Python objects"),
]


@pytest.mark.parametrize(("use", "kind", "message"), WRONG)
def test_wrong_uses(use: Callable[[], Any], kind: type[BaseException], message: str) -> None:
    with pytest.raises(kind, match=message or None):
        use()


def test_wrong_memory_is_told_in_words_of_arrays(make_where) -> None:
    where = make_where("shm")
    with SharedBuffer.create(where, 10):
        for use in (SharedArray.attach, lambda where: SharedArray.ensure(where, 1000)):
            with pytest.raises(IncompatibleSegment, match="holds no shared array"):
                use(where)
    with Ring.create(where), pytest.raises(IncompatibleSegment, match=r"ring.* not a shared array"):
        SharedArray.ensure(where, 3)
    with create(where, (2, 3)):
        for shape, dtype in (((3, 2), "f8"), (6000, "f8"), ((2, 3), "i8")):
            with pytest.raises(IncompatibleSegment, match="asked for: unlink it, take another"):
                SharedArray.ensure(where, shape, dtype)
            with pytest.raises(IncompatibleSegment, match="asked for: unlink it, take another"):
                SharedArray.attach(where, shape=shape, dtype=dtype)


def test_a_part_of_a_file_that_was_cut_off(tmp_path) -> None:
    with create(tmp_path / "a", 10_000) as whole:
        sent = pickle.dumps(whole.part[9_000:])
    os.truncate(tmp_path / "a", 8192)
    with pytest.raises((ValueError, CorruptSegment), match="reach outside"):
        pickle.loads(sent)
