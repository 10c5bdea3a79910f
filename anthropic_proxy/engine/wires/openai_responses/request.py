"""Encoder of upstream requests: converts a prepared client request to a request of the Responses API.

The conversation becomes `input`, a list of items (`ItemEncoder`): messages, reasoning, calls and results. `tools.py`
encodes the tools.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from anthropic_proxy.engine.messages.fidelity import FidelityNote, note_replacement
from anthropic_proxy.engine.messages.models import (
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    json_string,
)
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.json_schema import UNRESTRICTED_RULES, find_schema_rules
from anthropic_proxy.engine.wires.message_encoder import (
    TOOL_ERROR_PREFIX,
    MessageEncoder,
    image_url,
    join_json_strings,
    join_system_prompt,
    pdf_filename,
    pdf_url,
    replace_media_by_text,
)
from anthropic_proxy.engine.wires.openai_responses.decisions import encode_decision, is_decision
from anthropic_proxy.engine.wires.openai_responses.dialect import Dialect
from anthropic_proxy.engine.wires.openai_responses.tools import encode_loaded_tools, encode_tools
from anthropic_proxy.engine.wires.openai_shared import (
    SCHEMA_NOT_ENFORCED,
    add_sampling,
    add_tools,
    add_user_and_tier,
    encode_reply_schema,
    reply_schema_instruction,
)
from anthropic_proxy.engine.wires.past_media import omit_past_media
from anthropic_proxy.engine.wires.shared_notes import FOREIGN_THINKING_DROPPED, NO_EFFORT, renamed_effort_note
from anthropic_proxy.engine.wires.thinking import decode_signature
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest

RESPONSES_PATH = "/responses"

_encode = msgspec.json.Encoder().encode


def encode_request(call: TranslatedCall[Dialect]) -> UpstreamRequest:
    if is_decision(call):
        return encode_decision(call)
    notes: list[FidelityNote] = []
    if call.dialect.omits_past_media:
        call = omit_past_media(call, notes)
    dialect = call.dialect
    request = call.request
    budget = WorkBudget("tools", max_steps_here=call.max_schema_steps, tool_names=call.client_tool_names)
    tools = encode_tools(call, budget)
    items = ItemEncoder(call, dialect)
    body: dict[str, Any] = {"model": call.model}
    first: list[Any] = []
    if (instructions := join_system_prompt(request, reply_schema_instruction(call, budget, notes))) is not None:
        if dialect.sends_cache_breakpoint and request.has_cache_marks():  # `instructions` cannot have a breakpoint
            first = [_InputMessage("developer", [_MarkedTextPart(instructions)])]
        else:
            body["instructions"] = instructions
    body["input"] = first + items.encode_input(encode_loaded_tools(call, budget, notes), tools.user_instruction)
    if tools.definitions:
        add_tools(body, tools.definitions, tools.tool_choice, call, notes)
    if tools.max_searches is not None:
        body["max_tool_calls"] = tools.max_searches
    body["max_output_tokens"] = request.max_tokens
    effort = request.effort
    if tools.can_search and effort == "minimal":  # web search rejects `minimal` (guide to web search)
        reason = "; the provider does not search at a lower effort"
        notes.append(note_replacement("output_config.effort", effort, "low", reason))
        effort = "low"
    if dialect.can_reason:
        if reasoning := _encode_reasoning(call, effort, notes):
            body["reasoning"] = reasoning
    elif effort not in ("default", "none"):
        notes.append(NO_EFFORT)
    wants_state = dialect.requests_reasoning_state and dialect.is_thinking_at_effort(effort)
    includes = (
        ("reasoning.encrypted_content", wants_state),
        ("web_search_call.action.sources", tools.can_search and dialect.requests_search_sources),
        ("code_interpreter_call.outputs", tools.runs_code and dialect.sends_container),
    )
    if included := [field for field, is_wanted in includes if is_wanted]:
        body["include"] = included
    keeps_schema = False
    rules = find_schema_rules(UNRESTRICTED_RULES, call.dialect.schema_language)
    if (found := encode_reply_schema(call, budget, notes, rules)) is not None:
        cleaned, keeps_schema = found
        if not keeps_schema:
            notes.append(SCHEMA_NOT_ENFORCED)
        strict = {"strict": keeps_schema} if dialect.sends_strict else {}
        body["text"] = {"format": {"type": "json_schema", "name": "output", "schema": cleaned, **strict}}
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


def _encode_reasoning(call: TranslatedCall[Dialect], effort: str, notes: list[FidelityNote]) -> dict[str, str]:
    dialect = call.dialect
    names = dict(dialect.effort_names)
    sent_effort = names.get(effort, effort)
    if sent_effort != effort:
        notes.append(renamed_effort_note(effort, sent_effort))
    if call.effort_plan is not None and dialect.sends_configuration_updates:
        sent_effort = names.get(call.effort_plan.baseline, call.effort_plan.baseline)
    reasoning = {} if effort == "default" else {"effort": sent_effort}
    if dialect.requests_summaries and call.request.returns_thinking and dialect.is_thinking_at_effort(effort):
        reasoning["summary"] = "auto"
    return reasoning


COUNTED_FIELDS = frozenset(
    ("model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "text", "truncation")
)
"""Fields of the API's token count (`InputTokenCountParams` of the official SDK `openai` 3.51)."""


_MAX_ID_LENGTH = 64


class _TextPart(Struct, tag="input_text", tag_field="type", gc=False):
    text: Raw


class _CacheBreakpoint(Struct, frozen=True, gc=False):
    mode: Literal["explicit"] = "explicit"


class _MarkedTextPart(Struct, tag="input_text", tag_field="type", gc=False):
    """Text at whose end the provider caches the prompt."""

    text: Raw
    prompt_cache_breakpoint: _CacheBreakpoint = _CacheBreakpoint()


class _ImagePart(Struct, tag="input_image", tag_field="type", gc=False):
    image_url: str
    detail: str = "auto"


class _FilePart(Struct, tag="input_file", tag_field="type", omit_defaults=True, gc=False):
    filename: str = ""
    file_data: str = ""
    file_url: str = ""


_Media = _ImagePart | _FilePart
_Part = _TextPart | _MarkedTextPart | _Media


class _InputMessage(Struct, tag="message", tag_field="type", gc=False):
    role: Literal["user", "developer"]
    content: list[_Part]


class _Reply(Struct, tag="message", tag_field="type", gc=False):
    """Text of an earlier reply, sent as a string. A content part `output_text` would need an id of the server."""

    content: Raw
    role: Literal["assistant"] = "assistant"
    phase: str | UnsetType = UNSET


class _Call(Struct, tag="function_call", tag_field="type", gc=False):
    call_id: str
    name: str
    arguments: str


class _Result(Struct, tag="function_call_output", tag_field="type", gc=False):
    call_id: str
    output: Raw | list[_Part]


class _Summary(Struct, tag="summary_text", tag_field="type", gc=False):
    text: str


class _Thought(Struct, tag="reasoning_text", tag_field="type", gc=False):
    text: str


class _Reasoning(Struct, kw_only=True, tag="reasoning", tag_field="type", gc=False):
    id: str | UnsetType = UNSET
    summary: list[_Summary]
    content: list[_Thought] | UnsetType = UNSET
    encrypted_content: str | UnsetType = UNSET


class _Effort(Struct, gc=False):
    effort: str


class _ConfigurationUpdate(Struct, tag="configuration_update", tag_field="type", gc=False):
    """Change of the effort, from the user message after it until the next such item."""

    reasoning: _Effort


class _AdditionalTools(Struct, tag="additional_tools", tag_field="type", gc=False):
    """Tools that the model may call from here on. The list `tools` of the request stays as it was."""

    tools: Sequence[Raw]
    role: Literal["developer"] = "developer"


_Item = _InputMessage | _Reply | _Call | _Result | _Reasoning | _AdditionalTools | _ConfigurationUpdate


class ItemEncoder(MessageEncoder):
    def __init__(self, call: TranslatedCall[Dialect], dialect: Dialect) -> None:
        changes: dict[int, str] = {}
        if call.effort_plan is not None and dialect.sends_configuration_updates:
            names = dict(dialect.effort_names)
            changes = {turn: names.get(effort, effort) for turn, effort in call.effort_plan.changes.items()}
        super().__init__(call.request, *() if changes or call.request.loaded_tools else (dialect,))
        self.accepts_media_in_results = dialect.accepts_media_in_results
        self._dialect = dialect
        self._effort_changes = changes
        """Number of a user message → effort from this message on."""
        self._turns = 0

    def encode_input(self, loaded_tools: Mapping[str, Sequence[Raw]], user_instruction: str) -> list[_Item]:
        """Return the field `input`: the conversation as a list of items.

        `loaded_tools`: definitions of loaded tools by the id of the tool result that has loaded them.
        `user_instruction` follows the conversation. "": no text.
        """
        self._encode_conversation()
        if loaded_tools:
            # each definition follows the results of the calls among which it was loaded
            waiting = {_call_id(call_id): tools for call_id, tools in loaded_tools.items()}
            items = self.messages
            found = list[Raw]()
            self.messages = []
            for item in items:
                if type(item) is _Result:
                    found += waiting.pop(item.call_id, ())
                elif found:
                    self.messages.append(_AdditionalTools(found))
                    found = []
                self.messages.append(item)
            if found:
                self.messages.append(_AdditionalTools(found))
        if self.messages and isinstance(self.messages[-1], _Reply):
            self._append_prefill_request()
        if self._late_texts:
            self._flush_late_texts()
        if user_instruction:
            self._append_user([json_string(user_instruction)])
        if self._drops_thinking:
            self.notes.append(FOREIGN_THINKING_DROPPED)
        return self.messages

    def _append_system(self, texts: list[Raw]) -> None:
        self.messages.append(_InputMessage("developer", [_TextPart(text) for text in texts]))

    def _append_user(self, parts: list[Any]) -> None:
        if self._effort_changes and (effort := self._effort_changes.get(self._turns)) is not None:
            self.messages.append(_ConfigurationUpdate(_Effort(effort)))
        self._turns += 1
        self.messages.append(_InputMessage("user", [_TextPart(part) if type(part) is Raw else part for part in parts]))

    def _append_result(self, block: ToolResultBlock, content: Any) -> None:
        if type(content) is not Raw:
            content = [_TextPart(part) if type(part) is Raw else part for part in content]
        call_id = block.tool_use_id
        self.messages.append(_Result(call_id if len(call_id) <= _MAX_ID_LENGTH else _call_id(call_id), content))

    def _result_label(self, block: ToolResultBlock) -> str:
        return _call_id(block.tool_use_id)

    def _join_result_without_media(self, blocks: list[Any], content: list[Any], *, is_error: bool) -> Raw:
        mark = [json_string(TOOL_ERROR_PREFIX)] if is_error else []
        return join_json_strings([*mark, *replace_media_by_text(blocks, content)])

    def _encode_image(self, block: ImageBlock) -> _Media | None:
        url = image_url(block, self._dialect.image_types, accepts_urls=True)
        return _ImagePart(url) if url else None

    def _encode_document(self, block: DocumentBlock) -> _Media | None:
        url = pdf_url(block, accepts_urls=True)
        if block.source.type == "url":
            return _FilePart(file_url=url)
        return _FilePart(filename=pdf_filename(block), file_data=url) if url else None

    def _encode_reply(self, message: Message) -> None:
        last_call = last_output = -1  # indexes of the last tool call, and of the last call or text
        for place, block in enumerate(message.content):
            if type(block) is ToolUseBlock:
                last_call = last_output = place
            elif type(block) is TextBlock:
                last_output = place
        if last_output < 0:
            self._drops_thinking |= any(type(block) is ThinkingBlock for block in message.content)
            return
        if self._late_texts:
            self._flush_late_texts()
        texts: list[Raw] = []
        for place, block in enumerate(message.content):
            if type(block) is TextBlock:
                texts.append(block.text)
            elif type(block) is ToolUseBlock:
                if texts:
                    self._encode_text(texts, before_call=True)
                self.messages.append(_Call(_call_id(block.id), block.name, str(block.input, "utf-8")))
            elif type(block) is ThinkingBlock:
                if texts:
                    self._encode_text(texts, before_call=place < last_call)
                self._encode_thought(block, has_follower=place < last_output)
        if texts:
            self._encode_text(texts, before_call=False)
        self._has_open_calls = last_call >= 0

    def _encode_text(self, texts: list[Raw], *, before_call: bool) -> None:
        reply = _Reply(join_json_strings(texts))
        texts.clear()
        if self._dialect.sends_phase:
            reply.phase = "commentary" if before_call else "final_answer"
        self.messages.append(reply)

    def _encode_thought(self, block: ThinkingBlock, *, has_follower: bool) -> None:
        """Append reasoning that this provider can decrypt, if a text or call follows: the server rejects any other."""
        dialect = self._dialect
        carry = decode_signature(dialect.signature_tag, block.signature)
        if carry is None or not (has_follower and dialect.can_reason and dialect.replays_thinking):
            self._drops_thinking = True
            return
        text = block.thinking
        if carry.encrypted:
            summary = [_Summary(text)] if text else []
            item = _Reasoning(summary=summary, encrypted_content=carry.encrypted)
        elif carry.replay and text:
            item = _Reasoning(summary=[], content=[_Thought(text)])
        else:
            self._drops_thinking = True
            return
        if carry.item_id:
            item.id = carry.item_id
        self.messages.append(item)


def _call_id(client_id: str) -> str:
    if len(client_id) <= _MAX_ID_LENGTH:
        return client_id
    return f"call_{hashlib.sha256(client_id.encode(errors='surrogatepass')).hexdigest()[:32]}"
