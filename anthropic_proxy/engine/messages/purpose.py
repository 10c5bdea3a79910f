"""What a client request is for: `read_purpose` reads it from the hint headers of Claude Code, or guesses it.

Claude Code sends the headers if `CLAUDE_CODE_GATEWAY_HINT_HEADERS` is set (source: "Gateway hint headers" of
code.claude.com/docs/en/llm-gateway-protocol; observed with 2.1.332). They are for the proxy: no provider gets them.
Without them, the body shows whether Claude Code sent a request beside the conversation. Any client can send any value,
so that unknown kinds are `other`, and names have a maximum length.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_later

if TYPE_CHECKING:
    from anthropic_proxy.engine.messages.models import MessagesRequest

SESSION_HEADER, AGENT_HEADER = "x-claude-code-session-id", "x-claude-code-agent-id"
CLASS_HEADER, AGENT_TYPE_HEADER = "x-claude-code-request-class", "x-claude-code-agent-type"
PROMPT_HEADER, _DURATIONS = "x-claude-code-prompt-id", "x-claude-code-prev-tool-durations"
SETTINGS_HEADER = "x-claude-code-managed-settings-checksum"
"""Header with the checksum of the managed settings of a machine, for their administrators."""
HINT_HEADERS = frozenset(
    (
        *(CLASS_HEADER, "x-claude-1p-request-class", AGENT_TYPE_HEADER, "x-claude-code-parent-agent-id", PROMPT_HEADER),
        *(_DURATIONS, "x-claude-code-compaction", "x-claude-code-context-compacted"),
        SETTINGS_HEADER,
        # of the gateway of Claude Code: the person who sends the request
        *("x-claude-gateway-user-id", "x-claude-gateway-user-email", "x-litellm-end-user-id"),
    )
)
"""Headers that say to a proxy what a request is for and who sends it. Names: "Gateway hint headers", and the program of
Claude Code 2.1.332."""
CLAUDE_CODE = "claude-cli"
"""Name of Claude Code in its header `user-agent`."""
ClientKind = Literal["main", "subagent", "workflow", "compaction", "auxiliary", "side_reply"]
"""Values of the header `x-claude-code-request-class`. `main`: the conversation. `compaction`: it asks for a summary of
the conversation. `auxiliary`: a call beside the conversation, such as for a title. `side_reply`: the answer to a
question of the user beside the conversation."""
KnownKind = Literal[ClientKind, "classifier", "auto_mode_check", "image_description", "other"]
"""What a request is for. `classifier`: Claude Code asks about a tool call, or about the calls of a sub-agent.
`auto_mode_check`: the proxy asks the checking model about one. `image_description`: the proxy asks a model what is in a
picture. `other`: the client named an unknown kind."""
RequestKind = Literal["", KnownKind]
"""The same, or "": unknown."""
BACKGROUND_KINDS: frozenset[RequestKind] = frozenset(("auxiliary", "classifier"))
"""Kinds of requests that Claude Code sends beside the conversation."""
KINDS_BESIDE: frozenset[RequestKind] = BACKGROUND_KINDS | {"side_reply", "auto_mode_check", "image_description"}
"""Kinds of requests beside the conversation, of Claude Code or of the proxy."""
CONVERSATION_KINDS: Sequence[RequestKind] = ("", "main")
"""Kinds of requests whose input is the conversation. Of many clients, the kind is unknown."""
_CLIENT_KINDS: Mapping[str, ClientKind] = {name: name for name in get_args(ClientKind)}
_MAX_AGENT_TYPE, _MAX_PROMPT_ID = 64, 128
_MAX_LIMIT_QUERY_BYTES = 4_096
_LIMIT_QUERY = compile_later(rb'"content"\s*:\s*"quota"')
_ASKS_FOR_TITLE = compile_later(rb'"properties"\s*:\s*\{\s*"title"\s*:\s*\{\s*"type"\s*:\s*"string"\s*\}\s*\}')
"""Schema of the reply. In a text of the conversation, its quotes are escaped."""
_MAX_TOOLS, _MAX_TOOL_NAME, _MAX_MILLISECONDS = 100, 128, 10**10


class RequestPurpose(Struct, frozen=True):
    kind: RequestKind = ""
    agent_type: str = ""
    """Name of the kind of sub-agent, such as `Explore`. "": none, or unknown."""
    prompt_id: str = ""
    """Id of the user's prompt that led to the request. "": unknown."""


def read_purpose(headers: Mapping[str, str], request: "MessagesRequest", own_kind: RequestKind = "") -> RequestPurpose:
    """`own_kind`: kind of a request that the proxy sends itself. "": the request is one of a client."""
    kind = own_kind
    if not kind:
        named = headers.get(CLASS_HEADER)
        if named is not None:
            kind = _CLIENT_KINDS.get(named, "other")
        elif SESSION_HEADER in headers or headers.get("user-agent", "").partition("/")[0] == CLAUDE_CODE:
            kind = "subagent" if headers.get(AGENT_HEADER) else "main"
            if not request.tools and (request.thinking is None or request.thinking.type == "disabled"):
                kind = "auxiliary"
        if kind in ("", "auxiliary") and request.is_classifier_question:
            kind = "classifier"
    agent_type, prompt_id = headers.get(AGENT_TYPE_HEADER, ""), headers.get(PROMPT_HEADER, "")
    return RequestPurpose(kind, agent_type[:_MAX_AGENT_TYPE], prompt_id[:_MAX_PROMPT_ID])


def read_tool_times(headers: Mapping[str, str]) -> list[tuple[str, float]]:
    """Return name and seconds of each tool whose result the request has, from `Glob=22;Bash=390`."""
    if not (text := headers.get(_DURATIONS, "")):
        return []
    found = list[tuple[str, float]]()
    for item in text.split(";", _MAX_TOOLS)[:_MAX_TOOLS]:
        name, _, number = item.strip().rpartition("=")
        if name and number.isascii() and number.isdecimal() and len(number) < 16 and int(number) <= _MAX_MILLISECONDS:
            found.append((name[:_MAX_TOOL_NAME], int(number) / 1_000))
    return found


def asks_for_title(kind: RequestKind, request: "MessagesRequest", body: bytes) -> bool:
    """Return True for the request by which Claude Code asks for the title of its session (observed with 2.1.332): it is
    beside the conversation, has no tools, and its reply is an object with a title and nothing else.
    """
    return kind == "auxiliary" and not request.tools and _ASKS_FOR_TITLE.search(body) is not None


def is_limit_query(headers: Mapping[str, str], request: "MessagesRequest", body: bytes) -> bool:
    """Return True for the request by which Claude Code reads the headers with its limits, at the start of a session
    (observed with 2.1.332): `max_tokens` is 1, and the text is `quota`.
    """
    return (
        request.max_tokens == 1
        and request.message_count == 1
        and not request.tools
        and len(body) <= _MAX_LIMIT_QUERY_BYTES
        and headers.get("user-agent", "").startswith(f"{CLAUDE_CODE}/")
        and _LIMIT_QUERY.search(body) is not None
    )
