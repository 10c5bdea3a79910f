"""Errors of servers with the Responses API: converts them to errors for the client, and finds adaptations.

An adaptation is a change of the dialect with which the request is sent again.
"""

import re
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.dialect import EFFORT_VALUES, Adaptation, RequestPart
from anthropic_proxy.engine.wires.failures import (
    PARAMETER_ERROR_STATUSES,
    UpstreamFault,
    build_call_error,
    read_error_object,
    rejects_tool_result_content,
)
from anthropic_proxy.engine.wires.openai_responses.decisions import WITHOUT_DECISIONS, is_decision
from anthropic_proxy.engine.wires.openai_responses.dialect import Dialect
from anthropic_proxy.engine.wires.openai_responses.request import encode_request
from anthropic_proxy.engine.wires.openai_shared import (
    SHARED_DROPS,
    SHARED_PARTS,
    ParameterDrops,
    apply_drop_or_effort,
    find_drop_adaptation,
    find_minimum_adaptation,
    find_parameter_adaptation,
    find_rejected_name,
)
from anthropic_proxy.engine.wires.past_media import OMIT_PAST_MEDIA
from anthropic_proxy.errors import UpstreamError

REASONING_PARAMETER = "input.reasoning"
"""Value of `UpstreamError.parameter` if the server rejected reasoning of earlier replies. A retry omits the
reasoning."""

_REFUSED_REASONING = compile_later(
    r"provided without its required (?:following item|'reasoning' item)"
    r"|item with id '?rs_\S+ not found"
    r"|\A(?>.*?encrypted[ _]content ).*(?:could not be|cannot be|invalid|failed)"
    r"|reasoning (?:input )?items can only be provided",
    re.IGNORECASE | re.DOTALL,
)
_NO_SUCH_MODEL = compile_later(r"\bmodel\b", re.IGNORECASE)
_NOT_HERE = compile_later(
    r"\A(?>.*?model)(?>.*?(?:not supported|not available|unsupported)).*responses", re.IGNORECASE | re.DOTALL
)
_CLIENT_FAULTS = frozenset(
    (
        *("invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url", "invalid_image_mode"),
        *("image_too_large", "image_too_small", "image_parse_error", "image_file_too_large", "empty_image_file"),
        *("unsupported_image_media_type", "failed_to_download_image", "image_file_not_found"),
    )
)
"""Error codes for invalid images of the client. Such an error in a stream has no HTTP status, so the proxy uses 400."""


def decode_error_object(error: Any) -> UpstreamFault:
    """Decode the error object of a stream event or of a failed response. Never raises. `error`: the object itself, or
    an object with the field `error`.
    """
    nested = error.get("error") if isinstance(error, dict) else None
    return correct_status(read_error_object({"error": error} if nested is None else error, 200, {}))


def correct_status(fault: UpstreamFault) -> UpstreamFault:
    """Return the error of a stream or of a failed response with the status of an invalid image."""
    if fault.status in (None, 200) and fault.codes & _CLIENT_FAULTS:
        return structs.replace(fault, status=400)
    return fault


def classify_fault(fault: UpstreamFault, call: TranslatedCall[Dialect]) -> UpstreamError:
    refused = "invalid_encrypted_content" in fault.codes or _REFUSED_REASONING.search(fault.message) is not None
    if refused:  # some servers send 404 here
        fault = structs.replace(fault, status=400, parameter=REASONING_PARAMETER)
    error = build_call_error(fault, call)
    if refused:
        return error
    # The server lacks the path, or does not support this API for the model.
    names_model = "model_not_found" in fault.codes or _NO_SUCH_MODEL.search(fault.message) is not None
    if _NOT_HERE.search(fault.message) or (fault.status in (404, 405, 501) and not names_model):
        error.message = error.message.rstrip(". ")
        error.add_advice(
            f". The server or the model has no Responses API: set {call.provider_prefix.upper()}_WIRE=chat"
        )
    return error


_DROPS: ParameterDrops = {
    **SHARED_DROPS,
    "phase": {"sends_phase": False},
    "additional_tools": {"sends_additional_tools": False},
    "configuration_update": {"sends_configuration_updates": False},
    "prompt_cache_breakpoint": {"sends_cache_breakpoint": False},
    "truncation": {"sends_truncation": False},
    "summary": {"requests_summaries": False},
    "effort": {"can_reason": False},
    "reasoning": {"can_reason": False},
    "reasoning_effort": {"can_reason": False},
    "include": {"requests_reasoning_state": False, "requests_search_sources": False},
    "max_tool_calls": {"sends_max_tool_calls": False},
    "decisions": {"offers_decisions": False},
    "parts of results": {"accepts_media_in_results": False},
    REASONING_PARAMETER: {"replays_thinking": False},
}
"""Rejected parameter → dialect fields, with values that make the encoder omit the parameter."""
PARTS = (
    *SHARED_PARTS,
    RequestPart(name="drop summary"),
    RequestPart(name="drop effort", values=EFFORT_VALUES),
    RequestPart(name="drop truncation", is_lossless=True),
    RequestPart(name="drop prompt_cache_breakpoint", changes_prefix=True, is_lossless=True),
    *(
        RequestPart(name=f"drop {name}", changes_prefix=True)
        for name in ("phase", "additional_tools", "configuration_update", "parts of results")
    ),
    RequestPart(name=f"drop {REASONING_PARAMETER}", changes_prefix=True, is_content=True, is_last=True),
    RequestPart(name=OMIT_PAST_MEDIA, changes_prefix=True, is_content=True, is_last=True),
)
_NO_DECISIONS = (400, 403, 404, 501)
"""Statuses after which a model is asked for text instead of a decision."""


def find_adaptation(call: TranslatedCall[Dialect], error: UpstreamError) -> Adaptation | None:
    if error.status not in PARAMETER_ERROR_STATUSES:
        return None
    if is_decision(call) and error.status in _NO_DECISIONS:
        return Adaptation(WITHOUT_DECISIONS)
    if error.parameter == REASONING_PARAMETER:
        adaptation = find_drop_adaptation(call, REASONING_PARAMETER, _DROPS, encode_request)
        return adaptation and structs.replace(adaptation, persistent=False)  # the history is the reason, not the model
    if rejects_tool_result_content(error.provider_text, error.parameter) and (
        adaptation := find_drop_adaptation(call, "parts of results", _DROPS, encode_request)
    ):
        return adaptation
    if adaptation := find_minimum_adaptation(call, error):
        return adaptation
    name = find_rejected_name(error, _DROPS)
    return find_parameter_adaptation(call, error, name, _DROPS, encode_request)


def apply_adaptation(dialect: Dialect, name: str) -> Dialect:
    return apply_drop_or_effort(dialect, name, _DROPS)
