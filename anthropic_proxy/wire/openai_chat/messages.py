"""Messages: system, user, assistant and tool; text is spliced as the JSON that it already is."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec
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
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.parts import (
    TextPart,
    encode_file,
    encode_image,
    encode_thoughts,
    join_contents,
    mark_last_text,
)
from anthropic_proxy.wire.shared_notes import (
    ERROR_MARKED,
    FOREIGN_THINKING_DROPPED,
    MEDIA_MOVED,
    PREFILL_AS_TEXT,
    SYSTEM_AS_REMINDER,
    omitted,
)
from anthropic_proxy.wire.signatures import ReasoningState, decode_signature, digest_address

CONTINUE_TEXT = "Continue exactly from the end of your last message."
"""User text after a last assistant message, which these servers cannot continue."""

BRIDGE_TEXT = "Understood."
"""Assistant text between results and a user message, if a server requires one."""

_EMPTY = Raw(b'""')
_NULL = Raw(b"null")
_MEDIA = (ImageBlock, DocumentBlock)
_NINE = re.compile(r"[a-zA-Z0-9]{9}")
_MAX_ID_LENGTH = 40
_MISSING_THINKING_TEXT = " "
"""Placeholder for lost reasoning that a server requires."""


class _ChatMessage(Struct, gc=False):
    role: str
    content: Any
    """`Raw` (a JSON string) or a list of parts."""


class _Result(Struct, tag="tool", tag_field="role", gc=False):
    tool_call_id: str
    content: Raw | list[Any]


class _Function(Struct, gc=False):
    name: str
    arguments: str


class _Call(Struct, kw_only=True, gc=False):
    id: str
    type: str = "function"
    function: _Function
    extra_content: Any = UNSET


class _Reply(Struct, kw_only=True, tag="assistant", tag_field="role", gc=False):
    content: Raw | list[Any] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_details: Raw | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET
    prefix: bool | UnsetType = UNSET
    partial: bool | UnsetType = UNSET


class MessageEncoder:
    """Encodes the messages of one request, in order."""

    def __init__(self, call: Call, dialect: Dialect) -> None:
        self.messages: list[Any] = []
        self.notes: list[FidelityNote] = []
        self._call = call
        self._dialect = dialect
        self._thinking = dialect.is_thinking(call.request.effort)
        self._keeps_ids = dialect.call_ids == "short"
        self._ids: dict[str, str] = {}
        self._joined: dict[int, list[Any]] = {}  # index in `messages` → contents of neighbors that become one message
        self._late: list[Raw] = []  # system texts that wait for the results of an open step, or for a user message
        self._forgets = False  # whether reasoning of an earlier reply is left out
        self._open = False  # whether the last assistant message waits for results

    def encode(self, *, extra_system: str = "", ask: str = "") -> list[Any]:
        """Return the list for `messages`; `extra_system` ends the system prompt, `ask` is a last user text."""
        system = [block.text for block in self._call.request.system]
        if extra_system:
            system.append(json_string(extra_system))
        if system:
            self.messages.append(_ChatMessage(self._dialect.system_role, join_texts(system)))
        for message in self._call.request.messages:
            if message.role == "assistant":
                self._encode_reply(message)
            elif message.role == "user":
                self._encode_user(message)
            else:
                self._encode_system(message)
        self._encode_end(ask)
        for place, contents in self._joined.items():
            self.messages[place].content = join_contents(contents)
        if self._forgets:
            self.notes.append(FOREIGN_THINKING_DROPPED)
        if self._dialect.sends_cache_marks and self._call.request.marks_cache():
            self._mark()
        return self.messages

    def _mark(self) -> None:
        """Add cache marks to the system prompt and to the last message."""
        first, last = self.messages[:1], self.messages[-1:]
        system = [one for one in first if isinstance(one, _ChatMessage) and one.role == self._dialect.system_role]
        for message in (
            *system,
            *(one for one in last if one not in system and isinstance(one, _ChatMessage | _Result)),
        ):
            message.content = mark_last_text(message.content)

    def _encode_system(self, message: Message) -> None:
        texts = [block.text for block in message.content if isinstance(block, TextBlock)]
        if not texts:
            return
        if self._dialect.mid_conversation_system == "remind":
            self.notes.append(SYSTEM_AS_REMINDER)
            self._remind(join_texts(texts, rb"<system-reminder>\n", rb"\n</system-reminder>"))
        elif self._open:
            self._late.append(join_texts(texts))
        else:
            self.messages.append(_ChatMessage(self._dialect.system_role, join_texts(texts)))

    def _remind(self, text: Raw) -> None:
        """Add a reminder to the user message that it follows, or else to the next one: roles must take turns there."""
        last = self.messages[-1] if self.messages else None
        if isinstance(last, _ChatMessage) and last.role == "user":
            self._append(_ChatMessage("user", text))
        else:
            self._late.append(text)

    def _encode_end(self, ask: str) -> None:
        last = self.messages[-1] if self.messages else None
        if isinstance(last, _Reply):
            if self._dialect.prefill == "prefix":
                last.prefix = True
            elif self._dialect.prefill == "partial":
                last.partial = True
            else:
                self._append(_ChatMessage("user", json_string(CONTINUE_TEXT)))
                self.notes.append(PREFILL_AS_TEXT)
        self._flush_late()
        if ask:
            self._append(_ChatMessage("user", json_string(ask)))

    def _flush_late(self) -> None:
        role = "user" if self._dialect.mid_conversation_system == "remind" else self._dialect.system_role
        if self._late:
            self._append(_ChatMessage(role, join_texts(self._late)))
            self._late.clear()

    def _append(self, message: _ChatMessage) -> None:
        last = self.messages[-1] if self.messages else None
        if self._dialect.requires_message_after_results and isinstance(last, _Result):
            self.messages.append(_Reply(content=json_string(BRIDGE_TEXT)))
        merges_neighbors = self._dialect.mid_conversation_system == "remind"
        if merges_neighbors and isinstance(last, _ChatMessage) and last.role == message.role == "user":
            self._joined.setdefault(len(self.messages) - 1, [last.content]).append(message.content)
        else:
            self.messages.append(message)

    # User messages: results first, each its own message, then everything that a tool message cannot hold.

    def _encode_user(self, message: Message) -> None:
        parts: list[Any] = []
        for block in message.content:
            if type(block) is ToolResultBlock:
                self._encode_result(block, parts)
        self._open = False
        if self._late:
            if self._dialect.mid_conversation_system == "keep":
                self._flush_late()
            else:
                parts += [TextPart(text) for text in self._late]
                self._late.clear()
        for block in message.content:
            if type(block) is TextBlock:
                parts.append(TextPart(block.text))
            elif type(block) is not ToolResultBlock and isinstance(block, _MEDIA):
                parts.append(self._media(block))
        if not parts:
            return
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        content = join_texts(texts) if len(texts) == len(parts) else parts
        self._append(_ChatMessage("user", content))

    def _encode_result(self, block: ToolResultBlock, parts: list[Any]) -> None:
        call_id = self._id_of(block.tool_use_id, "")
        if not block.is_error and is_text(block.content):
            self.messages.append(_Result(call_id, block.content or _EMPTY))
            return
        texts: list[Raw] = []
        media: list[Any] = []
        for part in blocks_of(block.content):
            if isinstance(part, TextBlock):
                texts.append(part.text)
            elif isinstance(part, _MEDIA):
                encoded = self._media(part)
                if isinstance(encoded, TextPart):
                    texts.append(encoded.text)
                else:
                    kind = "image" if isinstance(part, ImageBlock) else "document"
                    texts.append(json_string(f"[{kind}: see the next user message]"))
                    media.append(encoded)
        if block.is_error:
            self.notes.append(ERROR_MARKED)
        content = join_texts(texts or [_EMPTY], b"[tool error] " if block.is_error else b"")
        self.messages.append(_Result(call_id, content))
        if media:
            self.notes.append(MEDIA_MOVED)
            parts.append(TextPart(json_string(f"From the result of tool call {call_id}:")))
            parts += media

    def _media(self, block: ImageBlock | DocumentBlock) -> Any:
        """Return the part for a picture or PDF, or a text where the server or the model takes none."""
        encoded = (
            encode_image(block, self._dialect) if isinstance(block, ImageBlock) else encode_file(block, self._dialect)
        )
        accepts = self._call.request.vision if isinstance(block, ImageBlock) else self._call.request.pdf
        if accepts and encoded is not None:
            return encoded
        kind = "image" if isinstance(block, ImageBlock) else "document"
        source = block.source
        title = block.title if isinstance(block, DocumentBlock) else None
        if accepts and source.type == "url":
            text = f"[{kind}: {source.url}]"
        else:
            text = f"[{kind} omitted: {title or source.media_type or source.url}]"
        self.notes.append(omitted(kind, source.media_type, by_address=source.type == "url"))
        return TextPart(json_string(text))

    # Assistant messages.

    def _encode_reply(self, message: Message) -> None:
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
        if thoughts or self._dialect.thinking_replay_scope != "kept":
            self._replay_thinking(thoughts, reply, bool(calls))
        self.messages.append(reply)

    def _replay_thinking(self, blocks: list[ThinkingBlock], reply: _Reply, has_calls: bool) -> None:
        dialect = self._dialect
        carries = [(block, decode_signature(dialect.signature_tag, block.signature)) for block in blocks]
        address = digest_address(self._call.address)
        kept = [(block, carry) for block, carry in carries if carry is not None and _has_content(carry, address)]
        if len(kept) < len(blocks):
            self._forgets = True
        if dialect.replays_reasoning_details:
            details = [carry.encrypted for _, carry in kept if carry.encrypted and _is_list(carry.encrypted)]
            if details:
                reply.reasoning_details = Raw(details[-1].encode())
        signed = [carry for _, carry in kept if carry.call_signature and carry.address == address]
        _put_signatures(signed, reply.tool_calls or [])
        if not dialect.replayed_thinking_field:
            self._forgets = self._forgets or bool(blocks and not (dialect.replays_reasoning_details or signed))
            return
        text = "".join(block.thinking for block, carry in kept if carry.replay)
        must = dialect.thinking_replay_scope == "every" or (dialect.thinking_replay_scope == "calls" and has_calls)
        if not text and must and self._thinking:
            text = _MISSING_THINKING_TEXT
        if text and dialect.replayed_thinking_field == "content":
            reply.content = encode_thoughts(text, reply.content)
        elif text:
            setattr(reply, dialect.replayed_thinking_field, text)

    def _id_of(self, client_id: str, name: str) -> str:
        """Return the upstream id of a call. The name is known from the call, which precedes its result."""
        if self._keeps_ids and len(client_id) <= _MAX_ID_LENGTH:
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


def _is_list(text: str) -> bool:
    """Return True if a text is a JSON list. It is spliced into the body, and clients may send any signature."""
    try:
        msgspec.json.decode(text, type=list[Raw])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _has_content(carry: ReasoningState, address: str | None) -> bool:
    return bool(carry.replay or carry.encrypted or (carry.call_signature and carry.address == address))


def _put_signatures(carries: Sequence[ReasoningState], calls: list[_Call]) -> None:
    for carry in carries:
        if carry.position < len(calls):
            calls[carry.position].extra_content = {"google": {"thought_signature": carry.call_signature}}
