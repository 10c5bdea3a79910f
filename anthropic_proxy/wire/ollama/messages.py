"""Messages: system, user, assistant and tool. A message has one text; pictures lie beside it."""

from typing import Any

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
from anthropic_proxy.wire.standing_notes import ERROR_MARKED, FORGOTTEN, MEDIA_MOVED, REMINDED, omitted
from anthropic_proxy.wire.texts import join_texts

_EMPTY = Raw(b'""')
_MEDIA = (ImageBlock, DocumentBlock)


class _Function(Struct, gc=False):
    index: int
    name: str
    arguments: Raw
    """An object, not the text of one."""


class _Call(Struct, gc=False):
    id: str
    function: _Function


class _Said(Struct, kw_only=True, gc=False):
    role: str
    content: Raw = _EMPTY
    """A JSON string; the field may not be missing in servers before 0.6."""
    thinking: str | UnsetType = UNSET
    images: list[str] | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET
    tool_name: str | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class MessageEncoder:
    """Says the messages of one request, in order."""

    def __init__(self, call: Call) -> None:
        self.said: list[_Said] = []
        self.notes: list[Note] = []
        self.begins_reply = False
        """Whether the last message is the assistant's: Ollama goes on from its end."""
        self._call = call
        self._names: dict[str, str] = {}
        self._late: list[Raw] = []  # system texts that wait for the next user message

    def encode(self, *, extra_system: str = "", ask: str = "") -> list[Any]:
        """Return the list for `messages`; `extra_system` ends the system prompt, `ask` ends the last user text."""
        request = self._call.request
        system = [block.text for block in request.system]
        if extra_system:
            system.append(text_raw(extra_system))
        if system:
            self.said.append(_Said(role="system", content=join_texts(system)))
        for message in request.messages:
            if message.role == "assistant":
                self._say_reply(message)
            elif message.role == "user":
                self._say_user(message)
            else:
                self._keep_late(message)
        self.begins_reply = bool(self.said) and self.said[-1].role == "assistant"
        if ask:
            self._late.append(text_raw(ask))
        if self._late:
            self.begins_reply = False
            self._say(self._take_late(), [])
        return self.said

    def _keep_late(self, message: Message) -> None:
        """Keep a system text for the next user message: templates take one at the beginning only, or move it there."""
        texts = [block.text for block in message.content if type(block) is TextBlock]
        if texts:
            self.notes.append(REMINDED)
            self._late.append(join_texts(texts, rb"<system-reminder>\n", rb"\n</system-reminder>"))

    def _take_late(self) -> list[Raw]:
        texts, self._late = self._late, []
        return texts

    def _say(self, texts: list[Raw], images: list[str]) -> None:
        """Say texts and pictures in the last user message or in a new one."""
        if not texts and not images:
            return
        last = self.said[-1] if self.said else None
        if last is None or last.role != "user":
            last = _Said(role="user")
            self.said.append(last)
        elif last.content != _EMPTY:
            texts.insert(0, last.content)
        if texts:
            last.content = join_texts(texts)
        if images:
            last.images = [*(last.images or ()), *images]

    # User messages: results first, each its own message, then everything that a tool message cannot hold.

    def _say_user(self, message: Message) -> None:
        texts, images = self._take_late(), list[str]()
        for block in message.content:
            if type(block) is ToolResultBlock:
                self._say_result(block, texts, images)
            elif type(block) is TextBlock:
                texts.append(block.text)
            elif isinstance(block, _MEDIA):
                self._add_media(block, texts, images)
        self._say(texts, images)

    def _say_result(self, block: ToolResultBlock, texts: list[Raw], images: list[str]) -> None:
        """Say a result; its pictures are added to the user message behind it."""
        name = self._names.get(block.tool_use_id, "")
        content = block.content or _EMPTY
        if block.is_error or not is_text(content):
            content, pictures = self._read_result(block)
            if pictures:
                self.notes.append(MEDIA_MOVED)
                texts.append(text_raw(f"From the result of tool call {block.tool_use_id}, {name}:"))
                images += pictures
        self.said.append(_Said(role="tool", tool_name=name, tool_call_id=block.tool_use_id, content=content))

    def _read_result(self, block: ToolResultBlock) -> tuple[Raw, list[str]]:
        """Return the text and the pictures of a result that failed or is more than a string."""
        texts: list[Raw] = []
        images: list[str] = []
        for part in blocks_of(block.content):
            if isinstance(part, TextBlock):
                texts.append(part.text)
            elif isinstance(part, _MEDIA):
                self._add_media(part, texts, images)
        if images:
            texts.append(text_raw("[image: see the next user message]"))
        if block.is_error:
            self.notes.append(ERROR_MARKED)
        return join_texts(texts or [_EMPTY], b"[tool error] " if block.is_error else b""), images

    def _add_media(self, block: ImageBlock | DocumentBlock, texts: list[Raw], images: list[str]) -> None:
        """Add a picture, or a text in place of what the model or the server does not take."""
        request, source = self._call.request, block.source
        if isinstance(block, ImageBlock):
            if request.vision and source.type == "base64":
                images.append(source.data)
                return
            text = f"[image: {source.url}]" if source.type == "url" else f"[image omitted: {source.media_type}]"
        else:
            text = f"[document omitted: {block.title or source.media_type or source.url}]"
        kind = "image" if isinstance(block, ImageBlock) else "document"
        self.notes.append(omitted(kind, source.media_type, by_address=source.type == "url"))
        texts.append(text_raw(text))

    # Assistant messages.

    def _say_reply(self, message: Message) -> None:
        texts: list[Raw] = []
        calls: list[_Call] = []
        thoughts: list[ThinkingBlock] = []
        for block in message.content:
            if type(block) is TextBlock:
                texts.append(block.text)
            elif type(block) is ToolUseBlock:
                calls.append(_Call(block.id, _Function(len(calls), block.name, block.input)))
                self._names[block.id] = block.name
            elif type(block) is ThinkingBlock:
                thoughts.append(block)
        if not texts and not calls:
            return
        if self._late:
            self._say(self._take_late(), [])
        said = _Said(role="assistant", content=join_texts(texts) if texts else _EMPTY)
        if thoughts and (thinking := self._thinking_of(thoughts)):
            said.thinking = thinking
        if calls:
            said.tool_calls = calls
        self.said.append(said)

    def _thinking_of(self, blocks: list[ThinkingBlock]) -> str:
        """Return what the model thought here, however long ago: a model's template leaves out what is no longer wanted.

        Left out by us, it would change what stands before the newest messages, which the model then reads anew.
        """
        tag = self._call.dialect.carry_tag
        own = [block.thinking for block in blocks if decode_carry(tag, block.signature) is not None]
        if len(own) < len(blocks):
            self.notes.append(FORGOTTEN)
        return "".join(own)
