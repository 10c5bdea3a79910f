"""Messages → input items. JSON text is copied without decoding."""

import hashlib
from typing import Any, Literal

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
    blocks_of,
    is_text,
    json_string,
)
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.json_strings import join_texts
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.shared_notes import (
    ERROR_MARKED,
    FOREIGN_THINKING_DROPPED,
    MEDIA_MOVED,
    PREFILL_AS_TEXT,
    omitted,
)
from anthropic_proxy.wire.signatures import decode_signature

CONTINUE = "Continue exactly from the end of your last message."
"""User text after a last assistant message, which no server continues."""

_EMPTY = Raw(b'""')
_MEDIA = (ImageBlock, DocumentBlock)
_MAX_ID_LENGTH = 64
_PDF = "application/pdf"


class _TextPart(Struct, tag="input_text", tag_field="type", gc=False):
    text: Raw


class _ImagePart(Struct, tag="input_image", tag_field="type", gc=False):
    image_url: str
    detail: str = "auto"


class _FilePart(Struct, tag="input_file", tag_field="type", omit_defaults=True, gc=False):
    filename: str = ""
    file_data: str = ""
    file_url: str = ""


_Part = _TextPart | _ImagePart | _FilePart
_MOVED: dict[type[_Part], Raw] = {
    _ImagePart: json_string("[image: see the next user message]"),
    _FilePart: json_string("[document: see the next user message]"),
}
"""Kind of part → the text in its place, where results hold text only."""


class _InputMessage(Struct, tag="message", tag_field="type", gc=False):
    role: Literal["user", "developer"]
    content: list[_Part]


class _Reply(Struct, tag="message", tag_field="type", gc=False):
    """A text of the model, as plain text: parts of type `output_text` would need the id that the server gave it."""

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


class ItemEncoder:
    """Encodes the messages of one request, in order."""

    def __init__(self, call: Call, dialect: Dialect) -> None:
        self.items: list[Any] = []
        self.notes: list[FidelityNote] = []
        self._request = call.request
        self._dialect = dialect
        self._late: list[_Part] = []  # system texts that wait for the results of an open step
        self._open = False  # whether the last message of the model waits for results
        self._forgets = False

    def encode(self) -> list[Any]:
        """Return the list for `input`."""
        for message in self._request.messages:
            if message.role == "assistant":
                self._encode_reply(message)
            elif message.role == "user":
                self._encode_user(message)
            else:
                self._encode_system(message)
        if self.items and isinstance(self.items[-1], _Reply):
            self.items.append(_InputMessage("user", [_TextPart(json_string(CONTINUE))]))
            self.notes.append(PREFILL_AS_TEXT)
        self._flush_late()
        if self._forgets:
            self.notes.append(FOREIGN_THINKING_DROPPED)
        return self.items

    def _encode_system(self, message: Message) -> None:
        texts: list[_Part] = [_TextPart(block.text) for block in message.content if type(block) is TextBlock]
        if texts and self._open:
            self._late += texts
        elif texts:
            self.items.append(_InputMessage("developer", texts))

    def _flush_late(self) -> None:
        if self._late:
            self.items.append(_InputMessage("developer", self._late))
            self._late = []

    # User messages: the results first, then everything else.

    def _encode_user(self, message: Message) -> None:
        parts: list[_Part] = []
        for block in message.content:
            if type(block) is ToolResultBlock:
                call_id = _call_id(block.tool_use_id)
                output = self._output(block)
                if not self._dialect.accepts_media_in_results and isinstance(output, list):
                    output = self._move_media(call_id, output, parts)
                self.items.append(_Result(call_id, output))
            elif type(block) is TextBlock:
                parts.append(_TextPart(block.text))
            elif isinstance(block, _MEDIA):
                parts.append(self._media(block))
        self._open = False
        if self._late:
            self._flush_late()
        if parts:
            self.items.append(_InputMessage("user", parts))

    def _output(self, block: ToolResultBlock) -> Raw | list[_Part]:
        """Return the output of a tool, as plain text if possible."""
        if not block.is_error and is_text(block.content):
            return block.content or _EMPTY
        mark = b"[tool error] " if block.is_error else b""
        if block.is_error:
            self.notes.append(ERROR_MARKED)
        parts: list[_Part] = []
        for part in blocks_of(block.content):
            if isinstance(part, TextBlock):
                parts.append(_TextPart(part.text))
            elif isinstance(part, _MEDIA):
                parts.append(self._media(part))
        texts = [part.text for part in parts if isinstance(part, _TextPart)]
        if len(texts) == len(parts):
            return join_texts(texts or [_EMPTY], mark)
        return [_TextPart(json_string(mark.decode().strip())), *parts] if mark else parts

    def _move_media(self, call_id: str, output: list[_Part], parts: list[_Part]) -> Raw:
        """Return the texts of a result; the rest of it is added to the parts of the user message that follows."""
        self.notes.append(MEDIA_MOVED)
        parts += (_TextPart(json_string(f"From the result of tool call {call_id}:")), *filter(_is_media, output))
        texts = [part.text if isinstance(part, _TextPart) else _MOVED[type(part)] for part in output]
        return join_texts(texts, b"")

    def _media(self, block: ImageBlock | DocumentBlock) -> _Part:
        """Return a picture or document as a part, or a text where the server or the model takes none such."""
        is_image = isinstance(block, ImageBlock)
        accepts = self._request.vision if is_image else self._request.pdf
        encoded = _image(block, self._dialect) if isinstance(block, ImageBlock) else _file(block)
        if accepts and encoded is not None:
            return encoded
        kind = "image" if is_image else "document"
        title = block.title if isinstance(block, DocumentBlock) else None
        text = f"[{kind} omitted: {title or block.source.media_type or block.source.url}]"
        self.notes.append(omitted(kind, block.source.media_type, by_address=block.source.type == "url"))
        return _TextPart(json_string(text))

    # Assistant messages: each thought, text and call is an item of its own.

    def _encode_reply(self, message: Message) -> None:
        last_call, last_output = _last_places(message)
        if last_output < 0:
            self._forgets = self._forgets or any(type(block) is ThinkingBlock for block in message.content)
            return
        if self._late:
            self._flush_late()
        texts: list[Raw] = []
        for place, block in enumerate(message.content):
            if type(block) is TextBlock:
                texts.append(block.text)
            elif type(block) is ToolUseBlock:
                if texts:
                    self._encode_text(texts, before_call=True)
                self.items.append(_Call(_call_id(block.id), block.name, str(block.input, "utf-8")))
            elif type(block) is ThinkingBlock:
                if texts:
                    self._encode_text(texts, before_call=place < last_call)
                self._encode_thought(block, has_follower=place < last_output)
        if texts:
            self._encode_text(texts, before_call=False)
        self._open = last_call >= 0

    def _encode_text(self, texts: list[Raw], *, before_call: bool) -> None:
        reply = _Reply(join_texts(texts))
        texts.clear()
        if self._dialect.sends_phase:
            reply.phase = "commentary" if before_call else "final_answer"
        self.items.append(reply)

    def _encode_thought(self, block: ThinkingBlock, *, has_follower: bool) -> None:
        """Give reasoning back, where it can be read and stands before what it led to: the server refuses it else."""
        dialect = self._dialect
        carry = decode_signature(dialect.signature_tag, block.signature)
        if carry is None or not (has_follower and dialect.can_reason and dialect.replays_thinking):
            self._forgets = True
            return
        text = block.thinking
        if carry.encrypted:
            summary = [_Summary(text)] if text else []
            item = _Reasoning(summary=summary, encrypted_content=carry.encrypted)
        elif carry.replay and text:
            item = _Reasoning(summary=[], content=[_Thought(text)])
        else:
            self._forgets = True
            return
        if carry.item:
            item.id = carry.item
        self.items.append(item)


def _last_places(message: Message) -> tuple[int, int]:
    """Return where the last call of a reply stands, and the last block that is a call or text; -1: nowhere."""
    call = output = -1
    for place, block in enumerate(message.content):
        if type(block) is ToolUseBlock:
            call = output = place
        elif type(block) is TextBlock:
            output = place
    return call, output


def _call_id(client_id: str) -> str:
    if len(client_id) <= _MAX_ID_LENGTH:
        return client_id
    return f"call_{hashlib.sha256(client_id.encode(errors='surrogatepass')).hexdigest()[:32]}"


def _is_media(part: _Part) -> bool:
    return not isinstance(part, _TextPart)


def _image(block: ImageBlock, dialect: Dialect) -> _Part | None:
    source = block.source
    if source.type == "base64" and source.media_type in dialect.image_types:
        return _ImagePart(f"data:{source.media_type};base64,{source.data}")
    return _ImagePart(source.url) if source.type == "url" else None


def _file(block: DocumentBlock) -> _Part | None:
    source = block.source
    if source.type == "url":
        return _FilePart(file_url=source.url)
    if source.type != "base64" or source.media_type != _PDF:
        return None
    name = block.title or "document"
    filename = name if name.endswith(".pdf") else f"{name}.pdf"
    return _FilePart(filename=filename, file_data=f"data:{_PDF};base64,{source.data}")
