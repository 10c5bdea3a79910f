"""Checks of a complete event stream of the Messages API, with the rules of the command `lint-stream`."""

from collections.abc import Iterable, Mapping
from typing import Any

from messages_conformance.grammar import EventGrammar


def check_events(events: Iterable[Mapping[str, Any]], *, requires_json_arguments: bool = True) -> list[str]:
    """Return the deviations of a finished stream of decoded events from the Messages API, as texts."""
    grammar = EventGrammar(requires_json_arguments=requires_json_arguments)
    for event in events:
        grammar.feed(event)
    return list(map(str, grammar.finish()))


def check_bytes(stream: bytes, *, requires_json_arguments: bool = True) -> list[str]:
    """Return the deviations of a finished stream of SSE bytes from the Messages API, as texts."""
    grammar = EventGrammar(requires_json_arguments=requires_json_arguments)
    grammar.feed_bytes(stream)
    return list(map(str, grammar.finish()))
