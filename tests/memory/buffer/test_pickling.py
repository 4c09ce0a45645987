"""Handles cross to other processes: every start method, every kind of memory."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

from shmkit import SharedBuffer
from tests.contracts.buffer import SIZE, pattern
from tests.processes import run_python


def check_and_answer(buffer: SharedBuffer, link: Any) -> None:
    content = pattern(SIZE)
    assert buffer[:] == content[buffer.offset : buffer.offset + len(buffer)]
    link.send((buffer.access, buffer.offset, len(buffer), str(buffer.url), buffer.created))
    if buffer.access == "rw":
        buffer[0] ^= 255
    link.send("done")


@pytest.mark.parametrize("access", ["r", "rw"])
@pytest.mark.parametrize("span", [(0, SIZE), (4097, 501)])
def test_as_an_argument(make_buffer, context, start_process, access: Any, span) -> None:
    content = pattern(SIZE)
    made = make_buffer(content)
    ours, theirs = multiprocessing.Pipe()
    with (
        ours,
        theirs,
        SharedBuffer.attach(made, access=access, offset=span[0], length=span[1]) as buffer,
    ):
        process = start_process(check_and_answer, buffer, theirs)
        assert ours.poll(20)
        forked = context.get_start_method() == "fork"
        assert ours.recv() == (access, *span, str(made.url), False)
        assert ours.recv() == "done"
        process.join(20)
        assert process.exitcode == 0
        assert not forked or buffer.access == access
    changed = bytearray(content)
    if access == "rw":
        changed[span[0]] ^= 255
    assert made[:] == changed


def receive_and_answer(inbox: Any, link: Any) -> None:
    with inbox.get(timeout=20) as buffer:
        check_and_answer(buffer, link)


def test_through_a_queue(make_buffer, context, start_process) -> None:
    """The child runs already, so no descriptor can be passed on at its start."""
    content = pattern(SIZE)
    made = make_buffer(content)
    inbox = context.Queue()
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        process = start_process(receive_and_answer, inbox, theirs)
        inbox.put(made)
        assert ours.poll(20)
        assert ours.recv() == ("rw", 0, SIZE, str(made.url), False)
        assert ours.recv() == "done"
        process.join(20)
        assert process.exitcode == 0
    inbox.close()
    inbox.join_thread()
    assert made[0] == content[0] ^ 255


def test_to_an_unrelated_process(make_buffer) -> None:
    made = make_buffer(b"hello")
    program = """
    import pickle
    with pickle.loads(args[0]) as buffer:
        assert buffer[:] == b"hello"
        buffer[0:1] = b"J"
    """
    run_python(program, pickle.dumps(made))
    assert made[:] == b"Jello"


def test_the_parent_may_close_at_once(make_buffer, start_process) -> None:
    """What a process is started with has been passed on when `start()` returns."""
    made = make_buffer(pattern(SIZE))
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        argument = SharedBuffer.attach(made)
        process = start_process(check_and_answer, argument, theirs)
        argument.close()
        process.join(20)
        assert process.exitcode == 0
        assert ours.recv()[:3] == ("rw", 0, SIZE)
    assert made[0] == pattern(SIZE)[0] ^ 255


def nested(buffer: SharedBuffer, depth: int, method: str) -> None:
    buffer[depth] = depth + 1
    if depth:
        context: Any = multiprocessing.get_context(method)
        process = context.Process(target=nested, args=(buffer, depth - 1, method))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert buffer[depth - 1] == depth


def test_child_to_grandchild(make_buffer, start_method: str, start_process) -> None:
    made = make_buffer(4)
    process = start_process(nested, made, 2, start_method)
    process.join(30)
    assert process.exitcode == 0
    assert made[:3] == b"\1\2\3"


def twice(one: SharedBuffer, two: SharedBuffer, third: list[SharedBuffer]) -> None:
    assert one is two is third[0]
    one[0] = 1


def test_the_same_handle_twice(make_buffer, start_process) -> None:
    made = make_buffer(4)
    process = start_process(twice, made, made, [made])
    process.join(20)
    assert process.exitcode == 0
    assert made[0] == 1


# ------------------------------------------------------------------ what is received


def test_received_handles_own_nothing(make_where) -> None:
    where = make_where("shm")
    with SharedBuffer.create(where, 1) as made:
        data = pickle.dumps(made)
        with pickle.loads(data) as received:
            assert not received.created
        SharedBuffer.attach(where).close()


def test_received_handles_need_no_close(make_buffer) -> None:
    """A function that got a handle as its argument did not open it: no warning."""
    data = pickle.dumps(make_buffer(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(data)
        gc.collect()


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_replaced_memory_is_not_taken_for_it(make_where, kind: str) -> None:
    where = make_where(kind)
    with SharedBuffer.create(where, 10) as one:
        data = pickle.dumps(one)
        one.unlink()
        with pytest.raises(FileNotFoundError, match=where.partition(":")[2]):
            pickle.loads(data)
        with SharedBuffer.create(where, 10) as two:
            with pytest.raises(FileNotFoundError, match="other memory"):
                pickle.loads(data)
            two.unlink()


def test_anonymous_memory_closed_by_its_sender(tmp_path: Path) -> None:
    with SharedBuffer.create(None, 10) as made, SharedBuffer.attach(made, access="r") as buffer:
        data = pickle.dumps(buffer)
        number = buffer._descriptors[0]
    gone = rf"closed by its sender, process {os.getpid()}"
    with pytest.raises(FileNotFoundError, match=gone):
        pickle.loads(data)
    # Worse: by now the number is something else, which to open means to wait.
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.dup2(pipe, number)
    try:
        with pytest.raises(FileNotFoundError, match=gone):
            pickle.loads(data)
    finally:
        for fd in {pipe, number}:
            os.close(fd)


def test_anonymous_memory_whose_sender_ended() -> None:
    program = """
    import pickle, sys
    from shmkit import SharedBuffer
    sys.stdout.write(pickle.dumps(SharedBuffer.create(None, 10)).hex())
    """
    data = bytes.fromhex(run_python(program).stdout)
    with pytest.raises(FileNotFoundError, match="keep it open until then"):
        pickle.loads(data)


def test_private_changes_do_not_cross(make_buffer) -> None:
    with (
        SharedBuffer.attach(make_buffer(1), access="cow") as buffer,
        pytest.raises(TypeError, match="private changes would be lost"),
    ):
        pickle.dumps(buffer)


def test_shrunken_memory_is_told(make_buffer) -> None:
    made = make_buffer(SIZE)
    data = pickle.dumps(made)
    made.resize(10)
    with pytest.raises(ValueError, match="10 bytes"):
        pickle.loads(data)
