"""The package as a whole."""

from __future__ import annotations

from importlib import metadata

import shmkit


def test_version_is_that_of_the_installed_package() -> None:
    assert shmkit.__version__ == metadata.version("shmkit")
