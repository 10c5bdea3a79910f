"""Construction of `content` in upstream messages: `Raw` (a JSON string), or a list of content parts."""

import itertools
from collections.abc import Sequence
from typing import Any

from msgspec import Raw, Struct

from anthropic_proxy.wire.json_strings import join_json_strings

CACHE_MARK = {"type": "ephemeral"}
"""A mark for the provider's cache. Without a lifetime it holds for five minutes, at every provider that has marks."""

_EMPTY = (b"null", b'""')


class TextPart(Struct, tag="text", tag_field="type", gc=False):
    """Content part with text. `text` is a JSON string."""

    text: Raw


class _MarkedTextPart(Struct, tag="text", tag_field="type", gc=False):
    text: Raw
    cache_control: dict[str, str]


def prepend_thinking(thoughts: str, content: Any) -> list[Any]:
    """Return the content of an assistant message with a thinking part (Mistral's form) before its text."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": thoughts}]}
    return [thinking, TextPart(content)] if isinstance(content, Raw) and bytes(content) not in _EMPTY else [thinking]


def add_cache_mark(content: Any) -> Any:
    """Return the content with `cache_control` on its last text that is not empty; unchanged if there is none."""
    if isinstance(content, Raw):
        return content if bytes(content) in _EMPTY else [_MarkedTextPart(content, CACHE_MARK)]
    texts = [
        place for place, part in enumerate(content) if isinstance(part, TextPart) and bytes(part.text) not in _EMPTY
    ]
    if not texts:
        return content
    return [
        _MarkedTextPart(part.text, CACHE_MARK) if place == texts[-1] else part for place, part in enumerate(content)
    ]


def join_contents(contents: Sequence[Any]) -> Any:
    """Return the contents of neighboring messages as one: texts before the first list become one text."""
    texts = [*itertools.takewhile(lambda content: isinstance(content, Raw), contents)]
    if len(texts) == len(contents):
        return join_json_strings(texts)
    first = [TextPart(join_json_strings(texts))] if texts else []
    remaining = ([TextPart(content)] if isinstance(content, Raw) else content for content in contents[len(texts) :])
    return [*first, *itertools.chain.from_iterable(remaining)]
