"""Why an answer ended → the stop reason."""

from anthropic_proxy.messages.deltas import Stop
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import blocked
from anthropic_proxy.wire.finish_reasons import finish_kind
from anthropic_proxy.wire.openai_responses.frames import Response
from anthropic_proxy.wire.openai_responses.usage import fills_window


def find_stop(response: Response, refusal: str, call: Call, *, cut_call: bool) -> Stop:
    """Return the stop of a reply that has ended.

    `refusal`: the model's refusal text. `cut_call`: True if a tool call is incomplete; such a reply never ends
    normally, whatever the reason.
    """
    reason = response.incomplete_details.reason if response.incomplete_details is not None else None
    kind = finish_kind(reason) if reason else "unknown"
    if refusal:
        return Stop("refusal", details={"type": "refusal", "category": None, "explanation": refusal})
    if reason and kind == "blocked":
        return blocked(call.provider, reason)
    if kind == "window":
        return Stop("model_context_window_exceeded")
    if kind == "limit" or cut_call:
        full = fills_window(response.usage, call.window)
        return Stop("model_context_window_exceeded" if full else "max_tokens")
    return Stop("end_turn")
