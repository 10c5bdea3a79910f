"""The cost of reading grows with the length of the text and no faster, for any text of a model or a provider.

A reader with a cost of the square of a text's length, or its cube, holds up every other client of the process for
seconds. So each is given hostile texts of growing size, and the processor's time for one is compared with that for
another of a quarter of the size, in the same run: four times as much is linear, sixteen times is the square. No time is
asserted as such.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest

from anthropic_proxy.messages.deltas import Text
from anthropic_proxy.messages.reply_schema import ReplySchema
from anthropic_proxy.messages.stop_sequences import StopSequenceFilter
from anthropic_proxy.wire.failures import (
    build_upstream_error,
    decode_error_body,
    find_accepted_effort,
    find_rejected_parameter,
    is_policy_refusal,
    rejects_role,
)
from anthropic_proxy.wire.framing import NDJSONReader, SSEReader
from anthropic_proxy.wire.tool_call_repair import (
    OPENED_THINKING_TAGS,
    TOOL_CALL_FORMATS,
    OfferedTools,
    TextCallDetector,
    ThinkingTagParser,
    ToolCallRepair,
    repair_arguments,
)
from tests.support.tool_call_forms import FORMS, MORE_FORMS, new_call

SMALLEST, LARGEST = 500, 8_000
"""Characters."""
MANY = 128_000
"""Characters, where a text comes one by one: the cost of copying what is held shows only in many copies."""
TOO_STEEP = 8
"""Times the cost for four times the size."""
NOISE_SECONDS = 0.002
"""Costs below this show nothing about growth."""
TRIES, FAR_BEYOND = 6, 3
CALL = new_call()
OFFERED = OfferedTools(CALL)

GAPS = (" ", "\n")
FILLERS = (*GAPS, "{", "<", '"', "`")


def cost_of(read: Callable[[str], object], text: str, *, below: float) -> float:
    """Return processor time; measured again where it is somewhat above what it should be: others disturb it."""
    best = float("inf")
    for _ in range(TRIES):
        start = time.thread_time()
        read(text)
        best = min(best, time.thread_time() - start)
        if best < below or best > FAR_BEYOND * below:
            break
    return best


def check_growth(read: Callable[[str], object], texts: Iterator[str], said: str) -> None:
    before = float("inf")
    for text in texts:
        limit = TOO_STEEP * max(before, NOISE_SECONDS)
        now = cost_of(read, text, below=limit)
        assert now < limit, (
            f"{said}: four times as long a text ({len(text):,} characters) took {now / before:.0f} times as long to "
            "read. Whoever can make a model write such a text holds up the whole process with it."
        )
        before = now


def sizes(largest: int = LARGEST) -> Iterator[int]:
    size = SMALLEST
    while size <= largest:
        yield size
        size *= 4


def filled(stem: str, filler: str, tail: str, largest: int = LARGEST) -> Iterator[str]:
    return (stem + filler * (size // len(filler)) + tail for size in sizes(largest))


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def read_calls(parts: Sequence[str]) -> None:
    reader = TextCallDetector(TOOL_CALL_FORMATS, OFFERED, CALL.new_id)
    for part in parts:
        reader.feed(part)
    reader.finish()


@pytest.mark.parametrize("form", [*FORMS, *MORE_FORMS])
def test_reading_calls_in_text(form: str) -> None:
    text = {**FORMS, **MORE_FORMS}[form]
    ends = {text.find(word) + len(word) for word in ("Read", "path", "a.py") if word in text}
    for end in sorted(ends):
        for filler, tail in (*((filler, "x") for filler in FILLERS), *((gap, text[end:]) for gap in GAPS)):
            said = f"{text[:end]!r}, then {filler!r} again and again"
            check_growth(lambda text: read_calls([text]), filled(text[:end], filler, tail), said)


@pytest.mark.parametrize("form", FORMS)
def test_reading_many_calls(form: str) -> None:
    check_growth(lambda text: read_calls([text]), filled("", FORMS[form] + "\n", ""), f"many calls ({form})")


HELD = {
    "white space at the beginning": ("", " "),
    "line breaks behind a text": ("Hello\n", "\n"),
    "blanks behind a line": ("Hello\n", "    "),
    "white space behind a mark": ("<tool_call>", "\n"),
    "the arguments of a call": ('<tool_call>{"name": "Read", "arguments": {"path": "', "a"),
    "a call that the answer ends": ('<|python_tag|>{"name": "Read", "parameters": {"path": "', "a"),
    "an answer that may be a call alone": ('{"name": "x', "a"),
    "ends of calls that are none": ('<tool_call>{"name": "Read"', "</tool_call>"),
    "marks": ("", "<tool_call>"),
    "an open fence": ("```\n", "`"),
    "the line that opens a fence": ("```", "a"),
}


@pytest.mark.parametrize("held", HELD)
def test_reading_calls_in_fragments(held: str) -> None:
    stem, filler = HELD[held]
    check_growth(read_calls, filled(stem, filler, "x", MANY), f"{held}, character by character")


@pytest.mark.parametrize("stem", ["", "<think>", "<think>a", "<think>a</think>"])
def test_reading_reasoning_in_fragments(stem: str) -> None:
    def read(text: str) -> None:
        tags = ThinkingTagParser((*OPENED_THINKING_TAGS, "unopened"))
        for character in text:
            tags.feed(character)
        tags.finish(whole=True)

    for filler in (*GAPS, "<"):
        largest = MANY if filler == "\n" else LARGEST
        check_growth(read, filled(stem, filler, "x", largest), f"{filler!r} behind {stem!r}")


@pytest.mark.parametrize("stem", ["", '{"a": ', '{"a": "', '{"a": 1,'])
def test_mending_arguments(stem: str) -> None:
    for filler in (*FILLERS, "'", '{"a": 1}', "1", ",", "a: ", "},", '\\"'):
        check_growth(repair_arguments, filled(stem, filler, ",}"), f"{stem!r}, then {filler!r} again and again")


@pytest.mark.parametrize("filler", [".", "a.", ":1", " ", "\x1b", "-", "İ"])
def test_mending_names(filler: str) -> None:
    def read(name: str) -> None:
        mender = ToolCallRepair(new_call(), names=True)
        mender.repair_arguments("{'a': 1}", mender.repair_name(name))

    check_growth(read, filled("functions", filler, "Read"), f"a name of {filler!r}")


@pytest.mark.parametrize("stem", ["", "```json", "```json\n", "```\n{", "{"])
def test_finding_json(stem: str) -> None:
    shape = ReplySchema(b'{"type": "object", "properties": {"a": {"type": "string"}}}')
    for filler in (*FILLERS, "```", "``` ", "```json\n{}\n```\n", "}"):
        check_growth(shape.extract_json, filled(stem, filler, "}"), f"{stem!r}, then {filler!r} again and again")


ERRORS = (
    "maximum context length is 10 ",
    "maximum context length is 10 requested 5 output tokens ",
    "maximum context length of 10 total of 15 tokens: 5 tokens from the input ",
    "maximum context length is 10 resulted in 11 (5 in the messages ",
    "is too large: 5 maximum context length is 10 ",
    "prompt contains 1 tokens too large for ",
    "reduce the length of the messages ",
    "input tokens exceed the configured limit of 1,",
    "supported values are: 'a",
    "at most 1,",
    "try again in 1.",
    "does not support a.",
    "extra_forbidden', 'loc': ['body', 'a",
    "property a.",
    "sk-a-",
    "eyJ.",
    *FILLERS,
)


@pytest.mark.parametrize("words", ERRORS)
def test_reading_errors(words: str) -> None:
    def read(message: str) -> None:
        fault = decode_error_body(400, {}, msgspec.json.encode({"error": {"message": message}}))
        build_upstream_error(fault, "somebody")
        is_policy_refusal(fault)
        find_rejected_parameter(fault.message, ("tool_choice",))
        rejects_role(fault.message)
        find_accepted_effort(fault.message, "high", "high")
        decode_error_body(400, {}, message.encode())

    check_growth(read, filled("", words, "x"), f"an error that says {words!r} again and again")


@pytest.mark.parametrize("fragment", [1, LARGEST])
@pytest.mark.parametrize("filler", ["a", "aab", "\n", "<", "</stop"])
def test_cutting_at_stop_sequences(filler: str, fragment: int) -> None:
    def read(text: str) -> None:
        cutter = StopSequenceFilter(["</stop>", "a" * 50 + "c", "\n" * 30 + "x", "Human:"])
        for start in range(0, len(text), fragment):
            cutter.feed([Text(text[start : start + fragment])])
        cutter.flush()

    check_growth(read, filled("", filler, "x"), f"{filler!r} in pieces of {fragment}")


@pytest.mark.parametrize("reader", [SSEReader, NDJSONReader])
@pytest.mark.parametrize("filler", ["a", "\n", "\r", "data: a\n", "data:", ": a\n", "a\r\n", "data: a\n\n"])
def test_framing_single_bytes(reader: Callable[[], Any], filler: str) -> None:
    def read(text: str) -> None:
        frames = reader()
        for character in text:
            frames.feed(character.encode())
        frames.finish()

    check_growth(read, filled("data: ", filler, "\n\n", MANY if filler == "a" else LARGEST), f"{filler!r} byte by byte")
