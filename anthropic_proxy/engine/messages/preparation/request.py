"""Input and output of `prepare`, which adapts a client request to a target.

Providers receive `session_key` and `user_key`, hashes of session and user, in place of the client's ids. A client such
as Claude Code stores both in `metadata.user_id`: as a JSON object, or as a text with the ending `_session_…`.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.citations import NumberedSources
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.loaded_tools import NOWHERE, DeferredToolPlaces, LoadedToolForm
from anthropic_proxy.engine.messages.models import (
    ABSENT,
    CacheMarks,
    CleanMessages,
    McpServer,
    Message,
    TextBlock,
    Tool,
    ToolChoice,
)
from anthropic_proxy.engine.messages.models.raw_json import decode_string
from anthropic_proxy.engine.messages.preparation.cleaning import MERGED
from anthropic_proxy.engine.messages.server_tools import ServerToolKind
from anthropic_proxy.engine.patterns import compile_later

_SESSION = compile_later(r"_session_([0-9A-Za-z-]+)$")
_MAX_ID_LENGTH = 256
"""Maximum length of a client's id that is kept as it is, in receipts and as a key."""


DEFAULT_MAX_TOKENS = 8_192
"""Output limit of a request without one, for a model without a known limit."""
WINDOW_MARGIN_TOKENS = 64
"""Number of tokens of the context window that stay free, because token counts of proxy and provider differ slightly."""
STATED_WINDOW_MARGIN = 0.25
"""Share of the estimated input that stays free in a context window, if only a server's error stated the size of the
window. The input is then only estimated."""
KNOWN_WINDOW_MARGIN = 0.05
"""The same share in a context window of known size."""
MIN_MARGIN_TOKENS = 768
"""Minimum of both margins in tokens. The estimate of a short input is less exact, because a server adds text of its
own, and its token counts for short inputs do not correct later estimates. Of the 624 counts in
`bench/token_counts.tsv`, 58 exceed the estimate by more than 64 tokens, and none by more than both margins."""
_MIN_ESTIMATED_OUTPUT = 1_024
"""Minimum of the output tokens that are requested beside an estimated input, in a small window a sixteenth of it. An
estimate that is too high must not cut the reply: if the window is really full, the server's error states the exact
numbers, and the request is repeated with what they leave."""


def available_output_tokens(window: int, input_tokens: int, margin: float = 0.0) -> int:
    """Return the number of output tokens to request beside an input in a context window.

    The estimated input may be too low: a `margin` of 0.25 keeps tokens for another quarter of it free, at least
    `MIN_MARGIN_TOKENS`, and 0 keeps `KNOWN_WINDOW_MARGIN`. The margin takes at most half of the tokens that remain
    after the input.
    """
    available = window - input_tokens - WINDOW_MARGIN_TOKENS
    reserved = max(math.ceil(input_tokens * (margin or KNOWN_WINDOW_MARGIN)), MIN_MARGIN_TOKENS)
    return max(available - reserved, available // 2, min(_MIN_ESTIMATED_OUTPUT, window // 16))


SearchState = Literal["allowed", "none", "forbidden"]
"""Whether the proxy can run web searches for a request. `none`: no service is set. `forbidden`: the rules of the
request exclude it. Each search then returns an error."""


class TargetLimits(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Limits and features of a target.

    They come from the model catalog and from the provider's dialect.
    """

    context_window: int | None = None
    """Context window: tokens of input and output together. None: unknown."""
    max_input: int | None = None
    """Maximum input tokens, if lower than the context window. None: only the window limits the input."""
    max_output: int | None = None
    min_output: int = 1
    """Minimum output limit that the server accepts."""
    thinking_budgets: tuple[tuple[str, int], ...] = ()
    """Pairs of an effort level and the tokens of reasoning that the wire sends for it, besides the client's limit."""
    margin: float = 0.0
    """Share of the estimated input that stays free in the context window. 0.25: a quarter. 0: none."""
    reject_overflow: bool = False
    """True if the proxy rejects a request that exceeds the window, without calling the provider."""
    efforts: tuple[str, ...] = ()
    """Effort levels of the model: none, minimal, low, medium, high, xhigh, max. Empty: no level is sent."""
    accepts_thinking_budget: bool = False
    default_effort: str | None = None
    always_reasons: bool = False
    """True if the model is known to reason in every request. False: not known, or the request decides."""
    reasons_unasked: bool = False
    """True if a reply has shown that the model reasons unless it is switched off."""
    accepts_images: bool = True
    accepts_pdf: bool = False
    accepts_tools: bool = True
    server_tools: tuple[ServerToolKind, ...] = ()
    server_tools_exclusive: bool = False
    """True if the provider rejects a request with both server tools and functions."""
    proxy_tool_kinds: tuple[ServerToolKind, ...] = ()
    """Server tools that the proxy runs unless the provider does."""
    search: SearchState = "allowed"
    provider: str
    """Prefix of the provider, for error messages and notes."""
    loaded_tools: LoadedToolForm
    tool_name_pattern: str
    max_tool_name_length: int


class _UserId(Struct):
    session_id: str


def find_session_id(user_id: str) -> str | None:
    """Return the session id that a client, such as Claude Code, stores in `metadata.user_id`. None: no session id.

    `user_id` is a JSON object with the field `session_id`, or a text with the ending `_session_` and the id.
    """
    try:
        return shorten_id(msgspec.json.decode(user_id, type=_UserId).session_id)
    except (msgspec.DecodeError, RecursionError):
        ending = _SESSION.search(user_id)
        return shorten_id(ending[1]) if ending else None


def shorten_id(given: str) -> str:
    """Return an id of a client. In place of a long one, its SHA-256, so that kept ids have a bounded size."""
    if len(given) <= _MAX_ID_LENGTH:
        return given
    return hashlib.sha256(given.encode(errors="replace")).hexdigest()


class _User(Struct):
    device_id: str = ""
    account_uuid: str = ""


class Question(Struct, frozen=True):
    """A question about the text of a request, for models that answer such questions without writing text."""

    name: str
    instructions: str
    choices: Sequence[str]


class PreparedRequest(Struct, kw_only=True):
    """A client request after all preparation steps. It is encoded for the provider."""

    system: list[TextBlock]
    messages: list[Message]
    """Messages of the conversation. Their `content` is always a list of blocks. Consecutive messages of one role are
    merged. The results of tool calls begin the next user message."""
    known: CleanMessages | None = None
    """First messages of the client, which earlier requests had too. None: there are none, or they were changed."""
    tools: list[Tool] = []
    """Offered tools: functions, and server tools that the provider runs. Tool names that the target rejects are
    replaced."""
    loaded_tools: Mapping[str, Sequence[Tool]] = {}
    """Tools that the model may call besides `tools`, by the id of the tool result that has loaded them. Their place in
    the upstream request depends on the dialect (`engine/messages/loaded_tools.py`)."""
    tool_choice: ToolChoice | None = None
    """Tool choice with the upstream name of a forced tool. None: no tool choice is sent."""
    max_tokens: int = 1
    """Output limit to send, reasoning included."""
    reply_limit: int | None = None
    """Output limit of the client, at which the proxy cuts the reply, because `max_tokens` is higher."""
    effort: str = "default"
    """`default` (send no level), `none` (no reasoning) or a level of the model."""
    budget_tokens: int | None = None
    enables_thinking: bool = False
    """True if the client requests thinking of a model with effort levels. With the effort `default`, servers that do
    not reason unless asked need a switch."""
    returns_thinking: bool = True
    """True if the provider is asked for the text of its thinking. False: the client disabled thinking or set `display:
    omitted`. Without `thinking`, the text only shows that the provider works."""
    asks_for_thinking: bool = False
    """True if the client has not disabled thinking, or left it out."""
    shows_thinking: bool = False
    """True if the client gets the thinking (`MessagesRequest.shows_thinking`)."""
    output_schema: Raw = ABSENT
    """JSON Schema of the reply that the client requires. ABSENT: free text."""
    stop_sequences: list[str] = []
    """Stop sequences of the client. They are not sent upstream: the proxy itself ends the reply at a sequence."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    service_tier: str | None = None
    cache_marks: CacheMarks | None = None
    user_id: str | None = None
    """`metadata.user_id` of the client. Only hashes of it are sent."""
    session: str = ""
    """`Receipt.session`, which is set after the preparation. "": the session id in `user_id` counts, if it has one."""
    mcp_servers: list[McpServer] = []
    """MCP servers with tools in `tools`, with secrets of the client."""
    accepts_images: bool = True
    accepts_pdf: bool = True
    sources: NumberedSources | None = None
    """Numbered passages, which the model cites by marks. None: the client requests no citations."""
    questions: Sequence[Question] = ()
    """What the proxy itself wants to know, set after the preparation. `output_schema` has the form of the reply for all
    models that write text."""

    @property
    def known_count(self) -> int:
        """Number of `messages` that are the known ones."""
        return len(self.known.results[MERGED]) if self.known is not None else 0

    @property
    def prefill(self) -> str:
        """Text of the client that the reply continues. "": there is none."""
        last = self.messages[-1]
        if last.role != "assistant" or not last.blocks or not isinstance(block := last.blocks[-1], TextBlock):
            return ""
        return decode_string(block.text) or ""

    @property
    def may_end_early(self) -> bool:
        """True if the proxy may end the reply before the provider does."""
        return bool(self.stop_sequences) or self.reply_limit is not None

    def release_content(self) -> None:
        self.system.clear()
        self.messages.clear()
        if self.cache_marks is not None:
            self.cache_marks.body = b""

    def has_cache_marks(self) -> bool:
        """Return True if the client sent cache marks (`cache_control`). Each call searches the request body."""
        return self.cache_marks is not None and b'"cache_control"' in self.cache_marks.body

    def session_key(self) -> str:
        """Return a hash of the session: 32 hex characters, equal for all requests of a session."""
        session = self.session or (find_session_id(self.user_id) if self.user_id else None)
        if session:
            return hashlib.sha256(session.encode(errors="replace")).hexdigest()[:32]
        digest = hashlib.sha256()
        for block in self.system:
            digest.update(block.text)
        users = (message.blocks for message in self.messages if message.role == "user")
        texts = (block.text for blocks in users for block in blocks if isinstance(block, TextBlock))
        digest.update(bytes(next(texts, b"")))
        return digest.hexdigest()[:32]

    def user_key(self) -> str:
        """Return a hash of the user id: 64 hex characters, equal in all sessions. "": no user id."""
        if not self.user_id:
            return ""
        try:
            known = msgspec.json.decode(self.user_id, type=_User)
            user = known.device_id + known.account_uuid
        except (msgspec.DecodeError, RecursionError):
            user = _SESSION.sub("", self.user_id)
        user = user or self.user_id
        return hashlib.sha256(user.encode(errors="surrogatepass")).hexdigest()


class ProxyTool(Struct, frozen=True):
    kind: ServerToolKind
    name: str
    tool: Tool


class PreparationResult(Struct, frozen=True):
    request: PreparedRequest
    aliases: Mapping[str, str]
    """Tool name that is sent upstream → different tool name of the client."""
    notes: tuple[FidelityNote, ...]
    proxy_tools: Mapping[str, ProxyTool]
    """Tool name in calls of the model → server tool that the proxy runs."""
    deferred: Sequence[Tool] = ()
    """All deferred tools, which are hidden until a tool search finds them. The proxy's tool search searches this
    list."""
    places: DeferredToolPlaces = NOWHERE
    """`ToolOffer.places`."""
