"""Functions that change the `content` of upstream messages: a JSON string (`Raw`), or a list of content parts.

A part is a text, an image or a file in the format of the Chat Completions API. `add_cache_mark` marks the text up to
which the provider caches the prompt, and `prepend_thinking` adds reasoning. `join_contents` joins the contents of
several messages.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from msgspec import Raw, Struct

from anthropic_proxy.wire.json_strings import join_json_strings

CACHE_MARK = {"type": "ephemeral"}
"""Value of `cache_control`. The provider then caches the prompt up to this place for five minutes."""

_EMPTY = (b"null", b'""')


class TextPart(Struct, tag="text", tag_field="type", gc=False):
    """Content part of a message that contains text."""

    text: Raw
    """Text of the part as a JSON string."""


class _MarkedTextPart(Struct, tag="text", tag_field="type", gc=False):
    text: Raw
    cache_control: dict[str, str]


def prepend_thinking(thoughts: str, content: Any) -> list[Any]:
    """Return a list of parts for Mistral: the reasoning text `thoughts`, then `content`.

    `content` is added as a text part if it is a JSON string that is not empty. Any other value is omitted.
    """
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": thoughts}]}
    return [thinking, TextPart(content)] if isinstance(content, Raw) and bytes(content) not in _EMPTY else [thinking]


def add_cache_mark(content: Any) -> Any:
    """Return `content` with the field `cache_control` on its last text that is not empty.

    The provider caches the prompt up to this text.
    """
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
    """Return the contents of consecutive messages as the content of one message.

    The result is one string if all contents are strings, else a list of parts.
    """
    texts = [*itertools.takewhile(lambda content: isinstance(content, Raw), contents)]
    if len(texts) == len(contents):
        return join_json_strings(texts)
    first = [TextPart(join_json_strings(texts))] if texts else []
    remaining = ([TextPart(content)] if isinstance(content, Raw) else content for content in contents[len(texts) :])
    return [*first, *itertools.chain.from_iterable(remaining)]
