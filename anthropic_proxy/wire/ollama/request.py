"""Encoding of a prepared request as an upstream request to Ollama's `/api/chat`.

The body has the messages, the tools, and `options` with sampling, the context window and the output limit.
"""

from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.ollama.dialect import Dialect, resolve_context_window
from anthropic_proxy.wire.ollama.messages import OllamaMessageEncoder
from anthropic_proxy.wire.ollama.tools import ToolFields, encode_tools
from anthropic_proxy.wire.shared_notes import EFFORT_AS_SWITCH, NO_EFFORT, NO_SERVICE_TIER, SCHEMA_AS_TEXT

PATH = "/api/chat"
"""URL path of Ollama's chat API, below the base URL of the server."""

_HEADERS = {"content-type": "application/json"}
_encode = msgspec.json.Encoder().encode
_UNTHOUGHT = FidelityNote("approximated", "thinking", "a started reply continues without thinking first")


def encode_request(call: Call[Dialect]) -> UpstreamRequest:
    """Encode the upstream request. Raises `UnsupportedFeature` if a forced tool cannot be offered."""
    dialect = call.dialect
    notes: list[FidelityNote] = []
    tools = encode_tools(
        call, WorkBudget("tools", max_steps_here=call.max_schema_steps, tool_names=call.client_tool_names)
    )
    schema, instruction = _output(call, tools, notes)
    messages = OllamaMessageEncoder(call)
    body: dict[str, Any] = {
        "model": call.model,
        "messages": messages.encode_messages(extra_system=instruction, user_instruction=tools.user_instruction),
        "stream": call.streams_upstream,  # left out it means true
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


def _options(call: Call[Dialect], dialect: Dialect) -> dict[str, Any]:
    request = call.request
    options: dict[str, Any] = {}
    if dialect.sends_num_ctx:
        options["num_ctx"] = resolve_context_window(call)
    options["num_predict"] = request.max_tokens
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
    return options | {name: value for name, value in sampling.items() if value is not None}


def _think(call: Call[Dialect], dialect: Dialect, begins_reply: bool, notes: list[FidelityNote]) -> bool | str | None:
    """Return the value of the field `think`, which controls reasoning. None: the field is not sent.

    `begins_reply`: True if the model continues the last assistant message.
    """
    effort = call.request.effort
    if dialect.think_form == "never":
        if effort not in ("default", "none"):
            notes.append(NO_EFFORT)
        return None
    if begins_reply and dialect.think_form != "only_level":
        if effort != "none":
            notes.append(_UNTHOUGHT)
        return False  # the template engine refuses to think before text that stands already
    if effort == "default":
        return None
    if dialect.think_form != "switch" and effort != "none":
        return effort
    if effort != "none":
        notes.append(EFFORT_AS_SWITCH)
    return effort != "none"


def _duration(text: str) -> int | str:
    number = text.removeprefix("-")
    return int(text) if number.isdecimal() else text


def _output(call: Call[Dialect], tools: ToolFields, notes: list[FidelityNote]) -> tuple[Raw | None, str]:
    """Return the value of the field `format`, and a text for the system prompt. One of them has the reply schema.

    The text is used if the request has tools, because `format` would prevent tool calls. None and "": not sent.
    """
    schema = call.request.output_schema
    if not schema:
        return None, ""
    if not tools.definitions:
        return schema, ""
    # `format` binds every token of the reply, so the model could never call a tool
    notes.append(SCHEMA_AS_TEXT)
    shown = msgspec.json.format(bytes(schema), indent=-1).decode()
    return None, f"When you give your answer, reply with nothing but JSON that fits this JSON Schema:\n{shown}"
