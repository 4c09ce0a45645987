"""Functions that run elsewhere: built once for all processes, or called in worker processes.

    once.py         a result that one process builds and every process maps
    executor.py     ProcessPoolExecutor: the standard library's executor, over rings
    pool.py         how calls and results travel, and what becomes of a call whose worker dies
    backlog.py      which calls are in the ring, and which wait
    calls.py        which worker has which call
    supervisor.py   the processes: started, watched, replaced
    template.py     a process without threads, from which they are forked later
    worker.py       what each of them does
    future.py       the future of a call

A call goes from executor through pool, backlog and calls to a worker; its result comes back to the
pool, which sets the future.
"""

from __future__ import annotations

__all__: list[str] = []
