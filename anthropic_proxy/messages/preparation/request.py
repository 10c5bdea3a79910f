"""Input and output of `prepare`, which adapts a client request to a target (provider and model).

`TargetLimits` has the limits of the target. `PreparationResult` has the adapted request (`PreparedRequest`), fidelity
notes on the changes, and aliases, which replace tool names that the target rejects. It also lists two kinds of tools. A
`ProxyTool` is a server tool, such as web search, that the proxy runs itself. A deferred tool is hidden from the model
until a tool search finds it.

Providers receive `session_key` and `user_key`, hashes of session and user, in place of the client's ids.
`find_session_id` finds the session id within the user id of a client such as Claude Code. Such a user id is a JSON
object, or a text with the ending `_session_…`. `release_content` frees memory after the reply has begun. `UNPREPARED`
is an empty request for relays, which forward the client's bytes.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import ABSENT, CacheMarks, McpServer, Message, TextBlock, Tool, ToolChoice

ServerToolKind = Literal["web_search", "web_fetch", "code_execution", "mcp_toolset", "tool_search", ""]
"""Kind of a server tool, without the version of its type: `web_search`. "": a tool that only Anthropic runs."""

_SESSION = re.compile(r"_session_([0-9A-Za-z-]+)$")


WINDOW_MARGIN_TOKENS = 64
"""Number of tokens of the context window that stay free, because token counts of proxy and provider differ slightly."""
STATED_WINDOW_MARGIN = 0.25
"""Share of the estimated input that stays free in a context window, if only a server's error stated the size of the
window. The input is then only estimated."""
STATED_WINDOW_MIN_MARGIN_TOKENS = 768
"""Minimum of this margin in tokens. The estimate of a short input is less exact, because a server adds text of its own,
and its token counts for short inputs do not correct later estimates."""
_MIN_ESTIMATED_OUTPUT = 1_024
"""Minimum of the output tokens that are requested beside an estimated input. An estimate that is too high must not cut
the reply: if the window is really full, the server's error states the exact numbers."""


def available_output_tokens(window: int, input_tokens: int, margin: float = 0.0) -> int:
    """Return the number of output tokens that fit into a context window after the input. 0 or less: none.

    `margin` is for an estimated input, because the estimate may be too low: 0.25 keeps tokens for another quarter of
    the input free, at least `STATED_WINDOW_MIN_MARGIN_TOKENS`. The margin takes at most half of the tokens that remain
    after the input. With a margin, the result is at least `_MIN_ESTIMATED_OUTPUT`, or a sixteenth of a small window.
    """
    available = window - input_tokens - WINDOW_MARGIN_TOKENS
    if not margin:
        return available
    reserved = max(math.ceil(input_tokens * margin), STATED_WINDOW_MIN_MARGIN_TOKENS)
    return max(available - reserved, available // 2, min(_MIN_ESTIMATED_OUTPUT, window // 16))


class TargetLimits(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Limits and features of a target (provider and model).

    They come from the model catalog and from the provider's dialect, its deviations from the API.
    """

    context_window: int | None = None
    """Context window: tokens of input and output together. None: unknown."""
    max_input: int | None = None
    """Maximum input tokens, if lower than the context window. None: only the window limits the input."""
    max_output: int | None = None
    """Maximum output tokens of one reply of the model. None: unknown."""
    margin: float = 0.0
    """Share of the estimated input that stays free in the context window. 0.25: a quarter. 0: none."""
    reject_overflow: bool = False
    """True if the proxy rejects a request that exceeds the window, without calling the provider."""
    efforts: tuple[str, ...] = ()
    """Effort levels of the model: none, minimal, low, medium, high, xhigh, max. Empty: no level is sent."""
    accepts_thinking_budget: bool = False
    """True if the target accepts a maximum number of thinking tokens, in addition to effort levels."""
    default_effort: str | None = None
    """Effort level that the model uses if a request has none. None: unknown."""
    accepts_images: bool = True
    """True if the model accepts images."""
    accepts_pdf: bool = False
    """True if the model accepts PDF documents."""
    accepts_tools: bool = True
    """True if the model can call tools."""
    server_tools: tuple[ServerToolKind, ...] = ()
    """Server tools that the provider runs: web_search, web_fetch, code_execution, mcp_toolset."""
    server_tools_exclusive: bool = False
    """True if the provider rejects a request with both server tools and functions."""
    proxy_tool_kinds: tuple[ServerToolKind, ...] = ()
    """Server tools that the proxy runs unless the provider does: web_search, web_fetch, tool_search."""
    can_search: bool = True
    """True if a web search service is configured. False: each search by the proxy returns an error."""
    provider: str = "the provider"
    """Name of the provider, for texts of notes and errors."""
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """Pattern that a complete tool name must match. Other names get an alias."""
    max_tool_name_length: int = 64
    """Maximum characters of a tool name. Longer names get an alias."""


class PreparedRequest(Struct, frozen=True, kw_only=True):
    """A client request after all preparation steps. It is encoded for the provider."""

    system: list[TextBlock]
    """System prompt without empty blocks and without the billing line of Claude Code."""
    messages: list[Message]
    """Messages of the conversation. Their `content` is always a list of blocks. Consecutive messages of one role are
    merged. The results of tool calls begin the next user message."""
    tools: list[Tool] = []
    """Offered tools: functions, and server tools that the provider runs. Tool names that the target rejects are
    replaced."""
    tool_choice: ToolChoice | None = None
    """Tool choice with the upstream name of a forced tool. None: no tool choice is sent."""
    max_tokens: int = 1
    """Maximum output tokens, within the limit of the target."""
    effort: str = "default"
    """`default` (send no level), `none` (no reasoning) or a level of the model."""
    budget_tokens: int | None = None
    """Maximum thinking tokens that the client requested. None: not given."""
    returns_thinking: bool = True
    """True if thinking of the model is returned. False: the client disabled thinking or set `display: omitted`."""
    output_schema: Raw = ABSENT
    """JSON Schema of the reply that the client requires. ABSENT: free text."""
    stop_sequences: list[str] = []
    """Stop sequences of the client. They are not sent upstream: the proxy itself ends the reply at a sequence."""
    temperature: float | None = None
    """Sampling temperature of the client. None: not given."""
    top_p: float | None = None
    """Probability limit of nucleus sampling. None: not given."""
    top_k: int | None = None
    """Number of candidates in sampling. None: not given."""
    service_tier: str | None = None
    """Priority class that the client requests: `auto`, `standard_only`. None: not given."""
    cache_marks: CacheMarks | None = None
    """Cache marks (`cache_control`) of the client. None: the request has no marks."""
    user_id: str | None = None
    """`metadata.user_id` of the client. Only hashes of it are sent."""
    mcp_servers: list[McpServer] = []
    """MCP servers with tools in `tools`, with secrets of the client."""
    accepts_images: bool = True
    """True if the model accepts images. False: a text is sent in place of each image."""
    accepts_pdf: bool = True
    """True if the model accepts PDF documents. False: a text is sent in place of each PDF."""

    def release_content(self) -> None:
        """Release system prompt, messages and request body after the reply has begun, to free memory."""
        self.system.clear()
        self.messages.clear()
        if self.cache_marks is not None:
            self.cache_marks.body = b""

    def has_cache_marks(self) -> bool:
        """Return True if the client sent cache marks (`cache_control`). Each call searches the request body."""
        return self.cache_marks is not None and self.cache_marks.has_mark()

    def session_key(self) -> str:
        """Return a hash of the session: 32 hex characters, equal for all requests of a session."""
        session = find_session_id(self.user_id) if self.user_id else None
        if session is not None:
            return hashlib.sha256(session.encode()).hexdigest()[:32]
        digest = hashlib.sha256()
        for block in self.system:
            digest.update(block.text)
        digest.update(self._first_user_text())
        return digest.hexdigest()[:32]

    def user_key(self) -> str:
        """Return a hash of the user id: 64 hex characters, equal in all sessions. "": no user id."""
        if not self.user_id:
            return ""
        user = _user_of(self.user_id) or self.user_id
        return hashlib.sha256(user.encode(errors="surrogatepass")).hexdigest()

    def _first_user_text(self) -> bytes:
        users = (message.blocks for message in self.messages if message.role == "user")
        texts = (block.text for blocks in users for block in blocks if isinstance(block, TextBlock))
        return bytes(next(texts, b""))


UNPREPARED = PreparedRequest(system=[], messages=[])
"""Empty request for upstream calls of a relay, which forwards the client's bytes and prepares nothing."""


class _UserId(Struct):
    session_id: str


def find_session_id(user_id: str) -> str | None:
    """Return the session id that a client, such as Claude Code, stores in `metadata.user_id`. None: no session id.

    `user_id` is a JSON object with the field `session_id`, or a text with the ending `_session_` and the id.
    """
    try:
        return msgspec.json.decode(user_id, type=_UserId).session_id
    except (msgspec.DecodeError, RecursionError):
        ending = _SESSION.search(user_id)
        return ending[1] if ending else None


class _User(Struct):
    device_id: str = ""
    account_uuid: str = ""


def _user_of(user_id: str) -> str:
    """Return a `metadata.user_id` without its session id, as the identity of the user across sessions."""
    try:
        known = msgspec.json.decode(user_id, type=_User)
    except (msgspec.DecodeError, RecursionError):
        return _SESSION.sub("", user_id)
    return known.device_id + known.account_uuid


class ProxyTool(Struct, frozen=True):
    """A server tool that the proxy runs itself (`exchange/tool_loop`). The upstream model calls it as a function."""

    kind: ServerToolKind
    """Kind of the tool: `web_search`, `web_fetch` or `tool_search`."""
    name: str
    """Name declared by the client, used in the blocks of the reply."""
    tool: Tool
    """Definition of the tool by the client, with its limits (`max_uses`, domains)."""


class PreparationResult(Struct, frozen=True):
    """Result of `prepare`, the preparation of a client request for one target."""

    request: PreparedRequest
    """The prepared request, which is encoded for the provider."""
    aliases: Mapping[str, str]
    """Tool name that is sent upstream → different tool name of the client."""
    notes: tuple[FidelityNote, ...]
    """Fidelity notes on all changes to the client request."""
    proxy_tools: Mapping[str, ProxyTool]
    """Tool name in calls of the model → server tool that the proxy runs."""
    deferred: Sequence[Tool] = ()
    """All deferred tools, which are hidden until a tool search finds them. The proxy's tool search searches this
    list."""
