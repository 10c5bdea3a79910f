"""The fields of requests to OpenAI (API reference, 2026-11), and its texts about those that are wrong."""

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

_TEXT_PART = closed({"type": TEXT, "text": TEXT}, {"prompt_cache_breakpoint": ANY})
_TEXTS = either(TEXT, listed(tagged("type", {"text": _TEXT_PART})))
_IMAGE = closed({"url": TEXT}, {"detail": one_of("auto", "low", "high", "original")})
_FILE = closed({}, {"file_data": TEXT, "file_id": TEXT, "filename": TEXT})
_USER_PART = tagged(
    "type",
    {
        "text": _TEXT_PART,
        "image_url": closed({"type": TEXT, "image_url": _IMAGE}, {"prompt_cache_breakpoint": ANY}),
        "input_audio": closed({"type": TEXT, "input_audio": FREE}, {"prompt_cache_breakpoint": ANY}),
        "file": closed({"type": TEXT, "file": _FILE}, {"prompt_cache_breakpoint": ANY}),
    },
)
_FUNCTION_CALL = closed({"name": TEXT, "arguments": TEXT}, {})
_CALL = tagged(
    "type",
    {
        "function": closed({"id": TEXT, "type": TEXT, "function": _FUNCTION_CALL}, {}),
        "custom": closed({"id": TEXT, "type": TEXT, "custom": closed({"name": TEXT, "input": TEXT}, {})}, {}),
    },
)
_SYSTEM = closed({"role": TEXT, "content": _TEXTS}, {"name": TEXT})
_ASSISTANT_PART = tagged(
    "type", {"text": _TEXT_PART, "refusal": closed({"type": TEXT, "refusal": TEXT}, {"prompt_cache_breakpoint": ANY})}
)
_MESSAGE = tagged(
    "role",
    {
        "developer": _SYSTEM,
        "system": _SYSTEM,
        "user": closed({"role": TEXT, "content": either(TEXT, listed(_USER_PART))}, {"name": TEXT}),
        "assistant": closed(
            {"role": TEXT},
            {
                "content": either(TEXT, listed(_ASSISTANT_PART)),
                "refusal": TEXT,
                "name": TEXT,
                "audio": FREE,
                "tool_calls": listed(_CALL),
                "function_call": _FUNCTION_CALL,
                "reasoning_content": TEXT,
            },
        ),
        "tool": closed({"role": TEXT, "content": _TEXTS, "tool_call_id": TEXT}, {}),
        "function": closed({"role": TEXT, "content": TEXT, "name": TEXT}, {}),
    },
)
"""A message. `reasoning_content` is not OpenAI's: servers with visible reasoning want it back."""
_FUNCTION = closed({"name": TEXT}, {"description": TEXT, "parameters": FREE, "strict": FLAG})
_TOOL = tagged(
    "type",
    {
        "function": closed({"type": TEXT, "function": _FUNCTION}, {}),
        "custom": closed({"type": TEXT, "custom": FREE}, {}),
    },
)
_CHOICE = either(
    one_of("none", "auto", "required"),
    tagged(
        "type",
        {
            "function": closed({"type": TEXT, "function": closed({"name": TEXT}, {})}, {}),
            "custom": closed({"type": TEXT, "custom": FREE}, {}),
            "allowed_tools": closed({"type": TEXT, "allowed_tools": FREE}, {}),
        },
    ),
)
_JSON_SCHEMA = closed({"name": TEXT}, {"description": TEXT, "schema": FREE, "strict": FLAG})
_FORMAT = tagged(
    "type",
    {
        "text": closed({"type": TEXT}, {}),
        "json_object": closed({"type": TEXT}, {}),
        "json_schema": closed({"type": TEXT, "json_schema": _JSON_SCHEMA}, {}),
    },
)
_STREAM_OPTIONS = closed({}, {"include_usage": FLAG, "include_obfuscation": FLAG})
_TIERS = one_of("auto", "default", "flex", "scale", "priority", "fast")
_SHARED: Mapping[str, Schema] = {
    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    "moderation": FREE,
    "parallel_tool_calls": FLAG,
    "prompt_cache_key": TEXT,
    "prompt_cache_options": FREE,
    "prompt_cache_retention": TEXT,
    "safety_identifier": TEXT,
    "service_tier": _TIERS,
    "store": FLAG,
    "stream": FLAG,
    "temperature": NUMBER,
    "top_logprobs": WHOLE,
    "top_p": NUMBER,
    "user": TEXT,
}
CHAT = closed(
    {"model": TEXT, "messages": listed(_MESSAGE)},
    {
        **_SHARED,
        "audio": FREE,
        "frequency_penalty": NUMBER,
        "function_call": ANY,
        "functions": listed(FREE),
        "logit_bias": FREE,
        "logprobs": FLAG,
        "max_completion_tokens": WHOLE,
        "max_tokens": WHOLE,
        "modalities": listed(TEXT),
        "n": WHOLE,
        "prediction": FREE,
        "presence_penalty": NUMBER,
        "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
        "response_format": _FORMAT,
        "seed": WHOLE,
        "stop": either(TEXT, listed(TEXT)),
        "stream_options": _STREAM_OPTIONS,
        "tool_choice": _CHOICE,
        "tools": listed(_TOOL),
        "verbosity": one_of("low", "medium", "high"),
        "web_search_options": FREE,
    },
)
"""A request of Chat Completions."""
_INPUT_PART = tagged(
    "type",
    {
        "input_text": closed({"type": TEXT, "text": TEXT}, {"prompt_cache_breakpoint": ANY}),
        "input_image": closed(
            {"type": TEXT},
            {"detail": TEXT, "image_url": TEXT, "file_id": TEXT, "prompt_cache_breakpoint": ANY},
        ),
        "input_file": closed(
            {"type": TEXT},
            {
                "detail": TEXT,
                "file_data": TEXT,
                "file_id": TEXT,
                "file_url": TEXT,
                "filename": TEXT,
                "prompt_cache_breakpoint": ANY,
            },
        ),
        "output_text": closed({"type": TEXT, "text": TEXT}, {"annotations": listed(FREE), "logprobs": listed(FREE)}),
        "refusal": closed({"type": TEXT, "refusal": TEXT}, {}),
    },
)
_SUMMARY = closed({"type": TEXT, "text": TEXT}, {})
_ITEM = {
    "if": {"properties": {"type": {"enum": ["message", "function_call", "function_call_output", "reasoning"]}}},
    "then": tagged(
        "type",
        {
            "message": closed(
                {
                    "role": one_of("user", "assistant", "system", "developer"),
                    "content": either(TEXT, listed(_INPUT_PART)),
                },
                {"type": TEXT, "id": TEXT, "status": TEXT, "phase": TEXT},
            ),
            "function_call": closed(
                {"type": TEXT, "call_id": TEXT, "name": TEXT, "arguments": TEXT},
                {"id": TEXT, "status": TEXT, "caller": FREE, "namespace": TEXT, "async": ANY},
            ),
            "function_call_output": closed(
                {"type": TEXT, "call_id": TEXT, "output": either(TEXT, listed(_INPUT_PART))},
                {"id": TEXT, "status": TEXT, "caller": FREE, "name": TEXT, "namespace": TEXT},
            ),
            "reasoning": closed(
                {"type": TEXT, "id": TEXT, "summary": listed(_SUMMARY)},
                {"content": listed(FREE), "encrypted_content": TEXT, "status": TEXT},
            ),
        },
        default="message",
    ),
    "else": FREE,
}
"""An input item; those of the provider's own tools may have any fields."""
_FUNCTION_TOOL = closed(
    {"type": TEXT, "name": TEXT},
    {
        "description": TEXT,
        "parameters": FREE,
        "strict": FLAG,
        "allowed_callers": listed(TEXT),
        "async": ANY,
        "defer_loading": FLAG,
        "output_schema": FREE,
    },
)
_RESPONSES_TOOL = {
    "type": "object",
    "required": ["type"],
    "if": {"properties": {"type": {"const": "function"}}},
    "then": _FUNCTION_TOOL,
}
_RESPONSES_CHOICE = either(one_of("none", "auto", "required"), {"type": "object", "required": ["type"]})
_COUNTED: Mapping[str, Schema] = {
    "conversation": ANY,
    "input": listed(_ITEM),
    "instructions": TEXT,
    "parallel_tool_calls": FLAG,
    "previous_response_id": TEXT,
    "reasoning": closed(
        {},
        {"effort": TEXT, "summary": TEXT, "generate_summary": TEXT, "context": ANY, "mode": ANY},
    ),
    "text": closed({}, {"format": FREE, "verbosity": one_of("low", "medium", "high")}),
    "tool_choice": _RESPONSES_CHOICE,
    "tools": listed(_RESPONSES_TOOL),
    "truncation": one_of("auto", "disabled"),
}
RESPONSES = closed(
    {"model": TEXT},
    {
        **_SHARED,
        **_COUNTED,
        "access_programs": ANY,
        "background": FLAG,
        "context_management": ANY,
        "image": ANY,
        "include": listed(TEXT),
        "max_output_tokens": WHOLE,
        "max_tool_calls": WHOLE,
        "prompt": FREE,
        "stream_options": closed({}, {"include_obfuscation": FLAG}),
    },
)
"""A request of Responses whose input is a list of items."""
RESPONSES_COUNT = closed({}, {**_COUNTED, "model": TEXT, "personality": TEXT})
"""A request that counts the tokens of such an input."""
_NAMES = {
    "object": "an object",
    "array": "an array",
    "string": "a string",
    "boolean": "a boolean",
    "integer": "an integer",
    "number": "a number",
    "null": "null",
}
_KINDS = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def _place(path: tuple[str | int, ...]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _word(breach: Breach) -> ContractViolation:
    where = _place(breach.path)
    match breach.rule:
        case "unknown_field" if len(breach.path) == 1:
            return ContractViolation("unknown_field", f"Unrecognized request argument supplied: {where}")
        case "unknown_field":
            return ContractViolation("unknown_field", f"Unknown parameter: '{where}'.", where, "unknown_parameter")
        case "missing":
            text = f"Missing required parameter: '{where}'."
            return ContractViolation("missing", text, where, "missing_required_parameter")
        case "type":
            given = _NAMES[_KINDS[type(breach.value)]]
            text = f"Invalid type for '{where}': expected {_NAMES[breach.allowed[0]]}, but got {given} instead."
            return ContractViolation("type", text, where, "invalid_type")
        case _:
            supported = ", ".join(f"'{value}'" for value in breach.allowed)
            text = f"Invalid value: '{breach.value}'. Supported values are: {supported}."
            return ContractViolation("value", text, where, "invalid_value")


def check_shape(body: Any, schema: Schema) -> Iterator[ContractViolation]:
    """Yield the fields that a request must not have, lacks, or has with another type."""
    return map(_word, find_breaches(body, schema))
