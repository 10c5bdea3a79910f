"""Fixtures of the tests of commands."""

from tests.support.shared_servers import closed_port

__all__ = ["closed_port"]
