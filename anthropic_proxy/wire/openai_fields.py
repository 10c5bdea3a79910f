"""Fields of a body that OpenAI's two languages spell alike; what a server knows of them its dialect says."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.schema import STANDARD, SchemaRules, admits_object, encode_schema_once
from anthropic_proxy.wire.standing_notes import NO_SAMPLING, NO_SERVICE_TIER, NO_TOP_K, ONE_CALL, lowered_limit

HEADERS: Mapping[str, str] = {"content-type": "application/json"}
LOOSE_OUTPUT = Note(
    "approximated", "output_config.format", "the schema has what strict mode refuses, so the reply may deviate from it"
)
"""Said where a reply's schema does not qualify for strict mode."""
_ONE_VALUE = "Reply with one JSON value only, without a code fence, that fits this JSON Schema:\n"


class _Dialect(Protocol):
    @property
    def sampling(self) -> Literal["always", "not_thinking", "never"]: ...
    @property
    def says_parallel(self) -> bool: ...
    @property
    def names_user(self) -> bool: ...
    @property
    def says_service_tier(self) -> bool: ...
    @property
    def session_header(self) -> str: ...
    @property
    def output_limit(self) -> int | None: ...


def add_tools(body: dict[str, Any], definitions: list[Any], choice: Any, call: Call, notes: list[Note]) -> None:
    """Say the tools, how to choose among them, and whether several may be called at once."""
    if not definitions:
        return
    body["tools"] = definitions
    if choice is not None:
        body["tool_choice"] = choice
    dialect = _dialect_of(call)
    asked = call.request.tool_choice
    if asked is None or not asked.disable_parallel_tool_use:
        return
    if dialect.says_parallel:
        body["parallel_tool_calls"] = False
    else:
        notes.append(ONE_CALL)


def find_output_limit(call: Call, notes: list[Note]) -> int:
    """Return the most that the reply may have: what the client asks for, or less where a refusal said so."""
    asked, most = call.request.max_tokens, _dialect_of(call).output_limit
    if most is None or asked <= most:
        return asked
    notes.append(lowered_limit(asked, most))
    return most


def add_sampling(body: dict[str, Any], effort: str, call: Call, notes: list[Note]) -> None:
    """Say temperature and `top_p` where the model takes them at this effort."""
    request, dialect = call.request, _dialect_of(call)
    says = dialect.sampling == "always" or (dialect.sampling == "not_thinking" and effort == "none")
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
        if value is None:
            continue
        if says:
            body[name] = value
        else:
            notes.append(NO_SAMPLING[name])
    if request.top_k is not None:
        notes.append(NO_TOP_K)


def add_origin(body: dict[str, Any], call: Call, notes: list[Note]) -> Mapping[str, str]:
    """Say who asks, by hashes, and at which tier; returns the request's headers."""
    request, dialect = call.request, _dialect_of(call)
    if dialect.names_user:
        if request.user_id:
            body["safety_identifier"] = request.user_key()
        body["prompt_cache_key"] = request.session_key()
    if request.service_tier == "standard_only":
        if dialect.says_service_tier:
            body["service_tier"] = "default"
        else:
            notes.append(NO_SERVICE_TIER)
    if dialect.session_header:
        return {**HEADERS, dialect.session_header: request.session_key()}
    return HEADERS


def find_output_schema(call: Call, notes: list[Note], rules: SchemaRules = STANDARD) -> tuple[Raw, bool] | None:
    """Return the cleaned schema of the reply, and whether it qualifies for strict mode.

    None: any reply will do, or `find_output_wish` says it in words.
    """
    schema = bytes(call.request.output_schema)
    if not schema or not admits_object(schema):
        return None
    cleaned, qualifies, lost = encode_schema_once(schema, rules)
    notes += [Note("approximated", "output_config.format", what) for what in lost]
    return cleaned, qualifies


def find_output_wish(call: Call, notes: list[Note]) -> str:
    """Return what a system text must ask for where the reply is to be a list or a plain value; else nothing.

    Both languages refuse a schema whose root is no object, and what is made one would ask for another reply.
    """
    schema = bytes(call.request.output_schema)
    if not schema or admits_object(schema):
        return ""
    notes.append(Note("emulated", "output_config.format", "asked for in words: a schema there must be an object's"))
    return f"{_ONE_VALUE}{msgspec.json.format(schema, indent=-1).decode()}"


def _dialect_of(call: Call) -> _Dialect:
    dialect: _Dialect = call.dialect
    return dialect
