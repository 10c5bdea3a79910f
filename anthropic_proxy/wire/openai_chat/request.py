"""Encoder of upstream requests: converts a prepared client request to a request of the Chat Completions API.

`encode_request` builds path and body. Other modules of the package encode the conversation (`messages`), the tools and
the schema of the reply. The dialect describes how server and model differ from OpenAI's API.
"""

from typing import Any

import msgspec
from msgspec import structs

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.messages import CACHE_MARK, ChatMessageEncoder
from anthropic_proxy.wire.openai_chat.structured_output import encode_reply_schema_fields
from anthropic_proxy.wire.openai_chat.tools import encode_tools
from anthropic_proxy.wire.openai_shared_fields import (
    add_sampling,
    add_tools,
    add_user_and_tier,
)
from anthropic_proxy.wire.shared_notes import EFFORT_AS_SWITCH, NO_EFFORT, renamed_effort_note

PATH = "/chat/completions"
"""URL path of the Chat Completions API, below the base URL of the provider."""

_UNTHINKING = FidelityNote("kept", "tool_choice", "no tool can be forced while the model reasons, so it does not")
_encode = msgspec.json.Encoder().encode


def encode_request(call: Call[Dialect]) -> UpstreamRequest:
    """Encode the upstream request. Raises `UnsupportedFeature` if a forced tool cannot be offered."""
    dialect = call.dialect
    notes: list[FidelityNote] = []
    asked = call
    if dialect.must_disable_thinking(call.request):  # the history is unchanged, for the prompt cache
        asked = structs.replace(call, request=structs.replace(call.request, effort="none"))
        notes.append(_UNTHINKING)
    budget = WorkBudget("tools", max_steps_here=call.max_schema_steps, tool_names=call.client_tool_names)
    tools = encode_tools(asked, dialect, budget)
    output = encode_reply_schema_fields(call, dialect, tools, notes, budget)
    messages = ChatMessageEncoder(call, dialect)
    body: dict[str, Any] = {
        "model": call.model,
        "messages": messages.encode_messages(
            extra_system=output.system_instruction, user_instruction=tools.user_instruction
        ),
        dialect.output_limit_field: call.request.max_tokens,
    }
    add_tools(body, tools.definitions, tools.tool_choice, call, notes)
    body |= tools.body_fields
    if output.response_format is not None:
        body["response_format"] = output.response_format
    effort = _effort(asked, dialect, bool(tools.definitions), notes)
    _add_effort(body, effort, call, dialect, notes)
    add_sampling(body, effort, call, notes, sends_top_k=dialect.sends_top_k)
    if call.streams_upstream:
        _add_stream_fields(body, dialect, has_tools=bool(tools.definitions))
    if dialect.sends_store:
        body["store"] = False
    _add_cache_fields(body, call, dialect)
    return UpstreamRequest(
        path=PATH,
        headers=add_user_and_tier(body, call, notes),  # before the body is encoded: it adds fields
        body=_encode(body),
        notes=(*notes, *tools.notes, *messages.notes),
        enforces_schema=output.enforces_schema,
    )


def _effort(call: Call[Dialect], dialect: Dialect, has_tools: bool, notes: list[FidelityNote]) -> str:
    """Return the effort level to send. It is the requested one, or the only one that the model accepts with tools."""
    effort = call.request.effort
    if not has_tools or dialect.forced_effort_with_tools in ("", effort):
        return effort
    if effort != "default":
        why = (
            f"{effort} → {dialect.forced_effort_with_tools}; {call.model} accepts tools over Chat Completions "
            "only with this effort"
        )
        notes.append(FidelityNote("approximated", "output_config.effort", why))
    return dialect.forced_effort_with_tools


def _add_effort(
    body: dict[str, Any], effort: str, call: Call[Dialect], dialect: Dialect, notes: list[FidelityNote]
) -> None:
    sent_effort = dict(dialect.effort_names).get(effort, effort)
    form = dialect.effort_form
    if effort != "default":
        if form == "omit" and effort != "none":
            notes.append(NO_EFFORT)
        elif form == "reasoning":
            body["reasoning"] = {"effort": sent_effort}
        elif form == "reasoning_effort" or (form == "thinking_and_effort" and sent_effort != "none"):
            body["reasoning_effort"] = sent_effort
        if form not in ("omit", "thinking") and sent_effort != effort:
            notes.append(renamed_effort_note(effort, sent_effort))
        elif form == "thinking" and sent_effort != "none":
            notes.append(EFFORT_AS_SWITCH)
    thinking: dict[str, Any] = {}
    if form in ("thinking", "thinking_and_effort") and effort != "default":
        thinking["type"] = "disabled" if sent_effort == "none" else "enabled"
    if dialect.thinking_retention_field and sent_effort != "none":
        thinking.setdefault("type", "enabled")
        thinking.update({"keep": "all"} if dialect.thinking_retention_field == "keep" else {"clear_thinking": False})
    if thinking:
        body["thinking"] = thinking
    if dialect.thinking_request_field == "include_reasoning":
        body["include_reasoning"] = True
    elif dialect.thinking_request_field == "reasoning_format":
        body["reasoning_format"] = "parsed"


def _add_stream_fields(body: dict[str, Any], dialect: Dialect, *, has_tools: bool) -> None:
    """Add the fields of a streamed reply to `body`. Fields that the server does not accept are omitted."""
    body["stream"] = True
    if dialect.sends_include_usage:
        body["stream_options"] = {"include_usage": True}
    if dialect.sends_tool_stream and has_tools:
        body["tool_stream"] = True


def _add_cache_fields(body: dict[str, Any], call: Call[Dialect], dialect: Dialect) -> None:
    """Add the fields for the provider's prompt cache to `body`: the session id and the cache mark.

    Fields that the server does not accept are omitted.
    """
    if dialect.session_field:
        body[dialect.session_field] = call.request.session_key()
    if dialect.sends_cache_marks and call.request.has_cache_marks():
        body["cache_control"] = CACHE_MARK
