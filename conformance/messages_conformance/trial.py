"""One trial of a check: what was sent and received, on both sides of the server under test."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from messages_conformance.client import Exchange
from messages_conformance.rows import Check
from messages_conformance.texts import Cleaner, escape_unprintable

DEFAULT_KEY = "any-key"
KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
"""Headers with the key of a provider."""
KEY_VARIABLE = "MESSAGES_API_KEY"
"""Variable of the environment with the key of the server under test."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the caller says about the server under test."""

    url: str
    model: str
    key: str = DEFAULT_KEY
    version: str = ""
    """Value of `anthropic-version`. "": the first one of each row."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with each request."""
    backend: str = ""
    """Protocol of the scripted upstream. "": there is none."""
    missing: frozenset[str] = frozenset()
    """What the server does not have, of the names in `NEEDS`."""
    timeout: float = 60
    """Maximum time in seconds without a byte."""


@dataclass
class UpstreamRequest:
    """A call of the model that the scripted upstream got from the server under test."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: Any
    """Decoded JSON. A text: the body is no JSON."""
    time: float
    """`time.monotonic()` of its last byte."""
    open_calls: int = 1
    """Calls of the trial that were open when it came, with this one."""
    unseen: str = ""
    """Event for which the reply waited, and which the client did not get in time."""
    refusal: str = ""
    """Why the upstream has refused it, as the provider does. "": it has answered."""
    left: float | None = None
    """`time.monotonic()` at which the server under test has closed the connection before the end of the reply."""

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def keys(self) -> list[str]:
        """The credentials of the server under test, as their headers or the address have them."""
        named = [value for name in KEY_HEADERS if (value := self.header(name))]
        return [*named, *parse_qs(urlsplit(self.path).query).get("key", ())]

    def shows_key(self, text: str, known: Collection[str] = ()) -> bool:
        """Return whether a text has one of the credentials, in any form that replies give it.

        `known`: what the client has sent itself, if the model's server has repeated the key.
        """
        secrets = [secret for key in self.keys for secret in {key, key.rpartition(" ")[2]} if secret not in known]
        # a short one can be a word: it is a key where the server under test calls it so
        if not known and any(
            re.search(rf"(?i)\b(?:key|bearer|token)\W{{1,3}}(?:(?:was|is)\W)?{re.escape(one)}\b", text)
            for one in secrets
        ):
            return True
        return Cleaner((secret, "") for secret in secrets).clean(text) != escape_unprintable(text)


@dataclass
class Trial:
    """The requests of one check, once."""

    id: str
    """Its token in the last text of the user, `[trial ID]`, by which the scripted upstream finds its reply."""
    check: Check
    options: Options
    exchanges: list[Exchange] = field(default_factory=list)
    """One for each step, in their order."""
    upstream: list[UpstreamRequest] = field(default_factory=list)
    """Calls of the model that the scripted upstream got, in their order. Empty without a backend."""
    saw: Callable[[str], None] = lambda _: None
    """Told the type of each event that the client gets."""

    @property
    def version(self) -> str:
        """The value of `anthropic-version`."""
        wanted = self.options.version
        return wanted if wanted in self.check.versions else self.check.versions[0]

    @property
    def token(self) -> str:
        return f"[trial {self.id}]"

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]


def add_token(body: Mapping[str, Any], token: str) -> dict[str, Any]:
    """Return a body with the token behind the last text of the user. A body without such a text stays as it is."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return dict(body)
    changed = list(messages)
    for number in range(len(messages) - 1, -1, -1):
        message = messages[number]
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = _add_to_content(message.get("content"), token)
        if content is not None:
            changed[number] = {**message, "content": content}
            break
    return {**body, "messages": changed}


def _add_to_content(content: Any, token: str) -> Any:
    """Return the content with the token, None if there is no text for it."""
    if isinstance(content, str):
        return f"{content} {token}" if content else None
    if not isinstance(content, list):
        return None
    for number in range(len(content) - 1, -1, -1):
        block = content[number]
        if not isinstance(block, dict):
            continue
        field_name = {"text": "text", "tool_result": "content"}.get(str(block.get("type")))
        inner = _add_to_content(block.get(field_name), token) if field_name else None
        if inner is not None:
            return [*content[:number], {**block, str(field_name): inner}, *content[number + 1 :]]
    return None
