"""What an exchange writes into its receipt at the beginning, and after a failure."""

from collections.abc import Iterable, Mapping

from anthropic_proxy.engine.exchange.client_side import find_retry_after
from anthropic_proxy.engine.hooks import NEGOTIATED, Receipt
from anthropic_proxy.engine.messages.preparation import shorten_id
from anthropic_proxy.engine.messages.purpose import AGENT_HEADER, SESSION_HEADER, read_tool_times
from anthropic_proxy.engine.routing.routes import read_project
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.secrets import redact_error


def record_client(receipt: Receipt, headers: Mapping[str, str]) -> None:
    receipt.user_agent = headers.get("user-agent", "")
    if session := headers.get(SESSION_HEADER):
        receipt.session = shorten_id(session)
    if agent := headers.get(AGENT_HEADER):
        receipt.agent = shorten_id(agent)
    receipt.project = read_project(headers)
    receipt.tool_times = read_tool_times(headers)


def record_failure(receipt: Receipt, error: ProxyError, proxy_keys: Iterable[str]) -> None:
    """Store an error in the receipt. `proxy_keys`, with which clients authenticate, are masked in its message."""
    redact_error(error, proxy_keys)
    receipt.outcome = NEGOTIATED if error.is_negotiated else "error"
    receipt.status = error.status
    receipt.error_type = error.error_type
    receipt.error_code = error.code
    receipt.error = error.message
    receipt.remedy = error.remedy
    receipt.retry_after_seconds = None if error.should_retry is False else find_retry_after(error)
    receipt.upstream_excerpt = " ".join(getattr(error, "__notes__", ()))
