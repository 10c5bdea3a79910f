"""Messages → input items: what was said, called, answered and thought; text is spliced as the JSON that it is."""

import hashlib
from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import (
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    blocks_of,
    is_text,
    text_raw,
)
from anthropic_proxy.wire.carry import decode_carry
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.standing_notes import CONTINUED, ERROR_MARKED, FORGOTTEN, omitted
from anthropic_proxy.wire.texts import join_texts

CONTINUE = "Continue exactly from the end of your last message."
"""What a user text says after a last message of the model, from which no server goes on."""

_EMPTY = Raw(b'""')
_MEDIA = (ImageBlock, DocumentBlock)
_LONGEST_ID = 64
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


class _Said(Struct, tag="message", tag_field="type", gc=False):
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
    """Says the messages of one request, in order."""

    def __init__(self, call: Call, dialect: Dialect) -> None:
        self.said: list[Any] = []
        self.notes: list[Note] = []
        self._request = call.request
        self._dialect = dialect
        self._late: list[_Part] = []  # system texts that wait for the results of an open step
        self._open = False  # whether the last message of the model waits for results
        self._forgets = False

    def encode(self) -> list[Any]:
        """Return the list for `input`."""
        for message in self._request.messages:
            if message.role == "assistant":
                self._say_reply(message)
            elif message.role == "user":
                self._say_user(message)
            else:
                self._say_late(message)
        if self.said and isinstance(self.said[-1], _Reply):
            self.said.append(_Said("user", [_TextPart(text_raw(CONTINUE))]))
            self.notes.append(CONTINUED)
        self._flush_late()
        if self._forgets:
            self.notes.append(FORGOTTEN)
        return self.said

    def _say_late(self, message: Message) -> None:
        texts: list[_Part] = [_TextPart(block.text) for block in message.content if type(block) is TextBlock]
        if texts and self._open:
            self._late += texts
        elif texts:
            self.said.append(_Said("developer", texts))

    def _flush_late(self) -> None:
        if self._late:
            self.said.append(_Said("developer", self._late))
            self._late = []

    # User messages: the results first, then everything else.

    def _say_user(self, message: Message) -> None:
        parts: list[_Part] = []
        for block in message.content:
            if type(block) is ToolResultBlock:
                self.said.append(_Result(_call_id(block.tool_use_id), self._output(block)))
            elif type(block) is TextBlock:
                parts.append(_TextPart(block.text))
            elif isinstance(block, _MEDIA):
                parts.append(self._media(block))
        self._open = False
        if self._late:
            self._flush_late()
        if parts:
            self.said.append(_Said("user", parts))

    def _output(self, block: ToolResultBlock) -> Raw | list[_Part]:
        """Return what a tool answered: plain text where it is nothing else."""
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
        return [_TextPart(text_raw(mark.decode().strip())), *parts] if mark else parts

    def _media(self, block: ImageBlock | DocumentBlock) -> _Part:
        """Return a picture or document as a part, or a text where the server or the model takes none such."""
        is_image = isinstance(block, ImageBlock)
        takes = self._request.vision if is_image else self._request.pdf
        said = _image(block, self._dialect) if isinstance(block, ImageBlock) else _file(block)
        if takes and self._dialect.takes_pictures and said is not None:
            return said
        kind = "image" if is_image else "document"
        title = block.title if isinstance(block, DocumentBlock) else None
        text = f"[{kind} omitted: {title or block.source.media_type or block.source.url}]"
        self.notes.append(omitted(kind, block.source.media_type, by_address=block.source.type == "url"))
        return _TextPart(text_raw(text))

    # Assistant messages: each thought, text and call is an item of its own.

    def _say_reply(self, message: Message) -> None:
        last_call, last_said = _last_places(message)
        if last_said < 0:
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
                    self._say_text(texts, before_call=True)
                self.said.append(_Call(_call_id(block.id), block.name, str(block.input, "utf-8")))
            elif type(block) is ThinkingBlock:
                if texts:
                    self._say_text(texts, before_call=place < last_call)
                self._say_thought(block, has_follower=place < last_said)
        if texts:
            self._say_text(texts, before_call=False)
        self._open = last_call >= 0

    def _say_text(self, texts: list[Raw], *, before_call: bool) -> None:
        reply = _Reply(join_texts(texts))
        texts.clear()
        if self._dialect.says_phase:
            reply.phase = "commentary" if before_call else "final_answer"
        self.said.append(reply)

    def _say_thought(self, block: ThinkingBlock, *, has_follower: bool) -> None:
        """Give reasoning back, where it can be read and stands before what it led to: the server refuses it else."""
        dialect = self._dialect
        carry = decode_carry(dialect.carry_tag, block.signature)
        if carry is None or not (has_follower and dialect.reasons and dialect.replays_thinking):
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
        self.said.append(item)


def _last_places(message: Message) -> tuple[int, int]:
    """Return where the last call of a reply stands, and the last block that is a call or text; -1: nowhere."""
    call = said = -1
    for place, block in enumerate(message.content):
        if type(block) is ToolUseBlock:
            call = said = place
        elif type(block) is TextBlock:
            said = place
    return call, said


def _call_id(client_id: str) -> str:
    if len(client_id) <= _LONGEST_ID:
        return client_id
    return f"call_{hashlib.sha256(client_id.encode(errors='surrogatepass')).hexdigest()[:32]}"


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
