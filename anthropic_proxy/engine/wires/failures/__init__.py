"""Classification of provider errors: converts HTTP status and error body to an `UpstreamError`.

`decode_error_body` decodes a response into an `UpstreamFault`. `build_upstream_error` converts it to the error for the
client. The other functions detect one cause in an error, such as a rejected parameter. They search tables of error
texts and codes that several servers share. They are imported at the first error, because their
many expressions need a third of a second.
"""

from collections.abc import Callable, Container

from anthropic_proxy.engine.messages.deltas import Stop
from anthropic_proxy.engine.wires.contract import BaseDialect, Call
from anthropic_proxy.engine.wires.failures.error_body import UpstreamFault, decode_error_body, read_error_object
from anthropic_proxy.engine.wires.reply_ends import build_blocked_reply_stop
from anthropic_proxy.errors import UpstreamError

__all__ = [
    "PARAMETER_ERROR_STATUSES",
    "UpstreamFault",
    "build_call_error",
    "build_upstream_error",
    "decode_error_body",
    "find_rejected_parameter",
    "find_replacement_effort",
    "find_reply_end",
    "read_error_object",
    "rejects_developer_role",
    "rejects_tool_result_content",
    "rejects_tool_result_images",
]

PARAMETER_ERROR_STATUSES = (400, 403, 404, 413, 422, 429, 451, 500, 501)
"""HTTP statuses with which providers reject a request parameter. Only after these errors may a changed request be sent.
Some servers use 404 or 500 for such an error (OpenRouter, llama.cpp; 2026-11)."""


def build_upstream_error(
    fault: UpstreamFault,
    provider: str,
    *,
    context_window: int | None = None,
    estimate_input: Callable[[], int] = lambda: 0,
    output_limit: int = 0,
) -> UpstreamError:
    """Return the error for the client that corresponds to a provider error.

    The last three parameters are token counts of the request and its model. They are used if the error text has no
    numbers. None or 0: the count is unknown.
    """
    from anthropic_proxy.engine.wires.failures import classification  # noqa: PLC0415

    return classification.build_upstream_error(
        fault, provider, context_window=context_window, estimate_input=estimate_input, output_limit=output_limit
    )


def build_call_error(fault: UpstreamFault, call: Call[BaseDialect]) -> UpstreamError:
    """`build_upstream_error` with the provider and the token counts of a call."""
    return build_upstream_error(
        fault,
        call.provider,
        context_window=call.effective_max_input_tokens,
        estimate_input=call.estimate_input_tokens,
        output_limit=call.request.max_tokens,
    )


def find_reply_end(fault: UpstreamFault, provider: str, *, has_content: bool = False) -> Stop | None:
    """Return the end of the reply that a provider reports as an error. None: the error is a failure.

    The ends are: a refusal of the content, a reached output limit and, if content was received (`has_content`), a full
    context window. The client receives a reply with this stop reason, and no other provider is tried.
    """
    from anthropic_proxy.engine.wires.failures import classification, sizes  # noqa: PLC0415

    if fault.is_unreadable_output:
        return None
    if classification.is_policy_refusal(fault):
        return build_blocked_reply_stop(provider, fault.message or "content policy")
    if sizes.reached_output_limit(fault):
        return Stop("max_tokens")
    return Stop("model_context_window_exceeded") if has_content and sizes.names_full_context(fault) else None


def find_rejected_parameter(text: str, names: Container[str]) -> str | None:
    """Return the request parameter, one of `names`, that an error message rejects. None: it rejects none of them.

    If the message names several of these parameters, the result is the first of them.
    """
    from anthropic_proxy.engine.wires.failures import classification  # noqa: PLC0415

    return classification.find_rejected_parameter(text, names)


def rejects_developer_role(text: str) -> bool:
    """Return True if an error message rejects the message role `developer`, by name or as an unknown role."""
    from anthropic_proxy.engine.wires.failures import classification  # noqa: PLC0415

    return classification.rejects_developer_role(text)


def find_replacement_effort(text: str, requested: str, sent: str) -> str | None:
    """Return the effort (level of reasoning) to send in place of a rejected one. None: no level can replace it.

    `text` is the error message, which may list accepted levels. `requested` is the level of the client request. `sent`
    is the level in the rejected upstream request, which can have another name.
    """
    from anthropic_proxy.engine.wires.failures import classification  # noqa: PLC0415

    return classification.find_replacement_effort(text, requested, sent)


def rejects_tool_result_content(message: str, parameter: str | None) -> bool:
    """Return True if an error rejects content in tool results only, for example images."""
    from anthropic_proxy.engine.wires.failures import classification  # noqa: PLC0415

    return classification.rejects_tool_result_content(message, parameter)


def rejects_tool_result_images(message: str, parameter: str | None) -> bool:
    """Return True if an error rejects images in tool results."""
    from anthropic_proxy.engine.wires.failures import classification  # noqa: PLC0415

    return classification.rejects_tool_result_images(message, parameter)
