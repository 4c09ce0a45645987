"""Change a binary file of coloured vertices field by field, in place.

Each record of the file is what a C program would write: three floats, three 16-bit colours and two
bytes of padding. A dataclass describes it. Then `vertices[3].red = 7` writes two bytes of the file,
and no other byte is read, unpacked or copied. A view stays valid when its buffer is closed.
"""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shmkit import SharedBuffer

COUNT = 1000
C_STRUCT = struct.Struct("<3f3H2x")


@dataclass
class Vertex:
    """A point in space and its colour."""

    x: Annotated[float, "f"]
    y: Annotated[float, "f"]
    z: Annotated[float, "f"]
    red: Annotated[int, "H"] = 0
    green: Annotated[int, "H"] = 0
    blue: Annotated[int, "H"] = 0


def make(path: Path) -> None:
    """Write the file with values of the dataclass."""
    with SharedBuffer.create(path, COUNT * C_STRUCT.size) as memory:
        vertices = memory.records(Vertex)
        for number in range(COUNT):
            vertices[number] = Vertex(number, number / 2, number / 4, red=number)


def change(path: Path) -> None:
    """Change single fields, and let go of the buffer before the views on it."""
    memory = SharedBuffer.attach(path)
    vertices = memory.records(Vertex)
    assert vertices.itemsize == C_STRUCT.size, "C would lay it out the same way"
    print(f"{len(vertices)} vertices; the fourth is {vertices[3]}")

    vertices[3].red = 7
    for vertex in vertices[::10]:
        vertex.green = 0xFFFF
    last = vertices[-1]
    memory.close()  # closing never pulls memory from under a view
    last.blue = 12345
    print(f"after its buffer was closed: {last}")


def main() -> None:
    """Make the file, change it, and read it as any program would."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "vertices.bin")
        make(path)
        change(path)
        found = list(C_STRUCT.iter_unpack(path.read_bytes()))

    for number, (x, y, z, red, green, blue) in enumerate(found):
        assert (x, y, z) == (number, number / 2, number / 4)
        assert red == (7 if number == 3 else number)
        assert green == (0xFFFF if number % 10 == 0 else 0)
        assert blue == (12345 if number == COUNT - 1 else 0)
    print(f"struct reads the same {len(found)} records from the file")


if __name__ == "__main__":
    main()
    print("ok")
