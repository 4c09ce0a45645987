"""Shared memory as an argument of a new process, under "spawn".

A spawned process inherits nothing: its arguments are pickled. An `mmap` cannot be pickled. A
SharedBuffer can, even an anonymous one. The pickle does not hold the bytes, it says where they are:
both processes have the same memory.
"""

from __future__ import annotations

import mmap
import multiprocessing
import pickle

from shmkit import SharedBuffer

SIZE = 1 << 20


def shout(memory: SharedBuffer) -> None:
    """Runs in the child: change the parent's memory in place."""
    with memory:
        memory[:] = bytes(memory[:]).upper()


def main() -> None:
    """Show that an mmap does not travel, then send a SharedBuffer."""
    with mmap.mmap(-1, SIZE) as bare:
        try:
            pickle.dumps(bare)
        except TypeError as error:
            print(f"a bare mmap: {error}")
        else:
            raise AssertionError("an mmap can be pickled now: this demo is out of date")

    text = (b"the same bytes, seen by both. " * SIZE)[:SIZE]
    with SharedBuffer.create(size=SIZE) as memory:
        memory[:] = text
        child = multiprocessing.get_context("spawn").Process(target=shout, args=(memory,))
        child.start()
        child.join(20)
        assert child.exitcode == 0, f"the child ended with {child.exitcode}"
        child.close()
        print(f"a SharedBuffer: {bytes(memory[:29]).decode()!r}")
        assert bytes(memory[:]) == text.upper()


if __name__ == "__main__":
    main()
    print("ok")
