"""Request fields that Chat Completions and Responses share."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.contract import BaseDialect, Call
from anthropic_proxy.wire.json_schema import STANDARD, SchemaRules, admits_object, encode_schema_once
from anthropic_proxy.wire.shared_notes import NO_SAMPLING, NO_SERVICE_TIER, NO_TOP_K, SINGLE_TOOL_CALL

HEADERS: Mapping[str, str] = {"content-type": "application/json"}
SCHEMA_NOT_ENFORCED = FidelityNote(
    "approximated", "output_config.format", "the schema does not fit strict mode, so the reply may deviate from it"
)
"""Note for a reply schema that does not qualify for strict mode."""
_ONE_VALUE = "Reply with one JSON value only, without a code fence, that fits this JSON Schema:\n"


class OpenAIDialect(BaseDialect, frozen=True, kw_only=True, cache_hash=True):
    """The dialect fields that Chat Completions and Responses share, with docstrings in each."""

    sampling_support: Literal["always", "not_thinking", "never"]
    effort_names: tuple[tuple[str, str], ...]
    sends_parallel_tool_calls: bool
    sends_user_id: bool
    sends_service_tier: bool
    session_header: str


def add_tools(
    body: dict[str, Any], definitions: list[Any], choice: Any, call: Call[OpenAIDialect], notes: list[FidelityNote]
) -> None:
    """Add the tools, the tool choice and the limit to a single call."""
    if not definitions:
        return
    body["tools"] = definitions
    if choice is not None:
        body["tool_choice"] = choice
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
    """Add temperature and `top_p` if the model accepts them at this effort, and `top_k` if the server does."""
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
    """Add hashes of user and session and the service tier. Returns the request headers."""
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
        return {**HEADERS, dialect.session_header: request.session_key()}
    return HEADERS


def find_output_schema(
    call: Call[OpenAIDialect], budget: WorkBudget, notes: list[FidelityNote], rules: SchemaRules = STANDARD
) -> tuple[Raw, bool] | None:
    """Return the cleaned reply schema, and True if it qualifies for strict mode.

    None: no schema, or one that is sent as `output_instruction`.
    """
    schema = bytes(call.request.output_schema)
    if not schema or not admits_object(schema, budget):
        return None
    cleaned, qualifies, lost = encode_schema_once(schema, budget, rules)
    notes += [FidelityNote("approximated", "output_config.format", what) for what in lost]
    return cleaned, qualifies


def output_instruction(call: Call[OpenAIDialect], budget: WorkBudget, notes: list[FidelityNote]) -> str:
    """Return a system text that requests a list or a plain value; "" for other replies.

    Both protocols require an object at the root of a schema. An object wrapped around it would request another reply.
    """
    schema = bytes(call.request.output_schema)
    if not schema or admits_object(schema, budget):
        return ""
    notes.append(
        FidelityNote(
            "emulated", "output_config.format", "requested in the prompt: the provider accepts only schemas of objects"
        )
    )
    return f"{_ONE_VALUE}{msgspec.json.format(schema, indent=-1).decode()}"
