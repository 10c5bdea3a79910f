"""How a request ended. The log, the live view, the ledger and the dashboard classify and name it in the same way."""

from typing import Literal, NamedTuple

from anthropic_proxy.plugins import Receipt

OutcomeClass = Literal["ok", "retried", "truncated", "refused", "error", "cancelled"]
"""`retried`: served after a failed attempt. `truncated`: the reply ended at the token limit, or the context window
was full. `refused`: the model declined. `cancelled`: the client disconnected."""
_STOP_REASONS: dict[str, OutcomeClass] = {
    "error": "error",
    "cancelled": "cancelled",
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "refusal": "refused",
}
_FIRST_ERROR_STATUS = 400
_MAX_PROBE_TOKENS = 16
"""Claude Code tests a model with `max_tokens: 1`. This is the least that the Responses API generates and bills."""


class OutcomeTag(NamedTuple):
    sign: str
    role: str
    """Color role of the terminal, and CSS class of the pages: ok, warn, error, quiet."""
    text: str


def classify_outcome(receipt: Receipt) -> OutcomeClass:
    """Return how a request has ended, as one of the words by which views filter."""
    found = _STOP_REASONS.get(receipt.outcome)
    # a test of a model, whose reply the client wants to end at its limit
    is_probe = receipt.message_count == 1 and not receipt.tool_count and receipt.output_tokens <= _MAX_PROBE_TOKENS
    if found and not (found == "truncated" and is_probe):
        return found
    if receipt.status >= _FIRST_ERROR_STATUS:  # a forwarded response, or that of a plugin's endpoint
        return "error"
    return "retried" if receipt.failed_attempts else "ok"


def describe_outcome(outcome_class: str, stop_reason: str, status: int) -> OutcomeTag:
    match outcome_class:
        case "error":
            return OutcomeTag("✕", "error", str(status or "error"))
        case "retried":
            return OutcomeTag("↻", "warn", "retried")
        case "truncated" | "refused":
            return OutcomeTag("!", "warn", outcome_class)
        case "cancelled":
            return OutcomeTag("–", "quiet", "cancelled")
    return OutcomeTag("✓", "ok", stop_reason or str(status))
