"""A prepared request → the body of `/api/chat`."""

from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.ollama.dialect import Dialect
from anthropic_proxy.wire.ollama.messages import MessageEncoder
from anthropic_proxy.wire.ollama.tools import Tools, encode_tools
from anthropic_proxy.wire.ollama.window import window_of
from anthropic_proxy.wire.standing_notes import IN_WORDS, NO_EFFORT, NO_SERVICE_TIER, ON_OR_OFF

PATH = "/api/chat"

_HEADERS = {"content-type": "application/json"}
_encode = msgspec.json.Encoder().encode
_UNTHOUGHT = Note("approximated", "thinking", "a reply that was begun goes on without thinking first")


def encode_request(call: Call) -> UpstreamRequest:
    """Say the request as a body of `/api/chat`. Raises `UnsupportedFeature` where a forced tool cannot be offered."""
    dialect: Dialect = call.dialect
    notes: list[Note] = []
    tools = encode_tools(call)
    schema, wish = _output(call, tools, notes)
    messages = MessageEncoder(call)
    body: dict[str, Any] = {
        "model": call.model,
        "messages": messages.encode(extra_system=wish, ask=tools.asks),
        "stream": call.stream,  # left out it means true
    }
    if tools.definitions:
        body["tools"] = tools.definitions
    if schema is not None:
        body["format"] = schema
    think = _think(call, dialect, messages.begins_reply, notes)
    if think is not None:
        body["think"] = think
    if dialect.keep_alive is not None:
        body["keep_alive"] = _duration(dialect.keep_alive)
    # both refuse what does not fit, in place of leaving out the beginning or the middle of a conversation in silence
    body["truncate"] = body["shift"] = False
    body["options"] = _options(call, dialect)
    if call.request.service_tier == "standard_only":
        notes.append(NO_SERVICE_TIER)
    return UpstreamRequest(
        path=PATH, body=_encode(body), headers=_HEADERS, notes=(*notes, *tools.notes, *messages.notes)
    )


def _options(call: Call, dialect: Dialect) -> dict[str, Any]:
    request = call.request
    options: dict[str, Any] = {}
    if dialect.says_window:
        options["num_ctx"] = window_of(call)
    options["num_predict"] = request.max_tokens
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
    return options | {name: value for name, value in sampling.items() if value is not None}


def _think(call: Call, dialect: Dialect, begins_reply: bool, notes: list[Note]) -> bool | str | None:
    """Return `think`; None: say nothing, and a model that can think does."""
    effort = call.request.effort
    if dialect.thinking == "never":
        if effort not in ("default", "none"):
            notes.append(NO_EFFORT)
        return None
    if begins_reply and dialect.thinking == "switch":
        if effort != "none":
            notes.append(_UNTHOUGHT)
        return False  # the template engine refuses to think before text that stands already
    if effort == "default":
        return None
    if dialect.thinking == "level" and effort != "none":
        return effort
    if effort != "none":
        notes.append(ON_OR_OFF)
    return effort != "none"


def _duration(text: str) -> int | str:
    number = text.removeprefix("-")
    return int(text) if number.isdecimal() else text


def _output(call: Call, tools: Tools, notes: list[Note]) -> tuple[Raw | None, str]:
    """Return `format` and what the system prompt must say, for a reply with a schema."""
    schema = call.request.output_schema
    if not schema:
        return None, ""
    if not tools.definitions:
        return schema, ""
    # `format` binds every token of the reply, so the model could never call a tool
    notes.append(IN_WORDS)
    shown = msgspec.json.format(bytes(schema), indent=-1).decode()
    return None, f"When you give your answer, reply with nothing but JSON that fits this JSON Schema:\n{shown}"
