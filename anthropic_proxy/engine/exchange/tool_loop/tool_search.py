"""Tool searches that the proxy runs for a model.

A client may defer tools: the model receives their definitions only after a tool search has found them.
`search_by_regex` and `search_by_words` return the names of matching tools.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.background import PayerWork
from anthropic_proxy.engine.exchange.tool_loop import regex_program
from anthropic_proxy.engine.exchange.tool_loop.proxy_calls import ProxyToolCall, ToolContext
from anthropic_proxy.engine.memory_plan import PATTERN_BYTES
from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.server_blocks import Content, tool_search_content
from anthropic_proxy.engine.messages.server_tools import PROXY_TOOLS
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms import sandbox
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.sandbox import SandboxedProgram, SandboxFailed
from anthropic_proxy.engine.slices import give_way_between
from anthropic_proxy.engine.turns import Turns
from anthropic_proxy.errors import WorkerBusy

MAX_PATTERN_LENGTH = 200
"""Maximum characters of a pattern. A longer one is an `InvalidPattern`. Source: Anthropic's page on tool search,
2026-11."""
REGEX_PROGRAM = SandboxedProgram(
    path=regex_program.__file__, timeout_seconds=10.0, cpu_seconds=3, memory_bytes=PATTERN_BYTES
)
"""Program in a separate process that searches by the regular expressions of a model, because `re` cannot be
interrupted."""
_SEARCH_SECONDS = 1.0
"""Maximum CPU seconds for all patterns of one reply of the model. A slower pattern gets a `RegexTimeout` as its
outcome."""
_MAX_WORDS = 64
"""Maximum number of words of a query. Further words are ignored."""
_MAX_TEXT_CHARACTERS = 4_096
"""Maximum number of characters of a tool definition that are searched."""
_SATURATION, _LENGTH_WEIGHT = 1.2, 0.75
"""Parameters k1 and b of BM25 (a ranking by word frequency), with their common values."""
_WORD = compile_later(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+")


class InvalidPattern(ValueError):
    """Error: a regular expression of the model is invalid or too long.

    The model receives the message as its tool result.
    """


class RegexTimeout(Exception):
    """Error: a regular expression of the model exceeded its CPU time."""


SearchOutcome = list[str] | InvalidPattern | RegexTimeout
"""Result of one search by pattern: the names of the matching tools, or the error of the pattern."""


class _Found(Struct):
    names: list[str] = []
    error: str = ""
    slow: bool = False


_ROW = PROXY_TOOLS["tool_search"]
_DEFAULT_TOOLS_FOUND, _MAX_TOOLS_FOUND = 5, 10
"""Default and maximum number of tools that a tool search returns."""


class _ToolQuery(Struct, frozen=True):
    """Arguments of a tool search call: words (`by_words` is True) or a regular expression, in `text`."""

    text: str
    by_words: bool
    max_results: int


async def run_tool_searches(calls: Sequence[ProxyToolCall], context: ToolContext) -> list[Content]:
    """Return the result contents of tool search calls, in their order.

    The thread for large requests runs all searches by words; one separate process runs all regular expressions.
    """
    deferred = context.deferred
    queries_by_call = [_tool_query(call) for call in calls]
    queries = [query.text for query in queries_by_call if query and query.by_words]
    patterns = [query.text for query in queries_by_call if query and not query.by_words]
    background, turns = context.engine.background.of(context.origin.payer), context.engine.pattern_searches
    by_words = iter(await background.run_in_thread(search_by_words, queries, deferred) if queries else ())
    try:
        found: Sequence[SearchOutcome | OSError | WorkerBusy] = await search_by_regex(
            background, turns, patterns, deferred
        )
    except (OSError, WorkerBusy) as error:  # no process could be started
        found = [error] * len(patterns)
    by_pattern = iter(found)
    contents = list[Content]()
    for query in queries_by_call:
        if query is None:
            contents.append(_ROW.error_content("invalid_tool_input", "query or pattern: a text is needed"))
            continue
        outcome = next(by_words if query.by_words else by_pattern)
        if isinstance(outcome, list):
            contents.append(tool_search_content(outcome[: query.max_results]))
        elif isinstance(outcome, InvalidPattern):
            contents.append(_ROW.error_content("invalid_tool_input", str(outcome)))
        elif isinstance(outcome, RegexTimeout):
            text = "the pattern takes too long; use a simpler one"
            contents.append(_ROW.error_content("execution_time_exceeded", text))
        elif isinstance(outcome, WorkerBusy):
            contents.append(_ROW.error_content("too_many_requests", outcome.message))
        else:
            text = f"the search could not be run: {describe_os_error(outcome)}"
            contents.append(_ROW.error_content("unavailable", text))
    return contents


def _tool_query(call: ProxyToolCall) -> _ToolQuery | None:
    by_words = (call.proxy_tool.tool.type or "").startswith("tool_search_tool_bm25")
    arguments = call.decode_arguments() or {}
    text = arguments.get("query" if by_words else "pattern")
    limit = arguments.get("limit")
    max_results = min(max(limit, 1), _MAX_TOOLS_FOUND) if isinstance(limit, int) else _DEFAULT_TOOLS_FOUND
    return _ToolQuery(text, by_words, max_results) if isinstance(text, str) and text else None


async def search_by_regex(
    background: PayerWork, turns: Turns, patterns: Sequence[str], tools: Sequence[Tool]
) -> list[SearchOutcome]:
    """Search the definitions of `tools` by regular expressions, and return the names or the error for each pattern.

    `turns`: those of the engine. Raises `OSError` if the search process cannot be started, and `WorkerBusy`.
    """
    fitting = [pattern for pattern in patterns if len(pattern) <= MAX_PATTERN_LENGTH]
    outcomes: dict[str, SearchOutcome] = {
        pattern: InvalidPattern(f"the pattern has {len(pattern)} characters; at most {MAX_PATTERN_LENGTH} are allowed")
        for pattern in patterns
        if len(pattern) > MAX_PATTERN_LENGTH
    }
    if fitting:
        texts = await background.run_in_thread(_list_texts, tools)
        query = {"patterns": fitting, "texts": texts, "seconds": _SEARCH_SECONDS}
        try:
            async with turns.hold(background.payer):
                output = await sandbox.run_sandboxed(REGEX_PROGRAM, query)
        except TimeoutError:
            outcomes |= {pattern: RegexTimeout() for pattern in fitting}
        except SandboxFailed:
            outcomes |= {pattern: InvalidPattern("the pattern needs too much memory") for pattern in fitting}
        else:
            for pattern, found in zip(fitting, msgspec.json.decode(output, type=list[_Found]), strict=True):
                if found.slow:
                    outcomes[pattern] = RegexTimeout()
                elif found.error:
                    outcomes[pattern] = InvalidPattern(found.error)
                else:
                    outcomes[pattern] = found.names
    return [outcomes[pattern] for pattern in patterns]


def _list_texts(tools: Sequence[Tool]) -> list[tuple[str, str]]:
    return [(tool.name, _text_of(tool)) for tool in give_way_between(tools)]


def search_by_words(queries: Sequence[str], tools: Sequence[Tool]) -> list[list[str]]:
    """Return for each query the names of those tools that have its words in their definitions, the best match first.

    Call this in a thread, because it is slow.
    """
    wanted_by_query = {query: {*islice(_words(query), _MAX_WORDS)} for query in queries}
    wanted = set[str]().union(*wanted_by_query.values())
    lengths = list[int]()
    holders: dict[str, list[tuple[int, int]]] = {word: [] for word in wanted}  # place of the tool, count of the word
    for place, tool in enumerate(give_way_between(tools)):
        document = Counter(_words(_text_of(tool)))
        lengths.append(document.total())
        for word in document.keys() & wanted:
            holders[word].append((place, document[word]))
    average = sum(lengths) / max(len(lengths), 1) or 1
    found = dict[str, list[str]]()
    for query, words in wanted_by_query.items():
        scores = dict[int, float]()
        for word in give_way_between(words):
            rarity = math.log(1 + (len(lengths) - len(holders[word]) + 0.5) / (len(holders[word]) + 0.5))
            for place, count in holders[word]:
                norm = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * lengths[place] / average)
                score = rarity * count * (_SATURATION + 1) / (count + norm)
                scores[place] = scores.get(place, 0.0) + score
        best = sorted(scores.items(), key=lambda one: (-one[1], one[0]))
        found[query] = [tools[place].name for place, _ in best]
    return [found[query] for query in queries]


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text for the search, in lower case and without a plural s.

    `getUserData` and `get_user_data` yield the same words.
    """
    for word in _WORD.findall(text):
        lowered = word.lower()
        yield lowered[:-1] if len(lowered) > 3 and lowered.endswith("s") and not lowered.endswith("ss") else lowered


def _text_of(tool: Tool) -> str:
    """Return the searched text of a tool: name, description, and arguments with descriptions."""
    schema = decode_values(tool.input_schema) if memoryview(tool.input_schema).nbytes else None
    return "\n".join([tool.name, tool.description or "", *_arguments_in(schema)])[:_MAX_TEXT_CHARACTERS]


def _arguments_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for inner_schema in schema:
            yield from _arguments_in(inner_schema)
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
