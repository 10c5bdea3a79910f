"""Structs of the content blocks in client requests: `TextBlock`, `ImageBlock`, `ToolUseBlock` and others.

`Source` is the file of an image or document. `ToolChange` is the tool that a block of a system message adds or removes.
Field names are those of the API. Source: the API reference and the official SDK, read 2026-11.
"""

from msgspec import Raw, Struct

ABSENT = Raw(b"")
"""Value of a `Raw` field that the client did not send. msgspec allows no union of `Raw` and None."""


class TextBlock(Struct, tag="text", tag_field="type", omit_defaults=True, gc=False):
    """Text of a message or of the system prompt."""

    text: Raw
    """A JSON string."""


class Source(Struct, omit_defaults=True, gc=False):
    """Source of an image or a document: `base64`, `url`, `file`, `text` or `content`."""

    type: str
    """Kind of the source, which decides the field with the content."""
    media_type: str = ""
    """Media type of base64 data or text: `image/png`. "": not given."""
    data: str = ""
    """Base64 data, or the text of a `text` source."""
    url: str = ""
    """URL of a `url` source."""
    file_id: str = ""
    """File id of a `file` source."""
    content: Raw = ABSENT
    """Of a `content` source: a JSON string or a list of text and image blocks."""


class ImageBlock(Struct, tag="image", tag_field="type", gc=False):
    """An image in a message or a tool result."""

    source: Source


class DocumentBlock(Struct, tag="document", tag_field="type", omit_defaults=True, gc=False):
    """A PDF or a text document, with an optional title."""

    source: Source
    title: str | None = None
    context: str | None = None
    """Text of the client about the document, for the model."""
    citations: Raw = ABSENT
    """Object `{"enabled": …}`."""

    @property
    def is_cited(self) -> bool:
        """Return True if the reply must cite the document."""
        return b"true" in bytes(self.citations)


class SearchResultBlock(Struct, tag="search_result", tag_field="type", gc=False):
    """A passage that the client's own search found."""

    source: str
    """URL or name of the passage's source."""
    title: str
    """Title of the source; decoded text."""
    content: Raw
    """A list of text blocks."""


class ThinkingBlock(Struct, tag="thinking", tag_field="type", gc=False):
    """Reasoning of an earlier reply. Its signature was made by the proxy (`wire/signatures.py`) or another server."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Struct, tag="redacted_thinking", tag_field="type", gc=False):
    """Reasoning that the provider encrypted."""

    data: str
    """Encrypted reasoning, opaque."""


class ToolUseBlock(Struct, tag="tool_use", tag_field="type", gc=False):
    """A tool call of the model."""

    id: str
    name: str
    input: Raw = Raw(b"{}")  # immutable
    """A JSON object, as text."""


class ToolResultBlock(Struct, tag="tool_result", tag_field="type", gc=False):
    """Result of a client tool. `decode_content(block.content)` returns its blocks."""

    tool_use_id: str
    content: Raw = ABSENT
    """A JSON string or a list of blocks; absent counts as the empty string."""
    is_error: bool | None = None
    """True if the tool failed. None: False."""


class ToolReferenceBlock(Struct, tag="tool_reference", tag_field="type", gc=False):
    """Inside a tool result: a deferred tool that a tool search found."""

    tool_name: str
    """Name of the deferred tool."""


class ServerToolUseBlock(Struct, tag="server_tool_use", tag_field="type", gc=False):
    """Call of a server tool in an earlier reply."""

    id: str
    name: str
    input: Raw = Raw(b"{}")  # immutable
    """A JSON object, as text."""


class WebSearchResultBlock(Struct, tag="web_search_tool_result", tag_field="type", gc=False):
    """Result of a web search: a list of results, or an error object."""

    tool_use_id: str
    content: Raw = ABSENT
    """Results or error object, as JSON."""


class WebFetchResultBlock(Struct, tag="web_fetch_tool_result", tag_field="type", gc=False):
    """Result of a web fetch: a document, or an error object."""

    tool_use_id: str
    content: Raw = ABSENT
    """Document or error object, as JSON."""


class ToolSearchResultBlock(Struct, tag="tool_search_tool_result", tag_field="type", gc=False):
    """Result of a tool search: references to tools, or an error object."""

    tool_use_id: str
    content: Raw = ABSENT
    """References or error object, as JSON."""


class ToolChange(Struct):
    """Tool of a `tool_addition` or `tool_removal` block."""

    type: str = ""
    """`tool_reference` with `name`, or `tool_definition` with `definition`. The proxy offers no other type."""
    name: str = ""
    """Name of the tool."""
    definition: Raw = ABSENT
    """A tool definition, as in `tools`."""


class ToolAdditionBlock(Struct, tag="tool_addition", tag_field="type", gc=False):
    """In a system message: the tool is offered from this message on."""

    tool: ToolChange


class ToolRemovalBlock(Struct, tag="tool_removal", tag_field="type", gc=False):
    """In a system message: the tool is no longer offered from this message on."""

    tool: ToolChange


class CompactionBlock(Struct, tag="compaction", tag_field="type", gc=False):
    """Summary that replaces all earlier messages of the conversation."""

    content: str | None = None
    """Text of the summary. None: the compaction failed, and the block is ignored."""


class FallbackBlock(Struct, tag="fallback", tag_field="type", gc=False):
    """Mark in the history where another model continued the reply. Not sent to providers."""


class UnknownBlock(Struct, tag="px.unknown", tag_field="type", gc=False):
    """A block of a type that the proxy does not know. Only the field-by-field path of `decode_request` creates it."""

    kind: str
    """The block's `type`."""
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
