"""Classification of provider errors: converts HTTP status and error body to an `UpstreamError`.

`decode_error_body` returns an `UpstreamFault`, the decoded error, and `build_upstream_error` the error for the client
and for retries. Further functions find the cause, such as a rejected parameter. Wires call them in `decode_error`. The
tables contain error texts and codes that several servers share; modules with large tables are imported at the first
error. Effort is the level of reasoning.
"""

from collections.abc import Callable, Container

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.deltas import Stop
from anthropic_proxy.redaction import redact_key_patterns
from anthropic_proxy.wire.failures.error_body import UpstreamFault, decode_error_body, read_error_object

__all__ = [
    "PARAMETER_ERROR_STATUSES",
    "UpstreamFault",
    "blocked_reply_stop",
    "build_upstream_error",
    "decode_error_body",
    "find_accepted_effort",
    "find_rejected_parameter",
    "is_policy_refusal",
    "read_error_object",
    "redact_key_patterns",
    "rejects_role",
    "rejects_tool_result_content",
]

PARAMETER_ERROR_STATUSES = (400, 403, 404, 413, 422, 429, 451, 500, 501)
"""HTTP statuses with which providers reject a request parameter. Only these errors can lead to a changed second
request.

Some servers use 404 or 500 for such an error (OpenRouter, llama.cpp; 2026-11).
"""


def blocked_reply_stop(provider: str, reason: str) -> Stop:
    """Return the last delta of a reply that the provider blocked: stop reason `refusal`, with `reason` as explanation.

    `provider` is the provider name for the explanation text.
    """
    explanation = f"Blocked by {provider}: {reason}"
    return Stop("refusal", details={"type": "refusal", "category": None, "explanation": explanation})


def build_upstream_error(
    fault: UpstreamFault,
    provider: str,
    *,
    context_window: int | None = None,
    estimate_input: Callable[[], int] = lambda: 0,
    output_limit: int = 0,
) -> UpstreamError:
    """Return the error for the client that corresponds to a provider error.

    The message starts with `provider`, the provider name. An overflow instead gets Anthropic's own message text,
    which clients parse for the numbers. The other arguments are used if the error states no numbers. All are in
    tokens, and None or 0 means unknown. `context_window`: of the model. `estimate_input`: function that returns the
    estimated input. `output_limit`: limit in the upstream request.
    """
    from anthropic_proxy.wire.failures import classification  # noqa: PLC0415

    return classification.build_upstream_error(
        fault, provider, context_window=context_window, estimate_input=estimate_input, output_limit=output_limit
    )


def is_policy_refusal(fault: UpstreamFault) -> bool:
    """Return True if the provider refused the request because of its content.

    The client then receives a reply with stop reason `refusal`. No other key or provider is tried with the same
    content.
    """
    from anthropic_proxy.wire.failures import kinds  # noqa: PLC0415

    return kinds.is_policy_refusal(fault)


def find_rejected_parameter(text: str, names: Container[str]) -> str | None:
    """Return the first of the parameters `names` that an error message rejects. None: none of them.

    Names without `_`, except `temperature`, may be ordinary words. They count only in quotes, or before a word such as
    `parameter`.
    """
    from anthropic_proxy.wire.failures.kinds import parameters  # noqa: PLC0415

    return parameters.find_rejected_parameter(text, names)


def rejects_role(text: str) -> bool:
    """Return True if an error message rejects the message role `developer`, by name or as an unknown role."""
    from anthropic_proxy.wire.failures.kinds import parameters  # noqa: PLC0415

    return parameters.rejects_role(text)


def find_accepted_effort(text: str, requested: str, sent: str) -> str | None:
    """Return the effort level to send instead of a rejected one: of the levels that the error message `text` lists.

    The next level below `requested` is returned, else the lowest listed level above `none`. `requested` is the
    client's level, `sent` the server's name of that level. `default` is returned if the list contains it but no
    level above `none`. None: no list, or the list contains `sent`.
    """
    from anthropic_proxy.wire.failures.kinds import parameters  # noqa: PLC0415

    return parameters.find_accepted_effort(text, requested, sent)


def rejects_tool_result_content(message: str, parameter: str | None) -> bool:
    """Return True if an error rejects content in tool results only. The server may accept it in user messages.

    Example: `image not supported in tool messages`. `parameter` is the path that the error names, or None.
    """
    from anthropic_proxy.wire.failures import kinds  # noqa: PLC0415

    return kinds.rejects_tool_result_content(message, parameter)
