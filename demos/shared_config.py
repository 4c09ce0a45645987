"""One process writes a configuration, eight read it, and all of them are killed again and again.

The settings are in a SharedDict. A reader takes no lock: it looks at a setting as often as it
likes, and `wait` tells it of a new one. The writer is killed between any two instructions, and
another goes on where it was: each setting is the old one or the new one, never something between.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess

from shmkit import SharedDict

READERS = 8
KILLS = 20
DEADLINE = 30.0  # seconds


def settings(number: int) -> dict[str, object]:
    """The settings of one edition, which all say which one it is."""
    return {"edition": number, "hosts": [f"host-{number}"] * (number % 7), "limits": (number,) * 3}


def write(config: SharedDict) -> None:
    """Edition after edition, from the one on that the last writer came to."""
    number = config.get("settings", settings(0))["edition"]
    while True:
        number += 1
        config["settings"] = settings(number)
        config["size", number % 50] = bytes(number % 500)  # so that it is compacted, too
        time.sleep(0.0005)


def read(config: SharedDict, me: int) -> None:
    """Wait for the next edition, and check that it is whole and newer."""
    version, last = 0, config.get(("seen by", me), 0)
    while True:
        value, version = config.wait("settings", version)
        number = value["edition"]
        assert value == settings(number), f"torn: {value}"
        assert number >= last, f"{number} after {last}"
        last = number
        config["seen by", me] = number


def wait_until_all_have_seen(config: SharedDict, number: int) -> None:
    """Return when each reader has seen that edition, or a later one."""
    end = time.monotonic() + DEADLINE
    while any(config.get(("seen by", me), 0) < number for me in range(READERS)):
        assert time.monotonic() < end, "a reader sees nothing new"
        time.sleep(0.005)


def main() -> None:
    """Kill a reader and the writer, start them again, and see that all go on."""
    context = multiprocessing.get_context("fork")
    dice = random.Random()

    def start(me: int) -> BaseProcess:
        act, given = (write, (config,)) if me == READERS else (read, (config, me))
        process = context.Process(target=act, args=given)
        process.start()
        return process

    with SharedDict.create(capacity=1 << 16) as config:
        processes = [start(me) for me in range(READERS + 1)]
        try:
            for number in range(KILLS):
                config.wait("settings", config.version("settings"), timeout=DEADLINE)
                victim = READERS if number % 3 == 0 else dice.randrange(READERS)
                time.sleep(dice.uniform(0, 0.01))
                assert processes[victim].is_alive(), "it ended by an error of its own"
                processes[victim].kill()
                processes[victim].join()
                processes[victim] = start(victim)
            wait_until_all_have_seen(config, config["settings"]["edition"] + 1)
            assert all(process.is_alive() for process in processes)
        finally:
            for process in processes:
                process.kill()
                process.join()
        now = config.statistics()
        print(f"{config['settings']['edition']} editions, {KILLS} processes were killed")
        print(f"{now.writes} writes, {now.compactions} compactions, {now.entries} entries")


if __name__ == "__main__":
    main()
    print("ok")
