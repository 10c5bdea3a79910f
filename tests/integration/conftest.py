"""The servers that all tests of this folder share."""

from tests.support.shared_servers import openai, proxy, settings

__all__ = ["openai", "proxy", "settings"]
