"""Queues of objects against each other: `python benchmarks/queue.py --help`.

The benchmark is in objects.py. This file has the name one looks for, and the standard library has a
module of that name, which every program started from this folder would get this file for: whoever
imports it as `queue` is given that module.
"""

import sys

if __name__ == "__main__":
    from objects import main

    sys.exit(main())

from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_elsewhere = [place for place in sys.path if Path(place).resolve() != Path(__file__).parent]
_spec = PathFinder.find_spec("queue", _elsewhere)
assert _spec is not None
assert _spec.loader is not None
sys.modules[__name__] = module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[__name__])
