"""Adaptations that Chat Completions and Responses share.

The tables name parameters, not servers: any server that rejects `temperature` does not receive it again.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from msgspec import structs

from anthropic_proxy.errors import UnsupportedFeature, UpstreamError
from anthropic_proxy.wire.contract import Adaptation, Call, UpstreamRequest
from anthropic_proxy.wire.failures import find_level, find_named
from anthropic_proxy.wire.json_schema import BASICS
from anthropic_proxy.wire.openai_shared_fields import OpenAIDialect

D = TypeVar("D", bound=OpenAIDialect)

Drops = Mapping[str, Mapping[str, object]]
"""Parameter → dialect fields that leave it out."""

SHARED_DROPS: Drops = {
    "temperature": {"sampling_support": "never"},
    "top_p": {"sampling_support": "never"},
    "parallel_tool_calls": {"sends_parallel_tool_calls": False},
    "safety_identifier": {"sends_user_id": False},
    "prompt_cache_key": {"sends_user_id": False},
    "store": {"sends_store": False},
    "service_tier": {"sends_service_tier": False},
    "strict": {"sends_strict": False},
    "parameters": {"schema": BASICS},
}
"""Parameters of both protocols."""

_LEVELS = ("minimal", "low", "medium", "high", "xhigh", "max")
_ALWAYS_REASONS = re.compile(
    r"\b(?:think|reason)\w*\b.{0,80}\b(?:cannot|can't|can not|may not|must not) be (?:disabled|turned off|switched off)"
    r"|\b(?:disabl|turn|switch)\w* (?:off )?(?:the )?(?:thinking|reasoning) is not (?:supported|allowed|possible)"
    r"|\b(?:thinking|reasoning) is (?:mandatory|always (?:on|enabled))",
    re.IGNORECASE | re.DOTALL,
)
"""Sources: Z.ai, code 1210 (pydantic-ai profiles/zai.py); OpenRouter "Reasoning is mandatory for this endpoint and
cannot be disabled." (2026-11-20)."""
_STEP = re.compile(r"[^.\[\]]+")
_HUMP = re.compile(r"(?<=[a-z0-9])[A-Z]")


def path_words(parameter: str) -> list[str]:
    """Return the names in a path, the last one first: `summary`, `reasoning` of `reasoning.summary`.

    Indexes are left out, and `reasoningEffort` becomes `reasoning_effort`.
    """
    steps = [step for step in _STEP.findall(parameter) if not step.isdecimal()]
    return [_HUMP.sub(lambda hump: f"_{hump[0].lower()}", step) for step in reversed(steps)]


def find_media(call: Call[OpenAIDialect], error: UpstreamError, words: list[str]) -> Adaptation | None:
    """Return the adaptation that omits the media type named by a parameter; None: it names none."""
    last = words[0] if words else ""
    if last in ("image_url", "image", "input_image") and error.cause is None and find_named(error.message, (last,)):
        return Adaptation("images none")
    return (
        Adaptation("documents none")
        if last in ("file", "file_data", "file_url", "input_file", "document_url")
        else None
    )


def find_effort(call: Call[OpenAIDialect], error: UpstreamError) -> Adaptation | None:
    """Return an effort level that the error message lists in place of the rejected one."""
    asked = call.request.effort
    level = find_level(error.message, asked, dict(call.dialect.effort_names).get(asked, asked))
    return Adaptation(f"effort {asked} {level}") if level else None


def find_lowest_effort(call: Call[OpenAIDialect], error: UpstreamError) -> Adaptation | None:
    """Return the effort for a model that rejects disabled reasoning: the lowest that the message lists, else low."""
    sent = dict(call.dialect.effort_names).get(call.request.effort, call.request.effort)
    if sent != "none" or not _ALWAYS_REASONS.search(error.message):
        return None
    listed = [level for level in _LEVELS if re.search(rf"\b{level}\b", error.message, re.IGNORECASE)]
    return Adaptation(f"effort {call.request.effort} {listed[0] if listed else 'low'}")


def drop_adaptation(
    call: Call[D], name: str, drops: Drops, encode_request: Callable[[Call[D]], UpstreamRequest]
) -> Adaptation | None:
    """Return the adaptation that omits a parameter. None: it was not sent, or it is indispensable."""
    fields = drops.get(name)
    if fields is None or (dialect := structs.replace(call.dialect, **fields)) == call.dialect:
        return None
    with suppress(UnsupportedFeature):
        changed = encode_request(structs.replace(call, dialect=dialect))
        return Adaptation(f"drop {name}") if changed.body != encode_request(call).body else None
    return None


def apply_drop(dialect: D, name: str, drops: Drops) -> D:
    """Return the dialect with a shared adaptation applied; an unknown name changes nothing."""
    verb, _, value = name.partition(" ")
    fields: dict[str, object] = {}
    if verb == "drop":
        fields.update(drops.get(value, {}))
    elif verb == "effort" and len(levels := value.split()) == 2:
        fields["effort_names"] = (*dialect.effort_names, (levels[0], levels[1]))
    return structs.replace(dialect, **fields) if fields else dialect
