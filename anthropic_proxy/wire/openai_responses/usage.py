"""Decoder of the end of a Responses reply: token counts and stop reason in the terms of the Messages API.

`decode_usage` returns the delta `Usage`, and `build_stop` the delta `Stop`. `find_unreadable_reply` returns the error
of a reply that has none.
"""

from anthropic_proxy.errors import UnreadableReply
from anthropic_proxy.messages.deltas import Stop, Usage
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import build_blocked_reply_stop
from anthropic_proxy.wire.finish_reasons import find_finish_kind
from anthropic_proxy.wire.input_counts import split_input_tokens
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.frames import InputTokenDetails, OutputTokenDetails, Response, ResponsesUsage

_NO_INPUT_DETAILS = InputTokenDetails()
_NO_OUTPUT_DETAILS = OutputTokenDetails()


def decode_usage(counts: ResponsesUsage, tier: object = None) -> Usage:
    """Return the token counts of a reply as the Messages API counts tokens, with its `service_tier`."""
    within = counts.input_tokens_details or _NO_INPUT_DETAILS
    spent = counts.output_tokens_details or _NO_OUTPUT_DETAILS
    uncached, cached, written = split_input_tokens(counts.input_tokens, within.cached_tokens, within.cache_write_tokens)
    return Usage(
        input_tokens=uncached,
        # The output tokens include reasoning in both APIs (recorded, also for xAI).
        output_tokens=counts.output_tokens,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        thinking_tokens=spent.reasoning_tokens,
        billed_tier=tier if isinstance(tier, str) else None,
    )


def _fills_window(counts: ResponsesUsage | None, window: int | None) -> bool:
    """Return True if input and output together fill the context window. `window`: its tokens; None: unknown."""
    if window is None or counts is None:
        return False
    return (counts.input_tokens or 0) + (counts.output_tokens or 0) >= window - 1


def find_unreadable_reply(response: Response, provider: str) -> UnreadableReply | None:
    """Return the error of a reply whose end is that the server could not read the model's output, or else None."""
    reason = response.incomplete_details.reason if response.incomplete_details is not None else None
    if not reason or find_finish_kind(reason) != "unreadable":
        return None
    return UnreadableReply(f"{provider}: the model's reply could not be read ({reason})", provider=provider)


def build_stop(response: Response, refusal: str, call: Call[Dialect], *, has_incomplete_call: bool) -> Stop:
    """Return the `Stop` delta with the stop reason of a reply that has ended.

    `refusal` is the text with which the model refused. "": it did not refuse. `has_incomplete_call`: True if a tool
    call is incomplete, because the reply reached a limit.
    """
    reason = response.incomplete_details.reason if response.incomplete_details is not None else None
    kind = find_finish_kind(reason) if reason else "unknown"
    if refusal:
        return Stop("refusal", details={"type": "refusal", "category": None, "explanation": refusal})
    if reason and kind == "blocked":
        return build_blocked_reply_stop(call.provider, reason)
    if kind == "window":
        return Stop("model_context_window_exceeded")
    if kind == "limit" or has_incomplete_call:
        full = _fills_window(response.usage, call.context_window)
        return Stop("model_context_window_exceeded" if full else "max_tokens")
    return Stop("end_turn")
