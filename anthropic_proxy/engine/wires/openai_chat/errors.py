"""Errors of servers with the Chat Completions API: converts them to errors or replies for the client.

Two kinds of errors become replies: a refusal because of content, and a tool call that Groq could not parse. An error
about a parameter may have an adaptation, a change of the dialect with which the request is sent again.
"""

import re

from msgspec import structs

from anthropic_proxy.engine.messages.deltas import Delta, Stop
from anthropic_proxy.engine.messages.models.tool_arguments import is_truncated_object
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import changes_request
from anthropic_proxy.engine.wires.dialect import (
    EFFORT_VALUES,
    SCHEMA_VALUES,
    SYSTEM_MESSAGE,
    SYSTEM_REMINDER,
    TEMPLATE_SWITCH,
    UNOPENED_REASONING,
    Adaptation,
    RequestPart,
)
from anthropic_proxy.engine.wires.failures import (
    PARAMETER_ERROR_STATUSES,
    UpstreamFault,
    build_call_error,
    find_reply_end,
    rejects_developer_role,
)
from anthropic_proxy.engine.wires.openai_chat.dialect import Dialect
from anthropic_proxy.engine.wires.openai_chat.effort_forms import EFFORT_PATHS
from anthropic_proxy.engine.wires.openai_chat.request import encode_request
from anthropic_proxy.engine.wires.openai_shared import (
    SHARED_DROPS,
    SHARED_PARTS,
    ParameterDrops,
    apply_drop_or_effort,
    find_lowest_effort_adaptation,
    find_minimum_adaptation,
    find_parameter_adaptation,
    find_rejected_name,
)
from anthropic_proxy.engine.wires.past_media import OMIT_PAST_MEDIA
from anthropic_proxy.engine.wires.thinking import CALL_SIGNATURE_MISSING
from anthropic_proxy.engine.wires.tool_call_repair import (
    TOOL_CALL_FORMATS,
    OfferedTools,
    TextCallDetector,
    read_unopened_reasoning,
)
from anthropic_proxy.errors import UpstreamError

_OBJECTS = compile_later(r"(?<![^\s>\[\])])\{.*?(?=</?(?:function|tool_call|invoke)|<\||\Z)", re.DOTALL)
"""Pattern of a JSON object in reply text, up to the next marker of a tool call. It begins at the start, after white
space or after a marker."""


def decode_reply_in_error(
    fault: UpstreamFault, call: TranslatedCall[Dialect], *, has_content: bool = False
) -> list[Delta] | None:
    """Return the reply that an error contains, such as a refusal. `has_content`: content arrived before it."""
    if (end := find_reply_end(fault, call.provider_prefix, has_content=has_content)) is not None:
        return [end]
    if fault.failed_generation is None or "tool_use_failed" not in fault.codes:
        return None  # Groq sends the calls that it could not parse with this code
    if any(is_truncated_object(text) for text in _OBJECTS.findall(fault.failed_generation)):
        return None  # the output limit may have cut it, and a cut call may not reach a tool
    text = TextCallDetector(TOOL_CALL_FORMATS, OfferedTools(call), call.new_id)
    deltas = [*text.feed(fault.failed_generation), *text.finish(), Stop("tool_use")]
    return deltas if text.notes else None


_REQUIRES_RESPONSES = compile_later(r"\bv1/responses\b")
"""Pattern of messages about a request that only the Responses API accepts."""


def classify_fault(fault: UpstreamFault, call: TranslatedCall[Dialect]) -> UpstreamError:
    error = build_call_error(fault, call)
    if call.responses_setting and _REQUIRES_RESPONSES.search(fault.message):
        error.message = f"{error.message.rstrip('. ')}. Set {call.responses_setting}."
    return error


_DROPS: ParameterDrops = {
    **SHARED_DROPS,
    **{path[0]: {"effort_form": "omit"} for path in EFFORT_PATHS},
    "stream_options": {"sends_include_usage": False},
    "reasoning_effort": {"effort_form": "omit", "forced_effort_with_tools": ""},
    "think": {"effort_form": "omit", "forced_effort_with_tools": ""},
    "thinking": {"effort_form": "omit", "thinking_retention_field": ""},
    "preserve_thinking": {"thinking_retention_field": ""},
    "include_reasoning": {"thinking_request_field": ""},
    "reasoning_split": {"thinking_request_field": ""},
    "reasoning_format": {"thinking_request_field": ""},
    "tool_choice": {"accepts_forced_tool": "never"},
    "response_format": {"reply_schema_form": "ask"},
    "json_schema": {"reply_schema_form": "ask"},
    "reasoning_content": {"replayed_thinking_field": ""},
    "reasoning": {"replayed_thinking_field": "", "effort_form": "omit"},
    "top_k": {"sends_top_k": False},
    "tool_stream": {"sends_tool_stream": False},
    "cache_control": {"sends_cache_marks": False},
}
PARTS = (
    *SHARED_PARTS,
    RequestPart(name="drop reasoning_effort", values=EFFORT_VALUES),
    RequestPart(name="drop include_reasoning"),
    RequestPart(name="drop top_k", values=("top_k",)),
    RequestPart(name="drop stream_options", is_lossless=True, states_usage=True),
    RequestPart(name="drop tool_stream", is_lossless=True),
    RequestPart(name="drop preserve_thinking", changes_prefix=True),
    RequestPart(name="drop response_format", changes_prefix=True, values=SCHEMA_VALUES),
    *(RequestPart(name=name, changes_prefix=True, is_lossless=True) for name in ("drop cache_control", "role system")),
    RequestPart(name=SYSTEM_REMINDER, changes_prefix=True),
    RequestPart(name="say nine characters", changes_prefix=True, is_lossless=True),
    RequestPart(name="drop reasoning_content", changes_prefix=True, is_content=True, is_last=True),
    RequestPart(name=OMIT_PAST_MEDIA, changes_prefix=True, is_content=True, is_last=True),
)
_WANTS_REASONING = compile_later(r"\breasoning_content\b[^\n]{0,60}?\b(?:must be passed|is missing|is required)")
"""Pattern of errors about replies of the history without their reasoning: DeepSeek and Xiaomi, Kimi (2026-11)."""
_REPLAY = "replay reasoning_content"
_WANTS_SIGNATURE = compile_later(CALL_SIGNATURE_MISSING, re.IGNORECASE)
_PLACEHOLDERS = ("say placeholder", "encode placeholder in base64")
_LIMITS = ("max_tokens", "max_completion_tokens")
_CHANGES: ParameterDrops = {
    "say placeholder": {"placeholder_signature": "text"},
    "encode placeholder in base64": {"placeholder_signature": "base64"},
    "role system": {"system_role": "system"},
    "say nine characters": {"call_id_form": "nine"},
    **{f"say {name}": {"output_limit_field": name} for name in _LIMITS},
}
_KNOWN = frozenset((*_DROPS, *_LIMITS))


def find_adaptation(call: TranslatedCall[Dialect], error: UpstreamError) -> Adaptation | None:
    if error.status in (400, 404, 422) and _REQUIRES_RESPONSES.search(error.provider_text):
        return Adaptation("wire responses")
    if error.status not in PARAMETER_ERROR_STATUSES:
        return None
    if adaptation := find_lowest_effort_adaptation(call, error):
        return adaptation
    if call.dialect.system_role == "developer" and rejects_developer_role(
        f"{error.provider_text} {error.parameter or ''}"
    ):
        return Adaptation("role system")
    if _WANTS_REASONING.search(error.provider_text):
        return Adaptation(_REPLAY) if apply_adaptation(call.dialect, _REPLAY) != call.dialect else None
    if _WANTS_SIGNATURE.search(error.provider_text):
        found = (n for n in _PLACEHOLDERS if changes_request(call, apply_adaptation(call.dialect, n), encode_request))
        return next(map(Adaptation, found), None)
    if adaptation := find_minimum_adaptation(call, error):
        return adaptation
    name = find_rejected_name(error, _KNOWN)
    if name in _LIMITS:
        if call.dialect.output_limit_field != name or error.cause is not None:
            return None  # not the name that was sent, or its value was too high
        return Adaptation(f"say {_LIMITS[1 - _LIMITS.index(name)]}")
    return find_parameter_adaptation(call, error, name, _DROPS, encode_request)


def apply_adaptation(dialect: Dialect, name: str) -> Dialect:
    if name in _CHANGES:
        return structs.replace(dialect, **_CHANGES[name])
    if name == UNOPENED_REASONING:
        return structs.replace(dialect, thinking_tags=read_unopened_reasoning(dialect.thinking_tags))
    if name == TEMPLATE_SWITCH and dialect.effort_form == "omit":
        return structs.replace(dialect, effort_form="chat_template_kwargs")
    if name == _REPLAY:
        mode = "unless_off" if dialect.reasoning_mode == "if_asked" else dialect.reasoning_mode
        return structs.replace(
            dialect, replayed_thinking_field="reasoning_content", thinking_replay_scope="every", reasoning_mode=mode
        )
    if name == SYSTEM_REMINDER and dialect.mid_conversation_system == "keep":
        return structs.replace(dialect, mid_conversation_system="remind")
    if name == SYSTEM_MESSAGE and dialect.mid_conversation_system == "prefer_remind":
        return structs.replace(dialect, mid_conversation_system="keep")
    return apply_drop_or_effort(dialect, name, _DROPS)
