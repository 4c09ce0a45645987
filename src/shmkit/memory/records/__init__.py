"""Structures in shared memory, read and written field by field."""
