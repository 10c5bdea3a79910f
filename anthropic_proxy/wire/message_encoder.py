"""Base class of the encoders of Chat Completions, Ollama and Responses, which send a conversation as one list.

The order is the same on all three: system prompt, then each message; the results of tool calls come before the other
content of their user message. A wire defines the form of each message. JSON strings are copied without decoding.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec import Raw

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import (
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ToolResultBlock,
    blocks_of,
    is_text,
    json_string,
)
from anthropic_proxy.messages.preparation import PreparedRequest
from anthropic_proxy.wire.json_strings import join_texts
from anthropic_proxy.wire.shared_notes import (
    ERROR_MARKED,
    FOREIGN_THINKING_DROPPED,
    MEDIA_MOVED,
    PREFILL_AS_TEXT,
    SYSTEM_AS_REMINDER,
    omitted,
)

CONTINUE_TEXT = json_string("Continue exactly from the end of your last message.")
"""User text after a last assistant message that the server cannot continue."""
EMPTY_TEXT_BYTES = Raw(b'""')

ERROR_MARK = "[tool error]"
_USER_CONTENT = frozenset({TextBlock, ImageBlock, DocumentBlock})
MOVED_MEDIA_TEXTS: dict[type, Raw] = {
    ImageBlock: json_string("[image: see the next user message]"),
    DocumentBlock: json_string("[document: see the next user message]"),
}
"""Type of a block → the text in its place if a tool result may contain text only."""
_PDF = "application/pdf"


class MessageEncoder(ABC):
    """Encodes the messages of one request, in order, into `messages`; deviations are added to `notes`.

    A part of a message is a text (`Raw`, a JSON string), or the wire's own form of an image or a document.
    """

    accepts_media_in_results: bool = False
    """True if tool results may contain images and documents. False: a user message after the results contains them."""
    sends_reminders: bool = False
    """True if a system message after the first message is sent as a `<system-reminder>` in a user message."""
    mentions_image_urls: ClassVar[bool] = False
    """True if an image that is not sent is replaced by its URL even if the model accepts no images."""

    def __init__(self, request: PreparedRequest) -> None:
        self.messages: list[Any] = []
        self.notes: list[FidelityNote] = []
        self._request = request
        self._late_texts: list[Raw] = []
        """System texts that wait for the results of open calls or for the next user message."""
        self._has_open_calls = False
        """True if the last assistant message contains calls without encoded results."""
        self._drops_thinking = False
        """True if reasoning of an earlier reply is not sent."""

    @abstractmethod
    def _append_system(self, texts: list[Raw]) -> None:
        """Append system texts that are not part of the system prompt."""

    @abstractmethod
    def _append_user(self, parts: list[Any]) -> None:
        """Append the content of a user message. `parts` is not empty."""

    @abstractmethod
    def _append_result(self, block: ToolResultBlock, content: Any) -> None:
        """Append a tool result. `content` is a list only if `accepts_media_in_results` is True."""

    @abstractmethod
    def _encode_reply(self, message: Message) -> None:
        """Append an assistant message. One without text and calls is dropped with its reasoning."""

    @abstractmethod
    def _encode_image(self, block: ImageBlock) -> Any:
        """Return an image in the form of the wire. None: the server does not accept its type or URL."""

    def _encode_document(self, block: DocumentBlock) -> Any:
        """Return a document in the form of the wire. None: the server does not accept its type or URL."""
        return None

    def _result_label(self, block: ToolResultBlock) -> str:
        """Return the name of a tool result in the text before its images and documents."""
        return block.tool_use_id

    def _join_result_without_media(self, blocks: list[Any], content: list[Any], *, is_error: bool) -> Raw:
        """Return the text of a result from which images or documents are moved. `content` has one part per block."""
        return join_texts(replace_media(blocks, content), f"{ERROR_MARK} ".encode() if is_error else b"")

    def _encode_conversation(self) -> None:
        """Append all messages of the request."""
        for message in self._request.messages:
            if message.role == "assistant":
                self._encode_reply(message)
            elif message.role == "user":
                self._encode_user(message)
            else:
                self._encode_system(message)

    def _append_prefill_request(self) -> None:
        """Append a user message that asks the model to continue its last message."""
        self._append_user([CONTINUE_TEXT])
        self.notes.append(PREFILL_AS_TEXT)

    def _flush_late_texts(self) -> None:
        """Append the system texts that waited."""
        if self._late_texts:
            texts, self._late_texts = self._late_texts, []
            self._append_system(texts)

    def _note_dropped_thinking(self) -> None:
        """Add one note if reasoning of earlier replies was not sent."""
        if self._drops_thinking:
            self.notes.append(FOREIGN_THINKING_DROPPED)

    def _add_reminder(self, text: Raw) -> None:
        """Add a reminder to the next user message."""
        self._late_texts.append(text)

    def _place_late_texts(self, parts: list[Any]) -> None:
        """Append the waiting system texts before a user message, or add them to `parts`, its content so far."""
        self._flush_late_texts()

    def _encode_system(self, message: Message) -> None:
        texts = [block.text for block in message.content if type(block) is TextBlock]
        if not texts:
            return
        if self.sends_reminders:
            self.notes.append(SYSTEM_AS_REMINDER)
            self._add_reminder(join_texts(texts, rb"<system-reminder>\n", rb"\n</system-reminder>"))
        elif self._has_open_calls:
            self._late_texts += texts
        else:
            self._append_system(texts)

    def _encode_user(self, message: Message) -> None:
        parts: list[Any] = []
        for block in message.content:
            if type(block) is not ToolResultBlock:
                continue
            if block.is_error or not is_text(block.content):
                self._encode_structured_result(block, parts)
            else:
                self._append_result(block, block.content or EMPTY_TEXT_BYTES)
        self._has_open_calls = False
        if self._late_texts:
            self._place_late_texts(parts)
        content: Sequence[Any] = message.content
        parts += [
            block.text if type(block) is TextBlock else self._encode_media(block)
            for block in content
            if type(block) in _USER_CONTENT
        ]
        if parts:
            self._append_user(parts)

    def _encode_structured_result(self, block: ToolResultBlock, parts: list[Any]) -> None:
        """Append a result with an error or a list. Media that it may not contain are added to `parts`."""
        blocks: list[Any] = [inner for inner in blocks_of(block.content) if type(inner) in _USER_CONTENT]
        content = [inner.text if type(inner) is TextBlock else self._encode_media(inner) for inner in blocks]
        media = [part for part in content if type(part) is not Raw]
        if block.is_error:
            self.notes.append(ERROR_MARKED)
        if media and self.accepts_media_in_results:
            self._append_result(block, [json_string(ERROR_MARK), *content] if block.is_error else content)
            return
        if media:
            self._append_result(block, self._join_result_without_media(blocks, content, is_error=bool(block.is_error)))
            self.notes.append(MEDIA_MOVED)
            parts += (json_string(f"From the result of tool call {self._result_label(block)}:"), *media)
        else:
            mark = f"{ERROR_MARK} ".encode() if block.is_error else b""
            self._append_result(block, join_texts(content or [EMPTY_TEXT_BYTES], mark))

    def _encode_media(self, block: ImageBlock | DocumentBlock) -> Any:
        """Return an image or document, or a text with a note if the model or the server does not accept it."""
        source = block.source
        if isinstance(block, ImageBlock):
            kind, title, accepted = "image", None, self._request.vision
            encoded = self._encode_image(block) if accepted else None
        else:
            kind, title, accepted = "document", block.title, self._request.pdf
            encoded = self._encode_document(block) if accepted else None
        if encoded is not None:
            return encoded
        self.notes.append(omitted(kind, source.media_type, by_address=source.type == "url"))
        if source.type == "url" and (accepted or (kind == "image" and self.mentions_image_urls)):
            return json_string(f"[{kind}: {source.url}]")
        return json_string(f"[{kind} omitted: {title or source.media_type or source.url}]")


def replace_media(blocks: list[Any], content: list[Any]) -> list[Raw]:
    """Return encoded blocks with a text in place of each image and document."""
    pairs = zip(blocks, content, strict=True)
    return [part if type(part) is Raw else MOVED_MEDIA_TEXTS[type(block)] for block, part in pairs]


def join_system_prompt(request: PreparedRequest, extra_text: str = "") -> Raw | None:
    """Return the system prompt of a request, with `extra_text` at its end. None: both are empty."""
    texts = [block.text for block in request.system]
    if extra_text:
        texts.append(json_string(extra_text))
    return join_texts(texts) if texts else None


def image_url(block: ImageBlock, media_types: tuple[str, ...], *, accepts_urls: bool) -> str:
    """Return an image as a URL: its own, or a `data:` URL for the given media types. "": not accepted."""
    source = block.source
    if source.type == "base64" and source.media_type in media_types:
        return f"data:{source.media_type};base64,{source.data}"
    return source.url if source.type == "url" and accepts_urls else ""


def pdf_url(block: DocumentBlock, *, accepts_urls: bool) -> str:
    """Return a PDF as a URL: its own or a `data:` URL. "": another document, or a URL that is not accepted."""
    source = block.source
    if source.type == "base64" and source.media_type == _PDF:
        return f"data:{_PDF};base64,{source.data}"
    return source.url if source.type == "url" and accepts_urls else ""


def pdf_filename(block: DocumentBlock) -> str:
    """Return a file name for a document, from its title."""
    name = block.title or "document"
    return name if name.endswith(".pdf") else f"{name}.pdf"
