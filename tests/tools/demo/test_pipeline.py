"""The reader process of `shmkit demo`: what it has open when a worker dies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shmkit import PeerDied, Ring, SharedBuffer
from shmkit.tools.demo import pipeline as _pipeline
from tests.processes import Child

RECEIVER = (
    "from shmkit import Ring; ring = Ring.attach(*args); ring.get(); link.send(1); link.recv()"
)


def test_a_reader_whose_worker_died_closes_its_file(
    unique_name: str, tmp_path: Path, start_child: Callable[..., Child]
) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"words " * (1 << 20))
    listing = os.fsencode(path) + b"\0"
    with (
        Ring.create(unique_name, capacity=_pipeline.INBOX_BYTES) as inbox,
        SharedBuffer.create("anon:", len(listing)) as memory,
    ):
        memory[:] = listing
        inbox.put(b"first")
        worker = start_child(RECEIVER, unique_name)
        worker.receive()
        worker.process.kill()
        with pytest.raises(PeerDied) as told:
            _pipeline._read(memory, inbox)
        assert told.tb is not None  # the traceback keeps alive whatever the reader had
        assert path not in open_files()


def open_files() -> set[Path]:
    """What this process has open."""
    links = Path("/proc/self/fd").iterdir()
    return {link.readlink() for link in links if link.is_symlink()}
