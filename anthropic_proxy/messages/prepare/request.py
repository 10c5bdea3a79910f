"""What `prepare` is told about a target, and what it gives."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import ABSENT, McpServer, Message, TextBlock, Tool, ToolChoice

Kind = Literal["web_search", "web_fetch", "code_execution", "mcp_toolset", "tool_search", ""]
"""What a tool that Anthropic's API runs itself does, whatever its version; "": what nobody else has."""

_SESSION = re.compile(r"_session_([0-9A-Za-z-]+)$")


class Limits(Struct, frozen=True, kw_only=True, cache_hash=True):
    """What a target can take; `attempts.py` fills it from the catalogue and the dialect."""

    window: int | None = None
    """Tokens of input and output together; None: not known."""
    max_input: int | None = None
    """Tokens of input alone, where they are fewer than the window; None: as many."""
    max_output: int | None = None
    """Tokens that one reply may have; None: not known."""
    must_fit: bool = False
    """Whether a request that is longer than the window is refused here, before the provider does it."""
    efforts: tuple[str, ...] = ()
    """Levels that the model knows, of none, minimal, low, medium, high, xhigh, max; empty: it does not reason."""
    takes_budgets: bool = False
    """Whether thinking may be limited by a number of tokens, beside levels."""
    default_effort: str | None = None
    """What the model does when no level is sent; None: not known."""
    vision: bool = True
    pdf: bool = False
    tools: bool = True
    server_tools: tuple[Kind, ...] = ()
    """Kinds of server tools that the provider runs itself: web_search, web_fetch, code_execution, mcp_toolset."""
    server_tools_alone: bool = False
    """Whether they may not stand beside functions."""
    owned_tools: tuple[Kind, ...] = ()
    """Kinds that the proxy runs where the provider does not: web_search, web_fetch, tool_search."""
    searches: bool = True
    """Whether the proxy's own web searches find anything; False: each is answered with an error."""
    provider: str = "the provider"
    """Its name, for notes and refusals."""
    name_pattern: str = r"[a-zA-Z0-9_-]+"
    """A tool name must match this whole; others get an alias."""
    name_length: int = 64
    """Characters that a tool name may have."""


class PreparedRequest(Struct, frozen=True, kw_only=True):
    """A request as it will be said upstream; what every wire reads."""

    system: list[TextBlock]
    """Without the billing line and without empty blocks."""
    messages: list[Message]
    """`content` is always a list. Roles: user, assistant, system (kept in place); neighbours of one role are merged.
    Calls and results are paired: the results of one step stand first in the next user message, in the order of
    the calls. Unknown blocks have become text."""
    tools: list[Tool]
    """Functions under their aliases, deferred ones included, and the server tools that the provider runs itself."""
    tool_choice: ToolChoice | None
    max_tokens: int
    effort: str
    """`default` (say nothing), `none` (do not reason) or a level that the model knows."""
    budget_tokens: int | None
    """The client's own thinking budget, where it gave one."""
    shows_thinking: bool
    """False where the client asked for `display: omitted`, or for none: a model that thinks all the same keeps it."""
    output_schema: Raw
    """JSON Schema of the reply; ABSENT: free text."""
    stop_sequences: list[str]
    """Enforced by the corridor; a wire does not send them."""
    temperature: float | None
    top_p: float | None
    top_k: int | None
    service_tier: str | None
    user_id: str | None
    """The client's `metadata.user_id`; only hashes of it may leave the house."""
    mcp_servers: list[McpServer] = []
    """Servers that the toolsets in `tools` name; with secrets of the client's."""
    vision: bool
    """False: the model takes no pictures; the wire puts a text in their place."""
    pdf: bool

    def forget(self) -> None:
        """Let go of what was said: the answer has begun."""
        self.system.clear()
        self.messages.clear()

    def session_key(self) -> str:
        """Return 32 hex characters that stay the same through a session; computed only when a wire asks."""
        said = _session_of(self.user_id) if self.user_id else None
        if said is not None:
            return hashlib.sha256(said.encode()).hexdigest()[:32]
        digest = hashlib.sha256()
        for block in self.system:
            digest.update(block.text)
        digest.update(self._first_user_text())
        return digest.hexdigest()[:32]

    def user_key(self) -> str:
        """Return 64 hex characters that stay the same for a user through all sessions; "" where nobody is named."""
        if not self.user_id:
            return ""
        user = _user_of(self.user_id) or self.user_id
        return hashlib.sha256(user.encode(errors="surrogatepass")).hexdigest()

    def _first_user_text(self) -> bytes:
        users = (message.blocks for message in self.messages if message.role == "user")
        texts = (block.text for blocks in users for block in blocks if isinstance(block, TextBlock))
        return bytes(next(texts, b""))


UNPREPARED = PreparedRequest(
    system=[],
    messages=[],
    tools=[],
    tool_choice=None,
    max_tokens=1,
    effort="default",
    budget_tokens=None,
    shows_thinking=True,
    output_schema=ABSENT,
    stop_sequences=[],
    temperature=None,
    top_p=None,
    top_k=None,
    service_tier=None,
    user_id=None,
    vision=True,
    pdf=True,
)
"""Stands for a request that nobody prepares, because its bytes are relayed."""


class _UserId(Struct):
    session_id: str


def _session_of(user_id: str) -> str | None:
    """Return the session in a `user_id`: a JSON object that names one, or text that ends with it."""
    try:
        return msgspec.json.decode(user_id, type=_UserId).session_id
    except (msgspec.DecodeError, RecursionError):
        ending = _SESSION.search(user_id)
        return ending[1] if ending else None


class _User(Struct):
    device_id: str = ""
    account_uuid: str = ""


def _user_of(user_id: str) -> str:
    """Return a `user_id` without the session in it."""
    try:
        known = msgspec.json.decode(user_id, type=_User)
    except (msgspec.DecodeError, RecursionError):
        return _SESSION.sub("", user_id)
    return known.device_id + known.account_uuid


class OwnedTool(Struct, frozen=True):
    """A server tool that the proxy runs (`exchange/turns`); upstream it is a function."""

    kind: Kind
    name: str
    """As the client declared it: what the reply's blocks say."""
    tool: Tool
    """The client's definition, with its limits."""


class Prepared(Struct, frozen=True):
    """What `prepare` gives."""

    request: PreparedRequest
    aliases: Mapping[str, str]
    """Name said upstream → the client's own name, where they differ."""
    notes: tuple[Note, ...]
    owned: Mapping[str, OwnedTool]
    """Name that a call in the reply bears → the server tool that the proxy runs for it."""
    deferred: Sequence[Tool] = ()
    """Tools that a search of tools looks through, under the client's own names; those found already among them."""
