"""Long computations give way to others while they compute: each step over a request, for each kind of its parts."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.exchange.safeguards.transcript import read_transcript, remove_added_text
from anthropic_proxy.engine.exchange.tool_loop.known_urls import KnownUrls
from anthropic_proxy.engine.exchange.tool_loop.tool_search import search_by_words
from anthropic_proxy.engine.messages.citations import number_passages, split_sentences
from anthropic_proxy.engine.messages.context_editing import edit_context
from anthropic_proxy.engine.messages.models import Message, TextBlock, Tool, decode_request
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_surrogates
from anthropic_proxy.engine.messages.work_budget import STEPS_OF_SLICE, WorkBudget
from anthropic_proxy.engine.slices import call_in_slices
from anthropic_proxy.engine.wires.failures.quoted_prompts import RequestWords
from anthropic_proxy.gateway.inspectors.patterns import find_matches

PARTS = 2_000
EDIT = {
    "type": "clear_tool_uses_20250919",
    "trigger": {"type": "tool_uses", "value": 1},
    "keep": {"type": "tool_uses", "value": 0},
}


def ask(*content: Any, **fields: Any) -> bytes:
    return msgspec.json.encode(
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [*content]}], **fields}
    )


def cite(**source: Any) -> bytes:
    return ask({"type": "document", "source": source, "citations": {"enabled": True}})


def text(data: str) -> Any:
    return {"type": "text", "media_type": "text/plain", "data": data}


def use_tools(count: int) -> list[Any]:
    messages: list[Any] = [{"role": "user", "content": "go"}]
    for number in range(count):
        call = {"type": "tool_use", "id": f"t{number}", "name": "R", "input": {}}
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": "r"}
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return messages


def number(body: bytes) -> None:
    number_passages(decode_request(body).messages, [], key=b"k")


def words(count: int) -> str:
    return " ".join(chr(ord("a") + place % 26) * (9 + place // 26) for place in range(count))


def count_steps() -> None:
    budget = WorkBudget("tools")
    for _ in range(10 * STEPS_OF_SLICE):
        budget.count_steps()


CONVERSATION = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": use_tools(PARTS // 2)})
EDITED = msgspec.json.encode(
    {"model": "m", "max_tokens": 9, "messages": use_tools(PARTS // 2), "context_management": {"edits": [EDIT]}}
)
TOOLS = [Tool(name=f"t{place}") for place in range(PARTS)]
TEXTS = Message("user", [TextBlock(msgspec.Raw(b'"a.test"')) for _ in range(PARTS)])
STEPS: Mapping[str, tuple[int, Callable[[], object]]] = {
    "sentences of a text": (PARTS, lambda: number(cite(**text("A sentence. " * PARTS)))),
    "sentences without letters": (PARTS, lambda: number(cite(**text(". " * PARTS)))),
    "numbers in one text of a source": (
        PARTS,
        lambda: number(cite(type="content", content=[{"type": "text", "text": "[1] " * PARTS}])),
    ),
    "uses of tools that are cleared": (PARTS, lambda: edit_context(decode_request(EDITED))),
    "messages of a transcript": (PARTS, lambda: read_transcript(CONVERSATION)),
    "tags of a text": (PARTS, lambda: remove_added_text("<system-reminder></system-reminder>" * PARTS)),
    "pieces that a pattern of the company searches": (
        1_000,
        lambda: list(find_matches(re.compile("secret"), "word " * 60_000)),
    ),
    "steps over schemas": (9, count_steps),
    "tools that a search by words reads": (PARTS, lambda: search_by_words(["a"], TOOLS)),
    "words of a search": (
        64 * 30,
        lambda: search_by_words([f"q{place} {words(63)}" for place in range(30)], TOOLS[:1]),
    ),
    "texts in which a URL is searched": (PARTS, lambda: KnownUrls([TEXTS]).contains("https://b.test/")),
    "escapes of a text in which a URL is searched": (
        3 * 256,
        lambda: KnownUrls([Message("user", "%02" * 3 * PARTS)]).contains("https://b.test/"),
    ),
    "lone surrogates": (10 * 256, lambda: replace_lone_surrogates(b"\\ud800" * 100_000)),
    "words of an error": (PARTS // 4, lambda: RequestWords(b'{"text":"a"}').find_quotes(words(PARTS))),
    "escapes of a request beside an error": (PARTS, lambda: RequestWords(b'"\\u00e9"' * PARTS)),
}
"""Parts, and the computation."""


@pytest.mark.parametrize("name", STEPS)
def test_a_step_gives_way_between_its_parts(name: str) -> None:
    parts, compute = STEPS[name]
    ways: list[None] = []
    call_in_slices(lambda: ways.append(None), compute)
    assert len(ways) >= parts / 256


def test_a_text_of_very_many_sentences_has_a_bounded_number_of_passages() -> None:
    bounds = [*split_sentences("A. " * 1_000, fine=100)]
    assert bounds[:100] == [(3 * place, 3 * place + 3) for place in range(100)]
    assert [end - begin for begin, end in bounds[100:]] == [204] * 13 + [48]
    assert [begin for begin, _ in bounds[1:]] == [end for _, end in bounds[:-1]]
