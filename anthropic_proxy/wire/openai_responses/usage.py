"""Usage counts in Anthropic's meaning."""

from anthropic_proxy.messages.deltas import Usage
from anthropic_proxy.wire.input_counts import split_input
from anthropic_proxy.wire.openai_responses.frames import InputDetails, OutputDetails, ResponsesUsage

_NO_INPUT_DETAILS = InputDetails()
_NO_OUTPUT_DETAILS = OutputDetails()


def decode_usage(counts: ResponsesUsage) -> Usage:
    """Return token totals in Anthropic's meaning.

    Responses counts cached input inside `input_tokens`, read and written; Anthropic counts it beside. Reasoning is
    inside `output_tokens` on both (recorded, xAI's too).
    """
    within = counts.input_tokens_details or _NO_INPUT_DETAILS
    spent = counts.output_tokens_details or _NO_OUTPUT_DETAILS
    uncached, cached, written = split_input(counts.input_tokens, within.cached_tokens, within.cache_write_tokens)
    return Usage(
        input_tokens=uncached,
        output_tokens=counts.output_tokens,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        thinking_tokens=spent.reasoning_tokens,
    )


def fills_window(counts: ResponsesUsage | None, window: int | None) -> bool:
    """Return True if input and output together fill the window."""
    if window is None or counts is None:
        return False
    return (counts.input_tokens or 0) + (counts.output_tokens or 0) >= window - 1
