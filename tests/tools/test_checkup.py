"""checkup: what is missing is told, with what to do about it."""

from __future__ import annotations

import json
from collections import namedtuple
from typing import Any

import pytest
from typer.testing import CliRunner

from shmkit import compiled
from shmkit.tools.checkup import check_up
from shmkit.tools.cli._app import app

Room = namedtuple("Room", "f_blocks f_bavail f_frsize f_favail")  # noqa: PYI024 - a stand-in


def of(name: str, shm: str = "/dev/shm") -> Any:
    (check,) = [check for check in check_up(shm) if check.name == name]
    return check


def test_every_check_has_an_answer_here() -> None:
    checks = check_up()
    names = [check.name for check in checks]
    assert {"memfd", "O_TMPFILE", "OFD locks", "membarrier", "sem_clockwait", "versions"} < set(
        names
    )
    assert len(set(names)) == len(names)
    assert of("OFD locks").level == "ok"
    assert all(check.remedy for check in checks if check.level == "wrong")


def test_no_folder_for_segments(tmp_path) -> None:
    check = of(str(tmp_path / "none"), str(tmp_path / "none"))
    assert (check.level, check.found) == ("wrong", "No such file or directory")
    assert "mount -t tmpfs" in check.remedy


@pytest.mark.parametrize(
    ("room", "level", "remedy"),
    [
        (Room(16384, 16000, 4096, 9), "note", "--shm-size"),
        (Room(1 << 20, 1000, 4096, 9), "wrong", "shmkit gc"),
        (Room(1 << 20, 1 << 19, 4096, 0), "wrong", "shmkit gc"),
        (Room(1 << 20, 1 << 19, 4096, 9), "ok", ""),
    ],
    ids=["container", "full", "no inodes", "fine"],
)
def test_size_of_the_folder(tmp_path, monkeypatch, room, level, remedy) -> None:
    monkeypatch.setattr("shmkit.tools.checkup.os.statvfs", lambda path: room)
    check = of(f"{tmp_path} size", str(tmp_path))
    assert check.level == level
    assert remedy in check.remedy


def test_a_folder_where_everybody_may_remove_everything(tmp_path) -> None:
    tmp_path.chmod(0o777)
    assert of(f"{tmp_path} permissions", str(tmp_path)).level == "wrong"
    tmp_path.chmod(0o1777)
    assert of(f"{tmp_path} permissions", str(tmp_path)).level == "ok"


def test_a_feature_that_is_forbidden(monkeypatch) -> None:
    def forbidden(*args: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("shmkit.tools.checkup.os.memfd_create", forbidden)
    assert of("memfd").level == "note"
    check = of("OFD locks")
    assert (check.level, check.found.partition(":")[0]) == ("wrong", "Operation not permitted")


def test_why_there_is_no_compiled_core(monkeypatch) -> None:
    monkeypatch.setattr(compiled, "core", None)
    monkeypatch.setattr(compiled, "WHY_PURE", "SHMKIT_PURE=1")
    check = of("compiled core")
    assert (check.level, check.remedy) == ("note", "unset SHMKIT_PURE")


def test_doctor_prints_and_has_an_exit_status(monkeypatch) -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "OFD locks" in result.stdout
    monkeypatch.setattr("shmkit.tools.checkup.os.access", lambda *args: False)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["version"] == 1
    assert {"name", "level", "found", "remedy"} == set(content["checks"][0])
    assert any(check["level"] == "wrong" for check in content["checks"])
