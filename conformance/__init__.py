"""CPython's own test suites, run against the classes that take the place of its own."""
