"""Changes of an upstream request after the server rejected a parameter, shared by Chat Completions and Responses.

An `Adaptation` is a named change of the dialect (settings for a server). For example, `drop temperature` makes later
requests omit the parameter `temperature`. `effort none low` makes them send the reasoning level `low` instead of
`none`. The `find_…` functions return the adaptation that fits an error, and `apply_drop_or_effort` applies it to a
dialect. `reversed_path_names` returns the names in the path of a rejected parameter.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from msgspec import structs

from anthropic_proxy.errors import UnsupportedFeature, UpstreamError
from anthropic_proxy.wire.contract import Adaptation, Call, UpstreamRequest
from anthropic_proxy.wire.failures import find_rejected_parameter, find_replacement_effort
from anthropic_proxy.wire.json_schema import BASIC_RULES
from anthropic_proxy.wire.openai_shared_fields import OpenAIDialect

D = TypeVar("D", bound=OpenAIDialect)
"""Type variable: dialect of the wire of Chat Completions or of Responses."""

ParameterDrops = Mapping[str, Mapping[str, object]]
"""Type of a table: parameter of the upstream request → dialect fields, with values that make the encoder omit it."""

SHARED_DROPS: ParameterDrops = {
    "temperature": {"sampling_support": "never"},
    "top_p": {"sampling_support": "never"},
    "parallel_tool_calls": {"sends_parallel_tool_calls": False},
    "safety_identifier": {"sends_user_id": False},
    "prompt_cache_key": {"sends_user_id": False},
    "store": {"sends_store": False},
    "service_tier": {"sends_service_tier": False},
    "strict": {"sends_strict": False},
    "parameters": {"schema_rules": BASIC_RULES},
}
"""Parameters of both APIs that the encoder can omit. For `parameters`, the input schema of a tool, the schema is
reduced to basic keywords."""

_LEVELS = ("minimal", "low", "medium", "high", "xhigh", "max")
_ALWAYS_REASONS = re.compile(
    r"\b(?:think|reason)\w*\b.{0,80}\b(?:cannot|can't|can not|may not|must not) be (?:disabled|turned off|switched off)"
    r"|\b(?:disabl|turn|switch)\w* (?:off )?(?:the )?(?:thinking|reasoning) is not (?:supported|allowed|possible)"
    r"|\b(?:thinking|reasoning) is (?:mandatory|always (?:on|enabled))",
    re.IGNORECASE | re.DOTALL,
)
"""Pattern of error messages about a model that always reasons. Sources: Z.ai, code 1210 (pydantic-ai profiles/zai.py);
OpenRouter "Reasoning is mandatory for this endpoint and cannot be disabled." (2026-11-20)."""
_STEP = re.compile(r"[^.\[\]]+")
_HUMP = re.compile(r"(?<=[a-z0-9])[A-Z]")


def reversed_path_names(parameter: str) -> list[str]:
    """Return the names in the path of a rejected parameter, last name first.

    For example, `reasoning.summary` becomes `["summary", "reasoning"]`. Indexes of lists are omitted. A name in camel
    case, such as `reasoningEffort`, becomes `reasoning_effort`.
    """
    steps = [step for step in _STEP.findall(parameter) if not step.isdecimal()]
    return [_HUMP.sub(lambda hump: f"_{hump[0].lower()}", step) for step in reversed(steps)]


def find_media_adaptation(call: Call[OpenAIDialect], error: UpstreamError, path_names: list[str]) -> Adaptation | None:
    """Return the adaptation that omits images or documents, if the server rejected such content. None: another error.

    `path_names` are the names in the parameter's path, last first.
    """
    last = path_names[0] if path_names else ""
    if (
        last in ("image_url", "image", "input_image")
        and error.cause is None
        and find_rejected_parameter(error.message, (last,))
    ):
        return Adaptation("images none")
    return (
        Adaptation("documents none")
        if last in ("file", "file_data", "file_url", "input_file", "document_url")
        else None
    )


def find_effort_adaptation(call: Call[OpenAIDialect], error: UpstreamError) -> Adaptation | None:
    """Return the adaptation that replaces a rejected effort (level of reasoning) by one that the error message lists.

    None: the message lists no other level.
    """
    asked = call.request.effort
    level = find_replacement_effort(error.message, asked, dict(call.dialect.effort_names).get(asked, asked))
    return Adaptation(f"effort {asked} {level}") if level else None


def find_lowest_effort_adaptation(call: Call[OpenAIDialect], error: UpstreamError) -> Adaptation | None:
    """Return the adaptation that replaces the rejected effort `none` by the lowest level of reasoning.

    Some models always reason, and therefore reject `none`. None: another effort was sent, or the error has another
    reason.
    """
    sent = dict(call.dialect.effort_names).get(call.request.effort, call.request.effort)
    if sent != "none" or not _ALWAYS_REASONS.search(error.message):
        return None
    # The new effort is the lowest level that the error message lists, else `low`.
    listed = [level for level in _LEVELS if re.search(rf"\b{level}\b", error.message, re.IGNORECASE)]
    return Adaptation(f"effort {call.request.effort} {listed[0] if listed else 'low'}")


def find_drop_adaptation(
    call: Call[D], name: str, drops: ParameterDrops, encode_request: Callable[[Call[D]], UpstreamRequest]
) -> Adaptation | None:
    """Return the adaptation that omits the request parameter `name`. None: it was not sent, or cannot be omitted.

    For each parameter, `drops` has the dialect fields that make the encoder omit it. `encode_request` is called with
    the old and the new dialect, because an adaptation is useful only if the body changes.
    """
    fields = drops.get(name)
    if fields is None or (dialect := structs.replace(call.dialect, **fields)) == call.dialect:
        return None
    with suppress(UnsupportedFeature):
        changed = encode_request(structs.replace(call, dialect=dialect))
        return Adaptation(f"drop {name}") if changed.body != encode_request(call).body else None
    return None


def apply_drop_or_effort(dialect: D, name: str, drops: ParameterDrops) -> D:
    """Return the dialect with an adaptation of this module applied. Any other `name` returns it unchanged."""
    verb, _, value = name.partition(" ")
    fields: dict[str, object] = {}
    if verb == "drop":
        fields.update(drops.get(value, {}))
    elif verb == "effort" and len(levels := value.split()) == 2:
        fields["effort_names"] = (*dialect.effort_names, (levels[0], levels[1]))
    return structs.replace(dialect, **fields) if fields else dialect
