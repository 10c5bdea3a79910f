"""Structs of client requests (`MessagesRequest`) and replies (`MessagesResponse`) of the Messages API.

Most fields have the names of the API; the others, such as `message_count`, describe the body. Unknown fields are
ignored. A client tool is run by the client, a server tool, such as web search, by the provider or the proxy. Source:
the API reference and the official SDK, read 2026-11.
"""

from base64 import b64encode
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Union, final

from msgspec import UNSET, Raw, Struct, UnsetType, defstruct, field

from anthropic_proxy.engine.messages.models.raw_json import ABSENT, json_string
from anthropic_proxy.engine.messages.server_tools import PROXY_TOOLS, ServerToolKind
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.text_encodings import find_charset, read_base64_text
from anthropic_proxy.errors import ClientError

if TYPE_CHECKING:
    from anthropic_proxy.engine.kept_passages import KeptPassages
    from anthropic_proxy.engine.messages.models.context_edits import ContextEdit

IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
"""Media types of images in the Messages API. Browsers show all of them, and none can contain a script."""
_MEDIA_TYPE_ALIASES = {"image/jpg": "image/jpeg"}


@final
class TextBlock(Struct, tag="text", tag_field="type", omit_defaults=True, gc=False):
    text: Raw
    """Text of the block as a JSON string, with quotes and escapes."""


class Source(Struct, omit_defaults=True, gc=False):
    """File of an image or document: base64 data, a URL, the id of an uploaded file, a text, or content blocks."""

    type: str
    """`base64`, `url`, `file`, `text` or `content`. It decides which other field has the content."""
    media_type: str = ""
    """Media type of base64 data or text. "": not given."""
    data: str = ""
    """Base64 data, or the text of a `text` source."""
    url: str = ""
    file_id: str = ""
    """Id of a file that the client uploaded to Anthropic's API."""
    content: Raw = ABSENT

    def __post_init__(self) -> None:
        # Few providers accept data URLs, so they are read as base64 data. Media types are case-insensitive (RFC 2045).
        if self.type == "url" and (decoded := decode_data_url(self.url)) is not None:
            self.type, self.url = "base64", ""
            self.media_type, self.data = decoded
            if not self.media_type.lower().startswith(TEXT_TYPE):  # `DocumentBlock` reads the charset of a text
                self.media_type = self.media_type.partition(";")[0]
        if self.media_type:
            media_type = self.media_type.lower()
            self.media_type = _MEDIA_TYPE_ALIASES.get(media_type, media_type)


TEXT_TYPE = "text/plain"
_DATA_SCHEME = "data:"
_BASE64_MARK = ";base64"
MAX_STRAY_PERCENT_SIGNS = 1_000
"""Maximum number of percent signs in a `data:` URL that do not begin an escape such as `%20`. They stay as they are. A
URL with more is not decoded."""
_STRAY_PERCENT_SIGN = compile_later(rb"%(?![0-9A-Fa-f]{2})")
_MAX_NAMED_DATA_URL = 100


def name_url(url: str) -> str:
    """Return a short form of `url` for a text: of a `data:` URL, only the part before the data."""
    return url[:_MAX_NAMED_DATA_URL].partition(",")[0] if _is_data_url(url) else url


def _is_data_url(url: str) -> bool:
    return url[: len(_DATA_SCHEME)].lower() == _DATA_SCHEME


def decode_data_url(url: str) -> tuple[str, str] | None:
    """Return the media type with its parameters, and base64 data (RFC 2397).

    None: no valid `data:` URL, or too many invalid escapes.
    """
    # no regular expression: its time for a URL without a comma would grow with the square of the length
    head, comma, data = url[len(_DATA_SCHEME) :].partition(",")
    if not comma or not _is_data_url(url):
        return None
    try:
        if head.lower().endswith(_BASE64_MARK):
            head = head[: -len(_BASE64_MARK)]
            data = _decode_percent_escapes(data).decode("latin-1") if "%" in data else data
        else:
            data = b64encode(_decode_percent_escapes(data)).decode()
    except ValueError:
        return None
    return (f"{TEXT_TYPE}{head}" if head[:1] in ("", ";") else head), data


def _decode_percent_escapes(text: str) -> bytes:
    # `urllib.parse.unquote_to_bytes` creates objects for each escape: 2 GB and seconds for a URL of 30 MB
    escaped = _STRAY_PERCENT_SIGN.sub(b"%25", text.encode(), count=MAX_STRAY_PERCENT_SIGNS)
    return escaped.replace(b"\\", b"%5c").replace(b"%", b"\\x").decode("unicode_escape").encode("latin-1")


@final
class ImageBlock(Struct, tag="image", tag_field="type", gc=False):
    source: Source


class Citations(Struct, omit_defaults=True, gc=False):
    enabled: bool | None = None
    """True if the client requests citations of the source. None means False."""


@final
class DocumentBlock(Struct, tag="document", tag_field="type", omit_defaults=True, gc=False):
    source: Source
    title: str | None = None
    context: str | None = None
    """Text by which the client describes the document to the model."""
    citations: Citations | None = None

    def __post_init__(self) -> None:
        # Providers accept no text in base64. What is no text stays in base64.
        source = self.source
        if source.type != "base64":
            return
        stated, source.media_type = source.media_type, source.media_type.partition(";")[0].rstrip()
        is_text = source.media_type == TEXT_TYPE
        if is_text and (found := read_base64_text(source.data, find_charset(stated))) is not None:
            source.data, _ = found
            source.type = "text"

    @property
    def requests_citations(self) -> bool:
        return self.citations is not None and self.citations.enabled is True


@final
class SearchResultBlock(Struct, tag="search_result", tag_field="type", omit_defaults=True, gc=False):
    """A passage that a search of the client found. The client sends it as a citable source."""

    source: str
    """URL or name of the source of the passage."""
    title: str
    content: Raw
    """Text of the passage as a JSON list of text blocks."""
    citations: Citations | None = None

    @property
    def requests_citations(self) -> bool:
        return self.citations is not None and self.citations.enabled is True


@final
class ThinkingBlock(Struct, tag="thinking", tag_field="type", gc=False):
    """Reasoning of an earlier reply. Its `signature` was made by the proxy or by the provider of the reply."""

    thinking: str
    """Text of the reasoning. "": only the signature was sent."""
    signature: str = ""
    """Opaque text in which the server of the reply stored its state."""


@final
class RedactedThinkingBlock(Struct, tag="redacted_thinking", tag_field="type", gc=False):
    data: str
    """Reasoning as opaque text, encrypted by the provider."""


@final
class ToolUseBlock(Struct, tag="tool_use", tag_field="type", gc=False):
    """A tool call of the model in an earlier reply. The client runs the tool."""

    id: str
    name: str
    input: Raw = Raw(b"{}")  # immutable


@final
class ToolResultBlock(Struct, tag="tool_result", tag_field="type", gc=False):
    """Result of a client tool. `decode_nested_content(block.content)` returns its blocks."""

    tool_use_id: str
    content: Raw = ABSENT
    """A JSON string or a list of blocks. ABSENT: an empty result."""
    is_error: bool | None = None
    """True if the tool failed. None means False."""


@final
class ToolReferenceBlock(Struct, tag="tool_reference", tag_field="type", gc=False):
    """A tool that a tool search found, given by its name. The block is part of a tool result."""

    tool_name: str


@final
class ServerToolUseBlock(Struct, tag="server_tool_use", tag_field="type", gc=False):
    id: str
    name: str
    input: Raw = Raw(b"{}")  # immutable
    """A JSON object, as text."""


class ServerToolResultBlock(Struct, gc=False):
    """Result of a server tool that the proxy can run. `SERVER_RESULTS` has a struct for each type of these blocks."""

    kind: ClassVar[ServerToolKind]
    tool_use_id: str
    content: Raw = ABSENT


def _define_result(kind: ServerToolKind, result_type: str) -> type[ServerToolResultBlock]:
    defined: Any = defstruct(
        result_type,
        (),
        bases=(ServerToolResultBlock,),
        module=__name__,
        namespace={"kind": kind},
        tag=result_type,
        tag_field="type",
        gc=False,
    )
    return defined  # type: ignore[no-any-return]


SERVER_RESULTS: Mapping[ServerToolKind, type[ServerToolResultBlock]] = {
    row.kind: _define_result(row.kind, result_type) for row in PROXY_TOOLS.values() for result_type in row.result_types
}


class ToolChange(Struct):
    type: str = ""
    """`tool_reference`: a tool of the request, given by `name`. `tool_definition`: a new tool, given by `definition`.
    The proxy ignores a tool of any other type."""
    name: str = ""
    definition: Raw = ABSENT


@final
class ToolAdditionBlock(Struct, tag="tool_addition", tag_field="type", gc=False):
    tool: ToolChange


@final
class ToolRemovalBlock(Struct, tag="tool_removal", tag_field="type", gc=False):
    tool: ToolChange


@final
class CompactionBlock(Struct, tag="compaction", tag_field="type", gc=False):
    """Summary of the conversation that replaces all earlier messages."""

    content: str | None = None
    """Text of the summary. None: the compaction failed, and the block is ignored."""
    signature: str | None = None
    """Signature of a block that the field `compaction` has requested. None: a block of `context_management`."""
    tool_changes: list[ToolAdditionBlock | ToolRemovalBlock] | None = None
    """Changes of the tools of the request in the replaced messages. None: these messages state them."""


@final
class FallbackBlock(Struct, tag="fallback", tag_field="type", gc=False):
    """Mark at the place where another model continued the reply. It is not sent to providers."""


@final
class UnknownBlock(Struct, tag="px.unknown", tag_field="type", gc=False):
    """A block of a type that the proxy does not know."""

    kind: str
    raw: Raw


_BlockOfOneType = (
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
    | ToolAdditionBlock
    | ToolRemovalBlock
    | CompactionBlock
    | FallbackBlock
    | UnknownBlock
)
if TYPE_CHECKING:
    Block = _BlockOfOneType | ServerToolResultBlock
else:  # the decoder needs a struct for each type of block
    Block = Union[(_BlockOfOneType, *SERVER_RESULTS.values())]


class CacheMarks(Struct):
    """Body of a client request, which is searched for cache marks (fields `cache_control`) only on demand."""

    body: bytes


class McpToolPermissions(Struct):
    """Permissions for the tools of one MCP server, set in the server's definition (beta `mcp-client-2025-04-04`)."""

    allowed_tools: list[str] | None = None
    """Names of tools. None: all tools of the server."""
    enabled: bool | None = None


class McpServer(Struct):
    name: str = ""
    """Name of the server in this request. Toolsets (entries of `tools`) refer to it. "": missing or invalid."""
    url: str = ""
    """Address of the server. "": missing or invalid."""
    authorization_token: str | None = None
    """Secret of the client for this server only. It is never logged, and redacted in errors."""
    tool_configuration: McpToolPermissions | None = None

    def __repr__(self) -> str:
        return f"McpServer(name={self.name!r}, url={self.url!r}, authorization_token='…')"


ROLES = frozenset({"user", "assistant", "system"})


class Message(Struct, gc=False):
    role: str
    """`user`, `assistant` or `system`. `decode_request` rejects any other."""
    content: str | list[Block]
    clear_at: Any = None
    """`next_user_message`: a `system` message that the model must not see once a user message follows it."""
    output_config: Raw = ABSENT
    """Output configuration from this `system` message on, as JSON. Absent: not given."""

    @property
    def blocks(self) -> list[Block]:
        if isinstance(self.content, str):
            return [TextBlock(json_string(self.content))]
        return self.content


class Tool(Struct, kw_only=True, frozen=True):
    """Definition of a tool: a function of the client, or a tool type that Anthropic defines."""

    name: str = ""
    type: str | None = None
    """Type of a tool that Anthropic defines: `web_search_20250305`. None: a function of the client."""
    description: str | None = None
    input_schema: Raw = ABSENT
    """JSON Schema of the arguments. ABSENT: none is needed, because Anthropic defines the tool type."""
    strict: bool | None = None
    """True if the arguments must match the schema. None: not required."""
    defer_loading: bool | None = None
    max_uses: int | None = None
    """Maximum number of calls of a server tool per reply. None: no limit of the client."""
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    user_location: Raw = ABSENT
    citations: Raw = ABSENT
    """Setting of a web fetch tool, as JSON: `{"enabled": …}` requests citations of fetched pages."""
    max_content_tokens: int | None = None
    url_sources: Raw = ABSENT
    """Setting of a web fetch tool, as JSON: the sources of URLs that may be fetched."""
    allowed_callers: list[str] | None = None
    """Callers of the tool: `direct` for the model, or code that runs in a code execution tool. None: the model."""
    input_examples: Raw = ABSENT
    """Example arguments: a JSON list of objects that match `input_schema`."""
    display_width_px: int | None = None
    display_height_px: int | None = None
    """Screen size in pixels, of a computer tool."""
    source: bytes = field(default=b"", name="px.source")
    """JSON text of the tool definition. It is the key of caches of encoded tools."""


class ToolChoice(Struct):
    """Request field `tool_choice`: tool calls are optional (`auto`), required (`any`, `tool`) or forbidden (`none`)."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Struct):
    """Request field `thinking`, by which the client turns the model's reasoning on or off and limits its tokens."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None
    """`omitted`: the client receives no thinking. None: the complete text."""


class OutputFormat(Struct):
    """Format of the reply that the client requires: `{"type": "json_schema", "schema": …}`."""

    type: str
    schema: Raw = ABSENT


class OutputConfig(Struct):
    """Request field `output_config`: level of reasoning (`effort`) and format of the reply."""

    effort: str | None = None
    """Level of reasoning: low, medium, high, …. None: the default of the model."""
    format: OutputFormat | None = None
    task_budget: Raw = ABSENT
    """Budget of a task in tokens, as JSON. Not sent to other providers."""


class Metadata(Struct):
    """Request field `metadata`, with the id of the user.

    Providers with another API than Anthropic's receive only hashes of this id.
    """

    user_id: str | None = None
    """Opaque id of the user. Claude Code puts JSON with its session id into it."""


class MessagesRequest(Struct, kw_only=True):
    model: str
    messages: list[Message]
    max_tokens: int | None = None
    """None: not given, which is allowed only in a request for a token count."""
    system: str | list[Block] = ""
    stream: bool = False
    tools: list[Tool] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """Older form of the field `format` in `output_config`."""
    stop_sequences: list[str] = field(default_factory=list)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    """Priority class that the client requests: `auto`, `standard_only`."""
    is_fast: bool = False
    """True if the client requests fast mode (`speed`), which costs more."""
    mcp_servers: list[McpServer] = field(default_factory=list)
    container: bool = False
    region: str = ""
    """Region to which the client restricts the model (`inference_geo`): `us`. "": any."""
    context_edits: "tuple[ContextEdit, ...] | None" = None
    """Edits of the conversation that `context_management` requests, or the one by `compaction`. None: neither field was
    given."""
    permits_other_calls: bool = False
    """True if the provider may call a model several times for the reply: `fallbacks`, and the compaction of
    `context_management`."""
    cache_marks: CacheMarks | None = None
    pages: Collection[bytes] = ()
    """Digests of the contents that the proxy has read from PDFs: each text in them is a page. No client sets it."""
    picture_texts: Collection[str] = ()
    """Texts in place of pictures. They are no words of the sources that contain them. No client sets it."""
    citation_key: bytes = b""
    """Key of the owner for the word in marks of citations. b"": the request cites nothing. No client sets it."""
    kept_passages: "KeptPassages | None" = None
    """Numbered sources of earlier requests. None: this one cites nothing, or nothing is kept. No client sets it."""
    message_count: int = 0
    tool_results: int = 0
    """Number of results of client tools after the last assistant message."""
    tool_errors: int = 0
    """Number of results in `tool_results` with `is_error`: the tool failed."""
    scanned_only: bool = False
    """True if only top-level fields were decoded and `messages` is empty. A relay then forwards the body unchanged."""
    has_proxy_signatures: bool = True
    """True if the messages may contain signatures that the proxy made. A relay removes blocks with such signatures
    before it forwards the body."""
    has_invalid_calls: bool = True
    """True if the messages may contain tool calls that the Messages API rejects: their name is not allowed, or their
    input is no object. A relay replaces these."""
    may_have_summaries: bool = False
    """True if the messages were decoded and may contain blocks of type `compaction`."""
    body_bytes: int = 0
    """Size of the request body in bytes. 0: the request was not decoded from a body."""
    parts: int = 0
    """Number of its parts (`parts.py`), or more. 0: the body is small."""
    is_classifier_question: bool = False
    """True for a question of Claude Code's own classifier about a tool call."""
    safeguards: Raw = ABSENT
    """Request of checks of the tool calls of the reply, as JSON. ABSENT: none."""
    decode_error: ClientError | None = None
    """Error of an invalid body that only a relay may forward, because the upstream API validates it. None: the body is
    valid."""
    repairs: list[str] = field(default_factory=list)
    """Descriptions of the repairs made by `decode_request`, for the fidelity report."""

    @property
    def shows_thinking(self) -> bool:
        """True if the client has asked for the thinking of the model. Otherwise a reply has no block of it."""
        thinking = self.thinking
        return thinking is not None and thinking.type != "disabled" and thinking.display != "omitted"

    def release_body(self) -> None:
        """Drop the content of the request, to free memory."""
        self.messages = []
        self.system = ""
        self.output_config = self.output_format = self.cache_marks = None


class UsageBody(Struct, kw_only=True):
    """Field `usage` of a reply: token totals of the message, all ≥ 0."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_creation: dict[str, int] | UnsetType = UNSET
    """Tokens written to the cache by lifetime: `{"ephemeral_5m_input_tokens": …, "ephemeral_1h_input_tokens": …}`.
    Unset: not reported."""
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    output_tokens_details: dict[str, int]
    """Part of `output_tokens`: `{"thinking_tokens": …}`."""
    server_tool_use: dict[str, int] | UnsetType = UNSET
    """Number of server tool calls: `{"web_search_requests": …, "web_fetch_requests": …}`. Unset: none."""
    service_tier: str | UnsetType | None = "standard"
    """Priority class of the request as the provider reported it. Unset: not sent."""
    iterations: list[dict[str, Any]] | UnsetType = UNSET
    """Calls of models for the reply, with summaries of the conversation, which the other counts do not include. Unset:
    the request asks for no summary."""


class MessagesResponse(Struct, kw_only=True):
    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[Raw]
    stop_reason: str | None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None
    usage: UsageBody
    safeguard_results: list[dict[str, Any]] | UnsetType = UNSET
    """Checks of the tool calls of the reply. Unset: the client requested none."""
    context_management: dict[str, Any] | UnsetType = UNSET
    """Edits of the conversation, `{"applied_edits": […]}`. Unset: the client requested none."""
