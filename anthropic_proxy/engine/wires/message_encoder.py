"""`MessageEncoder`: base class of the encoders for the messages of Chat Completions, Ollama and Responses requests.

In these three APIs, the conversation is one list, and each tool result is a separate element of it. The tool results of
a user message must come before its other content. A system message inside the conversation may become a reminder, a
text in a user message. If a tool result may contain only text, its media (images and documents) are moved to the next
user message.

The first messages of a conversation are encoded once, if the next requests have them too (`CleanMessages.known`). Their
JSON is then one element of `messages`, and the encoder continues in the state that it had behind them.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from copy import copy
from typing import Any, ClassVar

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import (
    CleanMessages,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    decode_nested_content,
    json_string,
    name_url,
)
from anthropic_proxy.engine.messages.models.raw_json import ABOVE_STRINGS
from anthropic_proxy.engine.messages.preparation import PreparedRequest
from anthropic_proxy.engine.wires.shared_notes import (
    ERROR_MARKED,
    MEDIA_MOVED,
    PREFILL_AS_TEXT,
    SYSTEM_AS_REMINDER,
    media_as_text_note,
)

CONTINUE_TEXT = json_string("Continue exactly from the end of your last message.")
"""User text that is added after a last assistant message, as a JSON string. It is for providers that cannot continue
that message by themselves."""
EMPTY_JSON_STRING = Raw(b'""')

TOOL_ERROR_PREFIX = "[tool error]"
"""Start of the text of a tool result with `is_error`, because the three protocols have no error flag."""
_USER_CONTENT = frozenset({TextBlock, ImageBlock, DocumentBlock})
MOVED_MEDIA_TEXTS: dict[type, Raw] = {
    ImageBlock: json_string("[image: see the next user message]"),
    DocumentBlock: json_string("[document: see the next user message]"),
}
"""Block type → JSON string that replaces a block of a tool result. The block itself is moved to the next user
message."""


_encode = msgspec.json.Encoder().encode


_ENCODED = "encoded"
"""Key in `CleanMessages.results`: only the last encoding is kept, because its size is that of the messages."""


class EncodedMessages(Struct, eq=False):
    """The known messages of a conversation as one encoder sends them."""

    key: Hashable
    """`MessageEncoder._key`. An encoder with another one encodes the messages again."""
    count: int
    text: Raw
    """JSON of list elements, without the brackets of the list."""
    state: dict[str, Any]
    """Attributes of the encoder behind the messages."""


class MessageEncoder(ABC):
    """Base class of encoders that append the messages of a client request, in order, to the list `messages`.

    A message part is a text, image or document.
    """

    accepts_media_in_results: bool = False
    """True if the provider accepts images and documents in tool results. False: they are moved to the next user
    message."""
    sends_reminders: bool = False
    """True if a `system` message inside the conversation is sent as text of a user message, between `<system-reminder>`
    tags. False: as a system message."""
    mentions_image_urls: ClassVar[bool] = False
    """True if the text in place of an image with a URL contains the URL, even if the model accepts no images."""

    STATE: ClassVar[tuple[str, ...]] = ("notes", "_has_open_calls", "_drops_thinking")
    """Attributes on which the encoding of a reply and what follows it depends, besides the key of `__init__`."""

    _has_open_calls = False
    """True if the last assistant message has tool calls without encoded results so far."""
    _drops_thinking = False

    def __init__(self, request: PreparedRequest, *key: Hashable) -> None:
        """`key`: everything on which the encoding of messages depends, besides the messages and what `request` tells
        about images and documents. Empty: encoded messages are not kept.
        """
        self._key = (type(self), request.accepts_images, request.accepts_pdf, *key) if key else None
        self.messages: list[Any] = []
        self.notes: list[FidelityNote] = []
        self._request = request
        self._late_texts: list[Raw] = []
        """Texts of system messages inside the conversation that are not yet encoded. They wait for the results of open
        tool calls, or for the next user message."""

    @abstractmethod
    def _append_system(self, texts: list[Raw]) -> None:
        """Append the texts of a `system` message inside the conversation. `texts` is not empty."""

    @abstractmethod
    def _append_user(self, parts: list[Any]) -> None:
        """Append the content of a user message. `parts` is not empty."""

    @abstractmethod
    def _append_result(self, block: ToolResultBlock, content: Any) -> None:
        """Append a tool result. `content` is a JSON string, or a list of parts if `accepts_media_in_results`."""

    @abstractmethod
    def _encode_reply(self, message: Message) -> None:
        """Append an assistant message. A message without text and tool calls is dropped, with its reasoning."""

    @abstractmethod
    def _encode_image(self, block: ImageBlock) -> Any:
        """Return an image as the wire sends it. None: the provider does not accept its media type, or URLs."""

    def _encode_document(self, block: DocumentBlock) -> Any:
        """Return a document as the wire sends it. None: the provider does not accept it."""
        return None

    def _result_label(self, block: ToolResultBlock) -> str:
        """Return the name of a tool result, for the text before its images and documents that are moved."""
        return block.tool_use_id

    def _join_result_without_media(self, blocks: list[Any], content: list[Any], *, is_error: bool) -> Raw:
        """Return the text of a tool result as a JSON string, if its images and documents are moved elsewhere.

        `blocks`: content of the result. `content`: the encoded blocks, in the same order.
        """
        return join_json_strings(
            replace_media_by_text(blocks, content), f"{TOOL_ERROR_PREFIX} ".encode() if is_error else b""
        )

    def _join_texts(self) -> None:  # noqa: B027  # not every wire collects some
        """Join the texts that are sent as one message. They are collected, because each joining copies all of them."""

    def _encode_conversation(self) -> None:
        messages, known = self._request.messages, self._request.known
        if known is not None and self._key is not None:
            count = self._request.known_count
            # a system message at the beginning may get the mark of the cache
            if messages[0].role != "system" and _is_sent(messages[count]):
                self._encode_known(known, messages[:count], self._key)
                messages = messages[count:]
        self._encode_messages(messages)

    def _encode_known(self, known: CleanMessages, messages: list[Message], key: Hashable) -> None:
        begin = len(self.messages)  # behind the system prompt
        encoded: EncodedMessages | None = known.results.get(_ENCODED)
        if encoded is None or encoded.key != key:
            first = known.known  # another thread may set the field to None
            before: EncodedMessages | None = None if first is None else first.results.pop(_ENCODED, None)
            # behind them may be another reply than at that time
            if before is not None and before.key == key and _is_sent(messages[before.count]):
                self._continue_behind(before)
                messages = messages[before.count :]
            self._encode_messages(messages)
            if self._late_texts or len(self.messages) == begin:  # the texts may join the last message
                return
            self._join_texts()
            text = Raw(_encode(self.messages[begin:])[1:-1])
            state = {name: copy(getattr(self, name)) for name in self.STATE}
            encoded = known.results[_ENCODED] = EncodedMessages(key, self._request.known_count, text, state)
            del self.messages[begin:]
        self._continue_behind(encoded)

    def _continue_behind(self, encoded: EncodedMessages) -> None:
        self.messages.append(encoded.text)
        for name, value in encoded.state.items():
            setattr(self, name, copy(value))

    def _encode_messages(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.role == "assistant":
                self._encode_reply(message)
            elif message.role == "user":
                parts: list[Any] = []
                for block in message.content:  # the results come first
                    if type(block) is ToolResultBlock:
                        if block.is_error or not block.content < ABOVE_STRINGS:
                            self._encode_structured_result(block, parts)
                        else:
                            self._append_result(block, block.content or EMPTY_JSON_STRING)
                        continue
                    if self._late_texts:
                        self._place_late_texts(parts)
                    if type(block) is TextBlock:
                        parts.append(block.text)
                    elif isinstance(block, ImageBlock | DocumentBlock):
                        parts.append(self._encode_media(block))
                self._has_open_calls = False
                if self._late_texts:
                    self._place_late_texts(parts)
                if parts:
                    self._append_user(parts)
            elif texts := [block.text for block in message.content if type(block) is TextBlock]:
                if self.sends_reminders:
                    self.notes.append(SYSTEM_AS_REMINDER)
                    self._add_reminder(join_json_strings(texts, rb"<system-reminder>\n", rb"\n</system-reminder>"))
                elif self._has_open_calls:
                    self._late_texts += texts
                else:
                    self._append_system(texts)

    def _append_prefill_request(self) -> None:
        self._append_user([CONTINUE_TEXT])
        self.notes.append(PREFILL_AS_TEXT)

    def _flush_late_texts(self) -> None:
        texts, self._late_texts = self._late_texts, []
        self._append_system(texts)

    def _add_reminder(self, text: Raw) -> None:
        """Store a `<system-reminder>` text until the next user message is encoded. `text`: a JSON string."""
        self._late_texts.append(text)

    def _place_late_texts(self, parts: list[Any]) -> None:
        """Append the waiting texts of system messages inside the conversation, before the next user message.

        A wire may instead add them to `parts`, the content of that user message so far.
        """
        self._flush_late_texts()

    def _encode_structured_result(self, block: ToolResultBlock, parts: list[Any]) -> None:
        """Images and documents that a result may not contain are added to `parts`, the user message."""
        blocks: list[Any] = [inner for inner in decode_nested_content(block.content) if type(inner) in _USER_CONTENT]
        content = [inner.text if type(inner) is TextBlock else self._encode_media(inner) for inner in blocks]
        media = [part for part in content if type(part) is not Raw]
        if block.is_error:
            self.notes.append(ERROR_MARKED)
        if media and self.accepts_media_in_results:
            self._append_result(block, [json_string(TOOL_ERROR_PREFIX), *content] if block.is_error else content)
            return
        if media:
            self._append_result(block, self._join_result_without_media(blocks, content, is_error=bool(block.is_error)))
            self.notes.append(MEDIA_MOVED)
            parts += (json_string(f"From the result of tool call {self._result_label(block)}:"), *media)
        else:
            mark = f"{TOOL_ERROR_PREFIX} ".encode() if block.is_error else b""
            self._append_result(block, join_json_strings(content or [EMPTY_JSON_STRING], mark))

    def _encode_media(self, block: ImageBlock | DocumentBlock) -> Any:
        source = block.source
        if isinstance(block, ImageBlock):
            kind = "image"
            title = None
            accepted = self._request.accepts_images
            encoded = self._encode_image(block) if accepted else None
        else:
            kind = "document"
            title = block.title
            accepted = self._request.accepts_pdf
            encoded = self._encode_document(block) if accepted else None
        if encoded is not None:
            return encoded
        self.notes.append(media_as_text_note(kind, source.media_type, has_url=source.type == "url"))
        if source.type == "url" and (accepted or (kind == "image" and self.mentions_image_urls)):
            return json_string(f"[{kind}: {name_url(source.url)}]")
        return json_string(f"[{kind} omitted: {title or source.media_type or name_url(source.url) or source.type}]")


def _is_sent(reply: Message) -> bool:
    """Return False for a reply that only thinks: what follows it may join the message before it."""
    return any(type(block) is not ThinkingBlock for block in reply.content)


def replace_media_by_text(blocks: list[Any], encoded_blocks: list[Any]) -> list[Raw]:
    """Return the texts of a tool result, with a short text in place of each image and document.

    The short text refers to the next user message, to which the file is moved. `encoded_blocks` has the encoded form of
    each block in `blocks`. Raises `ValueError` if the two lists differ in length.
    """
    pairs = zip(blocks, encoded_blocks, strict=True)
    return [part if type(part) is Raw else MOVED_MEDIA_TEXTS[type(block)] for block, part in pairs]


def join_system_prompt(request: PreparedRequest, extra_text: str = "") -> Raw | None:
    """Return the system prompt as one JSON string, with `extra_text` at its end. None: there is no text."""
    if not (request.system or extra_text):
        return None
    texts = [block.text for block in request.system]
    if extra_text:
        texts.append(json_string(extra_text))
    return join_json_strings(texts)


def join_json_strings(texts: Sequence[Raw], before: bytes = b"", after: bytes = b"") -> Raw:
    """Join with blank lines between. `before` and `after` must be escaped for a JSON string."""
    if len(texts) == 1 and not before and not after:
        return texts[0]
    inner = b"\\n\\n".join([memoryview(text)[1:-1] for text in texts])
    return Raw(b'"%b%b%b"' % (before, inner, after))


def image_url(block: ImageBlock, media_types: tuple[str, ...], *, accepts_urls: bool) -> str:
    """Return the URL of an image for the upstream request. "": the provider accepts no such image.

    An image in base64 is converted to a `data:` URL, if its type is in `media_types`. `accepts_urls`: True if the
    provider downloads images from other URLs.
    """
    source = block.source
    if source.type == "base64" and source.media_type in media_types:
        return f"data:{source.media_type};base64,{source.data}"
    return source.url if source.type == "url" and accepts_urls else ""


def pdf_url(block: DocumentBlock, *, accepts_urls: bool) -> str:
    """Return the URL of a PDF for the upstream request. "": the provider accepts no such document.

    A PDF in base64 is converted to a `data:` URL. `accepts_urls`: True if the provider downloads documents from other
    URLs.
    """
    source = block.source
    if source.type == "base64" and source.media_type == "application/pdf":
        return f"data:application/pdf;base64,{source.data}"
    return source.url if source.type == "url" and accepts_urls else ""


def pdf_filename(block: DocumentBlock) -> str:
    name = block.title or "document"
    return name if name.endswith(".pdf") else f"{name}.pdf"
