"""Log of the proxy on standard error: an entry for each client request, without API keys and message content."""

from anthropic_proxy.engine.hooks import LogLevel
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.gateway.telemetry.log.log import Log

__all__ = ["Log", "LogLevel", "escape_unprintable"]
