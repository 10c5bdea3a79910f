"""`tool_tokens`: estimates the tokens of a tool definition.

A tool counts as a function signature: names, types, descriptions and allowed values. The estimate matches the counts of
OpenAI and Gemini in recorded traffic. It is too low for servers that insert the complete JSON Schema into the prompt.
"""

import functools
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.messages.models import Tool
from anthropic_proxy.messages.tokens.density import estimate_text_tokens

_PER_TOOL = 10
_PER_PROPERTY = 5
"""Number of tokens that a property of a tool's schema costs besides its name: type and punctuation."""
_PER_VALUE = 1
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""JSON Schema keywords with an object as value: name → schema."""
_MAX_CACHED_BYTES = 32 * 1024
"""Maximum size in bytes of a tool definition for which the token count is cached."""


class _Definition(Struct):
    name: str = ""
    description: str | None = None
    input_schema: Any = None


_decode = msgspec.json.Decoder(_Definition).decode


def tool_tokens(tool: Tool) -> float:
    """Return the estimated tokens of a tool definition. Results for small definitions are cached."""
    if len(tool.source) > _MAX_CACHED_BYTES:
        return _weigh(tool.source)
    return _weigh_cached(tool.source) if tool.source else _weigh_struct(tool)


def _weigh(source: bytes) -> float:
    try:
        tool = _decode(source)
    except (msgspec.DecodeError, RecursionError):
        return _PER_TOOL + estimate_text_tokens(source)
    return _signature(tool.name, tool.description, tool.input_schema)


_weigh_cached = functools.lru_cache(maxsize=1024)(_weigh)


def _weigh_struct(tool: Tool) -> float:
    schema = msgspec.json.decode(tool.input_schema) if len(tool.input_schema) else None
    return _signature(tool.name, tool.description, schema)


def _signature(name: str, description: str | None, schema: Any) -> float:
    words = [name, description or ""]
    marks = _walk(schema, words)
    return _PER_TOOL + marks + estimate_text_tokens("\n".join(words).encode(errors="replace"))


def _walk(schema: Any, words: list[str]) -> int:
    """Append all names and texts of a JSON Schema to `words`. Return the tokens of its punctuation and types."""
    if isinstance(schema, list):
        return sum(_walk(member, words) for member in schema)
    if not isinstance(schema, dict):
        return 0
    marks = 0
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, dict):
            words.extend(value)
            marks += _PER_PROPERTY * len(value) + sum(_walk(member, words) for member in value.values())
        elif keyword == "enum" and isinstance(value, list):
            words.extend(map(str, value))
            marks += _PER_VALUE * len(value)
        elif keyword in ("description", "const", "pattern") and isinstance(value, str):
            words.append(value)
        else:
            marks += _walk(value, words)
    return marks
