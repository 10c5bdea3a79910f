"""Encoding of a prepared request as an upstream request to Ollama's `/api/chat`.

The body has the messages, the tools, and `options` with sampling, the context window and the output limit.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import (
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    json_string,
)
from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.contract import Call, UpstreamRequest
from anthropic_proxy.wire.json_repair import join_json_strings
from anthropic_proxy.wire.message_encoder import (
    EMPTY_JSON_STRING,
    MOVED_MEDIA_TEXTS,
    TOOL_ERROR_PREFIX,
    MessageEncoder,
    join_system_prompt,
)
from anthropic_proxy.wire.ollama.dialect import Dialect, resolve_context_window
from anthropic_proxy.wire.ollama.tools import ToolFields, encode_tools
from anthropic_proxy.wire.shared_notes import EFFORT_AS_SWITCH, NO_EFFORT, NO_SERVICE_TIER, SCHEMA_AS_TEXT
from anthropic_proxy.wire.signatures import decode_signature

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


class _Function(Struct, gc=False):
    index: int
    name: str
    arguments: Raw
    """Arguments of a tool call as a JSON object, not as text."""


class _Call(Struct, gc=False):
    id: str
    function: _Function


class _ChatMessage(Struct, kw_only=True, gc=False):
    role: str
    content: Raw = EMPTY_JSON_STRING
    """Text as a JSON string. Servers before 0.6 require the field."""
    thinking: str | UnsetType = UNSET
    images: list[str] | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET
    tool_name: str | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class OllamaMessageEncoder(MessageEncoder):
    """Encodes the messages of one client request, in order, for Ollama. An image is sent as a base64 string."""

    sends_reminders = True
    """True: a system message inside the conversation is sent as text of a user message."""
    mentions_image_urls = True
    """True: if an image has a URL, the text in place of the image contains it."""

    def __init__(self, call: Call[Dialect]) -> None:
        super().__init__(call.request)
        self.begins_reply = False
        """True if the last message is an assistant message, which the model continues."""
        self._signature_tag: str = call.dialect.signature_tag
        self._tool_names: dict[str, str] = {}
        """Id of a tool call → name of the called tool. A tool result is sent with the name."""
        self._joined: dict[int, list[Raw]] = {}
        """Index of a message in `messages` → texts of consecutive messages that are sent as this one."""

    def encode_messages(self, *, extra_system: str = "", user_instruction: str = "") -> list[Any]:
        """Return the encoded `messages` of the conversation.

        `extra_system` is a text to add to the system prompt. `user_instruction` is a text to add to the end of the
        conversation as a user message. "": no text is added.
        """
        system = join_system_prompt(self._request, extra_system)
        if system is not None:
            self.messages.append(_ChatMessage(role="system", content=system))
        self._encode_conversation()
        self.begins_reply = bool(self.messages) and self.messages[-1].role == "assistant"
        if user_instruction:
            self._late_texts.append(json_string(user_instruction))
        if self._late_texts:
            self.begins_reply = False
            self._flush_late_texts()
        for place, texts in self._joined.items():
            self.messages[place].content = join_json_strings(texts)
        self._joined = {}  # their texts are held no longer
        self._note_dropped_thinking()
        return self.messages

    def _append_system(self, texts: list[Raw]) -> None:
        """Append texts of system messages to the last user message, or to a new one."""
        self._append_user([*texts])

    def _place_late_texts(self, parts: list[Any]) -> None:
        """Insert waiting texts of system messages before `parts`, the content of the next user message."""
        parts[:0] = self._late_texts
        self._late_texts = []

    def _append_user(self, parts: list[Any]) -> None:
        """Append texts and images to the last user message or to a new one."""
        texts: list[Raw] = []
        images: list[str] = []
        for part in parts:
            if type(part) is Raw:
                texts.append(part)
            else:
                images.append(part)
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != "user":
            last = _ChatMessage(role="user", content=join_json_strings(texts) if texts else EMPTY_JSON_STRING)
            self.messages.append(last)
        elif texts:
            first = [] if last.content is EMPTY_JSON_STRING else [last.content]
            self._joined.setdefault(len(self.messages) - 1, first).extend(texts)
        if images:
            last.images = last.images or []
            last.images += images

    def _append_result(self, block: ToolResultBlock, content: Any) -> None:
        name = self._tool_names.get(block.tool_use_id, "")
        self.messages.append(_ChatMessage(role="tool", tool_name=name, tool_call_id=block.tool_use_id, content=content))

    def _result_label(self, block: ToolResultBlock) -> str:
        return f"{block.tool_use_id}, {self._tool_names.get(block.tool_use_id, '')}"

    def _join_result_without_media(self, blocks: list[Any], content: list[Any], *, is_error: bool) -> Raw:
        """Return the text of a tool result. One sentence at its end replaces all images."""
        texts = [part for part in content if type(part) is Raw]
        mark = f"{TOOL_ERROR_PREFIX} ".encode() if is_error else b""
        return join_json_strings([*texts, MOVED_MEDIA_TEXTS[ImageBlock]], mark)

    def _encode_image(self, block: ImageBlock) -> str | None:
        return block.source.data if block.source.type == "base64" else None

    def _encode_reply(self, message: Message) -> None:
        texts: list[Raw] = []
        calls: list[_Call] = []
        thoughts: list[ThinkingBlock] = []
        for block in message.content:
            if type(block) is TextBlock:
                texts.append(block.text)
            elif type(block) is ToolUseBlock:
                calls.append(_Call(block.id, _Function(len(calls), block.name, block.input)))
                self._tool_names[block.id] = block.name
            elif type(block) is ThinkingBlock:
                thoughts.append(block)
        if not texts and not calls:
            return
        if self._late_texts:
            self._flush_late_texts()
        self._has_open_calls = bool(calls)
        reply = _ChatMessage(role="assistant", content=join_json_strings(texts) if texts else EMPTY_JSON_STRING)
        if thoughts and (thinking := self._replayed_thinking(thoughts)):
            reply.thinking = thinking
        if calls:
            reply.tool_calls = calls
        self.messages.append(reply)

    def _replayed_thinking(self, blocks: list[ThinkingBlock]) -> str:
        """Return the thinking of an assistant message that this provider can use.

        Old thinking is returned too, because changes of earlier messages would make the prompt cache useless. The
        model's template omits unneeded thinking.
        """
        own = [block.thinking for block in blocks if decode_signature(self._signature_tag, block.signature) is not None]
        if len(own) < len(blocks):
            self._drops_thinking = True
        return "".join(own)
