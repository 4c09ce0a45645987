"""State that processes share: headers, participants, presence, semaphores, fences."""
