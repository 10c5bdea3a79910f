"""Upstream error bodies → `UpstreamError`. Contains error texts and codes that several servers share."""

from collections.abc import Callable, Container

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.deltas import Stop
from anthropic_proxy.redaction import redact_key_patterns
from anthropic_proxy.wire.failures.error_body import UpstreamFault, decode_error_body, read_error_object

__all__ = [
    "STATUSES",
    "UpstreamFault",
    "blocked",
    "classify",
    "decode_error_body",
    "find_level",
    "find_named",
    "is_policy_refusal",
    "read_error_object",
    "redact_key_patterns",
    "rejects_in_results",
    "rejects_role",
]

STATUSES = (400, 403, 404, 413, 422, 429, 451, 500, 501)
"""Statuses of errors that may reject a parameter: some servers answer 404 or 500 (OpenRouter, llama.cpp; 2026-11)."""


def blocked(provider: str, reason: str) -> Stop:
    """Return the end of a reply that the provider declined to give."""
    explanation = f"Blocked by {provider}: {reason}"
    return Stop("refusal", details={"type": "refusal", "category": None, "explanation": explanation})


def classify(
    fault: UpstreamFault,
    provider: str,
    *,
    window: int | None = None,
    estimate: Callable[[], int] = lambda: 0,
    asked: int = 0,
) -> UpstreamError:
    """Return the error that a fault is; its text starts with the provider's name, except where clients read it.

    `window`, what `estimate` counts and `asked` (the output limit as sent), all in tokens, complete a text that states
    no numbers.
    """
    from anthropic_proxy.wire.failures import classification  # noqa: PLC0415

    return classification.classify(fault, provider, window=window, estimate=estimate, asked=asked)


def is_policy_refusal(fault: UpstreamFault) -> bool:
    """Return whether the provider declined the content: that is a reply, and other keys and targets must not get it."""
    from anthropic_proxy.wire.failures import kinds  # noqa: PLC0415

    return kinds.is_policy_refusal(fault)


def find_named(text: str, names: Container[str]) -> str | None:
    """Return the first of these parameters that a rejection names; None: none of them.

    A name that is an ordinary word too counts only in quotes, or before a word such as `parameter`.
    """
    from anthropic_proxy.wire.failures.kinds import parameters  # noqa: PLC0415

    return parameters.find_named(text, names)


def rejects_role(text: str) -> bool:
    """Return whether a text rejects the role `developer`, by name or as an unknown role."""
    from anthropic_proxy.wire.failures.kinds import parameters  # noqa: PLC0415

    return parameters.rejects_role(text)


def find_level(text: str, asked: str, sent: str) -> str | None:
    """Return, of the levels of effort that a rejection lists, the next below the one asked for, else the lowest.

    `sent` is the server's word for it. `default` stands for any reasoning where no level is listed. None: no list.
    """
    from anthropic_proxy.wire.failures.kinds import parameters  # noqa: PLC0415

    return parameters.find_level(text, asked, sent)


def rejects_in_results(message: str, parameter: str | None) -> bool:
    """Return whether something is rejected in results of tools only, as images are that other messages may have."""
    from anthropic_proxy.wire.failures import kinds  # noqa: PLC0415

    return kinds.rejects_in_results(message, parameter)
