"""Errors of Gemini: what the client receives, and which change of the dialect avoids the error in the next request.

Google's servers and models accept different request fields, and only an error says which. `find_adaptation` chooses a
change by the error text, if the change alters the request that was rejected. The exchange then repeats the request
with `apply_adaptation`, and stores the name of the change for later requests to the model. The error texts are quoted
from issue trackers of several clients (2025-05 to 2026-11).
"""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.messages.deltas import Usage
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import DecodedError, changes_request
from anthropic_proxy.engine.wires.dialect import EFFORT_VALUES, SAMPLING_VALUES, Adaptation, RequestPart
from anthropic_proxy.engine.wires.failures import (
    PARAMETER_ERROR_STATUSES,
    build_call_error,
    decode_error_body,
    find_reply_end,
    read_own_words,
    rejects_tool_result_content,
)
from anthropic_proxy.engine.wires.gemini.dialect import Dialect
from anthropic_proxy.engine.wires.gemini.request import encode_request
from anthropic_proxy.engine.wires.past_media import OMIT_PAST_MEDIA
from anthropic_proxy.engine.wires.thinking import CALL_SIGNATURE_MISSING
from anthropic_proxy.errors import UpstreamError


def decode_error(call: TranslatedCall[Dialect], status: int, headers: Mapping[str, str], body: bytes) -> DecodedError:
    fault = read_own_words(decode_error_body(status, headers, body), call, may_postpone=True)
    if (end := find_reply_end(fault, call.provider_prefix)) is not None:
        return [Usage(output_tokens=0), end]
    return build_call_error(fault, call)


_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "drop thinkingConfig": {"thinking": "none"},
    "say thinkingBudget": {"thinking": "budget"},
    "say thinkingLevel": {"thinking": "level"},
    "drop sampling": {"sends_sampling": False},
    "say parameters": {"schema_form": "lowered"},
    "drop responseSchema with tools": {"accepts_schema_with_functions": False},
    "drop search with tools": {"server_tools_exclusive": True},
    "drop includeServerSideToolInvocations": {"search_with_functions": "plain"},
    "drop call ids": {"sends_call_ids": False},
    "drop parts of results": {"accepts_media_in_results": False},
    "say placeholder": {"requires_signatures": True},
    "encode placeholder in base64": {"requires_signatures": True, "placeholder_encoding": "base64"},
    "drop thoughtSignature": {"replays_signatures": False},
    OMIT_PAST_MEDIA: {"omits_past_media": True},
}
PARTS = (
    RequestPart(name="drop sampling", values=SAMPLING_VALUES),
    RequestPart(name="drop thinkingConfig", values=EFFORT_VALUES),
    RequestPart(name="drop includeServerSideToolInvocations"),
    RequestPart(name="say parameters", changes_prefix=True, values=("tools",)),
    *(
        RequestPart(name=name, changes_prefix=True, is_lossless=True)
        for name in ("drop call ids", "drop parts of results", "say placeholder", "encode placeholder in base64")
    ),
    RequestPart(name="drop thoughtSignature", changes_prefix=True, is_content=True, is_last=True),
    RequestPart(name=OMIT_PAST_MEDIA, changes_prefix=True, is_content=True, is_last=True),
)
_TEXTS = tuple(
    (compile_later(text, re.IGNORECASE), names)
    for text, names in (
        (r"thinking[ _]?level is not supported|unknown name \"thinking_?level\"", ("say thinkingBudget",)),
        (r"thinking[ _]?budget is not supported|unknown name \"thinking_?budget\"", ("say thinkingLevel",)),
        (
            r"unknown name \"(?:thinking_?config|include_?thoughts)\"|thinking(?:_config)? is not (?:supported|enabled)"
            r"|include_thoughts is only enabled",
            ("drop thinkingConfig",),
        ),
        (
            r"\b(?:temperature|top_?[pk])\b\W{1,2}(?:is )?not supported|unknown name \"(?:temperature|top_?[pk])\"",
            ("drop sampling",),
        ),
        (r"parameters_?json_?schema", ("say parameters",)),
        (r"function calling with a response mime type", ("drop responseSchema with tools",)),
        (r"tool use with function calling|cannot be combined in the same request", ("drop search with tools",)),
        (r"unknown name \"include_?server_?side", ("drop includeServerSideToolInvocations",)),
        (r"unknown name \"id\"", ("drop call ids",)),
        (CALL_SIGNATURE_MISSING, ("say placeholder", "encode placeholder in base64")),
        (
            r"(?:corrupted|invalid) thought.?signature|thought.?signature is (?:not valid|invalid)"
            r"|invalid value at '[^']*thought_?signature",
            ("drop thoughtSignature", "encode placeholder in base64"),
        ),
    )
)
"""Pairs: pattern of an error text, names of the adaptations to try for such an error, in order."""
_REPLY_SCHEMA = compile_later(r"response_?json_?schema", re.IGNORECASE)
"""Pattern of errors about the schema of the reply, which most requests do not have."""
_PASSING = ("drop thoughtSignature",)
"""Names of adaptations for the current request only. All others are stored for later requests to the model."""
_ONE_LEVEL = compile_later(r"thinking[ _]level (\w+) is not supported", re.IGNORECASE)
_NEXT_LEVELS = {"xhigh": "high", "minimal": "low", "low": "medium", "medium": "low"}
_NOT_OFF = compile_later(r"budget 0 is invalid", re.IGNORECASE)
_RANGE = compile_later(r"budget (\d+) is invalid\W+please choose a value between (\d+) and (\d+)", re.IGNORECASE)


def find_adaptation(call: TranslatedCall[Dialect], error: UpstreamError) -> Adaptation | None:
    if error.status not in PARAMETER_ERROR_STATUSES:
        return None
    message = error.provider_text
    names: list[str] = []  # of the adaptations to try, in order
    if (level := _ONE_LEVEL.search(message)) and (asked := level[1].lower()) in _NEXT_LEVELS:
        names.append(f"effort {asked} {_NEXT_LEVELS[asked]}")
    if _NOT_OFF.search(message):
        names.append("effort none minimal")
    if found := _RANGE.search(message):
        names.append(f"budget {found[2]} {found[3]}")
    for text, fitting in _TEXTS:
        names += fitting if text.search(message) else ()
    if call.request.output_schema and _REPLY_SCHEMA.search(message):
        names.append("say parameters")
    if rejects_tool_result_content(message, None):
        names.append("drop parts of results")
    useful = (name for name in names if changes_request(call, apply_adaptation(call.dialect, name), encode_request))
    name = next(useful, None)
    return None if name is None else Adaptation(name, persistent=name not in _PASSING)


def apply_adaptation(dialect: Dialect, name: str) -> Dialect:
    if name in _CHANGES:
        return structs.replace(dialect, **_CHANGES[name])
    verb, *values = name.split()
    if verb == "effort" and len(values) == 2:
        return structs.replace(dialect, effort_names=(*dialect.effort_names, (values[0], values[1])))
    if verb == "budget" and len(values) == 2 and all(value.isdecimal() for value in values):
        return structs.replace(dialect, min_budget_tokens=int(values[0]), max_budget_tokens=int(values[1]))
    return dialect
