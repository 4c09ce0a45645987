"""Objects through memory: Queue, JoinableQueue, and the ring under them."""
