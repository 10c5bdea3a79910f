"""What goes wrong on this wire: replies that come as errors, and models that speak the other language only."""

import re

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.deltas import Delta, Stop
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import Fault, blocked, is_policy_refusal, judge
from anthropic_proxy.wire.recover import TEXT_CONVENTIONS, OfferedTools, TextCalls

_UNREADABLE = "tool_use_failed"
"""Groq's code for a tool call of the model that it could not read."""
_ELSEWHERE = re.compile(r"\bv1/responses\b")


def find_reply(fault: Fault, call: Call) -> list[Delta] | None:
    """Return the reply that a fault stands for: a policy refusal, or a call that the server could not read."""
    if is_policy_refusal(fault):
        return [blocked(call.provider, fault.message or "content policy")]
    if fault.generation is None or _UNREADABLE not in fault.codes:
        return None
    text = TextCalls(TEXT_CONVENTIONS, OfferedTools(call), call.new_id)
    deltas = [*text.feed(fault.generation), *text.finish()]
    return [*deltas, Stop("tool_use")] if text.notes else None


def judge_fault(fault: Fault, call: Call) -> UpstreamError:
    """Return the error that a fault is, with what the call knows of its own size and what the user can do."""
    error = judge(fault, call.provider, window=call.most_input, estimate=call.estimate, asked=call.request.max_tokens)
    if belongs_elsewhere(fault.message):
        error.message = f"{error.message.rstrip('. ')}. Set {call.provider.upper()}_WIRE=responses."
    return error


def belongs_elsewhere(message: str) -> bool:
    """Whether a refusal sends its reader to Responses: some models speak nothing else, some only so beside tools."""
    return _ELSEWHERE.search(message) is not None
