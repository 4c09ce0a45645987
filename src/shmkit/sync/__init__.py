"""Processes that wait for each other: semaphores, doorbells, and who is alive."""
