"""Errors of servers with the Chat Completions API: converts them to errors or replies for the client.

Two kinds of errors become replies: a refusal because of content, and a tool call that Groq could not parse.
`decode_reply_in_error` returns such a reply. `classify_fault` converts any other error. A fault is the decoded error
object of a provider.
"""

import re

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.deltas import Delta, Stop
from anthropic_proxy.messages.tool_arguments import is_truncated_object
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import (
    UpstreamFault,
    build_upstream_error,
    find_reply_end,
)
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.tool_call_repair import TOOL_CALL_FORMATS, OfferedTools, TextCallDetector

_UNREADABLE = "tool_use_failed"
"""Groq's error code for tool calls that Groq could not parse. The error object contains the reply."""
_OBJECTS = re.compile(r"(?<![^\s>\[\])])\{.*?(?=</?(?:function|tool_call|invoke)|<\||\Z)", re.DOTALL)
"""Pattern of a JSON object in reply text, up to the next marker of a tool call. It begins at the start, after white
space or after a marker."""
_ELSEWHERE = re.compile(r"\bv1/responses\b")


def decode_reply_in_error(
    fault: UpstreamFault, call: Call[Dialect], *, has_content: bool = False
) -> list[Delta] | None:
    """Return the deltas of the reply that an error contains, such as a refusal. None: the error contains no reply.

    `has_content`: True if content of the reply arrived before the error.
    """
    if (end := find_reply_end(fault, call.provider, has_content=has_content)) is not None:
        return [end]
    if fault.failed_generation is None or _UNREADABLE not in fault.codes:
        return None
    if any(is_truncated_object(text) for text in _OBJECTS.findall(fault.failed_generation)):
        return None  # the output limit may have cut it, and a cut call may not reach a tool
    text = TextCallDetector(TOOL_CALL_FORMATS, OfferedTools(call), call.new_id)
    deltas = [*text.feed(fault.failed_generation), *text.finish()]
    return [*deltas, Stop("tool_use")] if text.notes else None


def classify_fault(fault: UpstreamFault, call: Call[Dialect]) -> UpstreamError:
    """Return the error for the client that corresponds to `fault`, the provider's decoded error.

    If the request requires the Responses API, the error message names the environment variable that selects this API.
    """
    error = build_upstream_error(
        fault,
        call.provider,
        context_window=call.effective_max_input_tokens,
        estimate_input=call.estimate_input_tokens,
        output_limit=call.request.max_tokens,
    )
    if requires_responses_wire(fault.message):
        error.message = f"{error.message.rstrip('. ')}. Set {call.provider.upper()}_WIRE=responses."
    return error


def requires_responses_wire(error_message: str) -> bool:
    """Return True if the error message names `v1/responses`, because this request requires the Responses API."""
    return _ELSEWHERE.search(error_message) is not None
