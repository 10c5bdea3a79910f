"""Structs of the Messages API. Source: the API reference and the types of the official SDK, read 2026-11."""

from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType, field

from anthropic_proxy.errors import ClientError
from anthropic_proxy.messages.models.cache_marks import CacheMarks
from anthropic_proxy.messages.models.mcp_servers import McpServer
from anthropic_proxy.messages.models.raw_kinds import json_string

ABSENT = Raw(b"")
"""Value of a `Raw` field that the client did not send. msgspec allows no union of `Raw` and None."""
ROLES = frozenset({"user", "assistant", "system"})
"""Allowed roles of a message."""


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
    """Reasoning of an earlier reply; its signature may be ours (`wire/signatures.py`) or foreign."""

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
    """Summary that replaces the messages before it."""

    content: str | None = None
    """Text of the summary. None: the compaction failed, and the block is ignored."""


class FallbackBlock(Struct, tag="fallback", tag_field="type", gc=False):
    """Mark of a change to another model. Not sent to providers."""


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


class Message(Struct, gc=False):
    """One entry of `messages`."""

    role: str
    """`user`, `assistant` or `system`. `decode_request` rejects any other."""
    content: str | list[Block]
    """Text, or a list of blocks."""

    @property
    def blocks(self) -> list[Block]:
        """Return the content as blocks. A string is one text block."""
        if isinstance(self.content, str):
            return [TextBlock(json_string(self.content))]
        return self.content


class Tool(Struct, kw_only=True, frozen=True):
    """Definition of a tool: a function of the client, or a tool type that Anthropic defines.

    Requests share equal tools.
    """

    name: str = ""
    type: str | None = None
    """Type of a tool that Anthropic defines: `web_search_20250305`. None: a function of the client."""
    description: str | None = None
    input_schema: Raw = ABSENT
    """JSON Schema of the arguments. ABSENT: a tool type that Anthropic defines."""
    strict: bool | None = None
    """True if the arguments must match the schema. None: not required."""
    defer_loading: bool | None = None
    """True if the tool is hidden until a tool search finds it."""
    max_uses: int | None = None
    """Maximum number of calls of a server tool per reply. None: no limit of the client."""
    allowed_domains: list[str] | None = None
    """Domains that a web tool may use. None: all."""
    blocked_domains: list[str] | None = None
    """Domains that a web tool may not use. None: none."""
    user_location: Raw = ABSENT
    """Location for web searches, as JSON."""
    citations: Raw = ABSENT
    """Of a web fetch: `{"enabled": …}`."""
    max_content_tokens: int | None = None
    """Maximum tokens of a fetched page."""
    url_sources: Raw = ABSENT
    """Of a web fetch: the sources of URLs that may be fetched."""
    input_examples: Raw = ABSENT
    """A list of objects that match the schema."""
    display_width_px: int | None = None
    """Screen width of a computer tool."""
    display_height_px: int | None = None
    """Screen height of a computer tool."""
    source: bytes = field(default=b"", name="px.source")
    """JSON text of the tool: the key of every cache of encoded tools. Equal tools of different requests share one
    object, so its hash is computed once."""


class ToolChoice(Struct):
    """`auto`, `any`, `tool` (with `name`) or `none`."""

    type: str
    name: str | None = None
    """Name of the forced tool. None: another type."""
    disable_parallel_tool_use: bool | None = None
    """True if the reply may contain one tool call only."""


class ThinkingConfig(Struct):
    """`enabled` with `budget_tokens`, `adaptive`, `between_tools` or `disabled`."""

    type: str
    budget_tokens: int | None = None
    """Maximum tokens of thinking, of the type `enabled`."""
    display: str | None = None
    """`omitted`: the client receives no thinking text. None: all of it."""


class OutputFormat(Struct):
    """Structured output: `{"type": "json_schema", "schema": …}`."""

    type: str
    schema: Raw = ABSENT
    """JSON Schema of the reply."""


class OutputConfig(Struct):
    """Effort and format of the reply."""

    effort: str | None = None
    """Level of reasoning: low, medium, high, …. None: the default of the model."""
    format: OutputFormat | None = None
    """Structured output. None: free text."""
    task_budget: Raw = ABSENT
    """Budget of a task in tokens, as JSON. Not sent to other providers."""


class Metadata(Struct):
    """Metadata of the client. It is never forwarded unchanged."""

    user_id: str | None = None
    """Opaque id of the user. Claude Code puts JSON with its session id into it."""


class MessagesRequest(Struct, kw_only=True):
    """A decoded request of a client."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    """None: only in requests for a token count."""
    system: str | list[Block] = ""
    stream: bool = False
    tools: list[Tool] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    stop_sequences: list[str] = field(default_factory=list)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    mcp_servers: list[McpServer] = field(default_factory=list)
    """MCP servers for the provider to call."""
    container: bool = False
    """True if the client requests a container of Anthropic's API."""
    pins_region: bool = False
    """True if the client restricts the region of the model (`inference_geo`)."""
    clears_context: bool = False
    """True if `context_management` requests the removal of earlier tool results or a summary of the history."""
    cache_marks: CacheMarks | None = None
    """Cache marks (`cache_control`) of the client. None: none."""
    message_count: int = 0
    """Number of messages in the body, decoded or not."""
    scanned_only: bool = False
    """True if only the fields for a relay were decoded; then `messages` is empty."""
    has_proxy_signatures: bool = True
    """True if the messages may contain blocks of the proxy, which a relay removes."""
    body_bytes: int = 0
    """Size of the body. 0: the request was not decoded from a body."""
    decode_error: ClientError | None = None
    """Error that permits only a relay to serve the request: the upstream API validates it. None: valid."""
    repairs: list[str] = field(default_factory=list)
    """Descriptions of the repairs made by `decode_request`, for the fidelity report."""

    def release(self) -> None:
        """Release all references to the body, to free memory."""
        self.messages, self.system = [], ""
        self.output_config = self.output_format = self.cache_marks = None


class UsageBody(Struct, kw_only=True):
    """`usage` of a reply: totals of the message, integers ≥ 0, in tokens."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    output_tokens_details: dict[str, int] = field(default_factory=lambda: {"thinking_tokens": 0})
    """`{"thinking_tokens": …}`, included in `output_tokens`."""
    server_tool_use: dict[str, int] | UnsetType = UNSET
    """`{"web_search_requests": …, "web_fetch_requests": …}`. Unset: none."""
    service_tier: str | UnsetType | None = "standard"
    """Service tier reported by the upstream. Unset: not sent."""


class MessagesResponse(Struct, kw_only=True):
    """Response to a request without streaming."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[Raw]
    """Content blocks, each as JSON."""
    stop_reason: str | None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None
    usage: UsageBody
