"""`shmkit ls`, `inspect` and `gc`: what they show, as text and as JSON, and their exit statuses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import shmkit
from shmkit.tools.cli._app import app
from tests.processes import wait_until

DOCS = (Path(__file__).parents[3] / "docs" / "commands.md").read_text()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    """What `ls` remembers is this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def run_json(*args: str) -> tuple[int, Any]:
    result = run(*args, "--json")
    content = json.loads(result.stdout)
    assert content["version"] == 1
    for key in keys(content):
        assert f"`{key}`" in DOCS, f"docs/commands.md says nothing of {key}"
    return result.exit_code, content


def keys(content: Any) -> set[str]:
    """The names in a piece of JSON, but for those that are names of locks."""
    if isinstance(content, list):
        return set().union(*map(keys, content))
    if not isinstance(content, dict):
        return set()
    inner = (value for key, value in content.items() if key not in ("locks", "entries"))
    return set(content) | set().union(*map(keys, inner))


def row_of(segments: list[Any], name: str) -> Any:
    (found,) = [each for each in segments if each["where"] == f"shm:{name}"]
    return found


def test_ls_shows_a_ring_and_its_rate_since_the_last_look(unique_name) -> None:
    with shmkit.Ring.create(unique_name, capacity=1 << 16) as ring:
        ring.put(bytes(1000))
        _, content = run_json("ls")
        row = row_of(content["segments"], unique_name)
        assert (row["kind"], row["status"], row["depth"], row["frames"]) == (
            "ring",
            "live",
            1024,
            1,
        )
        assert row["pids"] == [os.getpid()]
        assert row["rate"] is None
        ring.put(bytes(1000))
        _, content = run_json("ls")
        assert row_of(content["segments"], unique_name)["rate"] > 0
        line = next(line for line in run("ls").stdout.splitlines() if unique_name in line)
        assert re.search(rf"ring .* 2 \(3%\) .*/s .* {os.getpid()} +live", line)


def test_ls_of_a_folder_takes_the_files_of_this_library(tmp_path) -> None:
    with shmkit.Ring.create(tmp_path / "ours"):
        pass
    (tmp_path / "other").write_bytes(b"text")
    code, content = run_json("ls", str(tmp_path))
    assert [row["where"] for row in content["segments"]] == [f"file:{tmp_path / 'ours'}"]
    assert (code, content["segments"][0]["status"]) == (0, "idle")
    _, content = run_json("ls", str(tmp_path / "other"))
    assert [row["kind"] for row in content["segments"]] == ["bytes"]
    result = run("ls", str(tmp_path / "nothing"))
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_names_cannot_move_the_cursor(tmp_path) -> None:
    path = tmp_path / "a\x1b[2J\nb"
    with shmkit.Ring.create(path):
        pass
    output = run("ls", str(tmp_path)).stdout
    assert "\x1b" not in output
    assert "a\\x1b[2J\\nb" in output


def test_inspect_shows_everything_of_a_ring(unique_name) -> None:
    with shmkit.Ring.create(unique_name, capacity=4096) as ring:
        ring.put(b"hello world")
        result = run("inspect", unique_name)
        assert result.exit_code == 0
        for text in ("68 65 6c 6c 6f", "hello world", "puts", "data_size", str(os.getpid())):
            assert text in result.stdout
        _, content = run_json("inspect", unique_name)
        (look,) = content["inspections"]
        assert look["frames"][0]["preview"] == b"hello world".hex()
        assert content["deadlocks"] == []


def test_inspect_shows_the_type_of_an_object_and_not_the_object(unique_name) -> None:
    queue: Any = shmkit.Queue(where=unique_name)
    queue.put({"secret": "word"})
    output = run("inspect", unique_name).stdout
    queue.close()
    queue.unlink()
    assert re.search(r"\d +dict", output)
    assert "word" not in output


HOLDER = """
import shmkit
first, second = (shmkit.Lock(name) for name in args)
first.acquire()
link.send("holds")
link.recv()
second.acquire()
"""


def test_inspect_names_both_holders_of_a_deadlock(unique_name, start_child) -> None:
    one, two = unique_name(), unique_name()
    children = [start_child(HOLDER, one, two), start_child(HOLDER, two, one)]
    for child in children:
        child.receive()
    for child in children:
        child.send("go")

    def waits(name: str) -> bool:
        return bool(run_json("inspect", name)[1]["inspections"][0]["locks"][0]["waiters"])

    wait_until(lambda: waits(one) and waits(two))
    result = run("inspect", one)
    assert result.exit_code == 1
    a, b = (child.pid for child in children)
    assert f"process {a} waits for shm:{two}, which process {b} holds" in result.stdout
    assert f"process {b} waits for shm:{one}, which process {a} holds" in result.stdout
    for child in children:
        child.signal(9)
    for name, child in zip((one, two), children, strict=True):
        child.wait()
        Path("/dev/shm", name).unlink()


def test_inspect_of_something_corrupt_or_foreign(tmp_path) -> None:
    path = tmp_path / "ring"
    with shmkit.Ring.create(path):
        pass
    content = bytearray(path.read_bytes())
    content[0x20] ^= 1
    path.write_bytes(content)
    result = run("inspect", str(path))
    assert result.exit_code == 1
    assert "wrong: the checksum of the header does not fit its fields" in result.stdout
    path.write_bytes(b"something else")
    result = run("inspect", str(path))
    assert result.exit_code == 0
    assert "bytes" in result.stdout


def test_inspect_of_nothing(unique_name) -> None:
    result = run("inspect", unique_name)
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"shmkit inspect: shm:{unique_name}: there is nothing of this name: see `shmkit ls`\n"
    )
    assert run("inspect", "bad:scheme").exit_code == 2
    assert run("inspect").exit_code == 2


def test_names_complete(unique_name) -> None:
    from shmkit.tools.cli.output import complete_where

    with shmkit.Ring.create(unique_name):
        assert complete_where(unique_name[:-3]) == [unique_name]
        assert complete_where(f"shm:{unique_name[:-3]}") == [f"shm:{unique_name}"]


def test_an_older_than_that_is_no_time_is_bad_usage() -> None:
    assert run("gc", "--dry-run", "--older-than", "soon").exit_code == 2
