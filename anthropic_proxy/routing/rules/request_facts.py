"""`RequestFacts`: the properties of a client request that the conditions of routes check.

`background` is True for calls that Claude Code sends beside the conversation, and `subagent` for calls of its
sub-agents.

A route may match only a share of the sessions, such as 10 %. For this, `draw_integer` computes a pseudo-random number
from the session id and from `draw_factor`, a hash of the route's name. The route matches if the number is below the
result of `share_threshold`. All requests of a session have the same number for a route, so the session stays in the
share or outside of it. `draw_percent` returns the number in percent.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from hashlib import blake2b

from anthropic_proxy.errors import ClientError
from anthropic_proxy.messages.models import (
    Block,
    DocumentBlock,
    ImageBlock,
    MessagesRequest,
    ToolResultBlock,
    decode_nested_content,
)
from anthropic_proxy.messages.preparation import find_session_id, server_tool_kinds
from anthropic_proxy.settings import load_time_zone

SESSION_HEADER, AGENT_HEADER, PROJECT_HEADER = "x-claude-code-session-id", "x-claude-code-agent-id", "x-project"
_CLAUDE_CODE = "claude-cli/"
"""Beginning of the header `user-agent` of Claude Code."""
_MEDIA_WORDS = (b'"image"', b'"document"')
_TEXT_SOURCES = ("text", "content")
"""Source types of documents that contain text. A document with another source type is a PDF."""
_PERCENT = 100.0
DRAW_COUNT = 1 << 32
"""Number of different draws. A draw is a pseudo-random integer of a route and session: below the share, the route
matches."""


class RequestFacts:
    """Properties of one client request that the conditions of routes check.

    `headers` have names in lower case, and `now` is in seconds since the epoch.
    """

    def __init__(
        self,
        request: MessagesRequest,
        *,
        model: str,
        tier: str,
        headers: Mapping[str, str],
        key: str,
        team: str,
        now: float,
        count_tokens: Callable[[MessagesRequest], int],
        request_id: str = "",
    ) -> None:
        self._request = request
        self.model = model.lower()
        self.tier = tier
        self.headers = headers
        self.key = key
        self.team = team
        self.now = now
        self._count_tokens = count_tokens
        self._request_id = request_id
        self._times: dict[str | None, tuple[int, int]] = {}
        # no `cached_property` for long computations: until Python 3.12, all objects share its lock
        self._input_tokens: int | None = None
        self._media: tuple[bool, bool] | None = None

    @property
    def project(self) -> str:
        """Value of the request header `x-project`. "": the header is absent."""
        return self.headers.get(PROJECT_HEADER, "")

    @property
    def subagent(self) -> bool:
        """True if a sub-agent of Claude Code sent the request."""
        return bool(self.headers.get(AGENT_HEADER))

    @property
    def thinking(self) -> bool:
        """True if the request enables thinking."""
        return self._request.thinking is not None and self._request.thinking.type != "disabled"

    @property
    def web_search(self) -> bool:
        """True if the request offers the web search tool of the Messages API (a server tool)."""
        return "web_search" in server_tool_kinds(self._request.tools)

    @property
    def background(self) -> bool:
        """True if Claude Code sent the call beside the conversation, for example for a title.

        Such calls have no tools and no thinking.
        """
        is_claude_code = SESSION_HEADER in self.headers or self.headers.get("user-agent", "").startswith(_CLAUDE_CODE)
        return is_claude_code and not self._request.tools and not self.thinking

    @property
    def input_tokens(self) -> int:
        """Estimated input tokens of the request.

        If the request cannot be decoded, the size of its body in bytes, divided by 4.
        """
        if self._input_tokens is None:
            try:
                self._input_tokens = self._count_tokens(self._request)
            except ClientError:
                self._input_tokens = self._request.body_bytes // 4
        return self._input_tokens

    @cached_property
    def session(self) -> str:
        """Session id that the client sent in a header or in `metadata.user_id`. "": the client sent none."""
        if session := self.headers.get(SESSION_HEADER):
            return session
        metadata = self._request.metadata
        return (metadata and metadata.user_id and find_session_id(metadata.user_id)) or ""

    def _find_media(self) -> tuple[bool, bool]:
        """Return two flags: a message or tool result contains an image; one contains a PDF document."""
        if self._media is None:
            images = pdfs = False
            for block in _list_blocks(self._request):
                images = images or isinstance(block, ImageBlock)
                pdfs = pdfs or (isinstance(block, DocumentBlock) and block.source.type not in _TEXT_SOURCES)
            self._media = images, pdfs
        return self._media

    @property
    def images(self) -> bool:
        """True if a message contains an image."""
        return self._find_media()[0]

    @property
    def pdfs(self) -> bool:
        """True if a message contains a PDF document."""
        return self._find_media()[1]

    def local_weekday_and_minute(self, zone: str | None) -> tuple[int, int]:
        """Return the time of the request as day of the week (0: Monday) and minutes since midnight.

        `zone` is a time zone, such as `Europe/Berlin`; None: that of the server.
        """
        if zone not in self._times:
            moment = datetime.fromtimestamp(self.now, load_time_zone(zone))
            self._times[zone] = moment.weekday(), moment.hour * 60 + moment.minute
        return self._times[zone]

    def draw_percent(self, name: str) -> float:
        """Return a pseudo-random number from 0 to 100 for the route `name`, the same within a session."""
        return self.draw_integer(draw_factor(name)) * _PERCENT / DRAW_COUNT

    def draw_integer(self, factor: int) -> int:
        """Return a pseudo-random integer of 32 bits for a route, the same for all requests of a session.

        `factor` is the result of `draw_factor` for the name of the route.
        """
        return factor * self.session_hash % DRAW_COUNT

    @cached_property
    def session_hash(self) -> int:
        """Hash of 32 bits of the session id, or of the request id if the client sent no session id."""
        return _hash(self.session or self._request_id)


def draw_factor(name: str) -> int:
    """Return a hash of 32 bits of a route's name, for the argument `factor` of `RequestFacts.draw_integer`.

    A session thereby has a different number for each route. Otherwise all routes with the same share would match the
    same sessions.
    """
    return _hash(name) | 1


def share_threshold(percent: float) -> int:
    """Return a share in percent as an integer, for comparison with the numbers of `RequestFacts.draw_integer`.

    A session belongs to the share if its number is smaller than the result.
    """
    return round(percent / _PERCENT * DRAW_COUNT)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=4).digest())


def _list_blocks(request: MessagesRequest) -> Iterator[Block]:
    """Yield the content blocks of all messages, and the blocks inside tool results.

    Only tool results that may contain an image or a document are decoded.
    """
    for message in request.messages:
        if isinstance(message.content, str):
            continue
        for block in message.content:
            yield block
            if isinstance(block, ToolResultBlock):
                content = bytes(block.content)
                if any(word in content for word in _MEDIA_WORDS):
                    yield from _decode_result(block)


def _decode_result(block: ToolResultBlock) -> list[Block]:
    try:
        return decode_nested_content(block.content)
    except ClientError:
        return []
