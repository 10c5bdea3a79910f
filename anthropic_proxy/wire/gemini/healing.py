"""What a refusal teaches about a model: what it does not take, and how it wants that said.

Google names no parameter in a field of its own: the text alone tells. Texts as issue trackers of several clients quote
them (2025-05 to 2026-11).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from msgspec import structs

from anthropic_proxy.errors import UnsupportedFeature, UpstreamError
from anthropic_proxy.wire.contract import Call, Healing
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.gemini.request import encode_request

_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "drop thinkingConfig": {"thinking": "none"},
    "say thinkingBudget": {"thinking": "budget"},
    "say thinkingLevel": {"thinking": "level"},
    "drop sampling": {"says_sampling": False},
    "say parameters": {"schema_style": "lowered"},
    "drop responseSchema beside tools": {"json_with_functions": False},
    "drop search beside tools": {"server_tools_alone": True},
    "drop includeServerSideToolInvocations": {"search_with_functions": "plain"},
    "drop call ids": {"says_call_ids": False},
    "drop parts of results": {"results_hold_media": False},
    "say placeholder": {"needs_signatures": True},
    "say placeholder in base64": {"needs_signatures": True, "placeholder": "base64"},
    "drop thoughtSignature": {"replays_signatures": False},
}
"""Lesson → dialect fields that follow from it."""
_TEXTS = tuple(
    (re.compile(text, re.IGNORECASE), lessons)
    for text, lessons in (
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
        (r"(?:parameters|response)_?json_?schema", ("say parameters",)),
        (r"function calling with a response mime type", ("drop responseSchema beside tools",)),
        (r"tool use with function calling|cannot be combined in the same request", ("drop search beside tools",)),
        (r"unknown name \"include_?server_?side", ("drop includeServerSideToolInvocations",)),
        (r"unknown name \"id\"", ("drop call ids",)),
        (r"unknown name \"parts\" at '[^']*function_?response", ("drop parts of results",)),
        (r"missing a thought_?signature", ("say placeholder", "say placeholder in base64")),
        (
            r"(?:corrupted|invalid) thought.?signature|thought.?signature is (?:not valid|invalid)"
            r"|invalid value at '[^']*thought_?signature",
            ("drop thoughtSignature", "say placeholder in base64"),
        ),
    )
)
"""What a refusal says → the lessons to try, in their order."""
_PASSING = ("drop thoughtSignature",)
"""What is wrong with this one history, not with the model."""
_ONE_LEVEL = re.compile(r"thinking[ _]level (\w+) is not supported", re.IGNORECASE)
_NEXT_LEVELS = {"minimal": "low", "low": "medium", "medium": "low"}
_NOT_OFF = re.compile(r"budget 0 is invalid", re.IGNORECASE)
_RANGE = re.compile(r"budget (\d+) is invalid\W+please choose a value between (\d+) and (\d+)", re.IGNORECASE)


def find_healing(call: Call, error: UpstreamError) -> Healing | None:
    """Return what to do differently after a 400 whose text says what was wrong; None where the refusal stands.

    A lesson that would not change the request does not explain its refusal.
    """
    if error.status != 400:
        return None
    said = encode_request(call).body
    for name in _lessons_of(error.message):
        with suppress(UnsupportedFeature):  # without what was refused the request would be meaningless
            if encode_request(structs.replace(call, dialect=heal(call.dialect, name))).body != said:
                return Healing(name, lasts=name not in _PASSING)
    return None


def heal(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect with one thing learned; an unknown name changes nothing."""
    if name in _CHANGES:
        return structs.replace(dialect, **_CHANGES[name])
    verb, *values = name.split()
    if verb == "effort" and len(values) == 2:
        return structs.replace(dialect, effort_names=(*dialect.effort_names, (values[0], values[1])))
    if verb == "budget" and len(values) == 2 and all(value.isdecimal() for value in values):
        return structs.replace(dialect, least_budget=int(values[0]), most_budget=int(values[1]))
    return dialect


def _lessons_of(message: str) -> Iterator[str]:
    if level := _ONE_LEVEL.search(message):
        asked = level[1].lower()
        if asked in _NEXT_LEVELS:
            yield f"effort {asked} {_NEXT_LEVELS[asked]}"
    if _NOT_OFF.search(message):
        yield "effort none minimal"
    if found := _RANGE.search(message):
        yield f"budget {found[2]} {found[3]}"
    for text, lessons in _TEXTS:
        if text.search(message):
            yield from lessons
