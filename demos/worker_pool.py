"""Count the words of real files with a pool of processes, one of which is killed on the way.

With the standard library's executor, a killed worker breaks the whole pool: every future fails.
Here only the one call that the worker had fails, with `WorkerDied`. This program submits it again.
"""

from __future__ import annotations

import collections
import multiprocessing
import os
import re
import signal
import time
from concurrent.futures import Future, as_completed
from pathlib import Path

from shmkit import ProcessPoolExecutor, WorkerDied

WORD = re.compile(rb"[A-Za-z_]+")
FILES = sorted(Path(collections.__file__).parent.parent.glob("[a-f]*.py"))[:60]
POISONED = FILES[len(FILES) // 2].name

Counts = collections.Counter[bytes]


def count(content: bytes, name: str, is_first_try: bool) -> Counts:
    """Count the words of a file; at the first try of one file, the worker is killed."""
    words = collections.Counter(WORD.findall(content))
    if name == POISONED and is_first_try:
        os.kill(os.getpid(), signal.SIGKILL)
    return words


def main() -> None:
    """Count with the pool, then without it, and compare."""
    contents = {path.name: path.read_bytes() for path in FILES}
    total = Counts()
    deaths = []
    begin = time.perf_counter()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        names: dict[Future[Counts], str] = {
            pool.submit(count, content, name, True): name for name, content in contents.items()
        }
        again = []
        for future in as_completed(names):
            try:
                total += future.result()
            except WorkerDied as death:
                deaths.append(death)
                name = names[future]
                print(f"{name}: worker {death.pid} died, exit code {death.exitcode}; once more")
                again.append(pool.submit(count, contents[name], name, False))
        for future in again:
            total += future.result()
    took = time.perf_counter() - begin

    print(f"{len(FILES)} files, {total.total()} words in {took:.2f} s; the most frequent:")
    for word, number in total.most_common(3):
        print(f"{number:8} {word.decode()}")
    assert [death.exitcode for death in deaths] == [-signal.SIGKILL]
    assert total == sum(map(collections.Counter, map(WORD.findall, contents.values())), Counts())


if __name__ == "__main__":
    main()
    print("ok")
