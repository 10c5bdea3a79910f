"""Messages: system, user, assistant and tool; text is spliced as the JSON that it already is."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec
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
from anthropic_proxy.wire.carry import Carry, decode_carry
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.standing_notes import CONTINUED, ERROR_MARKED, FORGOTTEN, MEDIA_MOVED, REMINDED, omitted
from anthropic_proxy.wire.texts import join_texts

CONTINUE = "Continue exactly from the end of your last message."
"""What a user text says after a last assistant message, which these servers would not go on from."""

BRIDGE = "Understood."
"""What an assistant message says between results and a user message, where a server wants one there."""

_EMPTY = Raw(b'""')
_NULL = Raw(b"null")
_MEDIA = (ImageBlock, DocumentBlock)
_NINE = re.compile(r"[a-zA-Z0-9]{9}")
_LONGEST_ID = 40
_LOST_THINKING = " "
"""What stands for reasoning that a server insists on and the client no longer has."""


class _Said(Struct, gc=False):
    role: str
    content: Any
    """`Raw` (a JSON string) or a list of parts."""


class _Result(Struct, tag="tool", tag_field="role", gc=False):
    tool_call_id: str
    content: Raw


class _TextPart(Struct, tag="text", tag_field="type", gc=False):
    text: Raw


class _Function(Struct, gc=False):
    name: str
    arguments: str


class _Call(Struct, kw_only=True, gc=False):
    id: str
    type: str = "function"
    function: _Function
    extra_content: Any = UNSET


class _Reply(Struct, kw_only=True, tag="assistant", tag_field="role", gc=False):
    content: Raw | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_details: Raw | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET
    prefix: bool | UnsetType = UNSET
    partial: bool | UnsetType = UNSET


class MessageEncoder:
    """Says the messages of one request, in order."""

    def __init__(self, call: Call, dialect: Dialect) -> None:
        self.said: list[Any] = []
        self.notes: list[Note] = []
        self._call = call
        self._dialect = dialect
        self._thinking = dialect.is_thinking(call.request.effort)
        self._keeps_ids = dialect.call_ids == "short"
        self._ids: dict[str, str] = {}
        self._late: list[Raw] = []  # system texts that wait for the results of an open step, or for a user message
        self._forgets = False  # whether reasoning of an earlier reply is left out
        self._open = False  # whether the last assistant message waits for results

    def encode(self, *, extra_system: str = "", ask: str = "") -> list[Any]:
        """Return the list for `messages`; `extra_system` ends the system prompt, `ask` is a last user text."""
        system = [block.text for block in self._call.request.system]
        if extra_system:
            system.append(text_raw(extra_system))
        if system:
            self.said.append(_Said(self._dialect.system_role, join_texts(system)))
        for message in self._call.request.messages:
            if message.role == "assistant":
                self._say_reply(message)
            elif message.role == "user":
                self._say_user(message)
            else:
                self._say_late(message)
        self._say_rest(ask)
        if self._forgets:
            self.notes.append(FORGOTTEN)
        return self.said

    def _say_late(self, message: Message) -> None:
        texts = [block.text for block in message.content if isinstance(block, TextBlock)]
        if not texts:
            return
        if self._dialect.late_system == "remind":
            self.notes.append(REMINDED)
            self._remind(join_texts(texts, rb"<system-reminder>\n", rb"\n</system-reminder>"))
        elif self._open:
            self._late.append(join_texts(texts))
        else:
            self.said.append(_Said(self._dialect.system_role, join_texts(texts)))

    def _remind(self, text: Raw) -> None:
        """Add a reminder to the user message that it follows, or else to the next one: roles must take turns there."""
        last = self.said[-1] if self.said else None
        if isinstance(last, _Said) and last.role == "user":
            self._say(_Said("user", text))
        else:
            self._late.append(text)

    def _say_rest(self, ask: str) -> None:
        last = self.said[-1] if self.said else None
        if isinstance(last, _Reply):
            if self._dialect.prefill == "prefix":
                last.prefix = True
            elif self._dialect.prefill == "partial":
                last.partial = True
            else:
                self._say(_Said("user", text_raw(CONTINUE)))
                self.notes.append(CONTINUED)
        self._flush_late()
        if ask:
            self._say(_Said("user", text_raw(ask)))

    def _flush_late(self) -> None:
        role = "user" if self._dialect.late_system == "remind" else self._dialect.system_role
        if self._late:
            self._say(_Said(role, join_texts(self._late)))
            self._late.clear()

    def _say(self, message: _Said) -> None:
        last = self.said[-1] if self.said else None
        if self._dialect.bridges_results and isinstance(last, _Result):
            self.said.append(_Reply(content=text_raw(BRIDGE)))
        takes_turns = self._dialect.late_system == "remind"
        if takes_turns and isinstance(last, _Said) and last.role == message.role == "user":
            last.content = _join_contents(last.content, message.content)
        else:
            self.said.append(message)

    # User messages: results first, each its own message, then everything that a tool message cannot hold.

    def _say_user(self, message: Message) -> None:
        parts: list[Any] = []
        for block in message.content:
            if type(block) is ToolResultBlock:
                self._say_result(block, parts)
        self._open = False
        if self._late:
            if self._dialect.late_system == "keep":
                self._flush_late()
            else:
                parts += [_TextPart(text) for text in self._late]
                self._late.clear()
        for block in message.content:
            if type(block) is TextBlock:
                parts.append(_TextPart(block.text))
            elif type(block) is not ToolResultBlock and isinstance(block, _MEDIA):
                parts.append(self._media(block))
        if not parts:
            return
        texts = [part.text for part in parts if isinstance(part, _TextPart)]
        content = join_texts(texts) if len(texts) == len(parts) else parts
        self._say(_Said("user", content))

    def _say_result(self, block: ToolResultBlock, parts: list[Any]) -> None:
        call_id = self._id_of(block.tool_use_id, "")
        if not block.is_error and is_text(block.content):
            self.said.append(_Result(call_id, block.content or _EMPTY))
            return
        texts: list[Raw] = []
        media: list[Any] = []
        for part in blocks_of(block.content):
            if isinstance(part, TextBlock):
                texts.append(part.text)
            elif isinstance(part, _MEDIA):
                said = self._media(part)
                if isinstance(said, _TextPart):
                    texts.append(said.text)
                else:
                    kind = "image" if isinstance(part, ImageBlock) else "document"
                    texts.append(text_raw(f"[{kind}: see the next user message]"))
                    media.append(said)
        if block.is_error:
            self.notes.append(ERROR_MARKED)
        content = join_texts(texts or [_EMPTY], b"[tool error] " if block.is_error else b"")
        self.said.append(_Result(call_id, content))
        if media:
            self.notes.append(MEDIA_MOVED)
            parts.append(_TextPart(text_raw(f"From the result of tool call {call_id}:")))
            parts += media

    def _media(self, block: ImageBlock | DocumentBlock) -> Any:
        """Return the part for a picture or PDF, or a text where the server or the model takes none."""
        said = _image(block, self._dialect) if isinstance(block, ImageBlock) else _file(block)
        takes = self._call.request.vision if isinstance(block, ImageBlock) else self._call.request.pdf
        takes = takes and self._dialect.takes_pictures
        if takes and said is not None:
            return said
        kind = "image" if isinstance(block, ImageBlock) else "document"
        source = block.source
        title = block.title if isinstance(block, DocumentBlock) else None
        if takes and source.type == "url":
            text = f"[{kind}: {source.url}]"
        else:
            text = f"[{kind} omitted: {title or source.media_type or source.url}]"
        self.notes.append(omitted(kind, source.media_type, by_address=source.type == "url"))
        return _TextPart(text_raw(text))

    # Assistant messages.

    def _say_reply(self, message: Message) -> None:
        texts: list[Raw] = []
        calls: list[_Call] = []
        thoughts: list[ThinkingBlock] = []
        for block in message.content:
            if type(block) is TextBlock:
                texts.append(block.text)
            elif type(block) is ToolUseBlock:
                function = _Function(block.name, str(block.input, "utf-8"))
                calls.append(_Call(id=self._id_of(block.id, block.name), function=function))
            elif type(block) is ThinkingBlock:
                thoughts.append(block)
        if not texts and not calls:
            return
        if self._late:
            self._flush_late()
        content = join_texts(texts) if texts else UNSET if self._dialect.omits_null else _NULL
        reply = _Reply(content=content, tool_calls=calls or UNSET)
        self._open = bool(calls)
        if thoughts or self._dialect.thinking_replay != "kept":
            self._replay_thinking(thoughts, reply, bool(calls))
        self.said.append(reply)

    def _replay_thinking(self, blocks: list[ThinkingBlock], reply: _Reply, has_calls: bool) -> None:
        dialect = self._dialect
        carries = [(block, decode_carry(dialect.carry_tag, block.signature)) for block in blocks]
        kept = [(block, carry) for block, carry in carries if carry is not None and _says_something(carry)]
        if len(kept) < len(blocks):
            self._forgets = True
        if dialect.carries_details:
            details = [carry.encrypted for _, carry in kept if carry.encrypted and _is_list(carry.encrypted)]
            if details:
                reply.reasoning_details = Raw(details[-1].encode())
        if dialect.carries_call_signatures and reply.tool_calls:
            _put_signatures([carry for _, carry in kept], reply.tool_calls)
        if not dialect.thinking_field:
            gives_back = dialect.carries_details or dialect.carries_call_signatures
            self._forgets = self._forgets or bool(blocks and not gives_back)
            return
        text = "".join(block.thinking for block, carry in kept if carry.replay)
        must = dialect.thinking_replay == "every" or (dialect.thinking_replay == "calls" and has_calls)
        if not text and must and self._thinking:
            text = _LOST_THINKING
        if text:
            setattr(reply, dialect.thinking_field, text)

    def _id_of(self, client_id: str, name: str) -> str:
        """Return what a call is called upstream; the name is known where the call stands, before its result."""
        if self._keeps_ids and len(client_id) <= _LONGEST_ID:
            return client_id  # as nearly all are
        known = self._ids.get(client_id)
        if known is None:
            known = self._ids[client_id] = self._new_id(client_id, name)
        return known

    def _new_id(self, client_id: str, name: str) -> str:
        form = self._dialect.call_ids
        if form == "counted":
            return f"functions.{name}:{len(self._ids)}"
        if form == "nine" and _NINE.fullmatch(client_id):
            return client_id
        digest = hashlib.sha256(client_id.encode(errors="surrogatepass")).hexdigest()
        return digest[:9] if form == "nine" else f"call_{digest[:32]}"


def _join_contents(first: Any, second: Any) -> Any:
    if isinstance(first, Raw) and isinstance(second, Raw):
        return join_texts([first, second])
    return [part for said in (first, second) for part in ([_TextPart(said)] if isinstance(said, Raw) else said)]


def _image(block: ImageBlock, dialect: Dialect) -> Any:
    source = block.source
    if source.type == "base64" and source.media_type in dialect.image_types:
        url = f"data:{source.media_type};base64,{source.data}"
    elif source.type == "url" and dialect.image_urls:
        url = source.url
    else:
        return None
    return {"type": "image_url", "image_url": {"url": url}}


def _file(block: DocumentBlock) -> Any:
    source = block.source
    if source.type != "base64" or source.media_type != "application/pdf":
        return None
    name = block.title or "document"
    data = f"data:application/pdf;base64,{source.data}"
    filename = name if name.endswith(".pdf") else f"{name}.pdf"
    return {"type": "file", "file": {"filename": filename, "file_data": data}}


def _is_list(text: str) -> bool:
    """Whether a text is a JSON list: it is spliced into the body, and a signature is whatever a client sends."""
    try:
        msgspec.json.decode(text, type=list[Raw])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _says_something(carry: Carry) -> bool:
    return bool(carry.replay or carry.encrypted or carry.call_signature)


def _put_signatures(carries: Sequence[Carry], calls: list[_Call]) -> None:
    for carry in carries:
        if carry.call_signature and carry.position < len(calls):
            calls[carry.position].extra_content = {"google": {"thought_signature": carry.call_signature}}
