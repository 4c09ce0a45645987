"""A camera and three viewers: 1080p frames through `Latest`, and through `Broadcast`.

The camera never waits for a viewer. A viewer of `Latest` always gets the newest frame; the frames
that it was too slow for it never sees. A viewer of `Broadcast` gets every frame in order as long as
it keeps up, and is told how many frames it lost when it does not. One of the three viewers is slow.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from shmkit import Broadcast, Latest, ShutDown

WIDTH, HEIGHT = 1920, 1080
SIZE = WIDTH * HEIGHT * 3  # bytes of one frame, RGB
FRAMES = 90
RATE = 120  # frames a second that the camera makes
SLOW = 1 / 20  # seconds that the slow viewer takes for each

_context = multiprocessing.get_context("spawn")


class Seen(NamedTuple):
    """What a viewer saw."""

    frames: int
    lost: int
    last: int
    seconds: float


def number_of(frame: bytes) -> int:
    """The number of a frame: both its first and its last bytes tell it, so a torn one is found."""
    number = int.from_bytes(frame[:8], "little")
    assert len(frame) == SIZE
    assert int.from_bytes(frame[-8:], "little") == number, "a torn frame"
    return number


def watch_latest(latest: Latest, pause: float, report: Connection) -> None:
    """A viewer that wants only the newest frame."""
    seen = last = 0
    with latest:
        report.send("ready")
        version = 0
        begin = time.perf_counter()
        while last < FRAMES:
            version, frame = latest.wait(newer_than=version, timeout=20)
            last = number_of(frame)
            seen += 1
            time.sleep(pause)
        report.send(Seen(seen, last - seen, last, time.perf_counter() - begin))


def watch_broadcast(broadcast: Broadcast, pause: float, report: Connection) -> None:
    """A viewer that wants every frame, and wants to know how many it did not get."""
    seen = last = 0
    with broadcast, broadcast.subscribe() as frames:
        report.send("ready")
        begin = time.perf_counter()
        try:
            while True:
                last = number_of(frames.get(timeout=20))
                seen += 1
                time.sleep(pause)
        except ShutDown:
            report.send(Seen(seen, frames.lost, last, time.perf_counter() - begin))


def film(send: Callable[[bytearray], object], progress: str) -> float:
    """The camera: send RATE frames a second, or fewer if sending takes longer.

    Returns:
        How many frames a second it sent.
    """
    frame = bytearray(SIZE)
    begin = time.perf_counter()
    for number in range(1, FRAMES + 1):
        frame[:8] = frame[-8:] = number.to_bytes(8, "little")
        send(frame)
        if sys.stdout.isatty():
            rate = number / (time.perf_counter() - begin)
            print(f"\r{progress}: frame {number}, {rate:.0f} frames/s", end="", flush=True)
        time.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
    if sys.stdout.isatty():
        print("\r\033[K", end="")
    return FRAMES / (time.perf_counter() - begin)


def show(
    title: str,
    channel: Latest | Broadcast,
    viewer: Callable[..., None],
    send: Callable[[bytearray], object],
    end: Callable[[], object],
) -> list[Seen]:
    """Film with three viewers.

    Returns:
        What each viewer saw.
    """
    processes = []
    reports = []
    for pause in (0, 0, SLOW):
        ours, theirs = _context.Pipe()
        processes.append(_context.Process(target=viewer, args=(channel, pause, theirs)))
        processes[-1].start()
        theirs.close()
        reports.append(ours)
    for report in reports:
        assert report.recv() == "ready"
    rate = film(send, title)
    end()
    results: dict[Connection, Seen] = {}
    while len(results) < len(reports):
        ready = wait([report for report in reports if report not in results], timeout=20)
        assert ready, "a viewer is stuck"
        results.update((report, report.recv()) for report in reports if report in ready)
    for process, report in zip(processes, reports, strict=True):
        process.join(20)
        assert process.exitcode == 0
        process.close()
        report.close()
    print(f"{title}: {rate:.0f} frames/s of {SIZE / 2**20:.1f} MiB")
    seen = [results[report] for report in reports]
    for number, viewed in enumerate(seen, 1):
        print(
            f"    viewer {number}: {viewed.frames:3} frames, {viewed.lost:3} lost, "
            f"{viewed.frames / viewed.seconds:4.0f} frames/s"
        )
    return seen


def main() -> None:
    """Show the same film through both channels."""
    with Latest.create(size=SIZE) as latest:
        # The last frame stays there to get, so even the slow viewer ends with it.
        seen = show("Latest", latest, watch_latest, latest.set, lambda: None)
        assert all(viewed.last == FRAMES for viewed in seen)
        assert seen[2].lost > 0, "the slow viewer was not slow"
    with Broadcast.create(capacity=8 * SIZE) as broadcast:
        seen = show("Broadcast", broadcast, watch_broadcast, broadcast.publish, broadcast.shutdown)
        assert all(viewed.frames + viewed.lost == FRAMES for viewed in seen)
        assert seen[2].lost > 0, "the slow viewer was not slow"


if __name__ == "__main__":
    main()
    print("ok")
