"""Classification of Chat Completions errors: replies in error bodies, and models that require the Responses API."""

import re

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.deltas import Delta, Stop
from anthropic_proxy.messages.fold.arguments import is_cut_short
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import UpstreamFault, blocked_reply_stop, build_upstream_error, is_policy_refusal
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.tool_call_repair import TOOL_CALL_FORMATS, OfferedTools, TextCallDetector

_UNREADABLE = "tool_use_failed"
"""Groq's code for a tool call of the model that it could not read."""
_OBJECTS = re.compile(r"(?<![^\s>\[\])])\{.*?(?=</?(?:function|tool_call|invoke)|<\||\Z)", re.DOTALL)
"""A JSON object after white space or a marker, up to the next call marker."""
_ELSEWHERE = re.compile(r"\bv1/responses\b")


def reply_in_error(fault: UpstreamFault, call: Call[Dialect]) -> list[Delta] | None:
    """Return the reply in an error: a policy refusal, or tool calls that Groq could not parse. None: no reply."""
    if is_policy_refusal(fault):
        return [blocked_reply_stop(call.provider, fault.message or "content policy")]
    if fault.failed_generation is None or _UNREADABLE not in fault.codes:
        return None
    if any(is_cut_short(text) for text in _OBJECTS.findall(fault.failed_generation)):
        return None  # the output limit may have cut it, and a cut call may not reach a tool
    text = TextCallDetector(TOOL_CALL_FORMATS, OfferedTools(call), call.new_id)
    deltas = [*text.feed(fault.failed_generation), *text.finish()]
    return [*deltas, Stop("tool_use")] if text.notes else None


def classify_fault(fault: UpstreamFault, call: Call[Dialect]) -> UpstreamError:
    """Return the classified error of a response, with token counts of the request and advice for the user."""
    error = build_upstream_error(
        fault,
        call.provider,
        window=call.effective_max_input_tokens,
        estimate=call.estimate_input_tokens,
        asked=call.request.max_tokens,
    )
    if requires_responses_wire(fault.message):
        error.message = f"{error.message.rstrip('. ')}. Set {call.provider.upper()}_WIRE=responses."
    return error


def requires_responses_wire(message: str) -> bool:
    """Return True if the error message refers to `v1/responses`: the model, or its tools, require that API."""
    return _ELSEWHERE.search(message) is not None
