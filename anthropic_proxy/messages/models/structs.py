"""Structs of client requests and replies, as JSON bodies of the Messages API.

`MessagesRequest` is a decoded client request: `Message` its turns, `Tool` its tool definitions, `ThinkingConfig` and
`OutputConfig` its options. `MessagesResponse` with `UsageBody` is a complete reply. Field names are those of the API.
`decode` adds fields about the body. Source: the API reference and the official SDK, read 2026-11.
"""

from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType, field

from anthropic_proxy.errors import ClientError
from anthropic_proxy.messages.models.block_structs import ABSENT, Block, TextBlock
from anthropic_proxy.messages.models.cache_marks import CacheMarks
from anthropic_proxy.messages.models.mcp_servers import McpServer
from anthropic_proxy.messages.models.raw_kinds import json_string

ROLES = frozenset({"user", "assistant", "system"})
"""Allowed roles of a message."""


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
    """Example arguments: a JSON list of objects that match `input_schema`."""
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
    """Name of the forced tool, for the type `tool`. None: for other types."""
    disable_parallel_tool_use: bool | None = None
    """True if the reply may contain one tool call only."""


class ThinkingConfig(Struct):
    """`enabled` with `budget_tokens`, `adaptive`, `between_tools` or `disabled`."""

    type: str
    budget_tokens: int | None = None
    """Maximum tokens of thinking, for the type `enabled`. None: not given."""
    display: str | None = None
    """`omitted`: the client receives no thinking text. None: all of it."""


class OutputFormat(Struct):
    """Format of the reply that the client requires: `{"type": "json_schema", "schema": …}`."""

    type: str
    schema: Raw = ABSENT
    """JSON Schema of the reply."""


class OutputConfig(Struct):
    """Effort and format of the reply."""

    effort: str | None = None
    """Level of reasoning: low, medium, high, …. None: the default of the model."""
    format: OutputFormat | None = None
    """Format of the reply with its JSON Schema. None: free text."""
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
    """Maximum output tokens. None: not given, which only requests for a token count may omit."""
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
