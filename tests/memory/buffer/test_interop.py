"""multiprocessing.shared_memory attaches to our segments, and we attach to its."""

from __future__ import annotations

import sys

import pytest

from shmkit import SharedBuffer
from tests.processes import run_python

UNTRACKED = """
import sys
from multiprocessing.shared_memory import SharedMemory
untracked = {"track": False} if sys.version_info >= (3, 13) else {}
"""

ONE_PROCESS = (
    UNTRACKED
    + """
from shmkit import SharedBuffer
name = args[0]
with SharedBuffer.create(name, 5000) as ours:
    theirs = SharedMemory(name, **untracked)
    assert theirs.size == 5000 == len(ours)
    theirs.buf[4999] = 7
    assert ours[4999] == 7
    ours[0:3] = b"abc"
    assert bytes(theirs.buf[:3]) == b"abc"
    theirs.close()

theirs = SharedMemory(name, create=True, size=5000)
for attach in (SharedBuffer.attach, lambda name: SharedBuffer.ensure(name, 5000)):
    with attach(name) as ours:
        assert not ours.created and len(ours) == 5000
        theirs.buf[4999] = 8
        assert ours[4999] == 8
        ours[0:3] = b"xyz"
        assert bytes(theirs.buf[:3]) == b"xyz"
try:
    SharedBuffer.create(name, 1)
except FileExistsError:
    pass
theirs.close()
theirs.unlink()
"""
)


def test_in_one_process(unique_name) -> None:
    """Both ways work, and do not confuse the tracker that both use."""
    assert run_python(ONE_PROCESS, unique_name()).stderr == ""


def test_theirs_from_another_process(unique_name, start_child) -> None:
    name = unique_name()
    child = start_child(
        """
        from multiprocessing.shared_memory import SharedMemory
        theirs = SharedMemory(args[0], create=True, size=100)
        theirs.buf[:3] = b"abc"
        link.send("made")
        link.recv()
        assert bytes(theirs.buf[:3]) == b"xyz"
        theirs.close()
        theirs.unlink()
        """,
        name,
    )
    child.receive()
    with SharedBuffer.attach(name) as ours:
        assert ours[:3] == b"abc"
        ours[:3] = b"xyz"
        child.send("go on")
        assert child.finish().stderr == ""
    with pytest.raises(FileNotFoundError):
        SharedBuffer.attach(name)


def test_ours_from_another_process(unique_name, start_child) -> None:
    name = unique_name()
    with SharedBuffer.create(name, 100) as ours:
        ours[:3] = b"abc"
        program = (
            UNTRACKED
            + """
theirs = SharedMemory(args[0], **untracked)
assert bytes(theirs.buf[:3]) == b"abc"
theirs.buf[:3] = b"xyz"
theirs.close()
if not untracked:  # before 3.13 their attaching registers; then their tracker would unlink it
    from multiprocessing import resource_tracker
    resource_tracker.unregister("/" + args[0], "shared_memory")
"""
        )
        assert run_python(program, name).stderr == ""
        assert ours[:3] == b"xyz"
        SharedBuffer.attach(name).close()


ATTACHED = """
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
name, how = args
theirs = SharedMemory(name, **({"track": False} if how == "untracked" else {}))
if how == "taken off":
    resource_tracker.unregister(theirs._name, "shared_memory")
theirs.buf[0] = 1
theirs.close()
resource_tracker._resource_tracker._stop()  # as at the end, and waits for it
"""


@pytest.mark.parametrize("how", ["tracked", "taken off", "untracked"])
def test_what_docs_say_of_their_tracker(unique_name, how: str) -> None:
    """Another program that attaches by `SharedMemory` removes our name, unless told not to."""
    if how == "untracked" and sys.version_info < (3, 13):
        pytest.skip("SharedMemory has no track= before 3.13")
    name = unique_name()
    with SharedBuffer.create(name, 100) as ours:
        run_python(ATTACHED, name, how)
        assert ours[0] == 1
        if how == "tracked":
            with pytest.raises(FileNotFoundError):
                SharedBuffer.attach(name)
        else:
            SharedBuffer.attach(name).close()


def test_their_unlink_leaves_our_end_quiet(unique_name) -> None:
    program = (
        UNTRACKED
        + """
from shmkit import SharedBuffer
with SharedBuffer.create(args[0], 10) as ours:
    theirs = SharedMemory(args[0], **untracked)
    theirs.close()
    import posix_ipc
    posix_ipc.unlink_shared_memory("/" + args[0])
    ours[0] = 1
"""
    )
    assert run_python(program, unique_name()).stderr == ""
