"""Encoding of the upstream request fields that Chat Completions and Responses have in common.

`OpenAIDialect` has the common dialect fields. The `add_…` functions add fields to `body`, the upstream request as a
dict. They append a note to `notes` for each client setting that is changed or dropped. `encode_reply_schema` encodes
the client's JSON Schema for the reply. For a schema that the API cannot accept, `reply_schema_instruction` returns a
text for the system prompt. In strict mode, a tool call always matches its JSON Schema.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.contract import BaseDialect, Call
from anthropic_proxy.wire.json_schema import UNRESTRICTED_RULES, SchemaRules, encode_schema_cached, may_accept_object
from anthropic_proxy.wire.shared_notes import NO_SAMPLING, NO_SERVICE_TIER, NO_TOP_K, SINGLE_TOOL_CALL

REQUEST_HEADERS: Mapping[str, str] = {"content-type": "application/json"}
"""Headers of each upstream request, without the credential."""
SCHEMA_NOT_ENFORCED = FidelityNote(
    "approximated", "output_config.format", "the schema does not fit strict mode, so the reply may deviate from it"
)
"""Note for a reply schema that is sent without `strict`, because strict mode does not allow it."""
_ONE_VALUE = "Reply with one JSON value only, without a code fence, that fits this JSON Schema:\n"


class OpenAIDialect(BaseDialect, frozen=True, kw_only=True, cache_hash=True):
    """Dialect fields that Chat Completions and Responses have in common. The dialect of each wire sets defaults."""

    sampling_support: Literal["always", "not_thinking", "never"]
    """Condition on which `temperature` and `top_p` are sent. `not_thinking`: only with the effort (reasoning level)
    `none`."""
    effort_names: tuple[tuple[str, str], ...]
    """Pairs of a requested effort level and the level to send, where the two differ."""
    sends_parallel_tool_calls: bool
    """True if the server accepts `parallel_tool_calls`."""
    sends_user_id: bool
    """True if hashes of the client's user and session are sent as `safety_identifier` and `prompt_cache_key`."""
    sends_service_tier: bool
    """True if the client's `service_tier: "standard_only"` is sent as `service_tier: "default"`."""
    session_header: str
    """Name of the request header with a hash of the session. It selects a machine with a warm prompt cache. "":
    none."""


def add_tools(
    body: dict[str, Any], definitions: list[Any], tool_choice: Any, call: Call[OpenAIDialect], notes: list[FidelityNote]
) -> None:
    """Add the tools to `body`: the fields `tools`, `tool_choice` and `parallel_tool_calls`.

    An empty list of `definitions` adds no field.
    """
    if not definitions:
        return
    body["tools"] = definitions
    if tool_choice is not None:
        body["tool_choice"] = tool_choice
    dialect = call.dialect
    asked = call.request.tool_choice
    if asked is None or not asked.disable_parallel_tool_use:
        return
    if dialect.sends_parallel_tool_calls:
        body["parallel_tool_calls"] = False
    else:
        notes.append(SINGLE_TOOL_CALL)


def add_sampling(
    body: dict[str, Any],
    effort: str,
    call: Call[OpenAIDialect],
    notes: list[FidelityNote],
    *,
    sends_top_k: bool = False,
) -> None:
    """Add the client's `temperature`, `top_p` and `top_k` to `body`, or a note to `notes` for each that is not sent.

    `effort` is the level of reasoning. Some servers accept `temperature` and `top_p` only with the level `none`.
    """
    request, dialect = call.request, call.dialect
    accepted = dialect.sampling_support == "always" or (dialect.sampling_support == "not_thinking" and effort == "none")
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
        if value is None:
            continue
        if accepted:
            body[name] = value
        else:
            notes.append(NO_SAMPLING[name])
    if request.top_k is not None and sends_top_k:
        body["top_k"] = request.top_k
    elif request.top_k is not None:
        notes.append(NO_TOP_K)


def add_user_and_tier(body: dict[str, Any], call: Call[OpenAIDialect], notes: list[FidelityNote]) -> Mapping[str, str]:
    """Add hashes of the client's user and session, and its service tier, to `body`, if the server accepts them.

    Return the headers of the upstream request. For some servers, they also contain the hash of the session.
    """
    request, dialect = call.request, call.dialect
    if dialect.sends_user_id:
        if request.user_id:
            body["safety_identifier"] = request.user_key()
        body["prompt_cache_key"] = request.session_key()
    if request.service_tier == "standard_only":
        if dialect.sends_service_tier:
            body["service_tier"] = "default"
        else:
            notes.append(NO_SERVICE_TIER)
    if dialect.session_header:
        return {**REQUEST_HEADERS, dialect.session_header: request.session_key()}
    return REQUEST_HEADERS


class EncodedReplySchema(NamedTuple):
    """The client's JSON Schema for the reply, with only the keywords that the provider accepts."""

    schema: Raw
    """The cleaned schema, as JSON text."""
    qualifies_for_strict: bool
    """True if OpenAI's strict mode allows the schema."""


def encode_reply_schema(
    call: Call[OpenAIDialect], budget: WorkBudget, notes: list[FidelityNote], rules: SchemaRules = UNRESTRICTED_RULES
) -> EncodedReplySchema | None:
    """Return the client's JSON Schema for the reply, with only the keywords that `rules` permit.

    None: the request has no schema, or no JSON object can match its schema. The API accepts only schemas of objects.
    Raises `WorkLimitExceeded` if the work exceeds `budget`.
    """
    schema = bytes(call.request.output_schema)
    if not schema or not may_accept_object(schema, budget):
        return None
    cleaned, qualifies, lost = encode_schema_cached(schema, budget, rules)
    notes += [FidelityNote("approximated", "output_config.format", what) for what in lost]
    return EncodedReplySchema(cleaned, qualifies)


def reply_schema_instruction(call: Call[OpenAIDialect], budget: WorkBudget, notes: list[FidelityNote]) -> str:
    """Return a system prompt text with the client's JSON Schema for the reply. "": no text is needed.

    The text is needed if the schema allows no JSON object, because the API accepts only schemas of objects.
    """
    schema = bytes(call.request.output_schema)
    if not schema or may_accept_object(schema, budget):
        return ""
    notes.append(
        FidelityNote(
            "emulated", "output_config.format", "requested in the prompt: the provider accepts only schemas of objects"
        )
    )
    return f"{_ONE_VALUE}{msgspec.json.format(schema, indent=-1).decode()}"
