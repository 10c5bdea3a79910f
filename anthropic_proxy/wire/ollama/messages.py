"""Messages: system, user, assistant and tool. A message has one text; pictures lie beside it."""

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
    blocks_of,
    is_text,
    json_string,
)
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.json_strings import join_texts
from anthropic_proxy.wire.shared_notes import (
    ERROR_MARKED,
    FOREIGN_THINKING_DROPPED,
    MEDIA_MOVED,
    SYSTEM_AS_REMINDER,
    omitted,
)
from anthropic_proxy.wire.signatures import decode_signature

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


class _ChatMessage(Struct, kw_only=True, gc=False):
    role: str
    content: Raw = _EMPTY
    """A JSON string; the field may not be missing in servers before 0.6."""
    thinking: str | UnsetType = UNSET
    images: list[str] | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET
    tool_name: str | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class MessageEncoder:
    """Encodes the messages of one request, in order."""

    def __init__(self, call: Call) -> None:
        self.messages: list[_ChatMessage] = []
        self.notes: list[FidelityNote] = []
        self.begins_reply = False
        """True if the last message is the assistant's. Ollama continues it."""
        self._call = call
        self._names: dict[str, str] = {}
        self._joined: dict[int, list[Raw]] = {}  # index in `messages` → texts of neighbors that become one message
        self._late: list[Raw] = []  # system texts that wait for the next user message

    def encode(self, *, extra_system: str = "", ask: str = "") -> list[Any]:
        """Return the list for `messages`; `extra_system` ends the system prompt, `ask` ends the last user text."""
        request = self._call.request
        system = [block.text for block in request.system]
        if extra_system:
            system.append(json_string(extra_system))
        if system:
            self.messages.append(_ChatMessage(role="system", content=join_texts(system)))
        for message in request.messages:
            if message.role == "assistant":
                self._encode_reply(message)
            elif message.role == "user":
                self._encode_user(message)
            else:
                self._keep_late(message)
        self.begins_reply = bool(self.messages) and self.messages[-1].role == "assistant"
        if ask:
            self._late.append(json_string(ask))
        if self._late:
            self.begins_reply = False
            self._append_user(self._pop_late(), [])
        for place, texts in self._joined.items():
            self.messages[place].content = join_texts(texts)
        self._joined = {}  # their parts are held no longer
        return self.messages

    def _keep_late(self, message: Message) -> None:
        """Keep a system text for the next user message: templates take one at the beginning only, or move it there."""
        texts = [block.text for block in message.content if type(block) is TextBlock]
        if texts:
            self.notes.append(SYSTEM_AS_REMINDER)
            self._late.append(join_texts(texts, rb"<system-reminder>\n", rb"\n</system-reminder>"))

    def _pop_late(self) -> list[Raw]:
        texts, self._late = self._late, []
        return texts

    def _append_user(self, texts: list[Raw], images: list[str]) -> None:
        """Append texts and images to the last user message or to a new one."""
        if not texts and not images:
            return
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != "user":
            last = _ChatMessage(role="user", content=join_texts(texts) if texts else _EMPTY)
            self.messages.append(last)
        elif texts:
            first = [] if last.content is _EMPTY else [last.content]
            self._joined.setdefault(len(self.messages) - 1, first).extend(texts)
        if images:
            last.images = last.images or []
            last.images += images

    # User messages: results first, each its own message, then everything that a tool message cannot hold.

    def _encode_user(self, message: Message) -> None:
        texts, images = self._pop_late(), list[str]()
        for block in message.content:
            if type(block) is ToolResultBlock:
                self._encode_result(block, texts, images)
            elif type(block) is TextBlock:
                texts.append(block.text)
            elif isinstance(block, _MEDIA):
                self._add_media(block, texts, images)
        self._append_user(texts, images)

    def _encode_result(self, block: ToolResultBlock, texts: list[Raw], images: list[str]) -> None:
        """Encode a result. Its images are added to the next user message."""
        name = self._names.get(block.tool_use_id, "")
        content = block.content or _EMPTY
        if block.is_error or not is_text(content):
            content, pictures = self._read_result(block)
            if pictures:
                self.notes.append(MEDIA_MOVED)
                texts.append(json_string(f"From the result of tool call {block.tool_use_id}, {name}:"))
                images += pictures
        self.messages.append(_ChatMessage(role="tool", tool_name=name, tool_call_id=block.tool_use_id, content=content))

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
            texts.append(json_string("[image: see the next user message]"))
        if block.is_error:
            self.notes.append(ERROR_MARKED)
        return join_texts(texts or [_EMPTY], b"[tool error] " if block.is_error else b""), images

    def _add_media(self, block: ImageBlock | DocumentBlock, texts: list[Raw], images: list[str]) -> None:
        """Add an image, or a text if the model or the server does not accept it."""
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
        texts.append(json_string(text))

    # Assistant messages.

    def _encode_reply(self, message: Message) -> None:
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
            self._append_user(self._pop_late(), [])
        reply = _ChatMessage(role="assistant", content=join_texts(texts) if texts else _EMPTY)
        if thoughts and (thinking := self._thinking_of(thoughts)):
            reply.thinking = thinking
        if calls:
            reply.tool_calls = calls
        self.messages.append(reply)

    def _thinking_of(self, blocks: list[ThinkingBlock]) -> str:
        """Return the thinking of a message, however old. The model's template omits what it does not need.

        Omitting it here would change the messages before the newest ones and invalidate the prompt cache.
        """
        tag = self._call.dialect.signature_tag
        own = [block.thinking for block in blocks if decode_signature(tag, block.signature) is not None]
        if len(own) < len(blocks):
            self.notes.append(FOREIGN_THINKING_DROPPED)
        return "".join(own)
