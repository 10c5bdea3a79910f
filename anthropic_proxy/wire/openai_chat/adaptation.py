"""Changes of the next upstream request after a Chat Completions server rejected a parameter of the last one.

An adaptation is a named change of the dialect, the settings for a server. It drops, renames or replaces a parameter.
`find_adaptation` chooses one by the error, `apply_adaptation` applies it.
"""

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.wire.contract import Adaptation, Call
from anthropic_proxy.wire.failures import PARAMETER_ERROR_STATUSES, find_rejected_parameter, rejects_developer_role
from anthropic_proxy.wire.openai_adaptation import (
    SHARED_DROPS,
    ParameterDrops,
    apply_drop_or_effort,
    find_drop_adaptation,
    find_effort_adaptation,
    find_lowest_effort_adaptation,
    find_media_adaptation,
    reversed_path_names,
)
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.errors import requires_responses_wire
from anthropic_proxy.wire.openai_chat.request import encode_request

_DROPS: ParameterDrops = {
    **SHARED_DROPS,
    "stream_options": {"sends_include_usage": False},
    "reasoning_effort": {"effort_form": "omit", "forced_effort_with_tools": ""},
    "think": {"effort_form": "omit", "forced_effort_with_tools": ""},
    "thinking": {"effort_form": "omit", "thinking_retention_field": ""},
    "include_reasoning": {"thinking_request_field": ""},
    "reasoning_format": {"thinking_request_field": ""},
    "tool_choice": {"accepts_forced_tool": "never"},
    "response_format": {"reply_schema_form": "ask"},
    "json_schema": {"reply_schema_form": "ask"},
    "reasoning_content": {"replayed_thinking_field": ""},
    "reasoning": {"replayed_thinking_field": "", "effort_form": "omit"},
    "top_k": {"sends_top_k": False},
    "tool_stream": {"sends_tool_stream": False},
    "cache_control": {"sends_cache_marks": False},
    "session_id": {"session_field": ""},
}
_LIMITS = ("max_tokens", "max_completion_tokens")
_EFFORTS = ("reasoning_effort", "effort", "think", "thinking", "reasoning")
_KNOWN = frozenset((*_DROPS, *_LIMITS))


def find_adaptation(call: Call[Dialect], error: UpstreamError) -> Adaptation | None:
    """Return the change of the dialect that may avoid an error of the provider. None: no known change helps."""
    if error.status in (400, 404, 422) and requires_responses_wire(error.message):
        return Adaptation("wire responses")
    if error.status not in PARAMETER_ERROR_STATUSES:
        return None
    if healing := find_lowest_effort_adaptation(call, error):
        return healing
    if call.dialect.system_role == "developer" and rejects_developer_role(f"{error.message} {error.parameter or ''}"):
        return Adaptation("role system")
    words = reversed_path_names(error.parameter or "")
    name = words[0] if words else ""
    if name not in _KNOWN:
        name = find_rejected_parameter(error.message, _KNOWN) or name
    if name in _LIMITS:
        return _rename_limit(call, name, error)
    if (name in _EFFORTS or not name) and (healing := find_effort_adaptation(call, error)):
        return healing
    return find_media_adaptation(call, error, words) or find_drop_adaptation(call, name, _DROPS, encode_request)


def apply_adaptation(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect with the named adaptation applied. An unknown name returns the dialect unchanged."""
    verb, _, value = name.partition(" ")
    if verb == "say" and value in _LIMITS:
        return structs.replace(dialect, output_limit_field=value)
    if verb == "role" and value == "system":
        return structs.replace(dialect, system_role="system")
    return apply_drop_or_effort(dialect, name, _DROPS)


def _rename_limit(call: Call[Dialect], name: str, error: UpstreamError) -> Adaptation | None:
    """Return the adaptation that sends the output limit under its other field name.

    The names are `max_tokens` and `max_completion_tokens`. None: the server did not reject the name that was sent.
    """
    other = _LIMITS[1 - _LIMITS.index(name)]
    return Adaptation(f"say {other}") if call.dialect.output_limit_field == name and error.cause is None else None
