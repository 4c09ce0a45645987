"""The contract of tests/contracts/ring.py, on each kind of memory, with both ends here and apart.

One process: one handle with both roles, two handles, and two of a ring for many. Two processes:
started by each method, with the producer and with the consumer over there. The other process is
started once for all cases and gets a ring for each as an argument, which is how rings travel.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from shmkit import Ring
from tests.conftest import KINDS
from tests.contracts.ring import CASES, a_role_is_taken_by_the_first_and_freed_by_close
from tests.contracts.ring_pair import Far, Near, Pair, serve
from tests.processes import TIMEOUT, reap

METHODS = multiprocessing.get_all_start_methods()


@pytest.mark.parametrize("name", CASES)
def test_one_handle(name: str, where: Any) -> None:
    case = CASES[name]
    with Ring.create(where, **case.options) as ring:
        end = Near(ring, os.getpid())
        try:
            case.run(Pair(end, end))
        finally:
            end.close()


@pytest.mark.parametrize("many", ["one", "many"])
@pytest.mark.parametrize("name", CASES)
def test_two_handles(name: str, where: Any, many: str) -> None:
    case = CASES[name]
    if many == "many" and case.run is a_role_is_taken_by_the_first_and_freed_by_close:
        return  # of these roles there are many
    options = {**case.options, "producers": many, "consumers": many}
    with ExitStack() as stack:
        first = stack.enter_context(Ring.create(where, **options))
        second = pickle.loads(pickle.dumps(first)) if where is None else Ring.attach(where)
        ends = Near(first, os.getpid()), Near(second, os.getpid())
        for end in ends:
            stack.callback(end.close)
        case.run(Pair(*ends))


class Process(NamedTuple):
    """Another process, and the rings it got."""

    rings: dict[str, Ring]
    link: Any
    pid: int


@pytest.fixture(
    scope="module", params=[(kind, method) for kind in KINDS for method in METHODS], ids="-".join
)
def process(request, tmp_path_factory) -> Iterator[Process]:
    """A process that waits at the other end of a ring for each case, and for each side."""
    kind, method = request.param
    context = multiprocessing.get_context(method)
    token = f"t-contract-{uuid.uuid4().hex[:12]}"
    folder = tmp_path_factory.mktemp("rings")
    with ExitStack() as stack:
        rings = {}
        for number, (name, case) in enumerate(CASES.items()):
            for side in ("producer", "consumer"):
                key = f"{side}-{number}"
                place = {"anon": None, "shm": f"shm:{token}-{key}", "file": f"file:{folder}/{key}"}
                rings[f"{name}-{side}"] = stack.enter_context(
                    Ring.create(place[kind], **case.options)
                )
        ours, theirs = context.Pipe()
        stack.callback(ours.close)
        started = context.Process(target=serve, args=(theirs, rings))
        started.start()
        stack.callback(reap, started)
        theirs.close()
        yield Process(rings, ours, started.pid)
        if not ours.closed:
            ours.send(None)
            started.join(TIMEOUT)
            assert started.exitcode == 0


@pytest.mark.parametrize("side", ["producer", "consumer"])
@pytest.mark.parametrize("name", CASES)
def test_two_processes(process: Process, name: str, side: str) -> None:
    key = f"{name}-{side}"
    near, far = Near(process.rings.pop(key), os.getpid()), Far(process.link, key, process.pid)
    try:
        CASES[name].run(Pair(far, near) if side == "producer" else Pair(near, far))
    finally:
        near.ring.unlink()
        near.close()
        far.close()
