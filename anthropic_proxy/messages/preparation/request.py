"""Input and output of `prepare`: `TargetLimits`, the limits of a target, and `PreparedRequest` for the wires.

A target is a provider and model. `ProxyTool` is a server tool (web search, …) that the proxy runs itself.
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
"""Kind of a server tool, for all versions of its type: `web_search`. "": a tool that only Anthropic runs."""

_SESSION = re.compile(r"_session_([0-9A-Za-z-]+)$")


WINDOW_MARGIN_TOKENS = 64
"""Tokens of the context window left free between input and output, because counts differ slightly."""
STATED_WINDOW_MARGIN = 0.25
"""Safety margin, as a share of the token estimate, if an error of the server stated its window but no count."""


def available_output_tokens(window: int, tokens: int, margin: float = 0.0) -> int:
    """Return the output tokens that a context window leaves after an estimated input. 0 or less: none.

    `margin`: safety share of the estimate. It uses at most half of the remaining tokens.
    """
    available = window - tokens - WINDOW_MARGIN_TOKENS
    return max(available - math.ceil(tokens * margin), available // 2) if margin else available


class TargetLimits(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Limits and features of a target, from the model catalog and the dialect."""

    context_window: int | None = None
    """Context window: tokens of input and output together. None: unknown."""
    max_input: int | None = None
    """Maximum input tokens, if lower than the context window. None: only the window limits the input."""
    max_output: int | None = None
    """Maximum output tokens of one reply. None: unknown."""
    margin: float = 0.0
    """Additional free share of the estimated input (0.25: a quarter), after a server error stated the window."""
    reject_overflow: bool = False
    """True if the proxy rejects a request that exceeds the window, without calling the provider."""
    efforts: tuple[str, ...] = ()
    """Effort levels of the model, of none, minimal, low, medium, high, xhigh, max. Empty: no reasoning."""
    accepts_thinking_budget: bool = False
    """True if the target accepts a thinking budget in tokens, in addition to levels."""
    default_effort: str | None = None
    """Effort of the model without a level in the request. None: unknown."""
    accepts_images: bool = True
    """True if the model accepts images."""
    accepts_pdf: bool = False
    """True if the model accepts PDF documents."""
    accepts_tools: bool = True
    """True if the model can call tools."""
    server_tools: tuple[ServerToolKind, ...] = ()
    """Server tools that the provider runs: web_search, web_fetch, code_execution, mcp_toolset."""
    server_tools_exclusive: bool = False
    """True if the provider rejects server tools combined with functions."""
    proxy_tool_kinds: tuple[ServerToolKind, ...] = ()
    """Server tools that the proxy runs unless the provider does: web_search, web_fetch, tool_search."""
    can_search: bool = True
    """True if a search service is configured. False: each web search of the proxy returns an error."""
    provider: str = "the provider"
    """Name of the provider, for notes and errors."""
    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """Pattern that a complete tool name must match. Other names get an alias."""
    max_tool_name_length: int = 64
    """Maximum characters of a tool name. Longer names get an alias."""


class PreparedRequest(Struct, frozen=True, kw_only=True):
    """A client request in the form that wires encode."""

    system: list[TextBlock]
    """System prompt without empty blocks and without the billing line of Claude Code."""
    messages: list[Message]
    """`content` is always a list. Roles: user, assistant, system (at its position). Consecutive messages of one role
    are merged. The results of calls begin the next user message, in the order of the calls. Unknown blocks are text."""
    tools: list[Tool] = []
    """Offered tools: functions under their aliases, and server tools that the provider runs. Deferred tools are
    included after a tool search found them."""
    tool_choice: ToolChoice | None = None
    max_tokens: int = 1
    """Maximum output tokens, within the limit of the target."""
    effort: str = "default"
    """`default` (send no level), `none` (no reasoning) or a level of the model."""
    budget_tokens: int | None = None
    """Maximum thinking tokens that the client requested. None: not given."""
    returns_thinking: bool = True
    """False if the client disabled thinking or set `display: omitted`. Thinking of the model is then dropped."""
    output_schema: Raw = ABSENT
    """JSON Schema of the reply; ABSENT: free text."""
    stop_sequences: list[str] = []
    """Stop sequences of the client. The proxy ends the reply at a sequence; a wire does not send the list."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    service_tier: str | None = None
    cache_marks: CacheMarks | None = None
    """Cache marks (`cache_control`) of the client. None: the request has no marks."""
    user_id: str | None = None
    """`metadata.user_id` of the client. Only hashes of it are sent."""
    mcp_servers: list[McpServer] = []
    """MCP servers of the toolsets in `tools`, with secrets of the client."""
    accepts_images: bool = True
    """True if the model accepts images. False: the wire replaces them by text."""
    accepts_pdf: bool = True
    """True if the model accepts PDF documents. False: the wire replaces them by text."""

    def release(self) -> None:
        """Release system prompt, messages and request body after the reply has begun, to free memory."""
        self.system.clear()
        self.messages.clear()
        if self.cache_marks is not None:
            self.cache_marks.body = b""

    def has_cache_marks(self) -> bool:
        """Return True if the client sent cache marks. Each call searches the request body."""
        return self.cache_marks is not None and self.cache_marks.has_mark()

    def session_key(self) -> str:
        """Return a hash of the session: 32 hex characters, equal for all requests of a session."""
        session = _session_of(self.user_id) if self.user_id else None
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
"""Placeholder for a relayed request, which is not prepared."""


class _UserId(Struct):
    session_id: str


def _session_of(user_id: str) -> str | None:
    """Return the session id in a `metadata.user_id`: a member of a JSON object, or the end of the text.

    None: no session.
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
    """Return a `metadata.user_id` without its session id."""
    try:
        known = msgspec.json.decode(user_id, type=_User)
    except (msgspec.DecodeError, RecursionError):
        return _SESSION.sub("", user_id)
    return known.device_id + known.account_uuid


class ProxyTool(Struct, frozen=True):
    """A server tool that the proxy runs itself (`exchange/tool_loop`). The upstream model gets it as a function."""

    kind: ServerToolKind
    """Kind of the tool: `web_search`, `web_fetch` or `tool_search`."""
    name: str
    """Name declared by the client, used in the blocks of the reply."""
    tool: Tool
    """Definition of the tool by the client, with its limits (`max_uses`, domains)."""


class PreparationResult(Struct, frozen=True):
    """Result of `prepare`."""

    request: PreparedRequest
    """The request for the wire."""
    aliases: Mapping[str, str]
    """Upstream name → name of the client, if they differ."""
    notes: tuple[FidelityNote, ...]
    """Fidelity notes on all changes."""
    proxy_tools: Mapping[str, ProxyTool]
    """Tool name in the reply → server tool that the proxy runs."""
    deferred: Sequence[Tool] = ()
    """All deferred tools, found or not, under the names of the client. The tool search of the proxy searches them."""
