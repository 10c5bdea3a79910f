"""The log: two lines per exchange, without keys and message text."""

from anthropic_proxy.log.lines import escape_control
from anthropic_proxy.log.log import Level, Log

__all__ = ["Level", "Log", "escape_control"]
