"""Recording of a failed request in its receipt, and the error for a defect of the proxy."""

from collections.abc import Iterable

from anthropic_proxy.errors import InternalError, ProxyError
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.redaction import redact_error
from anthropic_proxy.services import Services


def record_failure(receipt: Receipt, error: ProxyError, proxy_keys: Iterable[str]) -> None:
    """Store an error in the receipt: status, type, message. Removes the keys of the proxy from the error."""
    redact_error(error, proxy_keys)
    receipt.outcome = "error"
    receipt.status = error.status
    receipt.error_type, receipt.error = error.error_type, error.message
    receipt.upstream_excerpt = " ".join(getattr(error, "__notes__", ()))


def log_internal_error(error: Exception, services: Services, request_id: str) -> InternalError:
    """Log the traceback of an unexpected exception, a defect of the proxy.

    Returns the `InternalError` for the client.
    """
    services.log.write_traceback(request_id)
    return InternalError(f"{type(error).__name__} in the proxy; the traceback is in its log.")
