"""Encoder of upstream requests: converts a prepared client request to a request of the Responses API.

`encode_request` builds path and body. Other modules of the package encode the conversation (`input`, a list of items)
and the tools.
"""

from typing import Any

import msgspec

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.message_encoder import join_system_prompt
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.items import ItemEncoder
from anthropic_proxy.wire.openai_responses.tools import ToolFields, encode_tools
from anthropic_proxy.wire.openai_shared_fields import (
    SCHEMA_NOT_ENFORCED,
    add_sampling,
    add_tools,
    add_user_and_tier,
    encode_reply_schema,
    reply_schema_instruction,
)
from anthropic_proxy.wire.shared_notes import NO_EFFORT, renamed_effort_note

RESPONSES_PATH = "/responses"
"""URL path of the Responses API, below the base URL of the provider."""

_ENCRYPTED = "reasoning.encrypted_content"
_SOURCES = "web_search_call.action.sources"
_OUTPUTS = "code_interpreter_call.outputs"
_MIN_SEARCH_EFFORT = "low"
"""Effort that replaces `minimal` if the request offers web search. Web search rejects `minimal` (guide to web
search)."""

_encode = msgspec.json.Encoder().encode


def encode_request(call: Call[Dialect]) -> UpstreamRequest:
    """Encode the upstream request. Raises `UnsupportedFeature` if a forced tool cannot be offered."""
    dialect = call.dialect
    request = call.request
    notes: list[FidelityNote] = []
    budget = WorkBudget("tools", max_steps_here=call.max_schema_steps, tool_names=call.client_tool_names)
    tools = encode_tools(call, dialect, budget)
    items = ItemEncoder(call, dialect)
    body: dict[str, Any] = {"model": call.model}
    instructions = join_system_prompt(request, reply_schema_instruction(call, budget, notes))
    if instructions is not None:
        body["instructions"] = instructions
    body["input"] = items.encode_input()
    add_tools(body, tools.definitions, tools.tool_choice, call, notes)
    if tools.max_searches is not None:
        body["max_tool_calls"] = tools.max_searches
    body["max_output_tokens"] = _output_limit(call, dialect, notes)
    _add_reasoning(body, tools, call, dialect, notes)
    keeps_schema = _add_format(body, call, budget, notes)
    add_sampling(body, request.effort, call, notes)
    if dialect.sends_store:
        body["store"] = False
    if dialect.sends_truncation:
        body["truncation"] = "disabled"
    headers = add_user_and_tier(body, call, notes)
    if call.streams_upstream:
        body["stream"] = True
    return UpstreamRequest(
        path=RESPONSES_PATH,
        body=_encode(body),
        headers=headers,
        notes=(*notes, *tools.notes, *items.notes),
        enforces_schema=keeps_schema,
    )


def _output_limit(call: Call[Dialect], dialect: Dialect, notes: list[FidelityNote]) -> int:
    asked, minimum = call.request.max_tokens, dialect.min_output_tokens
    if asked < minimum:
        reason = (
            f"{asked} → {minimum}, the minimum of {call.provider}; the proxy cuts the reply at about {asked} tokens"
        )
        notes.append(FidelityNote("emulated", "max_tokens", reason))
    return max(asked, minimum)


def _add_reasoning(
    body: dict[str, Any], tools: ToolFields, call: Call[Dialect], dialect: Dialect, notes: list[FidelityNote]
) -> None:
    request = call.request
    effort = request.effort
    if tools.can_search and effort == "minimal":
        effort = _MIN_SEARCH_EFFORT
        notes.append(
            FidelityNote(
                "approximated",
                "output_config.effort",
                f"minimal → {effort}; the provider does not search at a lower effort",
            )
        )
    included: list[str] = []
    if dialect.can_reason:
        thinking = dialect.is_thinking_at_effort(effort)
        sent_effort = dict(dialect.effort_names).get(effort, effort)
        if sent_effort != effort:
            notes.append(renamed_effort_note(effort, sent_effort))
        reasoning = {} if effort == "default" else {"effort": sent_effort}
        if thinking and dialect.requests_summaries and request.returns_thinking:
            reasoning["summary"] = "auto"
        if reasoning:
            body["reasoning"] = reasoning
        if thinking:
            included.append(_ENCRYPTED)
    elif effort not in ("default", "none"):
        notes.append(NO_EFFORT)
    if tools.can_search and dialect.requests_search_sources:
        included.append(_SOURCES)
    if tools.runs_code and dialect.sends_container:
        included.append(_OUTPUTS)
    if included:
        body["include"] = included


def _add_format(body: dict[str, Any], call: Call[Dialect], budget: WorkBudget, notes: list[FidelityNote]) -> bool:
    """Add the client's reply schema to the body. Return True if the provider enforces the schema."""
    dialect = call.dialect
    found = encode_reply_schema(call, budget, notes)
    if found is None:
        return False
    cleaned, qualifies = found
    if not qualifies:
        notes.append(SCHEMA_NOT_ENFORCED)
    output_format: dict[str, Any] = {"type": "json_schema", "name": "output", "schema": cleaned}
    if dialect.sends_strict:
        output_format["strict"] = qualifies
    body["text"] = {"format": output_format}
    return qualifies
