"""A prepared request → a Responses body."""

from typing import Any

import msgspec

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import text_raw
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.openai_fields import (
    LOOSE_OUTPUT,
    add_origin,
    add_sampling,
    add_tools,
    find_output_limit,
    find_output_schema,
    find_output_wish,
)
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.items import ItemEncoder
from anthropic_proxy.wire.openai_responses.tools import Tools, encode_tools
from anthropic_proxy.wire.standing_notes import NO_EFFORT, renamed_effort
from anthropic_proxy.wire.texts import join_texts

PATH = "/responses"

_ENCRYPTED = "reasoning.encrypted_content"
_SOURCES = "web_search_call.action.sources"
_OUTPUTS = "code_interpreter_call.outputs"
_LEAST_SEARCHING = "low"
"""The least effort at which the models search; `minimal` is refused beside it (guide to web search)."""

_encode = msgspec.json.Encoder().encode


def encode_request(call: Call) -> UpstreamRequest:
    """Say the request as a Responses body. Raises `UnsupportedFeature` where a forced tool cannot be offered."""
    dialect: Dialect = call.dialect
    request = call.request
    notes: list[Note] = []
    tools = encode_tools(call, dialect)
    items = ItemEncoder(call, dialect)
    body: dict[str, Any] = {"model": call.model}
    instructions = [block.text for block in request.system]
    if wish := find_output_wish(call, notes):
        instructions.append(text_raw(wish))
    if instructions:
        body["instructions"] = join_texts(instructions)
    body["input"] = items.encode()
    add_tools(body, tools.definitions, tools.choice, call, notes)
    if tools.most_searches is not None:
        body["max_tool_calls"] = tools.most_searches
    body["max_output_tokens"] = _output_limit(call, dialect, notes)
    _add_reasoning(body, tools, call, dialect, notes)
    keeps_schema = _add_format(body, call, dialect, notes)
    add_sampling(body, request.effort, call, notes)
    if dialect.says_store:
        body["store"] = False
    if dialect.says_truncation:
        body["truncation"] = "disabled"
    headers = add_origin(body, call, notes)
    if call.stream:
        body["stream"] = True
    return UpstreamRequest(
        path=PATH,
        body=_encode(body),
        headers=headers,
        notes=(*notes, *tools.notes, *items.notes),
        keeps_schema=keeps_schema,
    )


def _output_limit(call: Call, dialect: Dialect, notes: list[Note]) -> int:
    asked, least = call.request.max_tokens, dialect.least_output
    limit = find_output_limit(call, notes)
    if asked < least:
        why = f"{asked} → {least}, the least that {call.provider} takes; the reply is cut here, at about {asked} tokens"
        notes.append(Note("emulated", "max_tokens", why))
    return max(limit, least)


def _add_reasoning(body: dict[str, Any], tools: Tools, call: Call, dialect: Dialect, notes: list[Note]) -> None:
    request = call.request
    effort = request.effort
    if tools.searches and effort == "minimal":
        effort = _LEAST_SEARCHING
        notes.append(Note("approximated", "output_config.effort", f"minimal → {effort}; it does not search below"))
    included: list[str] = []
    if dialect.reasons:
        thinking = dialect.is_thinking(effort)
        said = dict(dialect.effort_names).get(effort, effort)
        if said != effort:
            notes.append(renamed_effort(effort, said))
        reasoning = {} if effort == "default" else {"effort": said}
        if thinking and dialect.summaries and request.shows_thinking:
            reasoning["summary"] = "auto"
        if reasoning:
            body["reasoning"] = reasoning
        if thinking:
            included.append(_ENCRYPTED)
    elif effort not in ("default", "none"):
        notes.append(NO_EFFORT)
    if tools.searches and dialect.search_sources:
        included.append(_SOURCES)
    if tools.runs_programs and dialect.says_container:
        included.append(_OUTPUTS)
    if included:
        body["include"] = included


def _add_format(body: dict[str, Any], call: Call, dialect: Dialect, notes: list[Note]) -> bool:
    """Add the schema that the reply must have; say whether the provider keeps to it."""
    found = find_output_schema(call, notes)
    if found is None:
        return False
    cleaned, qualifies = found
    if not qualifies:
        notes.append(LOOSE_OUTPUT)
    said: dict[str, Any] = {"type": "json_schema", "name": "output", "schema": cleaned}
    if dialect.says_strict:
        said["strict"] = qualifies
    body["text"] = {"format": said}
    return qualifies
