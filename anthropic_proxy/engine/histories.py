"""`Histories`: messages that several requests of a conversation have in common are decoded, checked and encoded once.

A client sends the whole conversation with each request. Claude Code's 40th request has 120 messages of 400 kB, of which
117 have the same bytes as in the request before. A history is such a beginning of a conversation, in decoded form.

Example. A session sends the messages u1, then u1 a1 u2, then u1 a1 u2 a2 u3, and so on. Each has 20 kB.

    request           what happens
    u1                nothing is kept: most conversations of this size have one request
    u1 a1 u2          nothing is kept: two replies must follow a history, because clients change the latest turn. They
                      move the marks of the provider's cache
    u1 a1 u2 a2 u3    u1 becomes the history
    … a3 u4           the body begins with the bytes of u1, so only a1 u2 a2 u3 a3 u4 are decoded. Then u1 a1 u2
                      becomes the history

The bytes of a body decide, not hashes of them: to compare 1 MB takes 25 µs, and to decode it 500 µs. The request is the
same as without a history (`_decode_at_once`), and what is computed from known messages (`CleanMessages.results`)
depends on nothing but them and the key of the result. A client never meets the history of another one.
"""

import secrets
from collections.abc import Mapping, Sequence
from sys import getsizeof
from threading import Lock

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.messages.models import (
    CleanMessages,
    DocumentBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    ThinkingBlock,
)
from anthropic_proxy.engine.messages.models.decode import Frame, KnownMessages, as_clean_messages
from anthropic_proxy.engine.messages.purpose import AGENT_HEADER, SESSION_HEADER

MIN_BYTES = 16 * 1024
"""Minimum size of a body with a history, and of the messages that are added to one. Less costs little to decode."""
MAX_CONVERSATIONS = 256
MAX_KEPT_BYTES = 32 * 1024 * 1024
"""Maximum number and size of all histories of a process. The least recently used ones are dropped."""
_BYTES_PER_PART = 600
"""Size in memory of a decoded message or block apart from its texts."""
_TIMES_KEPT, _TIMES_KEPT_PLAIN = 2, 3
"""How often texts are kept: as they were received, and encoded. A content that is a plain string is also kept as this
string, as a block and as a counted text."""
_PART = b'"type"'
_MESSAGES = b'"messages":['
_REPLY = b',{"role":"assistant"'
_BEGINNING_BYTES = 512
"""Bytes of the first message that tell the conversations of one session apart, such as those of its subagents."""

_decode_messages = msgspec.json.Decoder(list[Message]).decode


class History(Struct, eq=False):
    """The first messages of a conversation. The message behind them is a reply, and the last of them is none."""

    texts: tuple[memoryview, ...]
    """JSON texts of the messages, in pieces of several messages. A comma follows each."""
    messages: CleanMessages
    message_bytes: int
    """Size of the messages in memory."""
    frame: Frame | None = None
    """None: no request has used the history so far."""
    frame_bytes: int = 0

    @property
    def kept_bytes(self) -> int:
        return self.message_bytes + self.frame_bytes

    def find_end(self, body: bytes, begin: int) -> int:
        """Return the offset in `body` behind the messages and their comma. 0: they are not at the offset `begin`."""
        end = begin
        for text in self.texts:
            if not body.startswith(text, end):
                return 0
            end += len(text) + 1
            if not body.startswith(_REPLY, end - 1):
                return 0
        return end


class Conversation(Struct, eq=False):
    """The conversation of one request body, and its history so far."""

    key: tuple[object, ...]
    """Client, and the hash of session, agent and the beginning of the first message."""
    begin: int
    """Offset of the first message in the body."""
    is_new: bool
    """True if no request before this one is known."""
    history: History | None = None
    known: KnownMessages | None = None
    """The part of the body that is the history. None: there is none, or the body has other messages."""


class Histories:
    """Histories of the conversations of one process. Large requests use them in another thread than the others."""

    def __init__(self, min_bytes: int = MIN_BYTES, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self.min_bytes = min_bytes
        """Minimum size of a body with a history. Nobody asks for the conversation of a smaller one."""
        self._max_kept_bytes = max_kept_bytes
        self._mark = b'[{"role":"%b","content":""},' % secrets.token_hex(16).encode()
        """`KnownMessages.mark` of all conversations."""
        self._histories: dict[tuple[object, ...], History | None] = {}
        """None: the conversation has no history yet, or the last request had other messages."""
        self._kept_bytes = 0
        self._lock = Lock()

    def find(self, client: object, headers: Mapping[str, str], body: bytes) -> Conversation | None:
        """Return the conversation of a request of `client`, whose body has at least `min_bytes`. None: its messages are
        not found.
        """
        begin = body.find(_MESSAGES) + len(_MESSAGES)
        if begin < len(_MESSAGES):
            return None
        named = headers.get(SESSION_HEADER), headers.get(AGENT_HEADER), body[begin : begin + _BEGINNING_BYTES]
        key = client, hash(named)  # headers can be long
        with self._lock:
            conversation = Conversation(key, begin, is_new=key not in self._histories)
            history = self._histories.pop(key, None)
            if not conversation.is_new:
                self._histories[key] = history  # as the last one
        if history is not None:
            if end := history.find_end(body, begin):
                conversation.history = history
                conversation.known = KnownMessages(history.messages, begin, end, self._mark, history.frame)
            else:
                self._keep(key, None)
        return conversation

    def learn(self, conversation: Conversation, body: bytes, request: MessagesRequest) -> None:
        """Keep more of a conversation, if this request has enough new messages that the next one will probably have."""
        if conversation.is_new:
            self._keep(conversation.key, None)
            return
        known, history = conversation.known, conversation.history
        frame = None if known is None else known.frame
        if history is not None and frame is not None and history.frame is not frame:
            history = structs.replace(history, frame=frame, frame_bytes=_count_frame_bytes(frame))
            self._keep(conversation.key, history)
        begin = conversation.begin if known is None else known.end
        last_reply = max(begin, body.rfind(_REPLY, begin))
        end = body.rfind(_REPLY, begin, last_reply)  # the messages before the last reply but one; -1: there is none
        is_enough = self.min_bytes <= end - begin <= self._max_kept_bytes // _TIMES_KEPT
        if not is_enough or not isinstance(request.messages, CleanMessages):
            return
        text = b"[%b]" % body[begin:end]  # so that the messages do not hold the whole body
        try:
            added = _decode_messages(text)
        except (msgspec.DecodeError, RecursionError):  # `_REPLY` was found inside or behind the messages
            return
        before = None if history is None else history.messages
        if added[-1].role == "assistant" or (messages := as_clean_messages(added, before)) is None:
            return
        messages.share_results()
        grown = History((memoryview(text)[1:-1],), messages, _count_bytes(text, added))
        if history is not None:
            grown.texts = history.texts + grown.texts
            grown.message_bytes += history.message_bytes
            grown.frame, grown.frame_bytes = history.frame, history.frame_bytes
        self._keep(conversation.key, grown)

    def _keep(self, key: tuple[object, ...], history: History | None) -> None:
        """A history that would displace all others is not kept."""
        if history is not None and history.kept_bytes > self._max_kept_bytes:
            history = None
        with self._lock:
            self._drop(key)
            self._histories[key] = history
            self._kept_bytes += 0 if history is None else history.kept_bytes
            while self._kept_bytes > self._max_kept_bytes or len(self._histories) > MAX_CONVERSATIONS:
                self._drop(next(iter(self._histories)))

    def _drop(self, key: tuple[object, ...]) -> None:
        if (history := self._histories.pop(key, None)) is not None:
            self._kept_bytes -= history.kept_bytes


def _count_frame_bytes(frame: Frame) -> int:
    """Count once: a string that was encoded needs more memory later."""
    total, system = _TIMES_KEPT * (len(frame.head) + len(frame.tail)), frame.read.system or ""
    return total + (_TIMES_KEPT * getsizeof(system) if isinstance(system, str) else _BYTES_PER_PART * len(system))


def _count_bytes(text: bytes, messages: Sequence[Message]) -> int:
    """Return the memory that messages need with their JSON text, and with what is computed from them."""
    total = _TIMES_KEPT * len(text) + _BYTES_PER_PART * (len(messages) + text.count(_PART))
    for message in messages:
        if isinstance(message.content, str):
            total += _TIMES_KEPT_PLAIN * getsizeof(message.content)
            continue
        for block in message.content:
            if type(block) is ThinkingBlock:
                total += getsizeof(block.thinking) + getsizeof(block.signature)
            elif isinstance(block, ImageBlock | DocumentBlock):
                total += getsizeof(block.source.data)
    return total
