"""`shmkit demo`: one result by every way; errors are told; a stopped one leaves nothing."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import KINDS
from tests.processes import run_python, wait_until
from tests.tools.programs import Ended, Program, Terminal, run_program

DEMO = ("-W", "error", "-m", "shmkit", "demo")
FRAME = 64 * 1024


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A few files with the difficult cases: empty, other encodings, words across frames."""
    top = tmp_path / "tree"
    (top / "below").mkdir(parents=True)
    (top / "empty").touch()
    (top / "latin").write_bytes("naïve café\n".encode("latin-1") * 50)
    (top / "below" / "one-frame").write_bytes(b"exactly " * (FRAME // 8))
    across = b" " * (FRAME - 5) + b"across-the-border" + b" x" * FRAME
    (top / "below" / "across").write_bytes(across)
    (top / "one-long-word").write_bytes(b"w" * (3 * FRAME + 7))
    for number in range(20):
        (top / f"small-{number}").write_bytes(b"some words in small file\n" * number)
    return top


@pytest.fixture
def long_work(tmp_path: Path) -> Path:
    """Many names of one file: reading them all takes far longer than any test."""
    top = tmp_path / "long"
    top.mkdir()
    (top / "0").write_bytes(b"many words to be counted again and again\n" * 25_000)
    for number in range(1, 4000):
        (top / str(number)).hardlink_to(top / "0")
    return top


@pytest.fixture
def no_trace() -> Iterator[dict[str, str]]:
    """Variables for a program whose temporary files have to be gone afterwards."""
    # A short path: the fork server's socket is below it, and such names are 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="t-") as home:
        yield {"TMPDIR": home}
        assert os.listdir(home) == []  # noqa: PTH208 - shown when it fails


def names_of(program: Program) -> list[str]:
    """What the program has, or left, in /dev/shm."""
    return [name.name for name in Path("/dev/shm").glob(f"shmkit-{program.process.pid}-*")]


def expected_digest(top: Path) -> str:
    """The digest, worked out from whole files at once."""
    sha = hashlib.sha256()
    words = Counter[bytes]()
    for path in sorted(os.fsencode(path) for path in top.rglob("*") if path.is_file()):
        data = Path(os.fsdecode(path)).read_bytes()
        words.update(data.split())
        counts = (len(data), data.count(b"\n"), len(data.split()))
        sha.update(path + b"\0" + hashlib.sha256(data).digest() + struct.pack("<3Q", *counts))
    for word, times in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:10]:
        sha.update(b"%d %s\0" % (times, word))
    return sha.hexdigest()


def fields(ended: Ended) -> dict[str, str]:
    return dict(re.findall(r"^(\w+): +(.+)$", ended.stdout, re.MULTILINE))


@pytest.mark.parametrize("workers", ["1", "3"])
@pytest.mark.parametrize("memory", KINDS)
def test_every_way_gives_the_same_digest(
    tree: Path, no_trace: dict[str, str], memory: str, start_method: str, workers: str
) -> None:
    options = ("--memory", memory, "--method", start_method, "--workers", workers)
    with Program(*DEMO, *options, str(tree), env=no_trace) as program:
        ended = program.wait()

        assert names_of(program) == []
    assert (ended.status, ended.stderr) == (0, "")
    assert "verified: yes" in ended.stdout.splitlines()
    assert fields(ended)["digest"] == expected_digest(tree)
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert (fields(ended)["files"], fields(ended)["bytes"]) == ("25", f"{size:,}")


def test_standard_library_is_what_it_reads_by_default() -> None:
    ended = run_program(*DEMO, timeout=50)

    assert (ended.status, ended.stderr) == (0, "")
    assert "verified: yes" in ended.stdout.splitlines()
    assert int(fields(ended)["files"].replace(",", "")) > 500


def test_nothing_to_read_is_a_result(tmp_path: Path) -> None:
    ended = run_program(*DEMO, str(tmp_path))

    assert (ended.status, ended.stderr) == (0, "")
    assert (fields(ended)["files"], fields(ended)["verified"]) == ("0", "yes")


def test_what_cannot_be_read_is_named_and_the_rest_is_counted(tree: Path) -> None:
    digest = expected_digest(tree)
    os.mkfifo(tree / "pipe")
    (tree / "broken").symlink_to("nowhere")
    ended = run_program(*DEMO, str(tree), str(tree / "gone"))

    assert ended.status == 0
    assert ended.stderr.splitlines() == [
        f"not read: {tree}/broken: No such file or directory",
        f"not read: {tree}/gone: No such file or directory",
        f"not read: {tree}/pipe: not a regular file",
    ]
    assert (fields(ended)["digest"], fields(ended)["verified"]) == (digest, "yes")


def test_no_file_at_all_is_a_failure(tmp_path: Path) -> None:
    ended = run_program(*DEMO, str(tmp_path / "typo"))

    assert ended.status == 1
    assert ended.stderr.splitlines() == [
        f"not read: {tmp_path}/typo: No such file or directory",
        "shmkit demo: no file could be read",
    ]


def test_words_and_paths_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/bad\xff"
    Path(os.fsdecode(path)).write_bytes(b"\x1b[31mred \xff\xfe " + b"l" * 1000)
    ended = run_program(*DEMO, str(tmp_path), env={"PYTHONIOENCODING": "ascii"})

    assert (ended.status, ended.stderr) == (0, "")
    words = [line.split()[1] for line in ended.stdout.splitlines() if re.match(r" +1  ", line)]
    assert words == [r"\x1b[31mred", "l" * 57 + "...", r"\xff\xfe"]


def test_a_file_that_fails_half_way_counts_for_nothing(tree: Path) -> None:
    result = run_python(
        """
        from pathlib import Path
        from shmkit.tools.demo import pipeline as _pipeline
        from shmkit.tools.demo import wordcount as _wordcount

        fill = _wordcount.fill

        def failing(file, room):
            got = fill(file, room)
            if file.name.endswith("long-word") and file.tell() > 2 * _wordcount.CHUNK:
                raise OSError(5, "Input/output error")
            return got

        if __name__ == "__main__":
            paths = _wordcount.find_files([Path(args[0])])
            _pipeline.fill = _wordcount.fill = failing
            serial = _wordcount.count_serially(paths)
            parallel = _pipeline.count_in_parallel(paths, workers=2, method="fork")
            assert serial == parallel, serial.differences(parallel)
            print(len(serial.files), serial.unread)
        """,
        str(tree),
    )

    assert result.stdout == f"24 {{'{tree}/one-long-word': 'Input/output error'}}\n"


BREAK = """
    import sys
    from shmkit.tools.cli import main
    from shmkit.tools.demo import pipeline as _pipeline
    from shmkit.tools.demo import wordcount as _wordcount

    if __name__ == "__main__":
        {}
        sys.argv[1:] = ["demo", "--method", "fork", *args]
        main()
"""


def test_a_wrong_word_count_is_noticed(tree: Path) -> None:
    wrong = "unpack = _pipeline._unpack_words; "
    wrong += "_pipeline._unpack_words = lambda message: unpack(message) | {b'small': 1}"
    result = run_python(BREAK.format(wrong), str(tree), check=False)

    assert result.exitcode == 1
    assert "verified: no" in result.stdout.splitlines()


def test_a_file_that_changed_meanwhile_is_named(tree: Path) -> None:
    change = f"open({str(tree / 'latin')!r}, 'ab').write(b'more')"
    wrong = "count = _wordcount.count_serially; "
    wrong += f"_wordcount.count_serially = lambda *a: {change} and count(*a)"
    result = run_python(BREAK.format(wrong), str(tree), check=False)

    assert result.exitcode == 1
    assert "verified: no" in result.stdout.splitlines()
    assert f"differs (or changed meanwhile): {tree / 'latin'}" in result.stderr


KILL = """
    import multiprocessing, os, signal, sys
    from shmkit.tools.cli import main
    from shmkit.tools.demo import children as _children
    from shmkit.tools.demo import pipeline as _pipeline

    start, merge = _children.Children.start, _pipeline._merge

    def kill():
        for child in multiprocessing.active_children():
            if child.name == victim:
                print(child.pid, flush=True)
                os.kill(child.pid, signal.SIGKILL)

    def start_and_kill(self, name, *rest):
        start(self, name, *rest)
        if name == victim:
            kill()

    def merge_and_kill(paths, outboxes, children, progress):
        todo = [kill]
        def once(files, size):
            if files > 2 and todo:
                todo.pop()()
        return merge(paths, outboxes, children, once)

    if __name__ == "__main__":
        method, memory, victim, moment, top = args
        if moment == "start":
            _children.Children.start = start_and_kill
        else:
            _pipeline._merge = merge_and_kill
        sys.argv[1:] = ["demo", "--method", method, "--memory", memory, "--workers", "2", top]
        main()
"""


@pytest.mark.parametrize("moment", ["start", "middle"])
@pytest.mark.parametrize("victim", ["worker 0", "worker 1", "reader"])
def test_killed_child_ends_the_work_with_its_name(
    long_work: Path, no_trace: dict[str, str], start_method: str, victim: str, moment: str
) -> None:
    memory = {"fork": "anon", "spawn": "shm", "forkserver": "file"}[start_method]
    result = run_python(
        KILL, start_method, memory, victim, moment, str(long_work), env=no_trace, check=False
    )

    assert result.exitcode == 1
    pid = result.stdout.split()[0]
    assert result.stderr == (
        f"shmkit demo: {victim} (pid {pid}) was killed by SIGKILL before the work was done: "
        "run it again\n"
    )


def test_killed_parent_takes_its_children_along(long_work: Path, start_method: str) -> None:
    options = ("--memory", "shm", "--method", start_method, "--workers", "2")
    with Terminal(*DEMO, *options, str(long_work)) as terminal:
        terminal.wait_for("MB/s")
        terminal.process.kill()
        ended = terminal.wait()
        # The resource tracker ends last, and has removed the names.
        assert names_of(terminal) == []

    assert ended.status == -signal.SIGKILL


def test_failing_child_ends_the_work(long_work: Path) -> None:
    wrong = "_pipeline.FileTally.feed = lambda *_: 1 / 0"
    result = run_python(BREAK.format(wrong), str(long_work), check=False)

    assert result.exitcode == 1
    assert re.search(r"worker \d \(pid \d+\) exited with 1 before the work was done", result.stderr)
    assert "ZeroDivisionError" in result.stderr


@pytest.mark.parametrize("memory", KINDS)
def test_ctrl_c_on_a_terminal_leaves_nothing(
    long_work: Path, no_trace: dict[str, str], memory: str, start_method: str
) -> None:
    options = ("--memory", memory, "--method", start_method, "--workers", "2")
    with Terminal(*DEMO, *options, str(long_work), env=no_trace) as terminal:
        terminal.wait_for("MB/s")  # a speed is shown as soon as the first bytes were counted
        terminal.press_ctrl_c()
        ended = terminal.wait()

        assert names_of(terminal) == []
    assert ended.status == 130
    assert "stopped by SIGINT" in ended.stdout
    assert "Traceback" not in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_children_start_leaves_nothing(
    long_work: Path, no_trace: dict[str, str], start_method: str, number: int
) -> None:
    options = ("--memory", "file", "--method", start_method, "--workers", "4")
    with Program(*DEMO, *options, str(long_work), env=no_trace) as program:
        # The second process is the resource tracker, the third a worker or the fork server.
        wait_until(lambda: len(program.session()) > 2)
        if number == signal.SIGTERM:
            program.process.terminate()
        else:
            os.killpg(program.process.pid, number)
        ended = program.wait()

    assert ended.status == 128 + number
    assert ended.stderr == f"stopped by {signal.Signals(number).name}\n"


def test_ctrl_c_pressed_twice_is_no_worse(long_work: Path, no_trace: dict[str, str]) -> None:
    with Terminal(*DEMO, "--memory", "file", str(long_work), env=no_trace) as terminal:
        terminal.wait_for("workers")
        for _ in range(5):
            terminal.press_ctrl_c()
        ended = terminal.wait()

    assert ended.status == 130
    assert "Traceback" not in ended.stdout


def test_ctrl_c_while_verifying(tree: Path) -> None:
    wait = "import itertools; _wordcount.count_serially = lambda _, progress: ("
    wait += "print('now', flush=True), [progress(0, 0) for _ in itertools.repeat(0)])"
    source = BREAK.format(wait).replace("*args", "*sys.argv[1:]")
    with Program("-c", "if True:" + source, str(tree)) as program:
        wait_until(lambda: program.stdout == "now\n")
        program.interrupt()
        ended = program.wait()

    assert (ended.status, ended.stderr) == (130, "stopped by SIGINT\n")


def test_progress_bar_is_for_terminals(tree: Path) -> None:
    with Terminal(*DEMO, str(tree)) as terminal:
        on_terminal = terminal.wait()

    assert "verifying" in on_terminal.stdout
    assert "verified: yes" in on_terminal.stdout
    assert "verifying" not in str(run_program(*DEMO, str(tree)))


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_extra_says_how_to_get_it(missing: str) -> None:
    hide = f"import sys; sys.modules[{missing!r}] = None; "
    ended = run_program("-c", hide + "from shmkit.tools.cli import main; main()")

    assert ended.status == 2
    assert ended.stderr == (
        f"shmkit: the command line needs {missing!r}: pip install 'shmkit[cli]'\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [["demo", "--workers", "0"], ["demo", "--memory", "disk"], ["demo", "--method", "x"], ["no"]],
    ids=" ".join,
)
def test_bad_usage_is_exit_2(arguments: list[str]) -> None:
    ended = run_program("-m", "shmkit", *arguments)

    assert ended.status == 2
    assert "Traceback" not in ended.stderr


def test_full_memory_is_one_line(tree: Path) -> None:
    full = "import errno; _pipeline.Ring.create = lambda *_, **__: 1 / 0"
    full = full.replace("1 / 0", "(_ for _ in ()).throw(OSError(errno.ENOSPC, 'no room'))")
    result = run_python(BREAK.format(full), str(tree), check=False)

    assert (result.exitcode, result.stdout) == (1, "")
    assert result.stderr == "shmkit demo: [Errno 28] no room\n"
