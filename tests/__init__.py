"""The suites; a package, so that they share the stand-in servers of `tests.support.fakes`."""
