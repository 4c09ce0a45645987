"""Three processes in a row, joined by two rings: numbers -> squares -> sum.

    main  --numbers-->  square()  --squares-->  add_up()

Each ring has one producer and one consumer. A full ring makes its producer wait, so no stage gets
far ahead of the next. `shutdown()` says that no more frames come: the loop of the next stage ends
when it has read all of them, and then that stage shuts its own ring down.
"""

from __future__ import annotations

import multiprocessing

from shmkit import Ring

COUNT = 20_000


def square(numbers: Ring, squares: Ring) -> None:
    """The middle stage: a frame in, a frame out."""
    with numbers, squares:
        for frame in numbers:
            number = int.from_bytes(frame, "little")
            squares.put((number * number).to_bytes(8, "little"))
        squares.shutdown()


def add_up(squares: Ring, result: Ring) -> None:
    """The last stage: everything in, one frame out."""
    with squares, result:
        total = sum(int.from_bytes(frame, "little") for frame in squares)
        result.put(total.to_bytes(16, "little"))


def main() -> None:
    """Feed the pipeline and check what comes out."""
    context = multiprocessing.get_context("spawn")
    with Ring.create() as numbers, Ring.create() as squares, Ring.create() as result:
        stages = [
            context.Process(target=square, args=(numbers, squares)),
            context.Process(target=add_up, args=(squares, result)),
        ]
        for stage in stages:
            stage.start()
        numbers.put_many(number.to_bytes(8, "little") for number in range(COUNT))
        numbers.shutdown()
        total = int.from_bytes(result.get(timeout=20), "little")
        for stage in stages:
            stage.join(20)
            assert stage.exitcode == 0, f"{stage.name} ended with {stage.exitcode}"
            stage.close()

    print(f"the squares of {COUNT} numbers add up to {total}")
    assert total == sum(number * number for number in range(COUNT))


if __name__ == "__main__":
    main()
    print("ok")
