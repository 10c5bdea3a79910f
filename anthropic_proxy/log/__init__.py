"""The log: two lines per exchange, without keys and message text."""

from anthropic_proxy.log.lines import escape_unprintable
from anthropic_proxy.log.log import Log, LogLevel

__all__ = ["Log", "LogLevel", "escape_unprintable"]
