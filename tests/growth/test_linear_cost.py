"""Linear cost of reading: the time grows in proportion to the length, for any text of a model, a provider or a client.

A reader with quadratic or cubic cost blocks every other client of the process for seconds. Each reader therefore gets
hostile texts of growing size. The processor time for one is compared with that for a text of a quarter of the size, in
the same run: four times as much is linear, sixteen times is quadratic. No absolute time is asserted.
"""

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.console.dashboard.web import accepts_gzip, find_cookie
from anthropic_proxy.engine.messages.deltas import Text
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.models.blocks import MAX_JSON_DEPTH, is_json_text_too_deep
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.stop_sequences import StopSequenceFilter
from anthropic_proxy.engine.trace_context import read_trace_context
from anthropic_proxy.engine.wires import anthropic, ollama, openai_responses
from anthropic_proxy.engine.wires.failures import (
    UpstreamFault,
    build_upstream_error,
    decode_error_body,
    find_rejected_parameter,
    find_replacement_effort,
    rejects_developer_role,
)
from anthropic_proxy.engine.wires.failures.classification import is_policy_refusal
from anthropic_proxy.engine.wires.framing import NDJSONReader, SSEReader
from anthropic_proxy.engine.wires.tool_call_repair import (
    OPENED_THINKING_TAGS,
    TOOL_CALL_FORMATS,
    OfferedTools,
    TextCallDetector,
    ThinkingTagParser,
    ToolCallRepair,
    repair_arguments,
)
from anthropic_proxy.errors import MalformedHttp, UpstreamError
from anthropic_proxy.gateway.server.auth import authenticate, find_credentials
from anthropic_proxy.gateway.server.endpoints import prefers_html
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.place import describe_unread_files
from anthropic_proxy.plugins import RouteRequest
from tests.support.tool_call_forms import FORMS, MORE_FORMS, new_call

MIN_SIZE, MAX_SIZE = 500, 8_000
"""Characters."""
MANY = 128_000
"""Characters of a text that arrives one by one: the cost of copying the buffer shows only in many copies."""
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
    """Return processor time, measured again if it is somewhat above the limit, because other processes disturb it."""
    best = float("inf")
    for _ in range(TRIES):
        start = time.thread_time()
        read(text)
        best = min(best, time.thread_time() - start)
        if best < below or best > FAR_BEYOND * below:
            break
    return best


def check_growth(read: Callable[[str], object], texts: Iterator[str], description: str) -> None:
    before = float("inf")
    for text in texts:
        limit = TOO_STEEP * max(before, NOISE_SECONDS)
        now = cost_of(read, text, below=limit)
        assert now < limit, (
            f"{description}: the time to read a text of four times the length ({len(text):,} characters) is "
            f"{now / before:.0f} times as long. Such a text blocks the whole process."
        )
        before = now


def sizes(max_size: int = MAX_SIZE) -> Iterator[int]:
    size = MIN_SIZE
    while size <= max_size:
        yield size
        size *= 4


def filled(stem: str, filler: str, tail: str, max_size: int = MAX_SIZE) -> Iterator[str]:
    return (stem + filler * (size // len(filler)) + tail for size in sizes(max_size))


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


@pytest.mark.parametrize(("stem", "filler"), [("", "\n"), ("", " "), ("export", "\n"), ("export ", "\t"), ("A", " ")])
def test_looking_for_settings_in_the_current_directory(
    stem: str, filler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def look(text: str) -> None:
        Path(".env").write_text(text)
        assert describe_unread_files(None, {"PORT"}) == ""

    check_growth(look, filled(stem, filler, "x"), f"{stem!r}, then {filler!r} again and again")


@pytest.mark.parametrize("form", [*FORMS, *MORE_FORMS])
def test_reading_calls_in_text(form: str) -> None:
    text = {**FORMS, **MORE_FORMS}[form]
    ends = {text.find(word) + len(word) for word in ("Read", "path", "a.py") if word in text}
    for end in sorted(ends):
        for filler, tail in (*((filler, "x") for filler in FILLERS), *((gap, text[end:]) for gap in GAPS)):
            description = f"{text[:end]!r}, then {filler!r} again and again"
            check_growth(lambda text: read_calls([text]), filled(text[:end], filler, tail), description)


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
        tags.finish(is_text_reply=True)

    for filler in (*GAPS, "<"):
        max_size = MANY if filler == "\n" else MAX_SIZE
        check_growth(read, filled(stem, filler, "x", max_size), f"{filler!r} behind {stem!r}")


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
        rejects_developer_role(fault.message)
        find_replacement_effort(fault.message, "high", "high")
        decode_error_body(400, {}, message.encode())

    check_growth(read, filled("", words, "x"), f"an error that says {words!r} again and again")


@pytest.mark.parametrize(
    "words", ["model ", "model not supported ", "model unsupported", "encrypted content ", "signature ", "thinking "]
)
def test_reading_errors_of_each_protocol(words: str) -> None:
    calls = [structs.replace(CALL, dialect=wire.Dialect()) for wire in (openai_responses, ollama, anthropic)]

    def read(message: str) -> None:
        fault = UpstreamFault(status=404, message=message)
        openai_responses.errors.classify_fault(fault, calls[0])
        ollama.errors.classify_fault(fault, calls[1])
        anthropic.WIRE.find_adaptation(calls[2], UpstreamError(message, provider="somebody", status=400))

    check_growth(read, filled("", words, "x"), f"an error that says {words!r} again and again")


@pytest.mark.parametrize("filler", ['"', '"\\', '\\"', "\\", "[", '"["', '["'])
def test_measuring_the_depth_of_json(filler: str) -> None:
    def read(text: str) -> None:
        is_json_text_too_deep(text.encode())

    stem = "[]" * (MAX_JSON_DEPTH + 1) + '"'
    check_growth(read, filled(stem, filler, "", MANY), f"a string without an end, then {filler!r} again and again")


@pytest.mark.parametrize("fragment", [1, MAX_SIZE])
@pytest.mark.parametrize("filler", ["a", "aab", "\n", "<", "</stop"])
def test_cutting_at_stop_sequences(filler: str, fragment: int) -> None:
    def read(text: str) -> None:
        cutter = StopSequenceFilter(["</stop>", "a" * 50 + "c", "\n" * 30 + "x", "Human:"])
        for start in range(0, len(text), fragment):
            cutter.feed([Text(text[start : start + fragment])])
        cutter.flush()

    check_growth(read, filled("", filler, "x"), f"{filler!r} in pieces of {fragment}")


@pytest.mark.parametrize("filler", ["a", "A;", ";base64", ";base64;", "data:", "%2B", ","])
@pytest.mark.parametrize("stem", ["data:", "data:image/png", "data:image/png;base64,", "data:text/plain;base64,"])
def test_reading_data_urls(stem: str, filler: str) -> None:
    def read(url: str) -> None:
        blocks = [{"type": kind, "source": {"type": "url", "url": url}} for kind in ("image", "document")]
        messages = [{"role": "user", "content": blocks}]
        decode_request(msgspec.json.encode({"model": "m", "max_tokens": 1, "messages": messages}))

    check_growth(read, filled(stem, filler, "x", MANY), f"a URL of {stem!r}, then {filler!r} again and again")


PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def read_headers(headers: dict[str, str]) -> None:
    """Read the headers of a client request without a key, by each function of the server that parses one."""
    scope = {"path": "/", "headers": [], "client": ("127.0.0.1", 1)}
    with contextlib.suppress(MalformedHttp):
        asyncio.run(authenticate(scope, {"host": "localhost", **headers}, Settings(), ()))
    prefers_html(headers.get("accept", ""))
    accepts_gzip(RouteRequest(path="/", headers=headers))
    find_cookie(headers.get("cookie", ""), "name")
    find_credentials(headers)
    read_trace_context({"traceparent": PARENT, **headers})


HEADERS = {
    "accept": ("", '"', "text/html;", "text/html;q=", 'text/html;a="', "a/"),
    "accept-encoding": ("", "gzip;", "gzip;q=", "gzip;q=0.", "gzip;q=1"),
    "authorization": ("", "Bearer "),
    "cookie": ("", "name", "a=", "name="),
    "forwarded": ("", "for", "for=", 'for="', ";for="),
    "host": ("", "[", "[::", "localhost:", "a."),
    "origin": ("", "http://", "http://[", "http://localhost:"),
    "traceparent": ("", "01-", f"{PARENT}-", f"01{PARENT[2:]}-"),
    "tracestate": ("", "a", "a="),
    "x-forwarded-for": ("", "[", "127.0.0.1:"),
}
"""Header of a client → beginnings of its value."""
HEADER_FILLERS = (
    *(" ", "\t", '"', "\\", '"\\', '\\"', '"a', '",', ",", ";", "=", "/", ":", ".", "0", "a", "a/b,", "a=b;", "-"),
    *(";q", "; q =", ";q=0,", "for=", ";for =", 'for="', "gzip,", ", ", "[", "@"),
)


@pytest.mark.parametrize("name", HEADERS)
def test_reading_headers_of_clients(name: str) -> None:
    for stem in HEADERS[name]:
        for filler in HEADER_FILLERS:
            description = f"the header {name}: {stem!r}, then {filler!r} again and again"
            check_growth(lambda value: read_headers({name: value}), filled(stem, filler, "x", MANY // 4), description)


@pytest.mark.parametrize("reader", [SSEReader, NDJSONReader])
@pytest.mark.parametrize("filler", ["a", "\n", "\r", "data: a\n", "data:", ": a\n", "a\r\n", "data: a\n\n"])
def test_framing_single_bytes(reader: Callable[[], Any], filler: str) -> None:
    def read(text: str) -> None:
        frames = reader()
        for character in text:
            frames.feed(character.encode())
        frames.finish()

    check_growth(
        read, filled("data: ", filler, "\n\n", MANY if filler == "a" else MAX_SIZE), f"{filler!r} byte by byte"
    )
