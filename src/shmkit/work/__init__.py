"""Functions that run elsewhere: built once for all, or called in worker processes."""
