"""Why an answer ended → the stop reason."""

from anthropic_proxy.messages.deltas import Stop
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import blocked
from anthropic_proxy.wire.openai_responses.events import Response
from anthropic_proxy.wire.openai_responses.usage import fills_window


def find_stop(response: Response, refusal: str, call: Call) -> Stop:
    """Return the stop of an answer that is complete; `refusal` is what the model said in place of one."""
    reason = response.incomplete_details.reason if response.incomplete_details is not None else None
    if refusal:
        return Stop("refusal", details={"type": "refusal", "category": None, "explanation": refusal})
    if reason == "content_filter":
        return blocked(call.provider, reason)
    if reason == "max_output_tokens":
        full = fills_window(response.usage, call.window)
        return Stop("model_context_window_exceeded" if full else "max_tokens")
    return Stop("end_turn")
