"""Processes that wait for each other.

- `lock`, `semaphore`, `event`: Lock, Semaphore and Event, what a user holds
- `mutex`: exclusion between the participants of a segment; its common case is in shmkit/core.py
- `doorbell`: where one sleeper is woken
- `eventcount`: where all sleepers are woken
- `threads`: one thread at a time on a handle, and no call inside another one
"""
