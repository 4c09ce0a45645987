"""Two programs share memory; all that they know of each other is a name.

The first program creates a segment and fills it with numbers. The second (this file again, started
as a program of its own) attaches by the name, adds the numbers up and writes the sum after them.
The creator of a segment removes its name; an attacher never does.
"""

from __future__ import annotations

import secrets
import subprocess
import sys

from shmkit import SharedBuffer

COUNT = 1000


def first_program() -> None:
    """Create the segment, run the second program, read its answer."""
    name = f"shmkit-demo-{secrets.token_hex(4)}"
    with SharedBuffer.create(f"shm:{name}", 8 * (COUNT + 1)) as memory:
        with memory.view("Q") as numbers:
            for index in range(COUNT):
                numbers[index] = index * index
        subprocess.run([sys.executable, __file__, name], check=True, timeout=20)
        with memory.view("Q") as numbers:
            total = numbers[COUNT]

    print(f"the first program reads the sum: {total}")
    assert total == sum(index * index for index in range(COUNT))
    try:
        SharedBuffer.attach(f"shm:{name}")
    except FileNotFoundError:
        print("the name went away with its creator")
    else:
        raise AssertionError(f"{name} is still there")


def second_program(name: str) -> None:
    """Attach by name, read, answer."""
    with SharedBuffer.attach(name) as memory, memory.view("Q") as numbers:
        numbers[COUNT] = sum(numbers[:COUNT])
        print(f"the second program added up {COUNT} numbers", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        second_program(sys.argv[1])
    else:
        first_program()
        print("ok")
