"""Encoder of the conversation: converts the messages of the client request to `contents` of the Gemini request.

`ContentsEncoder` encodes one conversation. A content is one message in Gemini's format, and consists of parts. A part
is one text, file, tool call or tool result. A thought signature is opaque state of the reasoning, which Gemini sent
with a part of an earlier reply. The proxy sends the signature back with the same part.
"""

from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import (
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_nested_content,
    is_string_or_absent,
    json_string,
)
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.gemini.media import encode_media, has_inline_data
from anthropic_proxy.wire.shared_notes import FOREIGN_THINKING_DROPPED, PREFILL_AS_TEXT, SYSTEM_AS_REMINDER
from anthropic_proxy.wire.signatures import decode_signature

_PLACEHOLDERS = {
    "text": "skip_thought_signature_validator",
    "base64": "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=",
}
"""Encoding of signatures (`text`, `base64`) → value for a tool call without signature, as Google documents ("Thought
signatures", section FAQ, 2026-11)."""
_CONTINUE = Raw(b'"Continue exactly from the end of your last message."')
_ANYTHING = Raw(b'"."')
_NOTHING = Raw(b'""')
_MEDIA = (ImageBlock, DocumentBlock)


class _TextPart(Struct, gc=False, rename="camel"):
    text: Raw
    thought_signature: str | UnsetType = UNSET


class _FunctionCall(Struct, gc=False):
    id: str | UnsetType
    name: str
    args: Raw


class _CallPart(Struct, gc=False, rename="camel"):
    function_call: _FunctionCall
    thought_signature: str | UnsetType = UNSET


class _FunctionResponse(Struct, gc=False):
    id: str | UnsetType
    name: str
    response: dict[str, Raw]
    parts: list[dict[str, Any]] | UnsetType = UNSET


class _ResultPart(Struct, gc=False, rename="camel"):
    function_response: _FunctionResponse


_Part = _TextPart | _CallPart | _ResultPart | dict[str, Any]
"""A part of a content in the Gemini request. A dictionary is a file, or the text that replaces one."""


class _Content(Struct, gc=False):
    role: str
    parts: list[_Part]


class ContentsEncoder:
    """Encoder of one conversation. Call `add_message` for each message in order, then `build_contents` once."""

    def __init__(self, call: Call[Dialect], notes: list[FidelityNote]) -> None:
        self._call = call
        self._notes = notes
        self._contents: list[_Content] = []
        self._answers = False
        """True if the last content of the Gemini request has tool results. No other part is added to that content."""
        self._waiting: list[_Part] = []
        """Parts that the client sent between tool calls and their results. They are encoded after the results."""
        self._forgets = False
        """True if reasoning of an earlier reply was omitted, because its signature is unusable."""
        self._names: dict[str, str] = {}
        """Id of a tool call → name of the called tool. Gemini requires the name in each tool result."""
        dialect = call.dialect
        self._sends_ids = dialect.sends_call_ids
        self._placeholder = _PLACEHOLDERS[dialect.placeholder_encoding] if dialect.requires_signatures else ""
        """Thought signature for the first call of a reply, if the history has none. "": the model requires none."""

    def add_message(self, message: Message) -> None:
        """Encode the next message of the client request as parts of the Gemini request."""
        if message.role == "assistant":
            self._add_reply(message)
        elif message.role == "user":
            self._add_user(message)
        else:
            parts: list[_Part] = [
                _TextPart(_wrapped(block.text)) for block in message.blocks if type(block) is TextBlock
            ]
            self._notes.append(SYSTEM_AS_REMINDER)
            if self._has_open_calls():
                self._waiting += parts
            else:
                self._put("user", parts)

    def build_contents(self) -> list[_Content]:
        """Return the value of `contents`, the list of encoded messages.

        If the conversation begins with an assistant message, a user message with the text `.` is inserted before it. If
        the conversation ends with one, a user text that requests its continuation is added.
        """
        self._put("user", self._waiting)
        contents = self._contents
        if self._forgets:
            self._notes.append(FOREIGN_THINKING_DROPPED)
        if contents and contents[0].role == "model":
            contents.insert(0, _Content("user", [_TextPart(_ANYTHING)]))
        if contents and contents[-1].role == "model":
            self._notes.append(PREFILL_AS_TEXT)
            contents.append(_Content("user", [_TextPart(_CONTINUE)]))
        return contents

    def _put(self, role: str, parts: list[_Part], *, answers: bool = False) -> None:
        if not parts:
            return
        last = self._contents[-1] if self._contents else None
        if last is not None and last.role == role and not answers and not self._answers:
            last.parts += parts
        else:
            self._contents.append(_Content(role, parts))
        self._answers = answers

    def _has_open_calls(self) -> bool:
        last = self._contents[-1] if self._contents else None
        return last is not None and last.role == "model" and any(type(part) is _CallPart for part in last.parts)

    def _add_reply(self, message: Message) -> None:
        parts: list[_Part] = []
        signature = ""
        placeholder = self._placeholder
        for block in message.content:
            if type(block) is ToolUseBlock:
                self._names[block.id] = block.name
                call = _FunctionCall(block.id if self._sends_ids else UNSET, block.name, block.input)
                parts.append(_CallPart(call, signature or placeholder or UNSET))
                signature = placeholder = ""
            elif type(block) is TextBlock:
                parts.append(_TextPart(block.text, signature or UNSET))
                signature = ""
            elif type(block) is ThinkingBlock:
                signature = self._signature_in(block)
        self._put("model", parts)

    def _signature_in(self, block: ThinkingBlock) -> str:
        """Return the thought signature in a thinking block. "": it has no signature that this model accepts."""
        carry = decode_signature(self._call.dialect.signature_tag, block.signature)
        wrote, reads = carry.model if carry else "", self._call.model
        if carry is None or not (
            carry.call_signature and self._call.dialect.replays_signatures and wrote in (None, reads)
        ):
            self._forgets = True
            return ""
        return carry.call_signature

    def _add_user(self, message: Message) -> None:
        results: list[_Part] = []
        beside: list[dict[str, Any]] = []
        others, self._waiting = self._waiting, []
        for block in message.content:
            if type(block) is ToolResultBlock:
                results.append(self._encode_result(block, beside))
            elif type(block) is TextBlock:
                others.append(_TextPart(block.text))
            elif isinstance(block, _MEDIA):
                others.append(encode_media(self._call, block, self._notes))
        results += beside
        self._put("user", results, answers=True)
        self._put("user", others)

    def _encode_result(self, block: ToolResultBlock, beside: list[dict[str, Any]]) -> _ResultPart:
        """Encode one tool result. Images that Gemini does not accept in a result are appended to `beside`.

        JSON text is sent as text, because Gemini decodes numbers as doubles and would change long integers.
        """
        inline: list[dict[str, Any]] = []
        output = (
            block.content or _NOTHING
            if is_string_or_absent(block.content)
            else self._read_result(block, inline, beside)
        )
        identity = block.tool_use_id if self._sends_ids else UNSET
        name = self._names.get(block.tool_use_id, "unknown")
        response = _FunctionResponse(identity, name, {"error" if block.is_error else "output": output})
        if inline:
            response.parts = inline
        return _ResultPart(response)

    def _read_result(self, block: ToolResultBlock, inline: list[dict[str, Any]], beside: list[dict[str, Any]]) -> Raw:
        """Return the text of a tool result that has a list of blocks.

        Images to send in the result are appended to `inline`, images to send after the result to `beside`.
        """
        texts: list[Raw] = []
        for inner in decode_nested_content(block.content):
            if isinstance(inner, TextBlock):
                texts.append(inner.text)
            elif isinstance(inner, _MEDIA):
                part = encode_media(self._call, inner, self._notes)
                if "text" in part:
                    texts.append(json_string(part["text"]))
                elif self._call.dialect.accepts_media_in_results and has_inline_data(part):
                    inline.append(part)
                else:
                    beside.append(part)
        return texts[0] if len(texts) == 1 else _joined(texts)


def _wrapped(text: Raw) -> Raw:
    return Raw(rb'"<system-reminder>\n' + bytes(text)[1:-1] + rb'\n</system-reminder>"')


def _joined(texts: list[Raw]) -> Raw:
    return Raw(b'"' + rb"\n".join(bytes(text)[1:-1] for text in texts) + b'"') if texts else _NOTHING
