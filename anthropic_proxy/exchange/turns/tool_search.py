"""The search of deferred tools, by a regular expression or by words."""

import asyncio
import math
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.exchange.turns import pattern as searcher
from anthropic_proxy.messages.types import Tool

LONGEST_PATTERN = 200
"""Characters (Anthropic's page on the tool search tool, 2026-11)."""
SEARCH_SECONDS = 2.0
"""How long all tools may be searched by one pattern, the start of the process included."""
_SEARCHER = searcher.__file__
_LONGEST_TEXT = 4_096
"""Characters of a tool that are searched."""
_SATURATION, _LENGTH_WEIGHT = 1.2, 0.75
"""BM25's k1 and b, with their usual values."""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+")


class InvalidPattern(ValueError):
    """The pattern is no regular expression, or too long; the text is for the model."""


class SearchTooSlow(Exception):
    """The pattern backtracks without end."""


class _Found(Struct):
    names: list[str] = []
    error: str = ""


async def find_by_pattern(pattern: str, tools: Sequence[Tool]) -> list[str]:
    """Return the names of the tools in which the pattern is found, those first whose name has it.

    Case counts unless the pattern says `(?i)`: it is one of Python's `re`, as the API documents. That engine can take
    longer than anybody lives, holds the interpreter's lock meanwhile and cannot be stopped, so it runs in a process of
    its own that can. Raises `InvalidPattern`, `SearchTooSlow`.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise InvalidPattern(f"the pattern has {len(pattern)} characters; at most {LONGEST_PATTERN} are allowed")
    asked = msgspec.json.encode({"pattern": pattern, "texts": [(tool.name, _text_of(tool)) for tool in tools]})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", _SEARCHER), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(SEARCH_SECONDS):
            said, _ = await process.communicate(asked)
    except TimeoutError:
        raise SearchTooSlow from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = msgspec.json.decode(said, type=_Found) if said else _Found(error="the pattern needs too much memory")
    if found.error:
        raise InvalidPattern(found.error)
    return found.names


def find_by_words(query: str, tools: Sequence[Tool]) -> list[str]:
    """Return the names of the tools that the words of the query fit, the best first (Okapi BM25)."""
    documents = [Counter(_words(_text_of(tool))) for tool in tools]
    if not documents:
        return []
    average = sum(document.total() for document in documents) / len(documents) or 1
    asked = set(_words(query))
    holders = {word: sum(word in document for document in documents) for word in asked}
    scores = []
    for tool, document in zip(tools, documents, strict=True):
        norm = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * document.total() / average)
        score = 0.0
        for word in asked:
            if count := document[word]:
                rarity = math.log(1 + (len(documents) - holders[word] + 0.5) / (holders[word] + 0.5))
                score += rarity * count * (_SATURATION + 1) / (count + norm)
        scores.append((score, tool.name))
    return [name for score, name in sorted(scores, key=lambda one: -one[0]) if score > 0]


def _words(text: str) -> Iterator[str]:
    """Yield words in lower case: `getUserData` and `get_user_data` have the same three; without a plural's s."""
    for word in _WORD.findall(text):
        lowered = word.lower()
        yield lowered[:-1] if len(lowered) > 3 and lowered.endswith("s") and not lowered.endswith("ss") else lowered


def _text_of(tool: Tool) -> str:
    """Return what is searched of a tool: its name, its description, its arguments and what describes them."""
    schema = msgspec.json.decode(tool.input_schema) if memoryview(tool.input_schema).nbytes else None
    return "\n".join([tool.name, tool.description or "", *_arguments_in(schema)])[:_LONGEST_TEXT]


def _arguments_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for part in schema:
            yield from _arguments_in(part)
    elif isinstance(schema, dict):
        for keyword, value in schema.items():
            if keyword == "properties" and isinstance(value, dict):
                for name, inner in value.items():
                    yield name
                    yield from _arguments_in(inner)
            elif keyword == "description" and isinstance(value, str):
                yield value
            elif isinstance(value, dict | list):
                yield from _arguments_in(value)
