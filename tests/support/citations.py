"""The marks by which a model cites: those that a request asks for, and those of a known key."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.messages.citations import number_passages
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.own_keys import OwnKeys

SECRET = "5e" * 32


async def keep_secret(_: str) -> str:
    """The secret that the database of a proxy in tests has."""
    return SECRET


def write_marks(text: str, asked: str) -> str:
    """Return a text in which each `<cite n="2">…</cite>` has become the mark that a request asks for. `asked`: its
    texts, also as JSON. A request without sources: the same text.
    """
    found = re.search(r"<([a-z]+) 3>a statement</\1>", asked)
    return re.sub(r'<cite n="([^"]*)"(/?)>|</cite>', lambda mark: _write(mark, found[1]), text) if found else text


def _write(mark: re.Match[str], word: str) -> str:
    return f"</{word}>" if mark[1] is None else f"<{word} {mark[1]}{mark[2]}>"


def find_word(messages: Sequence[Any], owner: str = "key local") -> str:
    """Return the word in the marks of a conversation. The proxy has `keep_secret`."""
    keys = OwnKeys(keep_secret)
    asyncio.run(keys.open(MemoryValues()))
    body = msgspec.json.encode({"model": "m", "max_tokens": 1, "messages": messages})
    _, sources = number_passages(decode_request(body).messages, [], key=keys.derive("citations", owner))
    return sources.word
