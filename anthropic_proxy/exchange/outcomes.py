"""Functions that store facts about a client request in its receipt, the record of the request.

`record_failure` stores the error of a failed request. `log_internal_error` logs an unexpected exception, and returns
the error for the client.
"""

from collections.abc import Iterable, Mapping

from anthropic_proxy.errors import InternalError, ProxyError
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.preparation import find_session_id
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.redaction import redact_error
from anthropic_proxy.routing.router import Route, Target
from anthropic_proxy.services import Services


def record_client(receipt: Receipt, headers: Mapping[str, str]) -> None:
    """Store facts about the client in the receipt, from the request headers: program, session, subagent and project."""
    receipt.user_agent = headers.get("user-agent", "")
    receipt.session = headers.get("x-claude-code-session-id", "")
    receipt.agent = headers.get("x-claude-code-agent-id", "")
    receipt.project = headers.get("x-project", "")


def record_request(receipt: Receipt, request: MessagesRequest) -> None:
    """Store facts about a decoded client request in the receipt, the record of the request.

    The facts are the model, streaming, the session, and numbers of tools, messages and tool results.
    """
    receipt.requested_model, receipt.stream = request.model, request.stream
    receipt.tool_count, receipt.message_count = len(request.tools), request.message_count
    receipt.tool_results, receipt.tool_errors = request.tool_results, request.tool_errors
    if not receipt.session and request.metadata is not None and request.metadata.user_id:
        receipt.session = find_session_id(request.metadata.user_id) or ""


def record_route(receipt: Receipt, route: Route) -> None:
    """Store the chosen route in the receipt: its name, the reason for the choice, and the fidelity mode.

    The mode applies to unsupported request fields: `strict` rejects the request, `best-effort` serves it.
    """
    receipt.route = route.rule.name if route.rule is not None else ""
    receipt.route_reason, receipt.fidelity.mode = route.reason, route.fidelity


def record_target(receipt: Receipt, target: Target) -> None:
    """Store the provider and the model of an upstream attempt in the receipt."""
    receipt.provider, receipt.prefix = target.provider.name, target.provider.prefix
    receipt.model, receipt.base_url = target.model, target.base_url


def record_failure(receipt: Receipt, error: ProxyError, proxy_keys: Iterable[str]) -> None:
    """Store the status, type and message of an error in the receipt, the record of the request.

    `proxy_keys` are the keys with which clients authenticate. They are masked in the message first.
    """
    redact_error(error, proxy_keys)
    receipt.outcome = "error"
    receipt.status = error.status
    receipt.error_type, receipt.error = error.error_type, error.message
    receipt.upstream_excerpt = " ".join(getattr(error, "__notes__", ()))


def log_internal_error(error: Exception, services: Services, request_id: str) -> InternalError:
    """Log the traceback of an unexpected exception, which is a defect of the proxy.

    Return an `InternalError` for the client, which has only the class name of the exception.
    """
    services.log.write_traceback(request_id)
    return InternalError(f"{type(error).__name__} in the proxy; the traceback is in its log.")
