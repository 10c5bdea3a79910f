"""Which addresses a model may have fetched: those that it did not make up.

As the API does: what stands in a message of the user, in a result of the client's tools, or in what earlier searches
and fetches returned. A model that follows words on a page could otherwise carry a conversation away in an address.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from unicodedata import normalize
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.passages import open_passage
from anthropic_proxy.messages.types import (
    Block,
    DocumentBlock,
    Message,
    SearchResultBlock,
    TextBlock,
    ToolResultBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
    blocks_of,
)

_LONGEST_BEFORE = len("https://www.")
_BEFORE = re.compile(r"(?:\A|[^\w@.-])(?:https?://)?(?:www\.)?\Z", re.IGNORECASE)
"""What an address begins behind. Of more text than it can take the beginning is no place to begin at."""
_AFTER = re.compile(r"/?(?![\w/%&=?~+@-]|[.:]\w)")
"""An address ends where nothing follows that could belong to it."""
_ESCAPED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_SAME_WITHOUT = frozenset("!$'()*,;-._~")
"""ASCII beside letters and digits that means the same whether it is percent-encoded or not."""


class KnownAddresses:
    """The addresses of a conversation; its texts are read once, and only if anybody asks."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def has(self, url: str) -> bool:
        """Whether an address stands there; with or without its scheme, `www.` and a fragment, however it is encoded."""
        try:
            parts = urlsplit(plain(url.strip()))
            hosts = _spellings(parts.netloc.lower().removeprefix("www."), parts.hostname or "")
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return False
        rest = parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")
        return any(_stands_in(text, lowered, host, rest) for host in hosts for text, lowered in self._texts)

    @cached_property
    def _texts(self) -> list[tuple[str, str]]:
        """Every text as addresses are compared, and the same in lower case, of the same length."""
        texts = [plain(text) for text in _texts(self._messages)]
        return [(text, _lowered(text)) for text in texts]


def plain(text: str) -> str:
    """Return a text with its addresses in one form: percent-encoded is only what would else mean something else.

    >>> plain("https://a.test/caf%c3%a9%2fb")
    'https://a.test/café%2Fb'
    """
    if "%" in text:
        text = _ESCAPED.sub(_plain_escapes, text)
    return text if text.isascii() else normalize("NFC", text)


def _plain_escapes(found: re.Match[str]) -> str:
    encoded = bytes.fromhex(found[0].replace("%", ""))
    try:
        decoded = encoded.decode()
    except UnicodeDecodeError:
        return found[0].upper()
    return "".join(one if _means_itself(one) else quote(one, safe="") for one in decoded)


def _means_itself(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in _SAME_WITHOUT
    return character.isprintable()


def _spellings(netloc: str, host: str) -> set[str]:
    """Return a place as it may be written: a name of foreign letters also in ASCII, and the other way round."""
    found = {netloc}
    if not host.isascii():
        found.add(netloc.replace(host, host.encode("idna").decode("ascii")))
    elif "xn--" in host:
        found.add(netloc.replace(host, host.encode("ascii").decode("idna")))
    return found


def _stands_in(text: str, lowered: str, host: str, rest: str) -> bool:
    """Whether `host` and `rest` stand there as an address; of the host alone it does not matter how it is written."""
    wanted = host + _lowered(rest)
    at = lowered.find(wanted)
    while at >= 0:
        before = text[max(at - _LONGEST_BEFORE - 1, 0) : at]
        if text.startswith(rest, at + len(host)) and _AFTER.match(text, at + len(wanted)) and _BEFORE.search(before):
            return True
        at = lowered.find(wanted, at + 1)
    return False


def _lowered(text: str) -> str:
    """Return a text of the same length without capitals of ASCII."""
    return text.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")


def _texts(messages: Iterable[Message]) -> Iterator[str]:
    """Yield what users, tools and pages said, the newest first."""
    for message in reversed(list(messages)):
        if isinstance(message.content, str):
            if message.role == "user":
                yield message.content
        else:
            for block in message.content:
                yield from _said_by_others(block, message.role)


def _said_by_others(block: Block, role: str) -> Iterator[str]:
    if isinstance(block, WebSearchResultBlock | WebFetchResultBlock):
        yield from _strings(_value(block.content))
    elif role == "user":
        yield from _in(block)


def _in(block: Block) -> Iterator[str]:
    if isinstance(block, TextBlock):
        yield msgspec.json.decode(block.text, type=str)
    elif isinstance(block, ToolResultBlock):
        for part in blocks_of(block.content):
            yield from _in(part)
    elif isinstance(block, SearchResultBlock):
        yield f"{block.source}\n{block.title}"
        for part in blocks_of(block.content):
            yield from _in(part)
    elif isinstance(block, DocumentBlock):
        source = block.source
        yield f"{block.title}\n{block.context}\n{source.url}"
        if source.type == "text":
            yield source.data
        elif source.type == "content":
            for part in blocks_of(source.content):
                yield from _in(part)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield open_passage(value) or value
    elif isinstance(value, dict):
        if value.get("type") == "base64":
            return
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _value(raw: Raw) -> object:
    return msgspec.json.decode(raw) if memoryview(raw).nbytes else None
