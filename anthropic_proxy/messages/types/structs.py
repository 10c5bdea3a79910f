"""The structs (source: the API reference and the official SDK's types, read 2026-11)."""

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from anthropic_proxy.errors import ClientError
from anthropic_proxy.messages.types.connectors import McpServer

ABSENT = Raw(b"")
"""Stands for "not given" where a field is `Raw`, because `Raw` cannot stand in a union with None."""
ROLES = frozenset({"user", "assistant", "system"})
"""Who may say a message."""


class TextBlock(Struct, tag="text", tag_field="type", omit_defaults=True, gc=False):
    """Text of a message or of the system prompt."""

    text: Raw
    """A JSON string."""
    cache_control: Raw = ABSENT


class Source(Struct, omit_defaults=True, gc=False):
    """Where an image or a document comes from: `base64`, `url`, `file`, `text` or `content`."""

    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    file_id: str = ""
    content: Raw = ABSENT
    """Of a `content` source: a JSON string or a list of text and image blocks."""


class ImageBlock(Struct, tag="image", tag_field="type", gc=False):
    """A picture."""

    source: Source


class DocumentBlock(Struct, tag="document", tag_field="type", omit_defaults=True, gc=False):
    """A PDF or a text with a title."""

    source: Source
    title: str | None = None
    context: str | None = None
    citations: Raw = ABSENT

    @property
    def is_cited(self) -> bool:
        """Whether the reply is to cite it."""
        return b"true" in bytes(self.citations)


class SearchResultBlock(Struct, tag="search_result", tag_field="type", gc=False):
    """A passage found by the client's own search."""

    source: str
    title: str
    content: Raw
    """A list of text blocks."""


class ThinkingBlock(Struct, tag="thinking", tag_field="type", gc=False):
    """Reasoning of an earlier reply; its signature may be ours (`wire/carry.py`) or foreign."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Struct, tag="redacted_thinking", tag_field="type", gc=False):
    """Reasoning that the provider encrypted."""

    data: str


class ToolUseBlock(Struct, tag="tool_use", tag_field="type", gc=False):
    """A call that the model made."""

    id: str
    name: str
    input: Raw = Raw(b"{}")  # immutable
    """A JSON object, as text."""


class ToolResultBlock(Struct, tag="tool_result", tag_field="type", gc=False):
    """What the client's tool answered; `blocks_of(content)` reads it."""

    tool_use_id: str
    content: Raw = ABSENT
    """A JSON string or a list of blocks; absent counts as the empty string."""
    is_error: bool | None = None


class ToolReferenceBlock(Struct, tag="tool_reference", tag_field="type", gc=False):
    """Inside a tool result: a deferred tool that the search found."""

    tool_name: str


class ServerToolUseBlock(Struct, tag="server_tool_use", tag_field="type", gc=False):
    """A call that the API, not the client, ran."""

    id: str
    name: str
    input: Raw = Raw(b"{}")  # immutable


class WebSearchResultBlock(Struct, tag="web_search_tool_result", tag_field="type", gc=False):
    """What a web search found: a list of results, or an error object."""

    tool_use_id: str
    content: Raw = ABSENT


class WebFetchResultBlock(Struct, tag="web_fetch_tool_result", tag_field="type", gc=False):
    """A page that a fetch brought, or an error object."""

    tool_use_id: str
    content: Raw = ABSENT


class ToolSearchResultBlock(Struct, tag="tool_search_tool_result", tag_field="type", gc=False):
    """References to the tools that a search of tools found, or an error object."""

    tool_use_id: str
    content: Raw = ABSENT


class ChangedTool(Struct):
    """What a `tool_addition` or `tool_removal` is about."""

    type: str = ""
    """`tool_reference` with `name`, or `tool_definition` with `definition`; others are never offered here."""
    name: str = ""
    definition: Raw = ABSENT
    """A tool, as `tools` would hold it."""


class ToolAdditionBlock(Struct, tag="tool_addition", tag_field="type", gc=False):
    """In a system message: from here on this tool is offered."""

    tool: ChangedTool


class ToolRemovalBlock(Struct, tag="tool_removal", tag_field="type", gc=False):
    """In a system message: from here on this tool is not offered."""

    tool: ChangedTool


class CompactionBlock(Struct, tag="compaction", tag_field="type", gc=False):
    """A summary that stands for the messages before it; None: the compaction failed and says nothing."""

    content: str | None = None


class FallbackBlock(Struct, tag="fallback", tag_field="type", gc=False):
    """Marks where another model took over; says nothing to a model."""


class UnknownBlock(Struct, tag="px.unknown", tag_field="type", gc=False):
    """A block of a type that we do not model; only the slow way of `decode_request` makes it."""

    kind: str
    """The block's `type`."""
    raw: Raw
    """The whole block, as JSON text."""


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


class Message(Struct, gc=False):
    """One entry of `messages`."""

    role: str
    """`user`, `assistant` or `system`; `decode_request` refuses any other."""
    content: str | list[Block]

    @property
    def blocks(self) -> list[Block]:
        """The content as blocks: a plain string is one text block."""
        if isinstance(self.content, str):
            return [TextBlock(text_raw(self.content))]
        return self.content


class Tool(Struct, kw_only=True, frozen=True):
    """A tool definition; shared between requests."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: Raw = ABSENT
    strict: bool | None = None
    defer_loading: bool | None = None
    max_uses: int | None = None
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    user_location: Raw = ABSENT
    citations: Raw = ABSENT
    """Of a web fetch: `{"enabled": …}`."""
    max_content_tokens: int | None = None
    url_sources: Raw = ABSENT
    """Of a web fetch: whose words may bring addresses to fetch."""
    input_examples: Raw = ABSENT
    """A list of objects that fit the schema."""
    display_width_px: int | None = None
    display_height_px: int | None = None
    source: bytes = field(default=b"", name="px.source")
    """The JSON text that the tool was read from: the key of every cache of encoded tools. Equal tools of different
    requests share one object, so its hash is computed once."""


class ToolChoice(Struct):
    """`auto`, `any`, `tool` (with `name`) or `none`."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Struct):
    """`enabled` with `budget_tokens`, `adaptive`, `between_tools` or `disabled`."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(Struct):
    """Structured output: `{"type": "json_schema", "schema": …}`."""

    type: str
    schema: Raw = ABSENT


class OutputConfig(Struct):
    """Effort and format of the reply."""

    effort: str | None = None
    format: OutputFormat | None = None
    task_budget: Raw = ABSENT


class Metadata(Struct):
    """Who asks; never forwarded as it is."""

    user_id: str | None = None


class MessagesRequest(Struct, kw_only=True):
    """A request as the client wrote it."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    """None only where the client counts tokens."""
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
    """Servers that the provider is to call."""
    container: bool = False
    """Whether the client asked for a container that only Anthropic has."""
    binds_place: bool = False
    """Whether the client says where the model may run (`inference_geo`)."""
    edits_context: bool = False
    """Whether earlier tool results are to be cleared, or the history to be summed up (`context_management`)."""
    length: int = 0
    """Messages of the body, whether they were read or not."""
    skimmed: bool = False
    """Whether only what a relay must know was read: `messages` is empty."""
    bears_marks: bool = True
    """Whether there may be blocks that the proxy wrote and a relay cuts out."""
    size: int = 0
    """Bytes of the body; 0: not read from one."""
    refusal: ClientError | None = None
    """Why the rest could not be read, or would lose history here: only a relay may serve it, whose API judges."""
    mended: list[str] = field(default_factory=list)
    """What the slow way of `decode_request` mended, in words; for the fidelity report."""

    def forget(self) -> None:
        """Let go of all that holds the body: nobody asks what was said any more."""
        self.messages, self.system = [], ""
        self.output_config = self.output_format = None


class UsageBody(Struct, kw_only=True):
    """`usage` of a reply; every count is an integer ≥ 0, in tokens."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    output_tokens_details: dict[str, int] = field(default_factory=lambda: {"thinking_tokens": 0})
    server_tool_use: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    service_tier: str | None = "standard"


class MessagesResponse(Struct, kw_only=True):
    """A whole reply, as a client that does not stream receives it."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[Raw]
    stop_reason: str | None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None
    usage: UsageBody


def text_raw(text: str) -> Raw:
    """Return `text` as a JSON string."""
    return Raw(msgspec.json.encode(text))
