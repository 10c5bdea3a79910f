"""Encoder of upstream requests: converts a prepared client request to a request of the Chat Completions API.

The body has four parts: the conversation (`ChatMessageEncoder`), the tools (`tools.py`), the schema of the reply, and
the settings. A server that accepts no schema gets it as a forced tool, the output tool: the decoder then converts the
arguments of its call to the text of the reply (`OutputToolConverter`).
"""

import hashlib
import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from anthropic_proxy.engine.messages.deltas import Delta, Stop, Text, ToolArgs, ToolCall, ToolEnd
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
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.json_schema import find_schema_rules, may_accept_object
from anthropic_proxy.engine.wires.message_encoder import (
    MessageEncoder,
    image_url,
    join_json_strings,
    join_system_prompt,
    pdf_filename,
    pdf_url,
)
from anthropic_proxy.engine.wires.openai_chat.dialect import Dialect, ThinkingRetention
from anthropic_proxy.engine.wires.openai_chat.effort_forms import EFFORT_FORMS
from anthropic_proxy.engine.wires.openai_chat.tools import ToolFields, encode_tools
from anthropic_proxy.engine.wires.openai_shared import (
    SCHEMA_NOT_ENFORCED,
    add_sampling,
    add_tools,
    add_user_and_tier,
    encode_reply_schema,
    reply_schema_instruction,
)
from anthropic_proxy.engine.wires.past_media import omit_past_media
from anthropic_proxy.engine.wires.shared_notes import (
    EFFORT_AS_SWITCH,
    FOREIGN_THINKING_DROPPED,
    NO_EFFORT,
    SCHEMA_AS_TEXT,
    SCHEMA_AS_TOOL,
    renamed_effort_note,
)
from anthropic_proxy.engine.wires.thinking import (
    SIGNATURE_PLACEHOLDERS,
    ReasoningState,
    decode_signature,
    digest_base_url,
)
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest

PATH = "/chat/completions"


_encode = msgspec.json.Encoder().encode


def encode_request(call: TranslatedCall[Dialect]) -> UpstreamRequest:
    notes: list[FidelityNote] = []
    dialect = call.dialect
    if dialect.omits_past_media:
        call = omit_past_media(call, notes)
    request = call.request
    asked = call
    tools = ToolFields([])
    output = ReplySchemaFields()
    if request.tools or request.tool_choice is not None or len(request.output_schema):
        if dialect.must_disable_thinking(request):  # the history is unchanged, for the prompt cache
            asked = structs.replace(call, request=structs.replace(request, effort="none"))
            why = "no tool can be forced while the model reasons, so it does not"
            notes.append(FidelityNote("kept", "tool_choice", why))
        budget = WorkBudget("tools", max_steps_here=call.max_schema_steps, tool_names=call.client_tool_names)
        tools = encode_tools(asked, budget)
        output = encode_reply_schema_fields(call, tools, notes, budget)
    messages = ChatMessageEncoder(call, dialect)
    body: dict[str, Any] = {
        "model": call.model,
        "messages": messages.encode_messages(
            extra_system=output.system_instruction, user_instruction=tools.user_instruction
        ),
        dialect.output_limit_field: request.max_tokens,
    }
    if tools.definitions:
        add_tools(body, tools.definitions, tools.tool_choice, call, notes)
    if tools.body_fields:
        body |= tools.body_fields
    if output.response_format is not None:
        body["response_format"] = output.response_format
    effort = _add_effort(body, asked, bool(tools.definitions), notes)
    add_sampling(body, effort, call, notes, sends_top_k=dialect.sends_top_k)
    if call.streams_upstream:
        body["stream"] = True
        if dialect.sends_include_usage:
            body["stream_options"] = {"include_usage": True}
        if dialect.sends_tool_stream and tools.definitions:
            body["tool_stream"] = True
    if dialect.sends_store:
        body["store"] = False
    headers = add_user_and_tier(body, call, notes)
    if dialect.sends_cache_marks and dialect.sends_cache_field and request.has_cache_marks():
        body["cache_control"] = _CACHE_MARK
    return UpstreamRequest(
        path=PATH,
        headers=headers,
        body=_encode(body),
        notes=(*notes, *tools.notes, *messages.notes),
        enforces_schema=output.enforces_schema,
    )


COUNTED_FIELDS = frozenset(("model", "messages", "tools", "chat_template_kwargs"))
"""Fields that the chat template of a local model reads, which llama.cpp and vLLM count.

Sources: llama.cpp tools/server/README.md; vllm/entrypoints/serve/tokenize/protocol.py, read 2026-11."""


def _add_effort(body: dict[str, Any], call: TranslatedCall[Dialect], has_tools: bool, notes: list[FidelityNote]) -> str:
    """Add the fields that control reasoning. Return the effort: the requested one, or the only one with tools."""
    dialect = call.dialect
    effort = call.request.effort
    if has_tools and dialect.forced_effort_with_tools not in ("", effort):
        if effort != "default":
            why = f"; {call.model} accepts tools over Chat Completions only with this effort"
            notes.append(note_replacement("output_config.effort", effort, dialect.forced_effort_with_tools, why))
        effort = dialect.forced_effort_with_tools
    sent_effort = dict(dialect.effort_names).get(effort, effort) if dialect.effort_names else effort
    form = EFFORT_FORMS[dialect.effort_form]
    has_level = effort != "default"
    if has_level or (call.request.enables_thinking and dialect.reasoning_mode == "if_asked"):
        form.write(body, sent_effort if has_level else None)
    if has_level and form.level and sent_effort != effort:
        notes.append(renamed_effort_note(effort, sent_effort))
    elif has_level and not form.level and sent_effort != "none":
        notes.append(EFFORT_AS_SWITCH if form.switch else NO_EFFORT)
    if dialect.thinking_retention_field and sent_effort != "none":
        _retain_thinking(body, dialect.thinking_retention_field)
    if dialect.thinking_request_field:
        body[dialect.thinking_request_field] = (
            "parsed" if dialect.thinking_request_field == "reasoning_format" else True
        )
    return effort


def _retain_thinking(body: dict[str, Any], field: ThinkingRetention) -> None:
    enabled = {"type": "enabled", **body.get("thinking", {})}
    match field:
        case "preserve_thinking":
            body["preserve_thinking"] = True
        case "keep":
            body["thinking"] = {**enabled, "keep": "all"}
        case "clear_thinking":
            body["thinking"] = {**enabled, "clear_thinking": False}


_BRIDGE_TEXT = json_string("Understood.")
"""Assistant text that is inserted between tool results and a user message, for servers that require a message there."""

_NULL = Raw(b"null")
_NINE = compile_anchored(r"[a-zA-Z0-9]{9}")
_MAX_ID_LENGTH = 40
_MAX_DETAILS = 1_000
"""Maximum number of objects in the `reasoning_details` of a signature."""
_MISSING_THINKING_TEXT = " "
"""Reasoning text for an earlier reply without reasoning. It is sent to servers that require reasoning in each reply."""


class _ChatMessage(Struct, gc=False):
    role: str
    content: Any


class _Result(Struct, tag="tool", tag_field="role", gc=False):
    tool_call_id: str
    content: Any


class _Function(Struct, gc=False):
    name: str
    arguments: str


class _Call(Struct, kw_only=True, gc=False):
    id: str
    type: str = "function"
    function: _Function
    extra_content: Any = UNSET


class _Reply(Struct, kw_only=True, tag="assistant", tag_field="role", gc=False):
    content: Any | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_details: list[dict[str, Raw]] | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET
    prefix: bool | UnsetType = UNSET
    partial: bool | UnsetType = UNSET


_Part = dict[str, Any]


_CACHE_MARK = {"type": "ephemeral"}
"""Value of `cache_control`. The provider then caches the prompt up to this place for five minutes."""

_EMPTY = (b"null", b'""')


class _TextPart(Struct, tag="text", tag_field="type", gc=False):
    text: Raw


class _MarkedTextPart(Struct, tag="text", tag_field="type", gc=False):
    text: Raw
    cache_control: dict[str, str]


def _add_cache_mark(content: Any) -> Any:
    """Return `content` with the field `cache_control` on its last text that is not empty."""
    if isinstance(content, Raw):
        return content if bytes(content) in _EMPTY else [_MarkedTextPart(content, _CACHE_MARK)]
    parts = [*content]
    for place, part in reversed([*enumerate(parts)]):
        if isinstance(part, _TextPart) and bytes(part.text) not in _EMPTY:
            parts[place] = _MarkedTextPart(part.text, _CACHE_MARK)
            break
    return parts


def _join_contents(contents: Sequence[Any]) -> Any:
    """Return one string if all contents are strings, else a list of parts."""
    texts = [*itertools.takewhile(lambda content: isinstance(content, Raw), contents)]
    if len(texts) == len(contents):
        return join_json_strings(texts)
    first = [_TextPart(join_json_strings(texts))] if texts else []
    remaining = ([_TextPart(content)] if isinstance(content, Raw) else content for content in contents[len(texts) :])
    return [*first, *itertools.chain.from_iterable(remaining)]


class ChatMessageEncoder(MessageEncoder):
    STATE = (*MessageEncoder.STATE, "_ids")

    def __init__(self, call: TranslatedCall[Dialect], dialect: Dialect) -> None:
        super().__init__(call.request, dialect, call.base_url, dialect.is_thinking(call.request))
        self.sends_reminders = dialect.mid_conversation_system != "keep"
        self._dialect = dialect
        self._address = call.base_url
        self._keeps_ids = dialect.call_id_form == "short"
        self._ids: dict[str, str] = {}
        self._joined: dict[int, list[Any]] = {}
        """Index of a message in `messages` → contents of consecutive messages that are sent as this one."""

    def encode_messages(self, *, extra_system: str = "", user_instruction: str = "") -> list[Any]:
        """Return the encoded `messages`, with a text after the system prompt and one at the end. "": no text."""
        system = join_system_prompt(self._request, extra_system)
        if system is not None:
            self.messages.append(_ChatMessage(self._dialect.system_role, system))
        self._encode_conversation()
        if self._late_texts:
            self._flush_late_texts()
        last = self.messages[-1] if self.messages else None
        if isinstance(last, _Reply):
            match self._dialect.prefill_form:
                case "prefix":
                    last.prefix = True
                case "partial":
                    last.partial = True
                case "ask":
                    self._append_prefill_request()
        if user_instruction:
            self._append_user([json_string(user_instruction)])
        self._join_texts()
        if self._drops_thinking:
            self.notes.append(FOREIGN_THINKING_DROPPED)
        if self._dialect.sends_cache_marks and self._request.has_cache_marks():
            first = self.messages[0]
            last = self.messages[-1]
            if isinstance(first, _ChatMessage) and first.role == self._dialect.system_role:
                first.content = _add_cache_mark(first.content)
                last = None if last is first else last
            if isinstance(last, _ChatMessage | _Result):
                last.content = _add_cache_mark(last.content)
        return self.messages

    def _join_texts(self) -> None:
        for place, contents in self._joined.items():
            self.messages[place].content = _join_contents(contents)
        self._joined.clear()

    def _add_reminder(self, text: Raw) -> None:
        """Add the text to the previous message if that is a user message, else to the next user message."""
        last = self.messages[-1] if self.messages else None
        if isinstance(last, _ChatMessage) and last.role == "user":
            self._append_user([text])
        else:
            super()._add_reminder(text)

    def _append_system(self, texts: list[Raw]) -> None:
        role = "user" if self.sends_reminders else self._dialect.system_role
        self._append(_ChatMessage(role, join_json_strings(texts)))

    def _place_late_texts(self, parts: list[Any]) -> None:
        if self.sends_reminders:
            parts += self._late_texts
            self._late_texts = []
        else:
            self._flush_late_texts()

    def _append_user(self, parts: list[Any]) -> None:
        if {*map(type, parts)} == {Raw}:
            self._append(_ChatMessage("user", join_json_strings(parts)))
        else:
            self._append(_ChatMessage("user", [_TextPart(part) if type(part) is Raw else part for part in parts]))

    def _append(self, message: _ChatMessage) -> None:
        last = self.messages[-1] if self.messages else None
        if self._dialect.requires_message_after_results and isinstance(last, _Result):
            self.messages.append(_Reply(content=_BRIDGE_TEXT))
        if self.sends_reminders and isinstance(last, _ChatMessage) and last.role == message.role == "user":
            self._joined.setdefault(len(self.messages) - 1, [last.content]).append(message.content)
        else:
            self.messages.append(message)

    def _append_result(self, block: ToolResultBlock, content: Any) -> None:
        call_id = block.tool_use_id
        is_kept = self._keeps_ids and len(call_id) <= _MAX_ID_LENGTH  # as most are
        self.messages.append(_Result(call_id if is_kept else self._id_of(call_id, ""), content))

    def _result_label(self, block: ToolResultBlock) -> str:
        return self._id_of(block.tool_use_id, "")

    def _encode_image(self, block: ImageBlock) -> _Part | None:
        url = image_url(block, self._dialect.image_types, accepts_urls=self._dialect.accepts_image_urls)
        return {"type": "image_url", "image_url": {"url": url}} if url else None

    def _encode_document(self, block: DocumentBlock) -> _Part | None:
        url = pdf_url(block, accepts_urls=self._dialect.accepts_pdf_urls)
        if not url:
            return None
        if self._dialect.pdf_form == "document_url":
            return {"type": "document_url", "document_url": url}
        return {"type": "file", "file": {"filename": pdf_filename(block), "file_data": url}}

    def _encode_reply(self, message: Message) -> None:
        texts: list[Raw] = []
        calls: list[_Call] = []
        thoughts: list[ThinkingBlock] = []
        for block in message.content:  # one loop: a comprehension per message costs a call on Python 3.11
            if type(block) is TextBlock:
                texts.append(block.text)
            elif type(block) is ToolUseBlock:
                is_kept = self._keeps_ids and len(block.id) <= _MAX_ID_LENGTH
                call_id = block.id if is_kept else self._id_of(block.id, block.name)
                calls.append(_Call(id=call_id, function=_Function(block.name, str(block.input, "utf-8"))))
            elif type(block) is ThinkingBlock:
                thoughts.append(block)
        if not texts and not calls:
            return
        if self._late_texts:
            self._flush_late_texts()
        self._has_open_calls = bool(calls)
        content: Any
        if len(texts) == 1:
            content = texts[0]
        elif texts:
            content = join_json_strings(texts)
        else:
            content = UNSET if self._dialect.omits_null_content else _NULL
        reply = _Reply(content=content, tool_calls=calls or UNSET)
        if thoughts or self._dialect.thinking_replay_scope != "kept":
            self._replay_thinking(thoughts, reply)
        if calls and self._dialect.placeholder_signature:
            self._add_placeholder(reply, calls[0])
        self.messages.append(reply)

    def _replay_thinking(self, blocks: list[ThinkingBlock], reply: _Reply) -> None:
        dialect = self._dialect
        carries = [(block, decode_signature(dialect.signature_tag, block.signature)) for block in blocks]
        address = digest_base_url(self._address)
        kept = [
            (block, carry)
            for block, carry in carries
            if carry is not None
            and (carry.replay or carry.encrypted or (carry.call_signature and carry.server_digest == address))
        ]
        if len(kept) < len(blocks):
            self._drops_thinking = True
        if dialect.replays_reasoning_details:
            details = [entry for _, carry in kept for entry in self._decode_details(carry.encrypted)]
            if details:
                reply.reasoning_details = details
        signed = [
            carry for _, carry in kept if carry.call_signature
        ]  # the state of such a block has nothing else to send
        _write_signatures(signed, reply)
        if not dialect.replayed_thinking_field:
            if blocks and not (dialect.replays_reasoning_details or signed):
                self._drops_thinking = True
            return
        text = "".join(block.thinking for block, carry in kept if carry.replay)
        scope = dialect.thinking_replay_scope
        must = scope == "every" or (scope == "calls" and reply.tool_calls)
        if not text and must and dialect.is_thinking(self._request):
            text = _MISSING_THINKING_TEXT
        if text:
            self._write_thinking(text, reply)

    def _write_thinking(self, text: str, reply: _Reply) -> None:
        field = self._dialect.replayed_thinking_field
        if field == "content":
            content = reply.content
            texts = [_TextPart(content)] if isinstance(content, Raw) and bytes(content) not in _EMPTY else []
            reply.content = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}, *texts]
        if field in ("reasoning", "both"):
            reply.reasoning = text
        if field in ("reasoning_content", "both"):
            reply.reasoning_content = text

    def _add_placeholder(self, reply: _Reply, call: _Call) -> None:
        """Add the placeholder for a thought signature to the first call of a reply, if it has no signature."""
        placeholder = SIGNATURE_PLACEHOLDERS[self._dialect.placeholder_signature]
        if not self._dialect.replays_reasoning_details:
            call.extra_content = call.extra_content or {"google": {"thought_signature": placeholder}}
            return
        details = reply.reasoning_details or []
        call_id = json_string(call.id)
        if all(entry.get("id") != call_id for entry in details):
            entry = {"type": "reasoning.encrypted", "data": placeholder, "format": "google-gemini-v1"}
            texts = {name: json_string(text) for name, text in entry.items()}
            reply.reasoning_details = [*details, {**texts, "id": call_id, "index": Raw(b"0")}]

    def _decode_details(self, text: str | None) -> list[dict[str, Raw]]:
        """Return the entries of `reasoning_details` in a signature. []: the client has changed them to another value,
        or they are too many.

        An entry with the id of a tool call gets the id that is sent for the call.
        """
        if text and text.count("{") > _MAX_DETAILS:
            return []
        try:
            entries = msgspec.json.decode(text or "[]", type=list[dict[str, Raw]])
        except (msgspec.DecodeError, RecursionError):
            return []
        for entry in entries:
            with suppress(KeyError, msgspec.DecodeError):  # no id, not the id of a call, or not a string
                entry["id"] = json_string(self._ids[msgspec.json.decode(entry["id"], type=str)])
        return entries

    def _id_of(self, client_id: str, name: str) -> str:
        """Return the id to send for the tool call `client_id`. `name`: the called tool; "" for a tool result."""
        if self._keeps_ids and len(client_id) <= _MAX_ID_LENGTH:
            return client_id
        if (known := self._ids.get(client_id)) is not None:
            return known
        match self._dialect.call_id_form:
            case "counted":
                sent = f"functions.{name}:{len(self._ids)}"
            case "nine":
                sent = client_id if _NINE.fullmatch(client_id) else _digest_id(client_id)[:9]
            case "short":
                sent = f"call_{_digest_id(client_id)[:32]}"
        self._ids[client_id] = sent
        return sent


def _digest_id(client_id: str) -> str:
    return hashlib.sha256(client_id.encode(errors="surrogatepass")).hexdigest()


def _write_signatures(signed: Sequence[ReasoningState], reply: _Reply) -> None:
    calls = reply.tool_calls or ()
    for carry in signed:
        if carry.call_index < len(calls):
            calls[carry.call_index].extra_content = {"google": {"thought_signature": carry.call_signature}}


OUTPUT_TOOL_NAME = "output"
"""Name of the output tool. The model must call this function with the reply as arguments."""


class ReplySchemaFields(Struct):
    response_format: Any = None
    system_instruction: str = ""
    """Text for the system prompt that requests a reply by the schema. "": no text."""
    enforces_schema: bool = False
    """True if the server guarantees that the reply matches the schema."""


def encode_reply_schema_fields(
    call: TranslatedCall[Dialect], tools: ToolFields, notes: list[FidelityNote], budget: WorkBudget
) -> ReplySchemaFields:
    """Return the request fields for a reply that must match the client's JSON Schema, or add the output tool."""
    dialect = call.dialect
    rules = find_schema_rules(dialect.schema_rules, dialect.schema_language)
    if not rules.allows_basics_only:  # a reply schema keeps its limits, which the server may guarantee
        rules = structs.replace(rules, suits_grammars=False)
    found = encode_reply_schema(call, budget, notes, rules)
    if found is None:
        return ReplySchemaFields(system_instruction=reply_schema_instruction(call, budget, notes))
    schema, strict = found
    if dialect.reply_schema_form == "json_schema" and not _stands_apart(call):
        if not strict:
            notes.append(SCHEMA_NOT_ENFORCED)
        form = {"type": "json_schema", "json_schema": {"name": "output", "schema": schema, "strict": strict}}
        return ReplySchemaFields(form, enforces_schema=strict)
    if offers_output_tool(call, budget):
        notes.append(SCHEMA_AS_TOOL)
        function = {"name": OUTPUT_TOOL_NAME, "description": "Give your reply by calling this.", "parameters": schema}
        tools.definitions.append(Raw(msgspec.json.encode({"type": "function", "function": function})))
        tools.tool_choice = {"type": "function", "function": {"name": OUTPUT_TOOL_NAME}}
        return ReplySchemaFields()
    notes.append(SCHEMA_AS_TEXT)
    instruction = "Reply with one JSON object only, without a code fence, that fits this JSON Schema:\n"
    objects = dialect.reply_schema_form == "json_object" and not _stands_apart(call)
    return ReplySchemaFields({"type": "json_object"} if objects else None, instruction + bytes(schema).decode())


def _stands_apart(call: TranslatedCall[Dialect]) -> bool:
    return call.dialect.reply_schema_exclusive and (bool(call.request.tools) or call.streams_upstream)


def offers_output_tool(call: TranslatedCall[Dialect], budget: WorkBudget | None = None) -> bool:
    """Return True if the model must call the output tool, with the reply as arguments."""
    request, dialect = call.request, call.dialect
    schema = bytes(request.output_schema)
    if not schema or request.tools or not dialect.accepts_tools or not may_accept_object(schema, budget):
        return False
    if dialect.reply_schema_form != "ask" and not _stands_apart(call):
        return False
    thinking = dialect.is_thinking(request)
    return dialect.accepts_forced_tool == "always" or (dialect.accepts_forced_tool == "not_thinking" and not thinking)


class OutputToolConverter:
    """Converts the call of the tool for the reply to its text."""

    def __init__(self) -> None:
        self._keys: set[int | str] = set()

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        converted: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, ToolCall) and delta.name == OUTPUT_TOOL_NAME:
                self._keys.add(delta.key)
            elif isinstance(delta, ToolArgs) and delta.key in self._keys:
                converted.append(Text(delta.json))
            elif not (isinstance(delta, ToolEnd) and delta.key in self._keys):
                ends_call = isinstance(delta, Stop) and delta.reason == "tool_use" and self._keys
                converted.append(Stop("end_turn") if ends_call else delta)
        return converted

    def flush(self) -> list[Delta]:
        """Return what the filter holds: nothing."""
        return []
