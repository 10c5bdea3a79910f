"""The common steps before any wire: cleaning, effort, pairing of calls and results, aliases, session key, limits."""

from collections.abc import Mapping

from msgspec import Struct

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import Message, MessagesRequest, Raw, TextBlock, Tool, ToolChoice


class Limits(Struct, frozen=True, kw_only=True, cache_hash=True):
    """What a target can take; `attempts.py` fills it from the catalogue and the dialect."""

    window: int | None = None
    """Tokens of input and output together; None: not known."""
    max_output: int | None = None
    """Tokens that one reply may have; None: not known."""
    efforts: tuple[str, ...] = ()
    """Levels that the model knows, of none, minimal, low, medium, high, xhigh, max; empty: it does not reason."""
    default_effort: str | None = None
    """What the model does when no level is sent; None: not known."""
    vision: bool = True
    pdf: bool = False
    tools: bool = True
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
    """Client tools and server tools that may be offered, under their aliases; deferred ones included."""
    tool_choice: ToolChoice | None
    max_tokens: int
    effort: str
    """`default` (say nothing), `none` (do not reason) or a level that the model knows."""
    budget_tokens: int | None
    """The client's own thinking budget, where it gave one."""
    shows_thinking: bool
    """False where the client asked for `display: omitted`."""
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
    vision: bool
    """False: the model takes no pictures; the wire puts a text in their place."""
    pdf: bool

    def session_key(self) -> str:
        """Return 32 hex characters that stay the same through a session; computed only when a wire asks."""
        raise NotImplementedError


class Prepared(Struct, frozen=True):
    """What `prepare` gives."""

    request: PreparedRequest
    aliases: Mapping[str, str]
    """Name said upstream → the client's own name, where they differ."""
    notes: tuple[Note, ...]


def prepare(request: MessagesRequest, limits: Limits) -> Prepared:
    """Return the request as it will be said to a target with these limits."""
    raise NotImplementedError
