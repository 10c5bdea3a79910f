"""The fields of a request of the Messages API (API reference, 2026-11), and Anthropic's texts about wrong ones."""

from collections.abc import Iterator, Mapping
from typing import Any

from messages_conformance.backends.shapes import (
    ANY,
    FLAG,
    FREE,
    NUMBER,
    TEXT,
    WHOLE,
    Breach,
    Schema,
    closed,
    either,
    find_breaches,
    listed,
    one_of,
    tagged,
)
from messages_conformance.backends.wire import ContractViolation

_MARK = closed({"type": one_of("ephemeral")}, {"ttl": one_of("5m", "1h")})
_MARKED: Mapping[str, Schema] = {"cache_control": _MARK}
_TEXT_BLOCK = closed({"type": TEXT, "text": TEXT}, {**_MARKED, "citations": listed(FREE)})
_IMAGE_SOURCE = tagged(
    "type",
    {
        "base64": closed({"type": TEXT, "media_type": TEXT, "data": TEXT}, {}),
        "url": closed({"type": TEXT, "url": TEXT}, {}),
        "file": closed({"type": TEXT, "file_id": TEXT}, {}),
    },
)
_IMAGE = closed({"type": TEXT, "source": _IMAGE_SOURCE}, {**_MARKED, "transformations": ANY})
_DOCUMENT = closed({"type": TEXT, "source": FREE}, {**_MARKED, "title": TEXT, "context": TEXT, "citations": FREE})
_KNOWN_BLOCKS: Mapping[str, Schema] = {
    "text": _TEXT_BLOCK,
    "image": _IMAGE,
    "document": _DOCUMENT,
    "thinking": closed({"type": TEXT, "thinking": TEXT, "signature": TEXT}, {}),
    "redacted_thinking": closed({"type": TEXT, "data": TEXT}, {}),
    "tool_use": closed(
        {"type": TEXT, "id": TEXT, "name": TEXT, "input": FREE}, {**_MARKED, "caller": FREE, "toolset_name": TEXT}
    ),
    "tool_result": closed(
        {"type": TEXT, "tool_use_id": TEXT},
        {**_MARKED, "content": either(TEXT, listed({"type": "object"})), "is_error": FLAG, "toolset_name": TEXT},
    ),
}
_BLOCK = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": TEXT},
    "allOf": [
        {"if": {"properties": {"type": {"const": kind}}, "required": ["type"]}, "then": schema}
        for kind, schema in _KNOWN_BLOCKS.items()
    ],
}
"""A block of content; those of the provider's own tools may have any fields."""
_MESSAGE = closed(
    {"role": one_of("user", "assistant", "system"), "content": either(TEXT, listed(_BLOCK))},
    {"clear_at": ANY, "output_config": FREE},
)
_TOOL = {
    "if": {"properties": {"type": {"const": "custom"}}},
    "then": closed(
        {"name": TEXT, "input_schema": FREE},
        {
            **_MARKED,
            "type": TEXT,
            "description": TEXT,
            "strict": FLAG,
            "allowed_callers": listed(TEXT),
            "defer_loading": FLAG,
            "eager_input_streaming": FLAG,
            "input_examples": listed(FREE),
        },
    ),
    "else": {"type": "object", "required": ["type"]},
}
_CHOICE_FIELDS: Mapping[str, Schema] = {"disable_parallel_tool_use": FLAG}
_CHOICE = tagged(
    "type",
    {
        "auto": closed({"type": TEXT}, _CHOICE_FIELDS),
        "any": closed({"type": TEXT}, _CHOICE_FIELDS),
        "tool": closed({"type": TEXT, "name": TEXT}, _CHOICE_FIELDS),
        "none": closed({"type": TEXT}, {}),
    },
)
_SHOWN: Mapping[str, Schema] = {"display": one_of("summarized", "omitted", "updates"), "block_binding": ANY}
_THINKING = tagged(
    "type",
    {
        "enabled": closed({"type": TEXT, "budget_tokens": WHOLE}, _SHOWN),
        "adaptive": closed({"type": TEXT}, _SHOWN),
        "between_tools": closed({"type": TEXT}, {}),
        "disabled": closed({"type": TEXT}, {}),
    },
)
_AMOUNT = closed({"type": TEXT, "value": WHOLE}, {})
_EDIT = tagged(
    "type",
    {
        "clear_tool_uses_20250919": closed(
            {"type": TEXT},
            {
                "clear_at_least": _AMOUNT,
                "clear_tool_inputs": {"type": ["boolean", "array"]},
                "exclude_tools": listed(TEXT),
                "keep": _AMOUNT,
                "trigger": _AMOUNT,
            },
        ),
        "clear_thinking_20251015": closed({"type": TEXT}, {"keep": either(TEXT, FREE)}),
        "compact_20260112": closed(
            {"type": TEXT}, {"instructions": TEXT, "pause_after_compaction": FLAG, "trigger": _AMOUNT}
        ),
    },
)
_COUNTED: Mapping[str, Schema] = {
    "billing_policy": ANY,
    "cache_control": _MARK,
    "compaction": closed({"type": one_of("summarize")}, {"instructions": TEXT}),
    "context_management": closed({}, {"edits": listed(_EDIT)}),
    "mcp_servers": listed(FREE),
    "output_config": FREE,
    "speed": TEXT,
    "system": either(TEXT, listed(_TEXT_BLOCK)),
    "thinking": _THINKING,
    "tool_choice": _CHOICE,
    "tools": listed(_TOOL),
}
COUNT = closed({"model": TEXT, "messages": listed(_MESSAGE)}, _COUNTED)
REQUEST = closed(
    {"model": TEXT, "messages": listed(_MESSAGE), "max_tokens": WHOLE},
    {
        **_COUNTED,
        "container": ANY,
        "diagnostics": ANY,
        "fallback_credit_token": TEXT,
        "fallbacks": ANY,
        "inference_geo": TEXT,
        "metadata": closed({}, {"user_id": TEXT}),
        "safeguards": listed(FREE),
        "service_tier": one_of("auto", "standard_only"),
        "stop_sequences": listed(TEXT),
        "stream": FLAG,
        "temperature": NUMBER,
        "thread": ANY,
        "top_k": WHOLE,
        "top_p": NUMBER,
    },
)
_KINDS = {"object": "dictionary", "array": "list"}


def _word(breach: Breach) -> ContractViolation:
    where = ".".join(map(str, breach.path))
    match breach.rule:
        case "unknown_field":
            return ContractViolation("unknown_field", f"{where}: Extra inputs are not permitted", where)
        case "missing":
            return ContractViolation("missing", f"{where}: Field required", where)
        case "type":
            kind = breach.allowed[0]
            return ContractViolation("type", f"{where}: Input should be a valid {_KINDS.get(kind, kind)}", where)
        case _ if breach.path[-1] == "role":
            return ContractViolation("value", f'{where}: Unexpected role "{breach.value}".', where)
        case _:
            allowed = " or ".join(f"'{value}'" for value in breach.allowed)
            return ContractViolation("value", f"{where}: Input should be {allowed}", where)


def check_shape(body: Any, *, counting: bool = False) -> Iterator[ContractViolation]:
    """Yield the fields that a request must not have, lacks, or has with another type."""
    return map(_word, find_breaches(body, COUNT if counting else REQUEST))
