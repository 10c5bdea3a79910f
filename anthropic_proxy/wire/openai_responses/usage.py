"""What an answer cost, in Anthropic's meaning."""

from anthropic_proxy.messages.deltas import Usage
from anthropic_proxy.wire.openai_responses.events import Counts, InputDetails, OutputDetails

_NO_INPUT_DETAILS = InputDetails()
_NO_OUTPUT_DETAILS = OutputDetails()


def decode_usage(counts: Counts) -> Usage:
    """Return token totals in Anthropic's meaning.

    Responses counts cached input inside `input_tokens`, read and written; Anthropic counts it beside. Reasoning is
    inside `output_tokens` on both (recorded, xAI's too). Never negative: more cached than prompted gives 0.
    """
    within = counts.input_tokens_details or _NO_INPUT_DETAILS
    spent = counts.output_tokens_details or _NO_OUTPUT_DETAILS
    prompt, cached, written = counts.input_tokens, within.cached_tokens, within.cache_write_tokens
    return Usage(
        input_tokens=None if prompt is None else max(prompt - (cached or 0) - (written or 0), 0),
        output_tokens=counts.output_tokens,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        thinking_tokens=spent.reasoning_tokens,
    )


def fills_window(counts: Counts | None, window: int | None) -> bool:
    """Whether input and output together reach the end of the window."""
    if window is None or counts is None:
        return False
    return (counts.input_tokens or 0) + (counts.output_tokens or 0) >= window - 1
