"""What outputs show of a run: the exchanges of a failure as texts, without the secrets of the user."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from messages_conformance.client import Exchange, Request
from messages_conformance.texts import CUT, Cleaner, shorten
from messages_conformance.trial import DEFAULT_KEY, KEY_VARIABLE, Options

_PUBLIC_HEADERS = frozenset({"accept", "anthropic-beta", "anthropic-version", "content-type", "user-agent"})
"""Headers whose values are no secrets. Of all others, those of `--header` are shown by their name only."""
_MIN_WORD_CHARACTERS = 8
"""Minimum length of a word of a header that is hidden by itself: `Bearer` is no secret."""
_MAX_BODY_CHARACTERS = 2000
_MAX_SENT_CHARACTERS = 20_000
"""Longer bodies of requests are shown in part."""


@dataclass(frozen=True)
class ShownExchange:
    request: str
    """As a command line, in which a variable stands for the key."""
    reply: str


class Screen:
    """Makes texts for people of what was sent and received with some options."""

    def __init__(self, options: Options) -> None:
        self._key = options.key
        self._hidden = frozenset(pair for pair in options.headers if pair[0].lower() not in _PUBLIC_HEADERS)
        self._cleaner = Cleaner(self._list_secrets())

    def clean(self, text: str) -> str:
        """Return a text without secrets, controls and half characters."""
        return self._cleaner.clean(text)

    def show(self, exchange: Exchange, url: str) -> ShownExchange:
        curl = " ".join(self._write_curl(exchange.request, url))
        return ShownExchange(self.clean(curl), self.clean(_describe_reply(exchange)))

    def _list_secrets(self) -> Iterator[tuple[str, str]]:
        if self._key != DEFAULT_KEY:
            yield self._key, f"${KEY_VARIABLE}"
        for _, value in self._hidden:
            yield value, CUT
            for word in re.split(r"[\s,;=]+", value):
                if len(word) >= _MIN_WORD_CHARACTERS:
                    yield word, CUT

    def _write_curl(self, request: Request, url: str) -> Iterator[str]:
        yield from ("curl", "-isSN")
        if request.method != "POST":
            yield from ("-X", request.method)
        yield shlex.quote(url + request.path)
        for name, value in request.headers:
            yield from ("-H", self._quote_header(name, value))
        if request.body is not None:
            yield from (
                "--data-binary",
                shlex.quote(shorten(request.body.decode("utf-8", "replace"), _MAX_SENT_CHARACTERS)),
            )
            if len(request.body) > _MAX_SENT_CHARACTERS:
                yield f"# the body has {len(request.body):,} bytes: repeat the check"

    def _quote_header(self, name: str, value: str) -> str:
        if (name, value) in self._hidden:
            return shlex.quote(f"{name}: {CUT}")
        before, key, behind = value.partition(self._key)
        if key:
            return f'"{name}: {_escape_in_quotes(before)}${KEY_VARIABLE}{_escape_in_quotes(behind)}"'
        return shlex.quote(f"{name}: {value}")


def _escape_in_quotes(text: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", text)


def _describe_reply(exchange: Exchange) -> str:
    """Return status, content type and body of a reply, the body shortened."""
    if not exchange.status:
        return exchange.failure or "none"
    head = f"{exchange.status} {exchange.header('content-type') or 'without a content type'}"
    body = exchange.body.decode("utf-8", "replace").strip()
    more = len(body) - _MAX_BODY_CHARACTERS
    shown = shorten(body, _MAX_BODY_CHARACTERS) + (f" ({more} more characters)" if more > 0 else "")
    return f"{head}\n{shown}" + (f"\n({exchange.failure})" if exchange.failure else "")
