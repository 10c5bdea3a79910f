"""A prepared request → a Chat Completions body."""

from typing import Any

import msgspec

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.messages import MessageEncoder
from anthropic_proxy.wire.openai_chat.tools import Tools, encode_schema, encode_tools

PATH = "/chat/completions"

_HEADERS = {"content-type": "application/json"}
_encode = msgspec.json.Encoder().encode


def encode_request(call: Call) -> UpstreamRequest:
    """Say the request as a Chat Completions body. Raises `UnsupportedFeature` where a forced tool cannot be offered."""
    dialect: Dialect = call.dialect
    request = call.request
    notes: list[Note] = []
    tools = encode_tools(call, dialect)
    output, extra_system = _output(call, dialect, bool(tools.definitions), notes)
    messages = MessageEncoder(call, dialect)
    body: dict[str, Any] = {
        "model": call.model,
        "messages": messages.encode(extra_system=extra_system, ask=tools.asks),
        dialect.limit_name: min(request.max_tokens, dialect.output_limit or request.max_tokens),
    }
    _add_tools(body, tools, call, dialect, notes)
    if output is not None:
        body["response_format"] = output
    effort = _effort(call, dialect, bool(tools.definitions), notes)
    _add_effort(body, effort, call, dialect, notes)
    _add_sampling(body, effort, call, dialect, notes)
    if call.stream:
        body["stream"] = True
        if dialect.says_usage:
            body["stream_options"] = {"include_usage": True}
    headers = _add_origin(body, call, dialect, notes)
    return UpstreamRequest(
        path=PATH, body=_encode(body), headers=headers, notes=(*notes, *tools.notes, *messages.notes)
    )


def _add_tools(body: dict[str, Any], tools: Tools, call: Call, dialect: Dialect, notes: list[Note]) -> None:
    if not tools.definitions:
        return
    body["tools"] = tools.definitions
    if tools.choice is not None:
        body["tool_choice"] = tools.choice
    choice = call.request.tool_choice
    if choice is not None and choice.disable_parallel_tool_use:
        if dialect.says_parallel:
            body["parallel_tool_calls"] = False
        else:
            why = f"{call.provider} cannot be told; further calls of a reply are discarded"
            notes.append(Note("emulated", "tool_choice.disable_parallel_tool_use", why))


def _effort(call: Call, dialect: Dialect, has_tools: bool, notes: list[Note]) -> str:
    """Return the effort that can be said beside tools."""
    effort = call.request.effort
    if not has_tools or dialect.effort_with_tools in ("", effort):
        return effort
    if effort != "default":
        why = f"{effort} → {dialect.effort_with_tools}; {call.model} takes tools over Chat Completions only so"
        notes.append(Note("approximated", "output_config.effort", why))
    return dialect.effort_with_tools


def _add_effort(body: dict[str, Any], effort: str, call: Call, dialect: Dialect, notes: list[Note]) -> None:
    said = dict(dialect.effort_names).get(effort, effort)
    form = dialect.effort
    if effort != "default":
        if form == "omit" and effort != "none":
            notes.append(Note("dropped", "output_config.effort", f"{call.model} at {call.provider} takes none"))
        elif form == "reasoning":
            body["reasoning"] = {"effort": said}
        elif form == "reasoning_effort" or (form == "thinking_and_effort" and effort != "none"):
            body["reasoning_effort"] = said
    thinking: dict[str, Any] = {}
    if form in ("thinking", "thinking_and_effort") and effort != "default":
        thinking["type"] = "disabled" if effort == "none" else "enabled"
    if dialect.thinking_keeps and effort != "none":
        thinking.setdefault("type", "enabled")
        thinking.update({"keep": "all"} if dialect.thinking_keeps == "keep" else {"clear_thinking": False})
    if thinking:
        body["thinking"] = thinking
    if dialect.thinking_request == "include_reasoning":
        body["include_reasoning"] = True
    elif dialect.thinking_request == "reasoning_format":
        body["reasoning_format"] = "parsed"


def _add_sampling(body: dict[str, Any], effort: str, call: Call, dialect: Dialect, notes: list[Note]) -> None:
    request = call.request
    says = dialect.sampling == "always" or (dialect.sampling == "not_thinking" and effort == "none")
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
    """Add what says who asks and what may be kept; returns the headers."""
    request = call.request
    if dialect.says_store:
        body["store"] = False
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


def _output(call: Call, dialect: Dialect, has_tools: bool, notes: list[Note]) -> tuple[Any, str]:
    """Return `response_format` and what the system prompt must say, for a reply with a schema."""
    schema = bytes(call.request.output_schema)
    if not schema:
        return None, ""
    cleaned, strict, lost = encode_schema(schema, dialect.schema)
    notes += [Note("approximated", "output_config.format", what) for what in lost]
    alone = dialect.json_output_alone and (has_tools or call.stream)
    if dialect.json_output == "json_schema" and not alone:
        if not strict:
            why = "the schema has what strict mode refuses, so the reply may deviate from it"
            notes.append(Note("approximated", "output_config.format", why))
        return {"type": "json_schema", "json_schema": {"name": "output", "schema": cleaned, "strict": strict}}, ""
    notes.append(Note("emulated", "output_config.format", "the system prompt asks for JSON of that schema"))
    wish = (
        f"Reply with one JSON object only, without a code fence, that fits this JSON Schema:\n{bytes(cleaned).decode()}"
    )
    return ({"type": "json_object"} if dialect.json_output == "json_object" and not alone else None), wish
