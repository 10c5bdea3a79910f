"""A source with citations is numbered once in a conversation, and with the numbers that it has without this."""

import json
from typing import Any

import pytest
from msgspec import Struct

from anthropic_proxy.engine.kept_passages import MIN_BYTES, KeptPassages
from anthropic_proxy.engine.messages.citations import number_passages
from anthropic_proxy.engine.messages.models import Message, decode_request


class Texts(Struct):
    texts: list[str]


CITED = {"enabled": True}
LONG = "The grass is green. The sky is blue. " * (MIN_BYTES // 30)


def text_document(text: str) -> dict[str, Any]:
    return {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": text},
        "citations": CITED,
    }


def block_document(text: str) -> dict[str, Any]:
    content = [{"type": "text", "text": text}, {"type": "text", "text": "end"}]
    return {"type": "document", "source": {"type": "content", "content": content}, "citations": CITED}


def search_result(text: str) -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    return {"type": "search_result", "source": "s", "title": "t", "content": content, "citations": CITED}


def read(*blocks: dict[str, Any]) -> list[Message]:
    messages = [{"role": "user", "content": list(blocks)}]
    return [*decode_request(json.dumps({"model": "m", "max_tokens": 1, "messages": messages}).encode()).messages]


def number(kept: KeptPassages | None, *blocks: dict[str, Any], key: bytes = b"k") -> tuple[list[Message], Any]:
    messages, sources = number_passages(read(*blocks), [], key=key, kept=kept)
    return messages, [*sources.find(1, 10_000)]


@pytest.mark.parametrize("make", [text_document, block_document, search_result])
def test_a_later_turn_uses_the_passages_of_a_source(make: Any) -> None:
    kept = KeptPassages()
    first, _ = number(kept, make(LONG))
    later, citations = number(kept, make(LONG), make("New."))
    place = 1 if make is search_result else 0  # behind its heading
    assert later[0].blocks[place] is first[0].blocks[place]
    assert (later, citations) == number(None, make(LONG), make("New."))


@pytest.mark.parametrize("make", [text_document, block_document, search_result])
def test_a_source_behind_another_number_of_passages_is_numbered_again(make: Any) -> None:
    kept = KeptPassages()
    number(kept, make("One. Two."), make(LONG))
    for before in ("One.", "One. Two. Three."):
        blocks = make(before), make("Also."), make(LONG)
        assert number(kept, *blocks) == number(None, *blocks)


def test_passages_are_kept_for_a_client_a_kind_and_a_number() -> None:
    kept = KeptPassages()
    numbered = list[str]()

    def ask(owner: bytes, kind: str, first: int, source: str) -> None:
        def count() -> Texts:
            numbered.append(f"{owner.decode()} {kind} {first} {len(source)}")
            return Texts([])

        kept.get_or_number(owner, kind, first, source, count)

    for _ in range(2):
        ask(b"a", "text", 1, LONG)
        ask(b"b", "text", 1, LONG)
        ask(b"a", "pages", 1, LONG)
        ask(b"a", "text", 2, LONG)
        ask(b"a", "text", 1, LONG + "x")
        ask(b"a", "text", 1, "short")
    size = len(LONG)
    assert numbered == [
        f"a text 1 {size}",
        f"b text 1 {size}",
        f"a pages 1 {size}",
        f"a text 2 {size}",
        f"a text 1 {size + 1}",
        "a text 1 5",
        "a text 1 5",
    ]


def test_the_least_recently_used_sources_are_dropped() -> None:
    kept = KeptPassages(max_kept_bytes=7 * len(LONG))  # two of them
    numbered = list[int]()

    def ask(first: int) -> None:
        def count() -> Texts:
            numbered.append(first)
            return Texts([])

        kept.get_or_number(b"a", "text", first, LONG, count)

    for first in (1, 2, 1, 3, 1, 2):
        ask(first)
    assert numbered == [1, 2, 3, 2]
