"""Changes of the next upstream request after a server of the Responses API rejected a parameter of the last one.

An adaptation is a named change of the dialect, the settings for a server. It drops or replaces a parameter.
`find_adaptation` chooses one by the error, `apply_adaptation` applies it.
"""

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.wire.contract import Adaptation, Call
from anthropic_proxy.wire.failures import PARAMETER_ERROR_STATUSES, find_rejected_parameter, rejects_tool_result_content
from anthropic_proxy.wire.openai_adaptation import (
    SHARED_DROPS,
    ParameterDrops,
    apply_drop_or_effort,
    find_drop_adaptation,
    find_effort_adaptation,
    find_media_adaptation,
    reversed_path_names,
)
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.errors import REASONING_PARAMETER
from anthropic_proxy.wire.openai_responses.request import encode_request

_DROPS: ParameterDrops = {
    **SHARED_DROPS,
    "phase": {"sends_phase": False},
    "truncation": {"sends_truncation": False},
    "summary": {"requests_summaries": False},
    "effort": {"can_reason": False},
    "reasoning": {"can_reason": False},
    "reasoning_effort": {"can_reason": False},
    "include": {"can_reason": False, "requests_search_sources": False},
    "max_tool_calls": {"sends_max_tool_calls": False},
    "parts of results": {"accepts_media_in_results": False},
    REASONING_PARAMETER: {"replays_thinking": False},
}
"""Rejected parameter → dialect fields, with values that make the encoder omit the parameter."""
_EFFORTS = ("effort", "reasoning_effort", "reasoning")


def find_adaptation(call: Call[Dialect], error: UpstreamError) -> Adaptation | None:
    """Return the change of the dialect that may avoid an error of the provider. None: no known change helps."""
    if error.status not in PARAMETER_ERROR_STATUSES:
        return None
    if error.parameter == REASONING_PARAMETER:
        healing = find_drop_adaptation(call, REASONING_PARAMETER, _DROPS, encode_request)
        return healing and structs.replace(healing, persistent=False)  # the history is the reason, not the model
    if rejects_tool_result_content(error.message, error.parameter) and (
        healing := find_drop_adaptation(call, "parts of results", _DROPS, encode_request)
    ):
        return healing
    words = reversed_path_names(error.parameter or "")
    name = words[0] if words else ""
    if name not in _DROPS:
        name = find_rejected_parameter(error.message, _DROPS) or name
    if (name in _EFFORTS or not name) and (healing := find_effort_adaptation(call, error)):
        return healing
    return find_media_adaptation(call, error, words) or find_drop_adaptation(call, name, _DROPS, encode_request)


def apply_adaptation(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect with the named adaptation applied. An unknown name returns the dialect unchanged."""
    return apply_drop_or_effort(dialect, name, _DROPS)
