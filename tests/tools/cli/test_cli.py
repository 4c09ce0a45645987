"""The `shmkit` command as a whole: it starts quickly."""

from __future__ import annotations

from tests.processes import run_python

HELP = """
    import sys
    from shmkit.tools.cli import main

    sys.argv[1:] = ["--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0
    print("loaded:", *sorted(sys.modules))
"""


def test_help_loads_nothing_that_a_subcommand_alone_needs() -> None:
    """It took 1.1 s with the rings and a renderer of Markdown, and takes 0.2 s without them."""
    usage, _, loaded = run_python(HELP).stdout.rpartition("loaded:")

    assert "Count the lines and words of real files" in usage
    heavy = {"shmkit.channels.ring.ring", "rich.console", "rich.markdown", "multiprocessing.pool"}
    assert not heavy & set(loaded.split())
