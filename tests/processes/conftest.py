"""The servers that all tests of this folder share."""

from tests.support.shared_servers import closed_port, openai, proxy, settings

__all__ = ["closed_port", "openai", "proxy", "settings"]
