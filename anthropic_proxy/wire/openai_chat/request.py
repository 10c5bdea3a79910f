"""A prepared request → a Chat Completions body."""

from typing import Any

import msgspec
from msgspec import structs

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.messages import MessageEncoder
from anthropic_proxy.wire.openai_chat.output import encode_output
from anthropic_proxy.wire.openai_chat.tools import encode_tools
from anthropic_proxy.wire.openai_fields import (
    add_origin,
    add_sampling,
    add_tools,
    find_output_limit,
)
from anthropic_proxy.wire.standing_notes import NO_EFFORT, ON_OR_OFF, renamed_effort

PATH = "/chat/completions"

_UNTHINKING = Note("kept", "tool_choice", "no tool can be forced while the model reasons, so it does not")
_encode = msgspec.json.Encoder().encode


def encode_request(call: Call) -> UpstreamRequest:
    """Say the request as a Chat Completions body. Raises `UnsupportedFeature` where a forced tool cannot be offered."""
    dialect: Dialect = call.dialect
    notes: list[Note] = []
    asked = call
    if dialect.must_not_think(call.request):  # only for this turn: what was said before stays as it was, for the cache
        asked = structs.replace(call, request=structs.replace(call.request, effort="none"))
        notes.append(_UNTHINKING)
    tools = encode_tools(asked, dialect)
    output = encode_output(call, dialect, tools, notes)
    messages = MessageEncoder(call, dialect)
    body: dict[str, Any] = {
        "model": call.model,
        "messages": messages.encode(extra_system=output.wish, ask=tools.asks),
        dialect.limit_name: find_output_limit(call, notes),
    }
    add_tools(body, tools.definitions, tools.choice, call, notes)
    body |= tools.fields
    if output.form is not None:
        body["response_format"] = output.form
    effort = _effort(asked, dialect, bool(tools.definitions), notes)
    _add_effort(body, effort, call, dialect, notes)
    add_sampling(body, effort, call, notes)
    if call.stream:
        body["stream"] = True
        if dialect.says_usage:
            body["stream_options"] = {"include_usage": True}
    if dialect.says_store:
        body["store"] = False
    headers = add_origin(body, call, notes)
    return UpstreamRequest(
        path=PATH,
        body=_encode(body),
        headers=headers,
        notes=(*notes, *tools.notes, *messages.notes),
        keeps_schema=output.kept,
    )


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
            notes.append(NO_EFFORT)
        elif form == "reasoning":
            body["reasoning"] = {"effort": said}
        elif form == "reasoning_effort" or (form == "thinking_and_effort" and effort != "none"):
            body["reasoning_effort"] = said
        if form not in ("omit", "thinking") and said != effort:
            notes.append(renamed_effort(effort, said))
        elif form == "thinking" and effort != "none":
            notes.append(ON_OR_OFF)
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
