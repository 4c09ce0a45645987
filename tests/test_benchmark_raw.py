"""raw.c compiles without a warning, counts its frames, and is a contender like the others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tools.programs import run_program

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread"]


def compiled(source: Path, program: Path) -> Path:
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("there is no C compiler")
    command = [compiler, *STRICT, str(source), "-o", str(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 0, ended.stderr
    return program


def run(program: Path, *words: object) -> tuple[int, list[float]]:
    command = [str(program), *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return ended.returncode, [float(line) for line in ended.stdout.split()]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(BENCHMARKS / "raw.c", tmp_path_factory.mktemp("raw") / "raw")


@pytest.mark.parametrize("size", [1, 16, 17, 900])
def test_frames_of_any_size_pass_through_a_small_ring_many_times_over(raw: Path, size: int) -> None:
    status, rates = run(raw, "stream", size, 20_000, 4096, 20)
    assert status == 0
    assert len(rates) == 1
    assert rates[0] > 0


def test_as_many_round_trips_as_were_asked_for(raw: Path) -> None:
    status, times = run(raw, "trips", 64, 50, 1 << 20, 20, 100_000)
    assert status == 0
    assert len(times) == 50
    assert min(times) > 0


def test_wrong_arguments(raw: Path) -> None:
    assert run(raw, "stream", 64) == (1, [])
    assert run(raw, "stream", 4096, 10, 4096, 20) == (1, [])  # no room for four frames


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("memcpy(frame_at(side, begin) + HEADER, bytes, size);", "(void)bytes;"),
        ("put(&side, last, size);", "(void)last;\n        put(&side, frame, size);"),
        ("for (uint64_t sent = 2;", "for (uint64_t sent = 1;"),
    ],
)
def test_a_frame_that_is_wrong_or_too_many_gives_no_figure(
    line: str, instead: str, tmp_path: Path
) -> None:
    source = (BENCHMARKS / "raw.c").read_text()
    assert source.count(line) == 1
    (tmp_path / "raw.c").write_text(source.replace(line, instead))
    program = compiled(tmp_path / "raw.c", tmp_path / "raw")
    assert run(program, "stream", 64, 1000, 1 << 20, 20) == (3, [])


def test_without_a_compiler_it_is_named_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    options = ["--quick", "--count", "20", "--topology", "rtt", "--only", "Pipe", "raw"]

    ended = run_program(str(BENCHMARKS / "ring.py"), *options, timeout=50)

    assert ended.status == 0, ended.stderr
    assert "missing  raw C: ImportError: no C compiler, 'no-such-compiler'" in ended.stdout


def test_its_row_is_printed_and_it_is_no_peer() -> None:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    options = ["--quick", "--count", "200", "--topology", "spsc", "--only", "raw", "shmkit"]

    ended = run_program("-W", "error", str(BENCHMARKS / "ring.py"), *options, timeout=50)

    assert ended.status == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert "failed" not in ended.stdout
    rows = [line.strip("│ ").split("│") for line in ended.stdout.splitlines()]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert all(float(cell) > 0 for cell in cells["raw C"])
    assert set(cells["the best peer"]) == {"-"}
    assert cells["shmkit.Ring / raw C"][0].endswith(" x")
