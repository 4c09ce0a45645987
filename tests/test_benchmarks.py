"""The benchmarks run and tell every row; what did not arrive is not measured. No time is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools.programs import Ended, run_program

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
STDLIB = ["multiprocessing.Queue", "multiprocessing.SimpleQueue", "multiprocessing.Pipe"]
ROWS = {
    "spsc": ["shmkit.Ring", "shmkit.Ring, batches", "shmkit.Ring, reserve/peek", *STDLIB],
    "rtt": ["shmkit.Ring", *STDLIB],
    "mpmc": ["multiprocessing.Queue"],
}
COLUMNS = {
    "spsc": ["64 B", "1 KiB", "64 KiB", "1 MiB"],
    "rtt": ["back to back", "after 2 ms of silence"],
    "mpmc": ["1 to 1", "2 to 2", "4 to 1", "1 to 4", "4 to 4"],
}


def run(topology: str, *args: str) -> Ended:
    script = str(BENCHMARKS / "ring.py")
    options = ["--quick", "--count", "200", "--topology", topology]
    return run_program("-W", "error", script, *options, *args, timeout=50)


@pytest.mark.parametrize("topology", ROWS)
def test_every_row_is_printed(topology: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    ended = run(topology, "--only", "shmkit", "multiprocessing", "--json", str(file))

    assert ended.status == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    heads = ("machine", "python", "commit", "load")
    assert [line.split()[0] for line in ended.stdout.splitlines()[:4]] == list(heads)
    for name in ROWS[topology] + COLUMNS[topology]:
        assert name in ended.stdout
    assert "failed" not in ended.stdout
    results = json.loads(file.read_text())["results"]
    assert list(results) == [topology]
    seen = {(cell["contender"], cell["column"]): cell for cell in results[topology]}
    assert {column for _, column in seen} == set(COLUMNS[topology])
    for name in ROWS[topology]:
        cells = [cell for (contender, _), cell in seen.items() if contender == name]
        assert cells
        for cell in cells:
            assert cell["failure"] == ""
            assert len(cell["rounds"]) == 1


def test_plain_text_without_rich(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setitem(sys.modules, "rich.console", None)
    report = pytest.importorskip("report")

    report.print_table(report.Table("Title", ["", "64 B"], [["long name", "1"], ["b", "12.5"]]))

    assert capsys.readouterr().out.splitlines() == [
        "Title",
        "           64 B",
        "long name     1",
        "b          12.5",
        "",
    ]


def test_a_library_that_is_not_there_is_named_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "zmq.py").write_text("raise ImportError('libzmq is not there')")

    ended = run_program(
        "-c",
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(BENCHMARKS)!r}]\n"
        "from ring import main\n"
        "sys.exit(main(['--quick', '--count', '20', '--topology', 'rtt', '--only', 'Pipe']))",
    )

    assert ended.status == 0, ended.stderr
    assert "missing  pyzmq: ImportError: libzmq is not there" in ended.stdout


def test_frames_that_do_not_arrive_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    measures = pytest.importorskip("measures")
    pipe = pytest.importorskip("contenders.mp_pipe")

    class Wrong(pipe._Pipe):  # type: ignore[misc,name-defined]
        def consumer(self) -> Any:
            get = super().consumer()
            return lambda: bytearray(get())

    class Mute(pipe._Pipe):  # type: ignore[misc,name-defined]
        def producer(self) -> Any:
            return lambda frame: None

    contender = measures.Contender("wrong", Wrong)
    with pytest.raises(measures.Failed, match="for the frame b'first '"):
        measures.stream(contender, 64, 10, 1 << 20, 20)
    contender = measures.Contender("mute", Mute)
    with pytest.raises(measures.Failed, match="was not done when its time was up"):
        measures.stream(contender, 64, 10, 1 << 20, 0.5)


def test_frames_that_arrive_twice_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    measures = pytest.importorskip("measures")
    pipe = pytest.importorskip("contenders.mp_pipe")

    class Twice(pipe._Pipe):  # type: ignore[misc,name-defined]
        def consumer(self) -> Any:
            get = super().consumer()

            def get_twice() -> list[bytes]:
                frame = get()
                return [frame] * (2 if len(frame) == 64 else 1)

            return get_twice

    contender = measures.Contender("twice", Twice, gets_many=True)
    with pytest.raises(measures.Failed, match="for the frame b'last '"):
        measures.stream(contender, 64, 10, 1 << 20, 20)
    with pytest.raises(measures.Failed, match="got 128 frames, 64 were sent"):
        measures.many_to_many(contender, 64, 4, 1, 1, 1 << 20, 20)
