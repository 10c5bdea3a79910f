"""Rows of the table: functions that read a text of a model, a provider, a client or a directory.

Each row is one function with many hostile texts: a beginning, then the same again and again. Their processor time is
compared too, because a regular expression may go back without being counted.
"""

import contextlib
import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, structs

from anthropic_proxy.console.dashboard.web import accepts_gzip
from anthropic_proxy.console.identity.cookies import find_cookie
from anthropic_proxy.engine.exchange.inner_calls import InnerCalls
from anthropic_proxy.engine.exchange.tool_loop.known_urls import KnownUrls
from anthropic_proxy.engine.messages.deltas import NO_USAGE, BilledUsage, Text
from anthropic_proxy.engine.messages.models import Message, decode_request
from anthropic_proxy.engine.messages.models.client_json import decode_values, read_json
from anthropic_proxy.engine.messages.models.raw_json import MAX_JSON_DEPTH, is_json_text_too_deep
from anthropic_proxy.engine.messages.models.tool_arguments import repeats_arguments
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.stop_sequences import StopSequenceFilter
from anthropic_proxy.engine.platforms.os_errors import clean_error_text
from anthropic_proxy.engine.trace_context import read_trace_context
from anthropic_proxy.engine.upstream.http.connection import Decompressor
from anthropic_proxy.engine.upstream.litellm import decode_exception
from anthropic_proxy.engine.upstream.web_search import BraveClient
from anthropic_proxy.engine.wires import anthropic, ollama, openai_responses
from anthropic_proxy.engine.wires.anthropic.api_fields import keep_api_fields
from anthropic_proxy.engine.wires.anthropic.batch_results import BatchResults
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, edit, find_members
from anthropic_proxy.engine.wires.anthropic.stream import read_usage
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.engine.wires.delivered_text import DeliveredText
from anthropic_proxy.engine.wires.failures import (
    UpstreamFault,
    build_upstream_error,
    decode_error_body,
    find_rejected_parameter,
    find_replacement_effort,
    rejects_developer_role,
)
from anthropic_proxy.engine.wires.failures.classification import is_policy_refusal
from anthropic_proxy.engine.wires.failures.quoted_prompts import RequestWords
from anthropic_proxy.engine.wires.foreign_lines import ForeignLines
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
from anthropic_proxy.errors import InvalidRequest, MalformedHttp, UpstreamError
from anthropic_proxy.gateway.server.auth import authenticate, find_credentials
from anthropic_proxy.gateway.server.web_page import prefers_html
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.place import describe_unread_files
from anthropic_proxy.plugins import RouteRequest
from anthropic_proxy.secrets import redact_secrets
from tests.growth.measure import NO_WIRE, Row
from tests.growth.operations import reading
from tests.support.tool_call_forms import FORMS, MORE_FORMS, new_call

GAPS = (" ", "\n")
FILLERS = (*GAPS, "{", "<", '"', "`")
CALL = new_call()
OFFERED = OfferedTools(CALL)
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"

Shape = tuple[str, str, str]
"""The beginning of a text, what follows again and again, and its end."""


def filled(shape: Shape, n: int) -> str:
    stem, filler, tail = shape
    return stem + filler * (n // len(filler)) + tail


def row(name: str, read: Callable[[str], object], *shapes: Shape, n: int = 2_000) -> Row:
    texts = [partial(filled, shape) for shape in shapes]
    return Row(name, NO_WIRE, reading(read, *texts), n, timed=[reading(read, text)("-") for text in texts])


def shapes(stems: tuple[str, ...], fillers: tuple[str, ...], tail: str = "x") -> Iterator[Shape]:
    return ((stem, filler, tail) for stem in stems for filler in fillers)


def read_calls(text: str, size: int = 1_000_000) -> None:
    """Look for tool calls in a text that comes in pieces of so many characters."""
    reader = TextCallDetector(TOOL_CALL_FORMATS, OFFERED, CALL.new_id)
    for start in range(0, len(text), size):
        reader.feed(text[start : start + size])
    reader.finish()


def form_shapes(text: str) -> Iterator[Shape]:
    yield "", text + "\n", ""
    for end in sorted({text.find(word) + len(word) for word in ("Read", "path", "a.py") if word in text}):
        yield from ((text[:end], filler, "x") for filler in FILLERS)
        yield from ((text[:end], gap, text[end:]) for gap in GAPS)


def read_thinking(text: str) -> None:
    for form in ("unopened", "unopened_alone"):
        tags = ThinkingTagParser((*OPENED_THINKING_TAGS, form))
        for character in text:
            tags.feed(character)
        tags.finish(is_text_reply=True)


def repair_name(name: str) -> None:
    repair = ToolCallRepair(new_call(), names=True)
    repair.repair_arguments("{'a': 1}", repair.repair_name(name))


def complete_between_fragments(text: str) -> None:
    """Read fragments of a text, each followed by a final object that contradicts them."""
    delivered = DeliveredText()
    for character in text:
        delivered.add(character)
        delivered.complete("-")


def compare_joined_calls(text: str) -> bool:
    """Compare joined calls with the arguments of another one of their length."""
    return repeats_arguments(text, msgspec.json.encode({"a": [*text]}).decode(), is_named=True)


def find_url(text: str) -> bool:
    """Search a long conversation for a URL that looks like it."""
    message = Message(role="user", content=text)
    return any(KnownUrls([message]).contains(url) for url in ("https://" + "a." * 120, "https://a.a/" + "a" * 200))


def read_brave(text: str) -> object:
    body = {"web": {"results": [{"url": "https://a.test", "title": text, "description": text}]}}
    client: Any = None
    return list(BraveClient(client, "").decode_results(msgspec.json.encode(body)))


def read_error(message: str) -> None:
    fault = decode_error_body(400, {}, msgspec.json.encode({"error": {"message": message}}))
    build_upstream_error(fault, "somebody")
    is_policy_refusal(fault)
    find_rejected_parameter(fault.message, ("tool_choice",))
    rejects_developer_role(fault.message)
    find_replacement_effort(fault.message, "high", "high")
    decode_error_body(400, {}, message.encode())


def read_error_of_a_wire(message: str) -> None:
    responses, local = (structs.replace(CALL, dialect=wire.Dialect()) for wire in (openai_responses, ollama))
    own = RelayCall(model=CALL.model, dialect=anthropic.Dialect(), streams_upstream=False, provider_prefix="a")
    fault = UpstreamFault(status=404, message=message)
    openai_responses.errors.classify_fault(fault, responses)
    ollama.errors.classify_fault(fault, local)
    anthropic.WIRE.find_adaptation(own, UpstreamError(message, provider="somebody", status=400))


def cut_at_sequences(text: str, size: int) -> None:
    cutter = StopSequenceFilter(["</stop>", "a" * 50 + "c", "\n" * 30 + "x", "Human:"])
    for start in range(0, len(text), size):
        cutter.feed([Text(text[start : start + size])])
    cutter.flush()


def read_data_url(url: str) -> None:
    blocks = [{"type": kind, "source": {"type": "url", "url": url}} for kind in ("image", "document")]
    messages = [{"role": "user", "content": blocks}]
    decode_request(msgspec.json.encode({"model": "m", "max_tokens": 1, "messages": messages}))


async def read_headers(name: str, value: str) -> None:
    """Read the headers of a client request without a key, by each function of the server that parses one."""
    headers = {name: value}
    scope = {"path": "/", "headers": [], "client": ("127.0.0.1", 1)}
    with contextlib.suppress(MalformedHttp):
        await authenticate(scope, {"host": "localhost", **headers}, Settings(), ())
    prefers_html(headers.get("accept", ""))
    accepts_gzip(RouteRequest(path="/", headers=headers))
    find_cookie(headers.get("cookie", ""), "name")
    find_credentials(headers)
    read_trace_context({"traceparent": PARENT, **headers})


def read_gzip(count: int) -> None:
    """Decompress one body of many empty streams."""
    for _ in Decompressor("gzip").decompress(gzip.compress(b"") * count):
        pass


def read_frames(reader: type[SSEReader] | type[NDJSONReader], text: str) -> None:
    frames = reader(foreign=ForeignLines())
    for character in text:
        frames.feed(character.encode())
    frames.finish()


def find_settings(text: str) -> None:
    """Look for settings in the file `.env` of the current directory."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path(".env").write_text(text)
            describe_unread_files(None, {"PORT"})
        finally:
            os.chdir(before)


def read_restricted(body: str) -> None:
    """Read the body of a client of which only fields of the Messages API are relayed."""
    with contextlib.suppress(InvalidRequest):
        keep_api_fields(body.encode())


def read_odd_body(body: str) -> None:
    """Read the body of a client whole, and by its positions."""
    with contextlib.suppress(InvalidRequest):
        read_json(body.encode(), decode_values)
        edit(body.encode(), lambda text: [Edit(member.start, member.end) for member in find_members(text)])


def read_results(text: str, size: int = 1_000) -> None:
    """Read the results of a batch, which come in pieces of so many characters."""
    results = BatchResults()
    for start in range(0, len(text), size):
        results.feed(text[start : start + size].encode())
    results.finish()


def read_inner_calls(events: str) -> None:
    """Read a stream that ends before its usage."""
    calls = InnerCalls("a", "b")
    for event in events.encode().split(b"\n\n"):
        calls.feed(event + b"\n\n")
    calls.complete(NO_USAGE, 1)


def read_iterations(usage: str) -> None:
    if (counts := read_usage(Raw(usage.encode()))) is not None:
        BilledUsage().set_usage(counts)


HELD = (
    ("", " ", "x"),
    ("Hello\n", "\n", "x"),
    ("Hello\n", "    ", "x"),
    ("<tool_call>", "\n", "x"),
    ('<tool_call>{"name": "Read", "arguments": {"path": "', "a", "x"),
    ('<|python_tag|>{"name": "Read", "parameters": {"path": "', "a", "x"),
    ('{"name": "x', "a", "x"),
    ('<tool_call>{"name": "Read"', "</tool_call>", "x"),
    ("", "<tool_call>", "x"),
    ("```\n", "`", "x"),
    ("```", "a", "x"),
    ("<function=now>{}</function>", " ", "x"),
    ("<function=now>{}</function>", "</function>", "x"),
    ("", "<function=now>{}</function>", " x"),
    ("It says ", "<function=now>{}</function>", " x"),
    ("<|tool_call>call:Read{path:", "[", "x"),
    ('<|tool_call>call:Read{path:<|"|>', "<tool_call|>", "x"),
    ("<|tool_call>call:Read{path:[", '<|"|>a<|"|>,', "]}<tool_call|>"),
    ("<|tool_call>call:Read{", "a:1,", "}<tool_call|>"),
    ('call:Read{path:"a"}', ' call:Read{path:"a"}', ""),
    ("assistantcommentary to=functions.Read {}", "assistantcommentary to=functions.Read {}", "x"),
    (']<]minimax[>[<invoke name="Read">', "]<]minimax[>[<path>", "x"),
    (']<]minimax[>[<invoke name="Read">]<]minimax[>[<path>', "]<]minimax[>[<item>]<]minimax[>[</item>", "</invoke>"),
    (']<]minimax[>[<invoke name="Read">]<]minimax[>[<path>', "</invoke>", "x"),
)
"""Texts of which a reader holds back a part that may still become a call."""
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
    *("at most 1,", "try again in 1.", "does not support a.", "extra_forbidden', 'loc': ['body', 'a", "property a."),
    *("sk-a-", "eyJ.", *FILLERS),
)
WIRE_ERRORS = ("model ", "model not supported ", "model unsupported", "encrypted content ", "signature ", "thinking ")
BODIES = (
    ('{"model": "m"', ', "x": 1', "}"),
    ('{"model": "m"', ', "x": {"y": []}', "}"),
    ('{"model": "m"', ', "model": "n"', "}"),
    ('{"tools": [{"type": "advisor_20260301", "model": "m"', ', "x": 1', "}]}"),
    ('{"tools": [{}', ', {"type": "advisor_20260301", "model": "m", "x": 1}', "]}"),
    ('{"fallbacks": [{}', ', {"model": "m"}', "]}"),
    ('{"messages": [{}', ', {"role": "user", "content": [{"type": "text", "x": 1}]}', "]}"),
    ('{"metadata": ', '{"x": ', ""),
    ('{"metadata": ', "[", ""),
    ('{"x', "\\u0041", '": 1}'),
)
"""Bodies of a client with rules: a beginning, fields that are left out, and an end."""
ODD_BODIES = (
    ('\ufeff{"x": "', "\\ud83d", '"}'),
    ('{"x": "', "\\\\", '\\ud83d"}'),
    ('{"x": 1', ', "x": 2', "}"),
    ('{"x": 1, "x": 2, "n": [1e999', ", 1e999", "]}"),
    ('{"x": 1, "x": 2, "n": 1', "0", "}"),
    ('{"x": 1, "x": 2, "n": ', "[", ""),
)
"""Bodies with half characters, repeated keys, and numbers beyond 64 bits."""
QUOTED = b'{"messages": [{"role": "user", "content": "a secret that nobody may store, aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]}'
QUOTES = (
    *("a", "a secret that nobody may store, ", "'a secret' ", "'", '"', "`a ", "aaaaaaaaaaaaaaaaaaaaaaaab", "**"),
    *("%41", "&amp;", "...", "a..", "a&amp;%C3%A4", "\\xe4", "a\u0308"),
    *("secret nobody ", "1 ", "\u00e4", "\\", "\\n", "\\u0061", "\\ud83d"),
)
"""Texts of providers that quote a request, or nearly do."""
RESULTS = (
    ("", '{"result": {"message": {"model": "m", "usage": {"input_tokens": 1}}}}\n', ""),
    ('{"result": {"message": {"model": "', "m", '", "usage": {"input_tokens": 1}}}}\n'),
    ("", "\n", ""),
    ("", "{", "\n"),
)
EVENTS = (
    ("", 'event: content_block_start\ndata: {"content_block": {"type": "fallback", "to": {"model": "c"}}}\n\n', ""),
    ("", 'event: content_block_start\ndata: {"content_block": {"type": "advisor_tool_result"}}\n\n', ""),
    ("", 'event: content_block_start\ndata: {"content_block": {"type": "compaction"}}\n\n', ""),
    ('event: content_block_start\ndata: {"advisor_tool_result": "', "a", '"}\n\n'),
)
ITERATIONS = (
    ('{"iterations": [{}', ', {"type": "advisor_message", "model": "m", "input_tokens": 1}', "]}"),
    ('{"iterations": [{}', ', {"type": 1, "input_tokens": "1"}', "]}"),
    ('{"iterations": [{}', ", 1", "]}"),
)
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
SCHEMA = ReplySchema(b'{"type": "object", "properties": {"a": {"type": "string"}}}')

ROWS = [
    row("text: final objects between fragments", complete_between_fragments, ("", "a", ""), n=4_000),
    row("text: joined calls and a final object", compare_joined_calls, ("", '{"a":1}{"a":2}', ""), n=8_000),
    row("text: settings of the current directory", find_settings, *shapes(("", "export"), GAPS), ("A", " ", "x")),
    *(row(f"text: {form}", read_calls, *form_shapes(text)) for form, text in {**FORMS, **MORE_FORMS}.items()),
    row("text: calls by character", partial(read_calls, size=1), *HELD, n=5_000),
    row(
        "text: thinking by character",
        read_thinking,
        *shapes(("", "<think>", "<think>a", "<think>a</think>", "<|channel>thought"), (*GAPS, "<", "`</thinking>")),
    ),
    row(
        "text: arguments to repair",
        repair_arguments,
        *shapes(
            ("", '{"a": ', '{"a": "', '{"a": 1,'),
            (*FILLERS, "'", '{"a": 1}', "1", ",", "a: ", "},", '\\"'),
            ",}",
        ),
    ),
    row(
        "text: names to repair",
        repair_name,
        *shapes(("functions",), (".", "a.", ":1", " ", "\x1b", "-", "İ"), "Read"),
    ),
    row(
        "text: JSON in a reply",
        SCHEMA.extract_json,
        *shapes(
            ("", "```json", "```json\n", "```\n{", "{"),
            (*FILLERS, "```", "``` ", "```json\n{}\n```\n", "}"),
            "}",
        ),
    ),
    row("text: fields that are not relayed", read_restricted, *BODIES),
    row("text: bodies that parsers read in different ways", read_odd_body, *ODD_BODIES),
    row(
        "text: quotes of a request in an error",
        lambda text: RequestWords(QUOTED).find_quotes(text),
        *shapes(("",), QUOTES),
        n=2_000,
    ),
    row(
        "text: an error beside a request",
        lambda text: RequestWords(text.encode()).find_quotes(" ".join(QUOTES) * 3),
        *shapes(("",), QUOTES),
        n=4_000,
    ),
    row("text: results of a batch", read_results, *RESULTS),
    row("text: calls within a provider", read_inner_calls, *EVENTS),
    row("text: iterations of a reply", read_iterations, *ITERATIONS),
    row("text: errors", read_error, *shapes(("",), ERRORS)),
    row("text: errors of each wire", read_error_of_a_wire, *shapes(("",), WIRE_ERRORS)),
    row(
        "text: errors of libraries",
        clean_error_text,
        *shapes(("", "[SSL", "a", "('"), (*FILLERS, "a.", "A", "A.", "[SSL", "[X509]", "_a.c:1", "(", "a Error")),
        n=500,
    ),
    row(
        "text: errors of LiteLLM",
        lambda text: decode_exception(Exception(text)),
        *shapes(("", "a"), (*FILLERS, "a", "Error: ", "litellm.", ".", "\n ", "To drop ", "[")),
        n=4_000,
    ),
    row(
        "text: URLs of a conversation",
        find_url,
        *shapes(("", "https://"), ("a.", "a", "%41", "%41a", "www.", "https://a.", "%")),
        n=8_000,
    ),
    row(
        "text: key-like texts",
        lambda text: redact_secrets(text, ("sk-growth-000000", "a" * 40)),
        *shapes(("",), ("sk-a", "csk-a", "hf_", "Bearer ", "eyJ", "AKIA", "sk-growth-0000", "a", "sk--")),
        n=4_000,
    ),
    row(
        "text: long keys in a long text",
        lambda text: redact_secrets(text, (text[: len(text) // 2] + "0", text[::-1])),
        *shapes(("",), ("sk-growth-0000", "ab", "abcdefghijkl", "0a", "\u00e4b")),
        n=4_000,
    ),
    row(
        "text: results of Brave",
        read_brave,
        *shapes(("",), ("<a", "<", "</a", "<a ", "&", "&#1", "<a>")),
        n=8_000,
    ),
    row(
        "text: depth of JSON",
        lambda text: is_json_text_too_deep(text.encode()),
        *shapes(("[]" * (MAX_JSON_DEPTH + 1) + '"',), ('"', '"\\', '\\"', "\\", "[", '"["', '["')),
        n=20_000,
    ),
    *(
        row(
            f"text: stop sequences, pieces of {size}",
            partial(cut_at_sequences, size=size),
            *shapes(("",), ("a", "aab", "\n", "<", "</stop")),
        )
        for size in (1, 8_000)
    ),
    row(
        "text: data URLs",
        read_data_url,
        *shapes(
            ("data:", "data:image/png", "data:image/png;base64,", "data:text/plain;base64,"),
            ("a", "A;", ";base64", ";base64;", "data:", "%2B", ","),
        ),
        n=20_000,
    ),
    row("text: streams of gzip", lambda text: read_gzip(len(text)), ("", "a", ""), n=10_000),
    *(
        row(f"text: header {name}", partial(read_headers, name), *shapes(stems, HEADER_FILLERS), n=8_000)
        for name, stems in HEADERS.items()
    ),
    *(
        row(
            f"text: {reader.__name__} by byte",
            partial(read_frames, reader),
            *shapes(
                ("data: ",),
                (
                    *("a", "\n", "\r", "data: a\n", "data:", ": a\n", "a\r\n", "data: a\n\n"),
                    *("a\n\n", "[\n", '{"a":1}\n', "error\n", "<html>\n\n"),
                ),
                "\n\n",
            ),
            ("[\n\n", ",[]\n\n", "\n\n"),
        )
        for reader in (SSEReader, NDJSONReader)
    ),
]
"""One line per function."""
