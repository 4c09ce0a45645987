"""The `shmkit demo` command: real files through a ring to worker processes."""
