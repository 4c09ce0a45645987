"""A parent and its forked child share anonymous memory.

The child inherits the memory with the fork: there is no name, no file, nothing to clean up. The
child writes a text and its length. The parent waits until the child has ended, and reads the text.
"""

from __future__ import annotations

import os
import struct

from shmkit import SharedBuffer

TEXT = b"written by the child, read by the parent"


def child(memory: SharedBuffer) -> None:
    """Runs in the forked process: change memory that the parent made."""
    memory[4 : 4 + len(TEXT)] = TEXT
    memory[0:4] = struct.pack("<I", len(TEXT))


def main() -> None:
    """Fork, let the child write, read."""
    with SharedBuffer.create(size=4096) as memory:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child(memory)
                status = 0
            finally:
                os._exit(status)  # a forked child must not go on with its parent's work

        _, status = os.waitpid(pid, 0)
        assert status == 0, f"the child failed with status {status}"
        (length,) = struct.unpack("<I", memory[0:4])
        text = bytes(memory[4 : 4 + length])
        print(f"{memory.url}: {text.decode()!r}")
        assert text == TEXT


if __name__ == "__main__":
    main()
    print("ok")
