"""Encoder of upstream requests: converts a prepared client request to a request of Google's `generateContent`.

The body has the conversation (`contents`), the tools, and `generationConfig` with limits, sampling and thinking. Other
modules of the package encode conversation, tools and schemas.
"""

import functools
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import TextBlock
from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.gemini.contents import ContentsEncoder
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.gemini.schema import encode_reply_schema
from anthropic_proxy.wire.gemini.tools import ToolFields, encode_tools
from anthropic_proxy.wire.json_schema import REPLY_SCHEMA_PATH
from anthropic_proxy.wire.json_strings import join_json_strings
from anthropic_proxy.wire.shared_notes import (
    NO_EFFORT,
    NO_SAMPLING,
    NO_SERVICE_TIER,
    SCHEMA_AS_TEXT,
    renamed_effort_note,
)

_BUDGETS = {"low": 2_048, "medium": 8_192, "high": 24_576}
_MAX_OUTPUT_TOKENS = 65_536
"""Limit to which the proxy raises `maxOutputTokens`. Thinking counts as output, so a thinking budget chosen by the
proxy is added to the client's limit."""
_HEADERS = {"content-type": "application/json"}
_encode = msgspec.json.Encoder().encode
_ANSWER_IN_JSON = "Answer with nothing but one JSON value that fits this JSON Schema:\n"


def encode_request(call: Call[Dialect]) -> UpstreamRequest:
    """Return the upstream request for `generateContent`, or for `streamGenerateContent` if the response is streamed.

    Raises `UnsupportedFeature` if a forced tool cannot be offered. Smaller losses are recorded as notes.
    """
    request, dialect = call.request, call.dialect
    notes: list[FidelityNote] = []
    budget = WorkBudget("tools", max_steps_here=call.max_schema_steps, tool_names=call.client_tool_names)
    toolbox = encode_tools(request, dialect, notes, budget)
    config, instruction = _encode_config(call, toolbox, notes, budget)
    contents = ContentsEncoder(call, notes)
    for message in request.messages:
        contents.add_message(message)
    body: dict[str, Any] = {"contents": contents.build_contents()}
    if system := [*request.system, *instruction]:
        body["systemInstruction"] = {"parts": [{"text": join_json_strings([block.text for block in system])}]}
    if toolbox.tools:
        body["tools"] = toolbox.tools
    if request.service_tier == "standard_only":
        notes.append(NO_SERVICE_TIER)
    if toolbox.tool_config:
        body["toolConfig"] = toolbox.tool_config
    body["generationConfig"] = config
    if call.continuation_token:
        body["continuationToken"] = call.continuation_token
    return UpstreamRequest(
        path=_path_of(call.model, call.streams_upstream),
        body=_encode(body),
        headers=_HEADERS,
        notes=notes,
        enforces_schema="responseJsonSchema" in config,
    )


@functools.lru_cache(maxsize=256)
def _path_of(model: str, stream: bool) -> str:
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/models/{quote(model.removeprefix('models/'), safe='')}:{method}"


def _encode_config(
    call: Call[Dialect], toolbox: ToolFields, notes: list[FidelityNote], budget: WorkBudget
) -> tuple[dict[str, Any], list[TextBlock]]:
    """Return `generationConfig`, and texts to add to the system prompt: the reply schema, if it is sent as text."""
    request, dialect = call.request, call.dialect
    thinking, chosen = _encode_thinking(call, notes)
    limit = request.max_tokens
    config: dict[str, Any] = {"maxOutputTokens": max(limit, min(limit + chosen, _MAX_OUTPUT_TOKENS))}
    if dialect.sends_sampling:
        sampling = {"temperature": request.temperature, "topP": request.top_p, "topK": request.top_k}
        config |= {name: value for name, value in sampling.items() if value is not None}
    else:
        asked = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
        notes += [NO_SAMPLING[name] for name, value in asked.items() if value is not None]
    if thinking:
        config["thinkingConfig"] = thinking
    instruction: list[TextBlock] = []
    if request.output_schema:
        if toolbox.tools and not dialect.accepts_schema_with_functions:
            notes.append(SCHEMA_AS_TEXT)
            schema = msgspec.json.format(bytes(request.output_schema), indent=-1).decode()
            words = msgspec.json.encode(_ANSWER_IN_JSON + schema)
            instruction.append(TextBlock(Raw(words)))
        else:
            lowered = dialect.schema_form == "lowered"
            config["responseMimeType"] = "application/json"
            with budget.error_field(REPLY_SCHEMA_PATH):
                budget.count_decoding_steps(request.output_schema)
                encoded = encode_reply_schema(msgspec.json.decode(request.output_schema), budget, as_openapi=lowered)
            config["responseSchema" if lowered else "responseJsonSchema"] = encoded
    return config, instruction


def _encode_thinking(call: Call[Dialect], notes: list[FidelityNote]) -> tuple[dict[str, Any], int]:
    """Return `thinkingConfig`, and the tokens of a thinking budget that the proxy chose. 0: it chose none."""
    request, dialect = call.request, call.dialect
    effort = dict(dialect.effort_names).get(request.effort, request.effort)
    if dialect.thinking == "none":
        if effort not in ("default", "none"):
            notes.append(NO_EFFORT)
        return {}, 0
    if effort != request.effort:
        notes.append(renamed_effort_note(request.effort, effort))
    config: dict[str, Any] = {}
    if request.returns_thinking and effort != "none":
        config["includeThoughts"] = True
    if dialect.thinking == "level":
        if effort not in ("default", "none"):
            config["thinkingLevel"] = effort
        return config, 0
    if effort == "none":
        return {"thinkingBudget": 0}, 0
    if request.budget_tokens is not None:
        config["thinkingBudget"] = min(max(request.budget_tokens, dialect.min_budget_tokens), dialect.max_budget_tokens)
        return config, 0
    if effort == "default":
        return config, 0
    budget = dialect.min_budget_tokens if effort == "minimal" else _BUDGETS.get(effort, dialect.max_budget_tokens)
    config["thinkingBudget"] = budget
    return config, budget
