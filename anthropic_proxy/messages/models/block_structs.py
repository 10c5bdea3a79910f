"""Structs of the content blocks in client requests: `TextBlock`, `ImageBlock`, `DocumentBlock` and others.

`Source` is the file of an image or document; `requests_citations` is True if the reply must cite a document.
`SearchResultBlock` is a passage that a search of the client found.

A client tool is run by the client: `ToolUseBlock` is a call of the model, and `ToolResultBlock` the result. A server
tool, such as web search, is run by the provider or the proxy, and `ServerToolUseBlock` is its call. A
`ToolReferenceBlock` names a tool that a tool search found. A `ToolAdditionBlock` or `ToolRemovalBlock` changes the
offered tools, and its `ToolChange` names the tool.

`ThinkingBlock` is reasoning of an earlier reply. `FallbackBlock` marks the place where another model continued a reply.
`CompactionBlock` is a summary that replaces earlier messages. `UnknownBlock` is a block of an unknown type. Source: the
API reference and the official SDK, read 2026-11.
"""

import re
from base64 import b64decode, b64encode
from contextlib import suppress

from msgspec import Raw, Struct

MAX_NAMED_DATA_URL = 100
"""Maximum number of characters of a `data:` URL in a text that names it."""
MAX_STRAY_PERCENT_SIGNS = 1_000
"""Maximum number of percent signs in a `data:` URL that do not begin an escape such as `%20`. They stay as they are."""
_DATA_SCHEME = "data:"
_DEFAULT_DATA_URL_TYPE = "text/plain"
"""Media type of a `data:` URL that states none (RFC 2397)."""
_STRAY_PERCENT_SIGN = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_MEDIA_TYPE_ALIASES = {"image/jpg": "image/jpeg"}

ABSENT = Raw(b"")
"""Value of a `Raw` field that the client did not send. It is used because msgspec allows no union of `Raw` and None."""


class TextBlock(Struct, tag="text", tag_field="type", omit_defaults=True, gc=False):
    """A text in a message or in the system prompt."""

    text: Raw
    """Text of the block as a JSON string, with quotes and escapes."""


class Source(Struct, omit_defaults=True, gc=False):
    """File of an image or document: base64 data, a URL, the id of an uploaded file, a text, or content blocks."""

    type: str
    """Kind of the source: `base64`, `url`, `file`, `text` or `content`. It decides which other field has the content.
    """
    media_type: str = ""
    """Media type of base64 data or text: `image/png`. "": not given."""
    data: str = ""
    """Base64 data, or the text of a `text` source."""
    url: str = ""
    """URL of the file, for a source of the type `url`."""
    file_id: str = ""
    """Id of a file that the client uploaded to Anthropic's API, for a source of the type `file`."""
    content: Raw = ABSENT
    """Content of a `content` source: a JSON string or a list of text and image blocks."""

    def __post_init__(self) -> None:
        # Few providers accept data URLs, so they are read as base64 data. Media types are case-insensitive (RFC 2045).
        if self.type == "url" and _is_data_url(self.url):
            self._decode_data_url()
        if self.media_type:
            media_type = self.media_type.lower()
            self.media_type = _MEDIA_TYPE_ALIASES.get(media_type, media_type)

    def _decode_data_url(self) -> None:
        """Make the data of a `data:` URL (RFC 2397) the base64 data of this source.

        A URL without a comma, or with too many invalid escapes, is kept.
        """
        # no regular expression: its time for a URL without a comma would grow with the square of the length
        head, comma, data = self.url[len(_DATA_SCHEME) :].partition(",")
        if not comma:
            return
        try:
            if not head.lower().endswith(";base64"):
                data = b64encode(_decode_percent_escapes(data)).decode()
            elif "%" in data:
                data = _decode_percent_escapes(data).decode("latin-1")
        except ValueError:
            return
        media_type = head.partition(";")[0] or _DEFAULT_DATA_URL_TYPE
        self.type, self.media_type, self.data, self.url = "base64", media_type, data, ""


def name_url(url: str) -> str:
    """Return a short form of `url` for a text, such as the notice in place of an omitted image.

    Of a `data:` URL, only the part before the data is returned. Other URLs are returned unchanged.
    """
    return url[:MAX_NAMED_DATA_URL].partition(",")[0] if _is_data_url(url) else url


def _decode_percent_escapes(text: str) -> bytes:
    """Return the bytes of a percent-encoded text.

    Raises `ValueError` for more than `MAX_STRAY_PERCENT_SIGNS` percent signs that begin no escape.
    """
    # `urllib.parse.unquote_to_bytes` creates objects for each escape: 2 GB and seconds for a URL of 30 MB
    escaped = _STRAY_PERCENT_SIGN.sub(b"%25", text.encode(), count=MAX_STRAY_PERCENT_SIGNS)
    return escaped.replace(b"\\", b"%5c").replace(b"%", b"\\x").decode("unicode_escape").encode("latin-1")


def _is_data_url(url: str) -> bool:
    return url[: len(_DATA_SCHEME)].lower() == _DATA_SCHEME


class ImageBlock(Struct, tag="image", tag_field="type", gc=False):
    """An image in a message or a tool result of the client request."""

    source: Source
    """The file: base64 data, a URL, or an id."""


class DocumentBlock(Struct, tag="document", tag_field="type", omit_defaults=True, gc=False):
    """A PDF or a text document, with an optional title."""

    source: Source
    """The file: base64 data, text, content blocks, a URL, or an id."""
    title: str | None = None
    """Title of the document. None: not given."""
    context: str | None = None
    """Text by which the client describes the document to the model. None: not given."""
    citations: Raw = ABSENT
    """JSON object `{"enabled": …}`: the client requests citations of the document."""

    def __post_init__(self) -> None:
        # Providers accept no text in base64. A text that is not UTF-8 stays in base64.
        source = self.source
        if source.type == "base64" and source.media_type == "text/plain":
            with suppress(ValueError):
                source.data = b64decode(source.data, validate=True).decode()
                source.type = "text"

    @property
    def requests_citations(self) -> bool:
        """Return True if `citations` requests that the reply cites the document."""
        return b"true" in bytes(self.citations)


class SearchResultBlock(Struct, tag="search_result", tag_field="type", gc=False):
    """A passage that a search of the client found. The client sends it as a citable source."""

    source: str
    """URL or name of the source of the passage."""
    title: str
    """Title of the source, as decoded text."""
    content: Raw
    """Text of the passage as a JSON list of text blocks."""


class ThinkingBlock(Struct, tag="thinking", tag_field="type", gc=False):
    """Reasoning of an earlier reply. Its `signature` was made by the proxy or by the provider of the reply."""

    thinking: str
    """Text of the reasoning. "": only the signature was sent."""
    signature: str = ""
    """Opaque text in which the server of the reply stored its state."""


class RedactedThinkingBlock(Struct, tag="redacted_thinking", tag_field="type", gc=False):
    """Reasoning of an earlier reply in encrypted form."""

    data: str
    """Reasoning as opaque text, encrypted by the provider."""


class ToolUseBlock(Struct, tag="tool_use", tag_field="type", gc=False):
    """A tool call of the model in an earlier reply. The client runs the tool."""

    id: str
    """Id of the call. The result of the call has the same id as `tool_use_id`."""
    name: str
    """Name of the called tool."""
    input: Raw = Raw(b"{}")  # immutable
    """Arguments of the call: a JSON object, as text."""


class ToolResultBlock(Struct, tag="tool_result", tag_field="type", gc=False):
    """Result of a client tool. `decode_nested_content(block.content)` returns its blocks."""

    tool_use_id: str
    """Id of the call that the result belongs to."""
    content: Raw = ABSENT
    """A JSON string or a list of blocks. ABSENT: an empty result."""
    is_error: bool | None = None
    """True if the tool failed. None means False."""


class ToolReferenceBlock(Struct, tag="tool_reference", tag_field="type", gc=False):
    """A tool that a tool search found, given by its name. The block is part of a tool result."""

    tool_name: str
    """Name of the tool. Its definition in the request has `defer_loading`."""


class ServerToolUseBlock(Struct, tag="server_tool_use", tag_field="type", gc=False):
    """Call of a server tool in an earlier reply: a tool, such as web search, that the provider or the proxy runs."""

    id: str
    """Id of the call. The result of the call has the same id as `tool_use_id`."""
    name: str
    """Name of the server tool: `web_search`."""
    input: Raw = Raw(b"{}")  # immutable
    """Arguments of the call: a JSON object, as text."""


class WebSearchResultBlock(Struct, tag="web_search_tool_result", tag_field="type", gc=False):
    """Result of a web search: a list of results, or an error object."""

    tool_use_id: str
    """Id of the call that the result belongs to."""
    content: Raw = ABSENT
    """JSON list of the found pages, or a JSON error object."""


class WebFetchResultBlock(Struct, tag="web_fetch_tool_result", tag_field="type", gc=False):
    """Result of a web fetch: a document, or an error object."""

    tool_use_id: str
    """Id of the call that the result belongs to."""
    content: Raw = ABSENT
    """JSON of the fetched document, or a JSON error object."""


class ToolSearchResultBlock(Struct, tag="tool_search_tool_result", tag_field="type", gc=False):
    """Result of a tool search: references to the found tools, or an error object."""

    tool_use_id: str
    """Id of the call that the result belongs to."""
    content: Raw = ABSENT
    """JSON references to the found tools, or a JSON error object."""


class ToolChange(Struct):
    """The tool that a `tool_addition` or `tool_removal` block adds or removes, given by name or definition."""

    type: str = ""
    """`tool_reference`: a tool of the request, given by `name`. `tool_definition`: a new tool, given by `definition`.
    The proxy ignores a tool of any other type."""
    name: str = ""
    """Name of the tool that is added or removed."""
    definition: Raw = ABSENT
    """JSON definition of an added tool, as in the field `tools` of a request."""


class ToolAdditionBlock(Struct, tag="tool_addition", tag_field="type", gc=False):
    """Block of a system message that adds a tool for all later messages."""

    tool: ToolChange
    """The tool that the client adds."""


class ToolRemovalBlock(Struct, tag="tool_removal", tag_field="type", gc=False):
    """Block of a system message that removes a tool for all later messages."""

    tool: ToolChange
    """The tool that the client removes."""


class CompactionBlock(Struct, tag="compaction", tag_field="type", gc=False):
    """Summary of the conversation that replaces all earlier messages."""

    content: str | None = None
    """Text of the summary. None: the compaction failed, and the block is ignored."""


class FallbackBlock(Struct, tag="fallback", tag_field="type", gc=False):
    """Mark at the place where another model continued the reply. It is not sent to providers."""


class UnknownBlock(Struct, tag="px.unknown", tag_field="type", gc=False):
    """A block of a type that the proxy does not know."""

    kind: str
    """Value of the field `type` of the block."""
    raw: Raw
    """The complete block, as JSON text."""


Block = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | ToolReferenceBlock
    | ServerToolUseBlock
    | WebSearchResultBlock
    | WebFetchResultBlock
    | ToolSearchResultBlock
    | ToolAdditionBlock
    | ToolRemovalBlock
    | CompactionBlock
    | FallbackBlock
    | UnknownBlock
)
"""Any content block of a client request."""
