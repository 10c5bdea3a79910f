"""`KnownUrls`: the URLs that occur in a conversation, which are the only ones that a model may fetch."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import assert_never
from unicodedata import normalize
from urllib.parse import quote, urlsplit

import msgspec

from anthropic_proxy.engine.messages.models import (
    Block,
    CompactionBlock,
    DocumentBlock,
    FallbackBlock,
    ImageBlock,
    Message,
    RedactedThinkingBlock,
    SearchResultBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolAdditionBlock,
    ToolReferenceBlock,
    ToolRemovalBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
    decode_nested_content,
)
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.server_blocks import decode_passage
from anthropic_proxy.engine.messages.server_tools import SERVER_TOOLS
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.slices import give_way, give_way_between

_MAX_BEFORE_CHARACTERS = len("https://www.")
_BEFORE = compile_later(r"(?:\A|[^\w@.-])(?:https?://)?(?:www\.)?\Z", re.IGNORECASE)
"""Pattern of the text before a URL: a character that cannot belong to a URL, then an optional scheme and `www.`."""
_AFTER = compile_anchored(r"/?(?![\w/%&=?~+@-]|[.:]\w)")
"""Pattern of the text after a URL: a character that cannot continue the path or host of the URL."""
_MAX_OCCURRENCES = 100_000
"""Maximum number of places of all texts at which a URL is looked for. Most are within longer URLs."""
_ESCAPED = compile_later(r"(?:%[0-9A-Fa-f]{2}){1,2000}")
_SAME_WITHOUT = frozenset("!$'()*,;-._~")
"""ASCII characters, besides letters and digits, that mean the same in a URL with and without percent-encoding."""


class KnownUrls:
    """The URLs that occur in a conversation. A model may fetch only these."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def contains(self, url: str) -> bool:
        """Return True if the URL occurs in the conversation.

        The comparison ignores `http` or `https`, `www.`, the fragment, a last slash and percent-encoding.
        """
        try:
            split = urlsplit(normalize_urls(url.strip()))
            netloc = split.netloc.lower().removeprefix("www.")
            host = split.hostname or ""
            hosts = {netloc}  # as given, and with the host in IDNA and in Unicode
            if not host.isascii():
                hosts.add(netloc.replace(host, host.encode("idna").decode("ascii")))
            elif "xn--" in host:
                hosts.add(netloc.replace(host, host.encode("ascii").decode("idna")))
        except ValueError:
            return False
        if split.scheme not in ("http", "https") or not split.hostname:
            return False
        path = split.path.rstrip("/") + (f"?{split.query}" if split.query else "")
        places = iter(range(_MAX_OCCURRENCES))
        texts = self._texts
        return any(
            _occurs_in(text, lowered, host, path, places) for host in hosts for text, lowered in give_way_between(texts)
        )

    @cached_property
    def _texts(self) -> list[tuple[str, str]]:
        """For each text of the conversation: the text with normalized URLs, and its lower-case copy of equal length."""
        texts = [normalize_urls(text) for text in give_way_between(_texts(self._messages))]
        return [(text, _lowered(text)) for text in texts]


def normalize_urls(text: str) -> str:
    """Return the text with percent-encoding decoded where this does not change the meaning of a URL.

    For example, `%2F` is kept, because a decoded slash would divide a part of the path.

    >>> normalize_urls("https://a.test/caf%c3%a9%2fb")
    'https://a.test/café%2Fb'
    """

    def decode(found: re.Match[str]) -> str:
        give_way()
        try:
            decoded = bytes.fromhex(found[0].replace("%", "")).decode()
        except UnicodeDecodeError:
            return found[0].upper()
        return "".join(one if _means_itself(one) else quote(one, safe="") for one in decoded)

    if "%" in text:
        text = _ESCAPED.sub(decode, text)
    return text if text.isascii() else normalize("NFC", text)


def _means_itself(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in _SAME_WITHOUT
    return character.isprintable()


def _occurs_in(text: str, lowered: str, host: str, path: str, places: Iterator[int]) -> bool:
    """Return True if the URL of `host` and `path` occurs in `text`. Case matters in the path, not in the host.

    `lowered`: lower-case copy of `text`. `places`: one for each place that may be examined.
    """
    wanted = host + _lowered(path)
    at = lowered.find(wanted)
    for _ in places:
        if at < 0:
            break
        before = text[max(at - _MAX_BEFORE_CHARACTERS - 1, 0) : at]
        if text.startswith(path, at + len(host)) and _AFTER.match(text, at + len(wanted)) and _BEFORE.search(before):
            return True
        at = lowered.find(wanted, at + 1)
    return False


def _lowered(text: str) -> str:
    """Return a text of equal length with ASCII letters in lower case."""
    return text.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")


def _texts(messages: Iterable[Message]) -> Iterator[str]:
    """Yield texts with permitted URLs: of user messages, results of client tools, and fetched pages, newest first."""
    for message in reversed(list(messages)):
        if isinstance(message.content, str):
            if message.role == "user":
                yield message.content
        else:
            for block in message.content:
                if isinstance(block, ServerToolResultBlock):
                    if SERVER_TOOLS[block.kind].has_pages and memoryview(block.content).nbytes:
                        yield from _strings(decode_values(block.content))
                elif message.role == "user":
                    yield from _texts_of(block)


_WITHOUT_URLS = (
    ImageBlock,
    ThinkingBlock,
    RedactedThinkingBlock,
    ToolUseBlock,
    ToolReferenceBlock,
    ServerToolUseBlock,
    ServerToolResultBlock,
    ToolAdditionBlock,
    ToolRemovalBlock,
    CompactionBlock,
    FallbackBlock,
    UnknownBlock,
)
"""Blocks of a user message that permit no URL: models write them, or people do not read them. `_texts` reads the
results of server tools, which are in replies."""


def _texts_of(block: Block) -> Iterator[str]:
    if isinstance(block, TextBlock):
        yield msgspec.json.decode(block.text, type=str)
    elif isinstance(block, ToolResultBlock):
        for inner in decode_nested_content(block.content):
            yield from _texts_of(inner)
    elif isinstance(block, SearchResultBlock):
        yield f"{block.source}\n{block.title}"
        for inner in decode_nested_content(block.content, in_result=False):
            yield from _texts_of(inner)
    elif isinstance(block, DocumentBlock):
        source = block.source
        yield f"{block.title}\n{block.context}\n{source.url}"
        if source.type == "text":
            yield source.data
        elif source.type == "content":
            for inner in decode_nested_content(source.content, in_result=False):
                yield from _texts_of(inner)
    elif not isinstance(block, _WITHOUT_URLS):
        assert_never(block)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield decode_passage(value) or value
    elif isinstance(value, dict):
        if value.get("type") == "base64":
            return
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
