"""The search of deferred tools, by a regular expression or by words."""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy import confined
from anthropic_proxy.confined import Program, ProgramFailed
from anthropic_proxy.exchange.turns import pattern as searcher
from anthropic_proxy.messages.types import Tool

LONGEST_PATTERN = 200
"""Characters (Anthropic's page on the tool search tool, 2026-11)."""
SEARCHER = Program(path=searcher.__file__, seconds=10.0, processor_seconds=3, memory_bytes=256 * 1024 * 1024)
_SEARCH_SECONDS = 1.0
"""Of a processor, for all patterns of one step together."""
_MOST_WORDS = 64
"""Words of a query that are looked for."""
_LONGEST_TEXT = 4_096
"""Characters of a tool that are searched."""
_SATURATION, _LENGTH_WEIGHT = 1.2, 0.75
"""BM25's k1 and b, with their usual values."""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+")


class InvalidPattern(ValueError):
    """The pattern is no regular expression, or too long; the text is for the model."""


class SearchTooSlow(Exception):
    """The pattern backtracks without end."""


Found = list[str] | InvalidPattern | SearchTooSlow
"""Names of tools, or why a pattern found none."""


class _Found(Struct):
    names: list[str] = []
    error: str = ""
    slow: bool = False


async def find_by_patterns(patterns: Sequence[str], tools: Sequence[Tool]) -> list[Found]:
    """Return for each pattern the names of the tools in which it is found, those first whose name has it.

    Case counts unless the pattern says `(?i)`: it is one of Python's `re`, as the API documents. That engine can take
    longer than anybody lives and cannot be stopped, so it runs in a process that can; one for all patterns, since each
    process costs the loop a moment. Raises `OSError` where the machine gives none.
    """
    asked = [pattern for pattern in patterns if len(pattern) <= LONGEST_PATTERN]
    found = iter(await _search(asked, tools) if asked else ())
    return [next(found) if len(pattern) <= LONGEST_PATTERN else _too_long(pattern) for pattern in patterns]


async def _search(patterns: Sequence[str], tools: Sequence[Tool]) -> list[Found]:
    texts = await asyncio.to_thread(lambda: [(tool.name, _text_of(tool)) for tool in tools])
    try:
        said = await confined.run(SEARCHER, {"patterns": patterns, "texts": texts, "seconds": _SEARCH_SECONDS})
    except TimeoutError:
        return [SearchTooSlow() for _ in patterns]
    except ProgramFailed:
        return [InvalidPattern("the pattern needs too much memory") for _ in patterns]
    return [_outcome(one) for one in msgspec.json.decode(said, type=list[_Found])]


def _outcome(found: _Found) -> Found:
    if found.slow:
        return SearchTooSlow()
    return InvalidPattern(found.error) if found.error else found.names


def _too_long(pattern: str) -> InvalidPattern:
    return InvalidPattern(f"the pattern has {len(pattern)} characters; at most {LONGEST_PATTERN} are allowed")


def find_by_words(queries: Sequence[str], tools: Sequence[Tool]) -> list[list[str]]:
    """Return for each query the names of the tools that its words fit, the best first (Okapi BM25).

    With many tools it takes a while: not for the loop.
    """
    documents = [Counter(_words(_text_of(tool))) for tool in tools]
    return [_ranked(query, tools, documents) if documents else [] for query in queries]


def _ranked(query: str, tools: Sequence[Tool], documents: Sequence[Counter[str]]) -> list[str]:
    average = sum(document.total() for document in documents) / len(documents) or 1
    asked = set(islice(_words(query), _MOST_WORDS))
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
