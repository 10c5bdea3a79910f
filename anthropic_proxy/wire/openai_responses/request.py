"""A prepared request → a Responses body."""

from typing import Any

import msgspec

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.items import ItemEncoder, join_texts
from anthropic_proxy.wire.openai_responses.tools import Tools, encode_schema, encode_tools

PATH = "/responses"

_HEADERS = {"content-type": "application/json"}
_ENCRYPTED = "reasoning.encrypted_content"
_SOURCES = "web_search_call.action.sources"
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
    if request.system:
        body["instructions"] = join_texts([block.text for block in request.system])
    body["input"] = items.encode()
    _add_tools(body, tools, call, dialect, notes)
    body["max_output_tokens"] = _output_limit(call, dialect, notes)
    _add_reasoning(body, tools, call, dialect, notes)
    _add_format(body, call, dialect, notes)
    _add_sampling(body, call, dialect, notes)
    headers = _add_origin(body, call, dialect, notes)
    if call.stream:
        body["stream"] = True
    return UpstreamRequest(path=PATH, body=_encode(body), headers=headers, notes=(*notes, *tools.notes, *items.notes))


def _add_tools(body: dict[str, Any], tools: Tools, call: Call, dialect: Dialect, notes: list[Note]) -> None:
    if not tools.definitions:
        return
    body["tools"] = tools.definitions
    if tools.choice is not None:
        body["tool_choice"] = tools.choice
    if tools.most_searches is not None:
        body["max_tool_calls"] = tools.most_searches
    choice = call.request.tool_choice
    if choice is not None and choice.disable_parallel_tool_use:
        if dialect.says_parallel:
            body["parallel_tool_calls"] = False
        else:
            why = f"{call.provider} cannot be told; further calls of a reply are discarded"
            notes.append(Note("emulated", "tool_choice.disable_parallel_tool_use", why))


def _output_limit(call: Call, dialect: Dialect, notes: list[Note]) -> int:
    asked, least = call.request.max_tokens, dialect.least_output
    if asked < least:
        why = f"{asked} → {least}, the least that {call.provider} takes; the reply is cut here, at about {asked} tokens"
        notes.append(Note("emulated", "max_tokens", why))
    return max(min(asked, dialect.output_limit or asked), least)


def _add_reasoning(body: dict[str, Any], tools: Tools, call: Call, dialect: Dialect, notes: list[Note]) -> None:
    request = call.request
    effort = request.effort
    if tools.searches and effort == "minimal":
        effort = _LEAST_SEARCHING
        notes.append(Note("approximated", "output_config.effort", f"minimal → {effort}; it does not search below"))
    included: list[str] = []
    if dialect.reasons:
        thinking = dialect.is_thinking(effort)
        reasoning = {} if effort == "default" else {"effort": dict(dialect.effort_names).get(effort, effort)}
        if thinking and dialect.summaries and request.shows_thinking:
            reasoning["summary"] = "auto"
        if reasoning:
            body["reasoning"] = reasoning
        if thinking:
            included.append(_ENCRYPTED)
    elif effort not in ("default", "none"):
        notes.append(Note("dropped", "output_config.effort", f"{call.model} at {call.provider} takes none"))
    if tools.searches and dialect.search_sources:
        included.append(_SOURCES)
    if included:
        body["include"] = included


def _add_format(body: dict[str, Any], call: Call, dialect: Dialect, notes: list[Note]) -> None:
    """Add the schema that the reply must have."""
    schema = bytes(call.request.output_schema)
    if not schema:
        return
    cleaned, qualifies, lost = encode_schema(schema)
    notes += [Note("approximated", "output_config.format", what) for what in lost]
    if not qualifies:
        why = "the schema has what strict mode refuses, so the reply may deviate from it"
        notes.append(Note("approximated", "output_config.format", why))
    said: dict[str, Any] = {"type": "json_schema", "name": "output", "schema": cleaned}
    if dialect.says_strict:
        said["strict"] = qualifies
    body["text"] = {"format": said}


def _add_sampling(body: dict[str, Any], call: Call, dialect: Dialect, notes: list[Note]) -> None:
    request = call.request
    says = dialect.sampling == "always" or (dialect.sampling == "not_thinking" and request.effort == "none")
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
        if value is None:
            continue
        if says:
            body[name] = value
        else:
            notes.append(Note("dropped", name, f"{call.model} chooses for itself"))
    if request.top_k is not None:
        notes.append(Note("dropped", "top_k", f"{call.provider} has no such setting"))


def _add_origin(body: dict[str, Any], call: Call, dialect: Dialect, notes: list[Note]) -> dict[str, str]:
    """Add what says who asks, and that nothing may be kept or cut away; returns the headers."""
    request = call.request
    if dialect.says_store:
        body["store"] = False
    if dialect.says_truncation:
        body["truncation"] = "disabled"
    if dialect.names_user:
        if request.user_id:
            body["safety_identifier"] = request.user_key()
        body["prompt_cache_key"] = request.session_key()
    if request.service_tier == "standard_only":
        if dialect.says_service_tier:
            body["service_tier"] = "default"
        else:
            notes.append(Note("dropped", "service_tier", f"{call.provider} has no such setting"))
    if dialect.session_header:
        return {**_HEADERS, dialect.session_header: request.session_key()}
    return _HEADERS
