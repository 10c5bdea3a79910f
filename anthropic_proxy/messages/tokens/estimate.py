"""`estimate_request_tokens`: number of input tokens of a request, estimated from its text, images, documents and tools.

`EstimateCache` keeps the estimate of the latest request, and `get_or_estimate` returns it. Deferred tools, which are
hidden until a tool search finds them, count only after they were found.
"""

import functools
import re
import struct
from base64 import b64decode
from binascii import Error as NotBase64
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.models import (
    ABSENT,
    Block,
    CompactionBlock,
    DocumentBlock,
    ImageBlock,
    MessagesRequest,
    SearchResultBlock,
    ServerToolUseBlock,
    Source,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    UnknownBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
    decode_nested_content,
    is_string_or_absent,
)
from anthropic_proxy.messages.preparation.block_text import result_as_text, unknown_block_text
from anthropic_proxy.messages.preparation.tools import list_visible_tools
from anthropic_proxy.messages.tokens.density import estimate_text_tokens

_PER_MESSAGE = 4
_PER_CALL = 8
_PER_RESULT = 6
_ANY_TOOL = 50


class _Fetched(Struct):
    """Content of a web fetch result in the client request: the fetched document."""

    url: str = ""
    """URL of the fetched document."""
    content: Raw = ABSENT
    """The fetched document: a document block as JSON."""


class _TokenCounter:
    """Counter of the tokens of one request. It collects all texts and estimates them together, which is faster."""

    def __init__(self) -> None:
        self.texts: list[Raw | bytes] = []
        self.tokens = 0

    def add(self, blocks: list[Block]) -> None:
        """Count the content blocks of a message, or the blocks inside another block, such as a tool result."""
        for block in blocks:
            if type(block) is TextBlock:
                self.texts.append(block.text)
            elif type(block) is ToolResultBlock:
                self.tokens += _PER_RESULT
                self._add_content(block.content)
            elif type(block) is ToolUseBlock or type(block) is ServerToolUseBlock:
                self.tokens += _PER_CALL
                self.texts.append(block.input)
            elif type(block) is not ThinkingBlock:
                self._add_rare(block)

    def _add_content(self, content: Raw) -> None:
        if is_string_or_absent(content):
            self.texts.append(content)
        else:
            self.add(decode_nested_content(content))

    def _add_rare(self, block: Block) -> None:
        if isinstance(block, ImageBlock):
            self.tokens += image_tokens(block)
        elif isinstance(block, DocumentBlock):
            self._add_document(block)
        elif isinstance(block, SearchResultBlock):
            self._add_words(f"{block.title}\n{block.source}")
            self._add_content(block.content)
        elif isinstance(block, WebFetchResultBlock):
            self._add_fetched(block)
        elif isinstance(block, WebSearchResultBlock | ToolSearchResultBlock):
            self._add_words(result_as_text(block))
        elif isinstance(block, ToolReferenceBlock):
            self._add_words(block.tool_name)
        elif isinstance(block, CompactionBlock):
            self._add_words(block.content or "")
        elif isinstance(block, UnknownBlock):
            self._add_words(unknown_block_text(block))

    def _add_words(self, words: str) -> None:
        self.texts.append(words.encode(errors="replace"))

    def _add_fetched(self, block: WebFetchResultBlock) -> None:
        self.tokens += _PER_RESULT
        try:
            fetched = msgspec.json.decode(block.content, type=_Fetched)
            document = msgspec.json.decode(fetched.content, type=DocumentBlock)
        except (msgspec.DecodeError, RecursionError):
            self._add_words(result_as_text(block))
        else:
            self._add_words(fetched.url)
            self._add_document(document)

    def _add_document(self, block: DocumentBlock) -> None:
        source = block.source
        self._add_words(f"{block.title or ''}\n{block.context or ''}")
        if source.type == "text":
            self._add_words(source.data)
        elif source.type == "content":
            self._add_content(source.content)
        else:
            self.tokens += pdf_tokens(source)


class EstimateCache:
    """Cache for the token estimate of the latest request, because several steps of a request need the same estimate."""

    def __init__(self) -> None:
        self._last: tuple[MessagesRequest, int] | None = None

    def has_estimate(self, request: MessagesRequest) -> bool:
        """Return True if the tokens of this request object are already estimated."""
        return self._last is not None and self._last[0] is request

    def get_or_estimate(self, request: MessagesRequest) -> int:
        """Return the estimated input tokens of a request. Later calls with the same object return the same number."""
        if self._last is None or self._last[0] is not request:
            self._last = request, estimate_request_tokens(request)
        return self._last[1]


def estimate_request_tokens(request: MessagesRequest) -> int:
    """Return the estimated input tokens of a request: system prompt, messages, visible tools, images and PDFs.

    Raises `InvalidRequest` for a tool result that cannot be decoded.
    """
    counter = _TokenCounter()
    for content in (request.system, *[message.content for message in request.messages]):
        if isinstance(content, str):
            counter.texts.append(content.encode(errors="replace"))
        else:
            # without reasoning of earlier replies, which most providers do not receive
            counter.add(content)
    total = counter.tokens + _PER_MESSAGE * (1 + len(request.messages)) + estimate_text_tokens(b"".join(counter.texts))
    # the error is greater for small requests, because providers add text of their own before tools
    if tools := list_visible_tools(request):
        total += _ANY_TOOL + sum(map(tool_tokens, tools))
    return max(1, round(total))


MAX_IMAGE_TOKENS = 1_600
"""Maximum estimated tokens of an image. An image of unknown size counts as the maximum."""
_PIXELS_PER_TOKEN = 750
_TOKENS_PER_PAGE = 2_000
_HEADER = 64 * 1024
"""Maximum base64 characters of an image that are decoded to find its size. A photo may contain a preview before its
size."""
_PDF_READ = 4 * 1024 * 1024
"""Maximum base64 characters of a PDF that are decoded to count its pages. A longer PDF is extrapolated."""
_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")


def image_tokens(block: ImageBlock) -> int:
    """Return the estimated tokens of an image: one per 750 pixels, at most 1600. Unknown size: 1600."""
    source = block.source
    size = _size_of(_decoded(source.data[:_HEADER])) if source.type == "base64" else None
    if size is None:
        return MAX_IMAGE_TOKENS
    return max(1, min(size[0] * size[1] // _PIXELS_PER_TOKEN, MAX_IMAGE_TOKENS))


def pdf_tokens(source: Source) -> int:
    """Return the estimated tokens of a PDF: 2000 per page. Unknown number of pages: one page."""
    data = source.data
    pages = len(_PAGE.findall(_decoded(data[:_PDF_READ])))
    if len(data) > _PDF_READ:
        pages = pages * len(data) // _PDF_READ
    return max(pages, 1) * _TOKENS_PER_PAGE


def _decoded(data: str) -> bytes:
    try:
        return b64decode(data[: len(data) // 4 * 4])
    except (NotBase64, ValueError):
        return b""


def _size_of(head: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from the first bytes of an image. None: unknown format.

    Sources: the specifications of PNG, GIF89a, JPEG (T.81, B.2.2) and the WebP container.
    """
    if head.startswith(b"\x89PNG") and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
    elif head.startswith(b"GIF8") and len(head) >= 10:
        width, height = struct.unpack("<HH", head[6:10])
    elif head.startswith(b"\xff\xd8"):
        return _jpeg_size(head)
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp_size(head)
    else:
        return None
    return width, height


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(head) and head[place] == 0xFF:
        marker = head[place + 1]
        if marker == 0xFF:
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[place + 5 : place + 9])
            return width, height
        else:
            place += 2 + int.from_bytes(head[place + 2 : place + 4])
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


_PER_TOOL = 10
_PER_PROPERTY = 5
"""Number of tokens that a property of a tool's schema costs besides its name: type and punctuation."""
_PER_VALUE = 1
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""JSON Schema keywords with an object as value: name → schema."""
_MAX_CACHED_BYTES = 32 * 1024
"""Maximum size in bytes of a tool definition for which the token count is cached."""


class _Definition(Struct):
    name: str = ""
    description: str | None = None
    input_schema: Any = None


_decode = msgspec.json.Decoder(_Definition).decode


def tool_tokens(tool: Tool) -> float:
    """Return the estimated tokens of a tool definition. Results for small definitions are cached."""
    if len(tool.source) > _MAX_CACHED_BYTES:
        return _weigh(tool.source)
    return _weigh_cached(tool.source) if tool.source else _weigh_struct(tool)


def _weigh(source: bytes) -> float:
    try:
        tool = _decode(source)
    except (msgspec.DecodeError, RecursionError):
        return _PER_TOOL + estimate_text_tokens(source)
    return _signature(tool.name, tool.description, tool.input_schema)


_weigh_cached = functools.lru_cache(maxsize=1024)(_weigh)


def _weigh_struct(tool: Tool) -> float:
    schema = msgspec.json.decode(tool.input_schema) if len(tool.input_schema) else None
    return _signature(tool.name, tool.description, schema)


def _signature(name: str, description: str | None, schema: Any) -> float:
    words = [name, description or ""]
    marks = _walk(schema, words)
    return _PER_TOOL + marks + estimate_text_tokens("\n".join(words).encode(errors="replace"))


def _walk(schema: Any, words: list[str]) -> int:
    """Append all names and texts of a JSON Schema to `words`. Return the tokens of its punctuation and types."""
    if isinstance(schema, list):
        return sum(_walk(member, words) for member in schema)
    if not isinstance(schema, dict):
        return 0
    marks = 0
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, dict):
            words.extend(value)
            marks += _PER_PROPERTY * len(value) + sum(_walk(member, words) for member in value.values())
        elif keyword == "enum" and isinstance(value, list):
            words.extend(map(str, value))
            marks += _PER_VALUE * len(value)
        elif keyword in ("description", "const", "pattern") and isinstance(value, str):
            words.append(value)
        else:
            marks += _walk(value, words)
    return marks
