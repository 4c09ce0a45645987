"""Eight processes that all want the same 512 MiB array, and one copy of it in memory.

Each process asks `once` for the array by name. The first process builds it, the other seven map
what it built, and the last one to leave removes it. A process has almost no memory of its own: its
proportional set size counts an eighth of every page that all eight share.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from shmkit import SharedArray, once

COPIES = 8
SIZE = int(os.environ.get("SHMKIT_DEMO_MIB", "512")) << 20  # bytes
NAME = f"demo-once-{os.getpid()}"


def build() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Stands for work that takes long: store one number in each page of memory."""
    print(f"process {os.getpid()} builds {SIZE >> 20} MiB", file=sys.stderr)
    array = np.zeros(SIZE, np.uint8)
    array[::4096] = 1
    return array


def proportional_set_size() -> int:
    """Bytes of this process, where a page that n processes share counts as one n-th of a page."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def work(name: str) -> None:
    """One of the eight: get the array, use it, say how much memory that takes."""
    with once(name, build) as shared:
        assert isinstance(shared, SharedArray)
        total = int(shared.array[::4096].sum(dtype=np.int64))
        print(total, flush=True)
        input()  # wait until all eight have it
        print(os.getpid(), proportional_set_size(), flush=True)
        input()


def main() -> None:
    """Start eight unrelated processes, and add up what they have."""
    command = [sys.executable, __file__, NAME]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen(command, text=True, **pipes) for _ in range(COPIES)]  # type: ignore[call-overload]
    try:
        for worker in workers:
            assert int(worker.stdout.readline()) == SIZE // 4096
        sizes = []
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        for worker in workers:
            pid, size = map(int, worker.stdout.readline().split())
            print(f"process {pid}: proportional set size {size / 2**20:6.1f} MiB")
            sizes.append(size)
        logs = [worker.communicate("\n", timeout=20)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    print(f"all of them: {sum(sizes) / 2**20:.0f} MiB, {COPIES} copies would be ", end="")
    print(f"{COPIES * SIZE >> 20} MiB and more")
    assert "".join(logs).count("builds") == 1
    assert sum(sizes) < 2 * SIZE + COPIES * (64 << 20)
    assert not list(Path("/dev/shm").glob(f"*{NAME}*"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(sys.argv[1])
    else:
        main()
        print("ok")
