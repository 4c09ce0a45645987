"""One process writes, everybody reads: Broadcast and Latest."""
