"""Inspectors: what leaves the proxy, what the client gets, and what the records say."""

import asyncio
import base64
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.engine.exchange.client_side import CollectingSink
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens, forward_resource
from anthropic_proxy.engine.exchange.inspection.texts import NOT_TEXTS
from anthropic_proxy.engine.exchange.watchdog import ClientDisconnected
from anthropic_proxy.engine.hooks import RecordPoint
from anthropic_proxy.engine.messages.models import structs as structs_of_blocks
from anthropic_proxy.engine.messages.server_blocks import decode_passage, encode_passage
from anthropic_proxy.engine.own_keys import OwnKeys
from anthropic_proxy.engine.upstream.contract import SearchResult
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import InvalidRequest, UpstreamProtocolError, UpstreamUnreachable
from anthropic_proxy.gateway.inspectors.patterns import PatternInspector
from anthropic_proxy.gateway.server.asgi import BodyMemory
from anthropic_proxy.gateway.settings.fields import InspectorRule
from anthropic_proxy.gateway.settings.file_format import InspectorTable
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.gateway.telemetry.outcomes import describe_inspection
from anthropic_proxy.plugins import (
    Client,
    InspectedTexts,
    InspectorScope,
    Passage,
    Redaction,
    Refusal,
    StoreUnavailable,
)
from tests.support.citations import find_word
from tests.support.event_grammar import check_bytes
from tests.support.golden_runner import fold_events
from tests.support.harness import FakeResponse, LeavingSink, ProxyHarness, RecordingSink, new_client_request
from tests.support.owners import PAIRS_OF_CLIENTS
from tests.support.replies import CHAT, GEMINI, MESSAGES, OLLAMA, RESPONSES, Reply, ReplyForm
from tests.support.tool_loop import SEARCH, Script, Searcher, call, calls, proxy, reply, text
from tests.support.virtual_time import VirtualTimeLoop, in_virtual_time
from tests.support.waiting import WAIT_SECONDS

SECRET = 'K-"7\\4/é-81'
"""A text whose JSON form has escapes."""
PLACEHOLDER = re.compile(r"REDACTED_TEST_KEY_[0-9a-f]{16}")
OPENAI = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}
ANTHROPIC = {"ANTHROPIC_API_KEY": "sk-ant-test-0123456789"}
WIRES: dict[str, tuple[dict[str, str], ReplyForm]] = {
    "chat": (OPENAI, CHAT),
    "responses": ({"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "responses"}, RESPONSES),
    "gemini": ({"GEMINI_API_KEY": "AIza-test-0123456789", "PREFERRED_PROVIDER": "google"}, GEMINI),
    "ollama": ({"PREFERRED_PROVIDER": "ollama", "OLLAMA_BASE_URL": "http://127.0.0.1:1", "BIG_MODEL": "m"}, OLLAMA),
    "relay": (ANTHROPIC, MESSAGES),
}
BOTH_FORMS = pytest.mark.parametrize("stream", [True, False])
A_TRANSLATION_AND_A_RELAY = pytest.mark.parametrize("wire", ["chat", "relay"])
Decision = Refusal | Sequence[Redaction]


def redact_secret(texts: InspectedTexts) -> Decision:
    return [
        Redaction(place, match.start(), match.end(), "test key")
        for place, passage in enumerate(texts.passages)
        for match in re.finditer(re.escape(SECRET), passage.text)
    ]


def refuse_bombs(texts: InspectedTexts) -> Decision:
    is_found = any("bomb" in passage.text for passage in texts.passages)
    return Refusal("bomb", "No bombs, by rule 7.") if is_found else ()


class Reader:
    """An inspector that decides by a function, and keeps what it has read."""

    def __init__(self, decide: Callable[[InspectedTexts], Decision] = lambda _: (), **scope: Any) -> None:
        self.scope = InspectorScope(**{"name": "reader", **scope})
        self.decide = decide
        self.read: list[InspectedTexts] = []

    async def inspect(self, texts: InspectedTexts) -> Decision:
        self.read.append(texts)
        return self.decide(texts)

    def find_open_end(self, text: str) -> int:
        return max(len(text) - len(SECRET) + 1, 0)

    def passages(self, part: str = "request") -> list[tuple[str, str]]:
        return [(one.kind, one.text) for texts in self.read if texts.part == part for one in texts.passages]


class SlowReader(Reader):
    """It needs some seconds."""

    def __init__(self, seconds: float, **scope: Any) -> None:
        super().__init__(**scope)
        self.seconds = seconds

    async def inspect(self, texts: InspectedTexts) -> Decision:
        await asyncio.sleep(self.seconds)
        return await super().inspect(texts)


def inspected(upstream: Any, *inspectors: Any, **settings: str) -> ProxyHarness:
    built = ProxyHarness(upstream, **settings)
    built.services = structs.replace(built.services, inspectors=inspectors)
    return built


def answering(form: ReplyForm, answer: Reply, bodies: list[bytes] | None = None) -> Any:
    """Return a provider that sends one reply, streamed if that is requested."""

    def upstream(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        if bodies is not None:
            bodies.append(request.body)
        if b'"stream":true' in request.body.replace(b" ", b"") or "stream" in request.path:
            return FakeResponse(200, *form.stream(answer), headers={"content-type": "text/event-stream"})
        return FakeResponse(200, form.whole(answer), headers={"content-type": "application/json"})

    return upstream


class Echo:
    """A provider that says, and passes to a tool, what it finds in the place of the secret."""

    def __init__(self, form: ReplyForm, *, cut: int | None = None) -> None:
        self.form = form
        self.cut = cut
        self.bodies: list[bytes] = []

    def __call__(self, url: str, request: UpstreamRequest, credential: Any) -> FakeResponse:
        found = PLACEHOLDER.search(request.body.decode())
        words = f"The key is {found[0] if found else 'unknown'}."
        arguments = json.dumps({"command": f"echo '{words}'"})
        cut = self.cut
        pieces = [*words] if cut is None else [words[:cut], words[cut:]]
        parts = [*arguments] if cut is None else [arguments[:cut], arguments[cut:]]
        answer = Reply(texts=pieces, calls=[("call_1", "Bash", parts)])
        response: FakeResponse = answering(self.form, answer, self.bodies)(url, request, credential)
        return response


TOOLS = [{"name": "Bash", "description": "Runs it.", "input_schema": {"type": "object", "properties": {}}}]
CONVERSATION = [
    {"role": "user", "content": f"Use {SECRET} for it."},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"a": [SECRET]}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": f"found {SECRET}"}]},
]


def message_of(sink: RecordingSink) -> dict[str, Any]:
    assert sink.error is None, sink.error
    if sink.body:
        return sink.body
    if sink.stream.startswith(b"{"):
        message: dict[str, Any] = json.loads(sink.stream)
        return message
    assert check_bytes(sink.stream) == []
    return fold_events(sink.stream)


def texts_of(sink: RecordingSink) -> list[Any]:
    return [
        block.get("text") or block.get("input")
        for block in message_of(sink)["content"]
        if "text" in block["type"] or "input" in block
    ]


@pytest.mark.parametrize("wire", WIRES)
@BOTH_FORMS
async def test_a_redacted_text_leaves_as_a_placeholder_and_comes_back(wire: str, stream: bool) -> None:
    settings, form = WIRES[wire]
    upstream = Echo(form)
    built = inspected(upstream, Reader(redact_secret), **settings)
    sink = await built.post(messages=CONVERSATION, tools=TOOLS, stream=stream, system=f"Key: {SECRET}")
    body = upstream.bodies[-1]
    assert "é-81" not in json.dumps(json.loads(body), ensure_ascii=False)
    assert len(PLACEHOLDER.findall(body.decode())) == 4
    assert len({*PLACEHOLDER.findall(body.decode())}) == 1
    words = f"The key is {SECRET}."
    assert texts_of(sink) == [words, {"command": f"echo '{words}'"}]
    (record,) = built.receipts[0].inspections
    assert describe_inspection(record) == "reader redacted the request: 4 × test key"


@A_TRANSLATION_AND_A_RELAY
async def test_a_placeholder_that_is_divided_at_any_place_comes_back(wire: str) -> None:
    settings, form = WIRES[wire]
    words = f"The key is {SECRET}."
    for cut in range(70):
        built = inspected(Echo(form, cut=cut), Reader(redact_secret), **settings)
        sink = await built.post(f"Use {SECRET}.", tools=TOOLS, stream=True)
        assert texts_of(sink) == [words, {"command": f"echo '{words}'"}], cut


async def test_a_text_has_the_same_placeholder_in_all_requests_of_a_client_only() -> None:
    upstream = Echo(CHAT)
    built = inspected(upstream, Reader(redact_secret), **OPENAI)
    await built.post(f"Use {SECRET}.")
    await built.post(f"Use {SECRET} again.")
    another = inspected(upstream, Reader(redact_secret), **OPENAI)
    another.services = structs.replace(another.services, own_keys=OwnKeys())
    await another.post(f"Use {SECRET}.")
    first, second, of_another_proxy = (PLACEHOLDER.findall(body.decode())[0] for body in upstream.bodies)
    assert first == second != of_another_proxy


async def test_a_placeholder_that_is_not_of_the_request_stays() -> None:
    foreign = "REDACTED_TEST_KEY_0123456789abcdef"
    built = inspected(answering(CHAT, Reply(texts=[f"It is {foreign}."])), Reader(redact_secret), **OPENAI)
    assert texts_of(await built.post(f"Is {SECRET} the text of {foreign}?")) == [f"It is {foreign}."]


VALUES_IN_SCHEMAS = {
    "default": {"type": "object", "default": {"type": "one", "required": ["two"]}},
    "examples": {"type": "object", "examples": [{"format": "one", "$id": "two"}]},
    "const of a property": {"type": "object", "properties": {"type": {"type": "string", "const": {"$ref": "one"}}}},
    "enum in a list": {"anyOf": [{"type": "string", "enum": [["one", {"type": "two"}]]}]},
    "schema in a default": {"default": {"properties": {"a": {"type": "one"}}, "items": [{"format": "two"}]}},
    "unknown keyword": {"x-note": {"type": "one", "properties": {"format": {"type": "two"}}}},
    "place of a schema": {"properties": {"type": "one"}, "$defs": {"a": {"not": {"items": {"type": "string"}}}}},
}


@pytest.mark.parametrize("place", VALUES_IN_SCHEMAS)
async def test_a_value_in_a_schema_is_read_also_if_its_keys_are_names_of_keywords(place: str) -> None:
    schema = VALUES_IN_SCHEMAS[place]
    strict = Reader(tool_descriptions=True)
    built = inspected(Echo(MESSAGES), strict, **ANTHROPIC)
    await built.post("go", tools=[{"name": "Bash", "input_schema": schema}])
    named = [word for word in ("one", "two") if f'"{word}"' in json.dumps(schema)]
    assert sorted(strict.passages()) == [*(("tool_description", word) for word in named), ("user", "go")]


async def test_an_inspector_reads_all_texts_of_a_request_with_their_kinds() -> None:
    reader, strict = Reader(), Reader(tool_descriptions=True, name="strict")
    built = inspected(Echo(MESSAGES), reader, strict, **ANTHROPIC)
    assistant = [
        {"type": "thinking", "thinking": "two", "signature": "sig"},
        {"type": "redacted_thinking", "data": "opaque"},
        {"type": "text", "text": "three"},
        {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"type": "four", "data": ["five", 6], "a b": 1}},
    ]
    user = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "seven"}]},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aWNvbg=="}},
        {"type": "document", "title": "eight", "source": {"data": "nine", "type": "text"}},
        {"type": "a_later_type", "words": {"of": ["ten"]}},
    ]
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": assistant},
        {"role": "user", "content": user},
    ]
    words = {"type": "string", "default": "thirteen", "enum": ["fourteen", {"type": ["sixteen"]}], "format": "date"}
    schema = {"type": "object", "description": "twelve", "properties": {"name": words}, "required": ["name"]}
    tools = [
        {"name": "Bash", "description": "eleven", "input_schema": schema, "input_examples": [{"type": "fifteen"}]},
        {"type": "web_search_20250305", "name": "web_search", "allowed_domains": ["a.example"]},
    ]
    system = [{"type": "text", "text": "zero", "cache_control": {"type": "ephemeral"}}]
    await built.post(messages=messages, system=system, tools=tools)
    expected = [
        ("user", "one"),
        ("thinking", "two"),
        ("assistant", "three"),
        *[("tool_call", word) for word in ("four", "five", "a b")],
        ("tool_result", "seven"),
        *[("user", word) for word in ("eight", "nine", "ten")],
        ("system", "zero"),
    ]
    named = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen")
    descriptions = [("tool_description", word) for word in named]
    assert sorted(reader.passages()) == sorted(expected)
    assert sorted(strict.passages()) == sorted([*expected, *descriptions])
    assert [one.name for one in reader.read[0].passages if one.kind == "tool_call"] == ["Bash"] * 3


def encoded(text: str, codec: str = "utf-8") -> str:
    return base64.b64encode(text.encode(codec)).decode()


def source(**fields: Any) -> dict[str, Any]:
    return {"type": "document", "source": fields}


SEARCHED = {"type": "web_search_result", "url": "two", "title": "three", "page_age": "four"}
BLOCKS: list[tuple[dict[str, Any], str, list[str]]] = [
    (source(type="text", media_type="text/plain", data="one"), "user", ["one"]),
    (source(type="base64", media_type="text/plain", data=encoded("one")), "user", ["one"]),
    (source(type="base64", media_type="TEXT/markdown", data=encoded("one").rstrip("=")), "user", ["one"]),
    (source(type="base64", data=encoded("one")), "user", ["one"]),
    (source(type="base64", media_type="text/plain", data="b25l\r\nIHR3\r\nbw"), "user", ["one two"]),
    (source(type="base64", media_type="text/plain", data=encoded("one ") + encoded("two")), "user", ["one two"]),
    (source(type="base64", media_type="text/plain", data=encoded("one", "utf-16")), "user", ["one"]),
    (source(type="base64", media_type="text/csv", data=encoded("one", "utf-16-be")), "user", ["one"]),
    (source(type="base64", media_type="text/plain", data=encoded("\ufeffone", "utf-32-be")), "user", ["one"]),
    (source(type="base64", media_type="text/plain", data=encoded("one", "utf-8-sig")), "user", ["one"]),
    (source(type="base64", media_type="text/plain", data=encoded("éins", "cp1252")), "user", ["éins"]),
    (source(type="base64", media_type="text/plain;charset=koi8-r", data=encoded("раз", "koi8-r")), "user", ["раз"]),
    (source(type="url", url="data:text/plain;charset=koi8-r,%D2%C1%DA"), "user", ["раз"]),
    (source(type="url", url=f"data:;base64,{encoded('one', 'utf-16')}"), "user", ["one"]),
    (source(type="base64", media_type="application/pdf", data=encoded("one")), "user", []),
    (source(type="base64", media_type="image/svg+xml", data=encoded("one")), "user", ["one"]),
    (source(type="url", url="data:Image/SVG+XML,one"), "user", ["one"]),
    (source(type="url", url="data:text/plain,one%20two"), "user", ["one two"]),
    (source(type="url", url=f"DATA:;base64,{encoded('one')}"), "user", ["one"]),
    (source(type="url", url=f"data:image/png;base64,{encoded('one')}"), "user", []),
    (source(type="url", url="https://one.test"), "user", ["https://one.test"]),
    (source(type="content", content=[{"type": "text", "text": "one"}]), "user", ["one"]),
    (source(type="file", file_id="file_1") | {"context": "one", "title": "two"}, "user", ["one", "two"]),
    (
        {"type": "search_result", "source": "one", "title": "two", "content": [{"type": "text", "text": "three"}]},
        "user",
        ["one", "two", "three"],
    ),
    (
        {
            "type": "text",
            "text": "one",
            "citations": [
                {"type": "char_location", "cited_text": "two", "document_title": "three", "file_id": "file_1"},
                {"type": "web_search_result_location", "cited_text": "four", "url": "five", "encrypted_index": "x"},
            ],
        },
        "user",
        ["one", "two", "three", "four", "five"],
    ),
    (
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [{**SEARCHED, "encrypted_content": encode_passage("one")}],
        },
        "tool_result",
        ["two", "three", "four", "one"],
    ),
    (
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [{**SEARCHED, "encrypted_content": "of Anthropic"}],
        },
        "tool_result",
        ["two", "three", "four"],
    ),
    (
        {
            "type": "web_fetch_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": {
                "type": "web_fetch_result",
                "url": "one",
                "content": source(type="text", media_type="text/plain", data="two"),
                "retrieved_at": "2026-11-27",
            },
        },
        "tool_result",
        ["one", "two"],
    ),
    (
        {
            "type": "code_execution_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": {
                "type": "code_execution_result",
                "stdout": "one",
                "stderr": "two",
                "content": [{"type": "code_execution_output", "file_id": "file_1"}],
            },
        },
        "tool_result",
        ["one", "two"],
    ),
    (
        {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": [{"type": "text", "text": "one"}]},
        "tool_result",
        ["one"],
    ),
    (
        {
            "type": "tool_result",
            "tool_use_id": "toolu_1",
            "content": [source(type="base64", media_type="text/plain", data=encoded("one", "utf-16"))],
        },
        "tool_result",
        ["one"],
    ),
    (
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "a_later_type", "name": "one"}]},
        "tool_result",
        ["one"],
    ),
    ({"type": "a_later_type", "name": "one", "id": "two", "data": "three"}, "user", ["one", "two", "three"]),
    ({"type": "a later type", "text": "one"}, "user", ["a later type", "one"]),
    (
        {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "n", "server_name": "s", "input": {"customer C-1": "one"}},
        "tool_call",
        ["customer C-1", "one"],
    ),
    ({"type": "compaction", "content": "one"}, "user", ["one"]),
]


@pytest.mark.parametrize(("content", "kind", "expected"), BLOCKS)
async def test_the_texts_of_each_kind_of_block_are_read_and_redacted(
    content: dict[str, Any], kind: str, expected: list[str]
) -> None:
    def redact(texts: InspectedTexts) -> Decision:
        return [Redaction(place, 0, len(one.text), "test key") for place, one in enumerate(texts.passages)]

    bodies: list[bytes] = []
    reader = Reader()
    built = inspected(
        answering(MESSAGES, Reply(texts=["ok"]), bodies), reader, Reader(redact, name="second"), **ANTHROPIC
    )
    await built.post(messages=[{"role": "user", "content": [content]}])
    assert sorted(reader.passages()) == sorted((kind, text) for text in expected)
    if encode_passage("one") in str(content):  # Anthropic gets no page of the proxy's own search
        return
    after = Reader()
    built = inspected(Echo(MESSAGES), after, **ANTHROPIC)
    await built.post(messages=json.loads(bodies[0])["messages"])
    assert len(after.passages()) == len(expected)
    assert all(PLACEHOLDER.fullmatch(text) for _, text in after.passages())


@pytest.mark.parametrize("wire", WIRES)
async def test_no_text_that_a_provider_gets_is_encoded_past_the_inspectors(wire: str) -> None:
    settings, form = WIRES[wire]
    bodies: list[bytes] = []
    call_block = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}
    searched = {"type": "web_search_result", "url": "https://a.test", "title": "t", "page_age": SECRET}
    found = {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [{**searched, "encrypted_content": encode_passage(f"It is {SECRET}.")}],
    }
    messages = [
        {"role": "user", "content": [source(type="base64", media_type="text/plain", data=encoded(f"Use {SECRET}."))]},
        {"role": "assistant", "content": [call_block, found, {"type": "text", "text": "ok"}]},
        {"role": "user", "content": [source(type="url", url=f"data:;base64,{encoded(SECRET)}")]},
    ]
    built = inspected(answering(form, Reply(texts=["ok"]), bodies), Reader(redact_secret), **settings)
    await built.post(messages=messages)
    words = [SECRET, json.dumps(SECRET)[1:-1], json.dumps(SECRET, ensure_ascii=False)[1:-1]]
    hidden = [encoded(f"Use {SECRET}."), encoded(SECRET), encode_passage(f"It is {SECRET}.")]
    assert [word for word in (*words, *hidden) if word in bodies[-1].decode()] == []


ENCODINGS = {
    "UTF-16 of Windows": ("text/plain", "utf-16"),
    "UTF-16 without a mark": ("text/plain", "utf-16-be"),
    "UTF-32": ("text/plain", "utf-32"),
    "UTF-8 with a mark": ("text/plain", "utf-8-sig"),
    "an encoding of eight bits": ("text/plain", "cp1252"),
    "a charset that is stated": ("text/plain; charset=cp437", "cp437"),
}


@A_TRANSLATION_AND_A_RELAY
@pytest.mark.parametrize("case", ENCODINGS)
async def test_a_file_is_read_in_its_encoding_and_keeps_it(case: str, wire: str) -> None:
    media_type, codec = ENCODINGS[case]
    settings, form = WIRES[wire]
    bodies: list[bytes] = []
    built = inspected(answering(form, Reply(texts=["ok"]), bodies), Reader(redact_secret), **settings)
    words = "The key in the café is {}."
    document = source(type="base64", media_type=media_type, data=encoded(words.format(SECRET), codec))
    await built.post(messages=[{"role": "user", "content": [document]}])
    (content,) = json.loads(bodies[0])["messages"][-1]["content"] if form is MESSAGES else [{}]
    sent = base64.b64decode(content["source"]["data"]).decode(codec) if content else bodies[0].decode()
    (placeholder,) = PLACEHOLDER.findall(sent)
    assert words.format(placeholder) in sent
    assert not content or content == source(type="base64", media_type=media_type, data=encoded(sent, codec))


async def test_a_text_in_place_of_base64_is_read() -> None:
    bodies: list[bytes] = []
    built = inspected(answering(MESSAGES, Reply(texts=["ok"]), bodies), Reader(redact_secret), **ANTHROPIC)
    document = source(type="base64", media_type="text/plain", data=f"The key is {SECRET}, in words.")
    await built.post(messages=[{"role": "user", "content": [document]}])
    sent = json.loads(bodies[0])["messages"][0]["content"][0]["source"]["data"]
    (placeholder,) = PLACEHOLDER.findall(sent)
    assert sent == f"The key is {placeholder}, in words."


@pytest.mark.parametrize("types", [("base64", "text"), ("text", "base64")])
async def test_a_text_is_read_whichever_of_two_types_a_provider_believes(types: tuple[str, str]) -> None:
    bodies: list[bytes] = []
    built = inspected(answering(MESSAGES, Reply(texts=["ok"]), bodies), Reader(redact_secret), **ANTHROPIC)
    data = json.dumps(SECRET if types[1] == "text" else encoded(SECRET))
    fields = f'"type":"{types[0]}","media_type":"text/plain","data":{data},"type":"{types[1]}"'
    block = f'{{"type":"document","source":{{{fields}}}}}'
    body = f'{{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[{{"role":"user","content":[{block}]}}]}}'
    await Exchange(built.services, new_client_request(body.encode()), RecordingSink()).run()
    found = json.loads(bodies[0])["messages"][0]["content"][0]["source"]
    assert found["type"] == types[1]
    words = found["data"] if types[1] == "text" else base64.b64decode(found["data"]).decode()
    assert PLACEHOLDER.fullmatch(words)


async def test_texts_outside_of_the_messages_are_read() -> None:
    bodies: list[bytes] = []
    reader = Reader()
    built = inspected(answering(MESSAGES, Reply(texts=["ok"]), bodies), reader, **ANTHROPIC)
    await built.post(
        "hello",
        stop_sequences=["one"],
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": {"description": "two"}}},
        context_management={"edits": [{"type": "compact_20260112", "instructions": "three"}]},
        a_later_field={"name": "four"},
        metadata={"user_id": "u"},
        mcp_servers=[{"type": "url", "name": "n", "url": "https://m.test", "authorization_token": "t"}],
    )
    assert sorted(reader.passages()) == [
        *(("system", word) for word in ("four", "one", "three", "two")),
        ("user", "hello"),
    ]


def test_the_table_has_each_block_of_the_translation() -> None:
    tags = {kind.__struct_config__.tag for kind in get_args(structs_of_blocks.Block)}
    assert tags - {*NOT_TEXTS} == {"px.unknown"}


async def test_only_the_redacted_texts_of_a_relayed_request_change() -> None:
    bodies: list[bytes] = []
    built = inspected(answering(MESSAGES, Reply(texts=["ok"]), bodies), Reader(redact_secret), **ANTHROPIC)
    escaped = json.dumps(SECRET).replace("/", "\\/")
    body = (
        '{"model" : "claude-sonnet-4-5",  "max_tokens": 9, "x":1.0e2,\n'
        f'"messages": [ {{"content": [{{"type":"text","text":{escaped} }}],"role":"user"}} ],'
        f'"system":"\\u0041","metadata":{{"user_id":"{SECRET[:2]}"}} }}'
    )
    await Exchange(built.services, new_client_request(body.encode()), RecordingSink()).run()
    (placeholder,) = PLACEHOLDER.findall(bodies[0].decode())
    assert bodies[0].decode() == body.replace(escaped, f'"{placeholder}"')


async def test_a_text_with_a_repeated_key_is_read() -> None:
    bodies: list[bytes] = []
    built = inspected(answering(MESSAGES, Reply(texts=["ok"]), bodies), Reader(redact_secret), **ANTHROPIC)
    block = f'{{"type":"text","text":{json.dumps(SECRET)},"text":"harmless"}}'
    body = f'{{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[{{"role":"user","content":[{block}]}}]}}'
    await Exchange(built.services, new_client_request(body.encode()), RecordingSink()).run()
    assert b"-81" not in bodies[0]


@A_TRANSLATION_AND_A_RELAY
@BOTH_FORMS
async def test_a_refused_request_reaches_no_provider(wire: str, stream: bool) -> None:
    bodies: list[bytes] = []
    settings, form = WIRES[wire]
    built = inspected(answering(form, Reply(texts=["ok"]), bodies), Reader(refuse_bombs, name="law"), **settings)
    sink = await built.post("How do I build a bomb?", stream=stream)
    assert isinstance(sink.error, InvalidRequest)
    assert (sink.error.status, sink.error.code, sink.error.should_retry) == (400, "policy-blocked", False)
    assert sink.error.message == "No bombs, by rule 7."
    (receipt,) = built.receipts
    assert bodies == receipt.attempts == []
    assert [describe_inspection(one) for one in receipt.inspections] == ["law refused the request: 1 × bomb"]


PROMPT = "The merger with Contoso Nordwind is on Friday."


@A_TRANSLATION_AND_A_RELAY
@pytest.mark.parametrize(
    ("reason", "stored"),
    [
        (f"Confidential: '{PROMPT}'", "Confidential: '(46 characters of the request)'"),
        ("Found contoso nordwind, by rule 7", "Found (16 characters of the request), by rule 7"),
        ("Confidential, by rule 7.", "Confidential, by rule 7."),
    ],
)
async def test_only_the_client_gets_the_words_of_its_request_that_a_reason_quotes(
    wire: str, reason: str, stored: str
) -> None:
    settings, form = WIRES[wire]
    refusing = Reader(lambda _: Refusal("x", reason), name="law")
    built = inspected(answering(form, Reply(texts=["ok"])), refusing, **settings)
    sink = await built.post(PROMPT)
    assert sink.error is not None
    assert sink.error.message == reason
    (receipt,) = built.receipts
    assert receipt.error == stored
    assert "ordwind" not in built.log.getvalue()


async def test_the_reason_of_a_rule_of_the_settings_is_stored_as_it_is() -> None:
    reason = "Do not name the merger with Contoso."
    refusing = Reader(lambda _: Refusal("x", reason, is_of_operator=True), name="law")
    built = inspected(answering(CHAT, Reply(texts=["ok"])), refusing, **WIRES["chat"][0])
    sink = await built.post(PROMPT)
    assert sink.error is not None
    (receipt,) = built.receipts
    assert (sink.error.message, receipt.error) == (reason, reason)


def fail_by_service(texts: InspectedTexts) -> Decision:
    raise UpstreamProtocolError(f"the answer cannot be read: {texts.passages[0].text!r} is no action")


def fail_by_defect(texts: InspectedTexts) -> Decision:
    raise ValueError("no rule has these words") from KeyError(texts.passages[0].text)


def fail_twice(texts: InspectedTexts) -> Decision:
    try:
        return fail_by_defect(texts)
    except ValueError as error:
        not_found = TypeError(f"not {texts.passages[0].text[4:].upper()}")
        raise ExceptionGroup("two rules", [error, not_found]) from None


@BOTH_FORMS
@pytest.mark.parametrize("part", ["request", "reply"])
@pytest.mark.parametrize(
    ("fail", "told"),
    [
        (fail_by_service, "the answer cannot be read: '(46 characters of the {part})' is no action"),
        (fail_by_defect, "ValueError: no rule has these words"),
        (fail_twice, "TypeError: not (42 characters of the {part})"),
    ],
)
async def test_the_log_has_no_words_of_a_text_that_a_failing_inspector_quotes(
    part: str, stream: bool, fail: Callable[[InspectedTexts], Decision], told: str
) -> None:
    texts = {"request": ("ok", PROMPT), "reply": (PROMPT, "hello")}
    reply, prompt = texts[part]

    def decide(texts: InspectedTexts) -> Decision:
        return fail(texts) if texts.part == part else ()

    law = Reader(decide, name="law", replies=True, holds_blocks=True)
    built = inspected(answering(CHAT, Reply(texts=[reply])), law, **OPENAI)
    await built.post(prompt, stream=stream)
    log = built.log.getvalue()
    assert told.format(part=part) in log
    assert "nordwind" not in log.lower()


async def test_a_failure_that_is_too_long_to_compare_is_written_as_its_length() -> None:
    """A service may send any amount of text, and the comparison needs the product of both lengths."""
    long = "Nordwind " * 100_000

    def fail(_: InspectedTexts) -> Decision:
        raise UpstreamProtocolError(f"{long!r} is no action")

    built = inspected(answering(CHAT, Reply(texts=["ok"])), Reader(fail, name="law"), **OPENAI)
    await built.post(long)
    assert "Inspector law: (900015 characters of the request)\n" in built.log.getvalue()


async def test_each_inspector_reads_what_the_one_before_it_left() -> None:
    second = Reader(name="second")
    await inspected(Echo(CHAT), Reader(redact_secret), second, **OPENAI).post(f"Use {SECRET}.")
    ((_, words),) = second.passages()
    assert PLACEHOLDER.fullmatch(words.removeprefix("Use ").removesuffix("."))


async def test_a_placeholder_within_a_redacted_text_comes_back_too() -> None:
    whole = Reader(lambda texts: [Redaction(0, 0, len(texts.passages[0].text), "test key")], name="whole")
    upstream = Echo(CHAT)
    sink = await inspected(upstream, Reader(redact_secret), whole, **OPENAI).post(f"Use {SECRET}.", tools=TOOLS)
    assert len(PLACEHOLDER.findall(upstream.bodies[0].decode())) == 1
    assert texts_of(sink)[0] == f"The key is Use {SECRET}.."


FAILURES: list[tuple[Any, dict[str, Any], str]] = [
    (lambda _: 1 / 0, {}, "ZeroDivisionError"),
    (lambda _: [Redaction(0, 3, 2, "x")], {}, "invalid redaction"),
    (lambda _: [Redaction(0, 0, 2, "x"), Redaction(0, 1, 3, "x")], {}, "invalid redaction"),
    (lambda _: [Redaction(7, 0, 1, "x")], {}, "invalid redaction"),
    (lambda _: [Redaction(0, 0, 1, "x")] * 10_001, {}, "too many redactions"),
    (lambda _: (), {"max_characters": 4}, "too large"),
    (lambda _: None, {}, "invalid decision"),
    (lambda _: {}, {}, "invalid decision"),
    (lambda _: "", {}, "invalid decision"),
    (lambda _: b"", {}, "invalid decision"),
    (lambda _: ["x"], {}, "invalid decision"),
    (lambda _: [Refusal("x", "no")], {}, "invalid decision"),
    (lambda _: Refusal(None, "no"), {}, "invalid decision"),  # type: ignore[arg-type]
    (lambda _: Refusal("x", b"no"), {}, "invalid decision"),  # type: ignore[arg-type]
    (lambda _: [Redaction(0, 0.5, 2, "x")], {}, "invalid decision"),  # type: ignore[arg-type]
    (lambda _: [Redaction(True, 0, 2, "x")], {}, "invalid decision"),
    (lambda _: [Redaction(0, 0, 2, 7)], {}, "invalid decision"),  # type: ignore[arg-type]
    (lambda _: [Redaction(0, 0, 2, "x", b"y")], {}, "invalid decision"),  # type: ignore[arg-type]
    (lambda _: [Redaction(0, 0, 2, "x", 7)], {}, "invalid decision"),  # type: ignore[arg-type]
    (lambda _: StubbornReader, {}, "invalid decision"),
]


class StubbornReader(Reader):
    """It goes on after its cancellation, and then lets pass what it has read."""

    async def inspect(self, texts: InspectedTexts) -> Decision:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await super().inspect(texts)


async def test_a_decision_after_the_time_limit_counts_as_none() -> None:
    bodies: list[bytes] = []
    built = inspected(answering(CHAT, Reply(texts=["ok"]), bodies), StubbornReader(timeout_seconds=0.01), **OPENAI)
    sink = await built.post("hello")
    (record,) = built.receipts[0].inspections
    assert (record.decision, record.failure, bodies) == ("failed", "timeout", [])
    assert sink.error is not None
    assert sink.error.code == "inspector-unavailable"


@pytest.mark.parametrize("change", [list.clear, list.pop, lambda texts: texts.append(texts[0])])
async def test_an_inspector_cannot_change_what_the_next_one_reads(change: Callable[[list[Passage]], Any]) -> None:
    def decide(texts: InspectedTexts) -> Decision:
        change(texts.passages)  # type: ignore[arg-type]  # a list, as it happens
        return ()

    second = Reader(redact_secret, name="second")
    upstream = Echo(CHAT)
    await inspected(upstream, Reader(decide), second, **OPENAI).post(f"Use {SECRET}.", tools=TOOLS)
    assert [kind for kind, _ in second.passages()] == ["user"]
    assert SECRET not in upstream.bodies[0].decode()


@pytest.mark.parametrize(("decide", "scope", "failure"), FAILURES)
@pytest.mark.parametrize("fails_open", [True, False])
async def test_a_failing_inspector_lets_pass_or_rejects_by_its_setting(
    decide: Any, scope: dict[str, Any], failure: str, fails_open: bool
) -> None:
    bodies: list[bytes] = []
    reader = Reader(decide, fails_open=fails_open, **scope)
    built = inspected(answering(CHAT, Reply(texts=["ok"]), bodies), reader, **OPENAI)
    sink = await built.post("hello")
    (record,) = built.receipts[0].inspections
    assert (record.decision, record.failure) == ("failed", failure)
    if fails_open:
        assert texts_of(sink) == ["ok"]
        return
    assert bodies == []
    assert sink.error is not None
    if failure == "too large":
        assert (sink.error.status, sink.error.code, sink.error.should_retry) == (400, "policy-blocked", False)
        assert (
            sink.error.message
            == "The request is too long for the inspector reader of this proxy, which must read it before."
        )
    else:
        assert (sink.error.status, sink.error.error_type) == (503, "api_error")
        assert (sink.error.code, sink.error.should_retry) == ("inspector-unavailable", False)
        assert (
            sink.error.message == "The inspector reader of this proxy, which must read each request, is not available. "
            "Try again in a moment."
        )


@in_virtual_time
async def test_a_slow_inspector_is_waited_for_up_to_its_limit() -> None:
    now = asyncio.get_running_loop().time
    built = inspected(answering(CHAT, Reply(texts=["ok"])), SlowReader(0.3), **OPENAI)
    start = now()
    assert texts_of(await built.post("hello")) == ["ok"]
    assert now() - start == pytest.approx(0.3, abs=0.05)
    for fails_open in (True, False):
        reader = SlowReader(60, timeout_seconds=2.0, fails_open=fails_open)
        built = inspected(answering(CHAT, Reply(texts=["ok"])), reader, **OPENAI)
        start = now()
        sink = await built.post("hello")
        assert now() - start == pytest.approx(2, abs=0.05)
        assert (sink.error is None) == fails_open
        (record,) = built.receipts[0].inspections
        assert (record.decision, record.failure) == ("failed", "timeout")


class WatchedPatterns(PatternInspector):
    """It says when it has begun to wait for its thread."""

    def __init__(self, background: BackgroundWork, on_failure: str) -> None:
        table = InspectorTable(name="keys", type="patterns", detect=["keys"], on_failure=on_failure)  # type: ignore[arg-type]
        super().__init__(InspectorRule(table=table), background)
        self.began = asyncio.Event()

    async def inspect(self, texts: InspectedTexts) -> Decision:
        self.began.set()
        return await super().inspect(texts)


@pytest.mark.parametrize("on_failure", ["refuse", "pass"])
@pytest.mark.parametrize(
    ("waits", "texts", "failure"),
    [
        (30, 1, ""),  # of other requests
        (61, 1, "WorkerBusy"),  # longer than anything waits for the thread
        (0, 50, "timeout"),  # 50 times 0.05 s of work
    ],
)
@in_virtual_time
async def test_a_wait_for_the_thread_is_no_time_of_an_inspector(
    on_failure: str, waits: float, texts: int, failure: str
) -> None:
    seconds = itertools.count()
    background = BackgroundWork(clock=lambda: next(seconds) * 0.05)
    inspector, ends = WatchedPatterns(background, on_failure), threading.Event()
    built = inspected(answering(CHAT, Reply(texts=["ok"])), inspector, **OPENAI)
    other = asyncio.create_task(background.of("other").run_in_thread(ends.wait, WAIT_SECONDS))
    await asyncio.sleep(0)
    content = [{"type": "text", "text": "a " * (200_000 // texts)} for _ in range(texts)]
    request = asyncio.create_task(built.post(messages=[{"role": "user", "content": content}]))
    await inspector.began.wait()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.pass_time(waits)
    for _ in range(5):
        await asyncio.sleep(0)
    ends.set()
    sink = await request
    await other
    status = {"": 200, "WorkerBusy": 529, "timeout": 200 if on_failure == "pass" else 503}[failure]
    assert built.receipts[0].status == status
    assert sink.error is None if status == 200 else sink.error is not None
    (record,) = built.receipts[0].inspections
    assert (record.decision, record.failure) == ("failed" if failure else "passed", failure)


@A_TRANSLATION_AND_A_RELAY
@BOTH_FORMS
async def test_a_reply_is_redacted_before_the_client_gets_it(wire: str, stream: bool) -> None:
    settings, form = WIRES[wire]
    arguments = json.dumps({"command": f"echo {SECRET}"}, ensure_ascii=False)
    answer = Reply(texts=[*f"It is {SECRET}, I think."], calls=[("call_1", "Bash", [*arguments])])
    for holds_blocks in (True, False):
        reader = Reader(redact_secret, requests=False, replies=True, holds_blocks=holds_blocks)
        built = inspected(answering(form, answer), reader, **settings)
        sink = await built.post("hello", tools=TOOLS, stream=stream)
        assert texts_of(sink) == ["It is [test key], I think.", {"command": "echo [test key]"}]
        (record,) = built.receipts[0].inspections
        assert describe_inspection(record) == "reader redacted the reply: 2 × test key"
        assert reader.passages("reply")[-1] == ("tool_call", f"echo {SECRET}")


@A_TRANSLATION_AND_A_RELAY
@given(cuts=st.lists(st.integers(0, 60), max_size=6), holds_blocks=st.booleans())
async def test_a_redacted_text_of_a_reply_is_found_wherever_it_is_divided(
    wire: str, cuts: list[int], holds_blocks: bool
) -> None:
    settings, form = WIRES[wire]
    words = f"One {SECRET} two {SECRET} three"
    places = sorted({0, len(words), *(cut for cut in cuts if cut < len(words))})
    pieces = [words[start:end] for start, end in pairwise(places)]
    reader = Reader(redact_secret, requests=False, replies=True, holds_blocks=holds_blocks)
    built = inspected(answering(form, Reply(texts=pieces)), reader, **settings)
    assert texts_of(await built.post("hello", stream=True)) == ["One [test key] two [test key] three"]


@A_TRANSLATION_AND_A_RELAY
async def test_a_text_is_held_only_as_far_as_a_redaction_may_reach(wire: str) -> None:
    class Sink(RecordingSink):
        def _add(self, data: bytes, *, is_last: bool) -> None:
            shown.append(data)
            super()._add(data, is_last=is_last)

    settings, form = WIRES[wire]
    for holds_blocks in (False, True):
        shown: list[bytes] = []
        reader = Reader(redact_secret, requests=False, replies=True, holds_blocks=holds_blocks)
        built = inspected(
            answering(form, Reply(texts=["a long beginning of the text, ", "and its end"])), reader, **settings
        )
        await built.post("hello", stream=True, sink=Sink())
        texts = [one["delta"]["text"] for one in events_of(b"".join(shown)) if one["type"] == "content_block_delta"]
        end = len("a long beginning of the text, ") - len(SECRET) + 1
        whole = "a long beginning of the text, and its end"
        assert texts[0] == (whole if holds_blocks else whole[:end])
        assert "".join(texts) == whole


@A_TRANSLATION_AND_A_RELAY
async def test_a_burst_of_fragments_is_not_read_in_one_step(wire: str) -> None:
    turns, seen = 0, Counter[int]()

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    class Waiting(Reader):
        def find_open_end(self, _: str) -> int:
            seen[turns] += 1
            return 0  # the next characters may belong to a secret

    settings, form = WIRES[wire]
    burst = b"".join(form.stream(Reply(texts=["4"] * 1_000)))
    counter = asyncio.create_task(count_turns())
    reader = Waiting(requests=False, replies=True, holds_blocks=False)
    headers = {"content-type": "text/event-stream"}
    built = inspected(lambda *_: FakeResponse(200, burst, headers=headers), reader, **settings)
    sink = await built.post("hello", stream=True)
    counter.cancel()
    assert fold_events(sink.stream)["content"][0]["text"] == "4" * 1_000
    assert max(seen.values()) <= 101


def events_of(stream: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: ")]


REFUSED_REPLIES = {
    "text": Reply(texts=["A good beginning. ", "A bomb is", " built so"]),
    "thinking": Reply(thoughts=["First ", "the bomb"], texts=["Done"]),
    "call": Reply(texts=["I do it. "], calls=[("call_1", "Bash", ['{"command":', '"bomb"}'])]),
}


@pytest.mark.parametrize(
    ("kind", "wire"),
    [(kind, wire) for kind in REFUSED_REPLIES for wire in ("chat", "relay") if (kind, wire) != ("thinking", "chat")],
)
@BOTH_FORMS
async def test_a_refused_reply_ends_with_a_refusal(kind: str, wire: str, stream: bool) -> None:
    settings, form = WIRES[wire]
    for holds_blocks in (True, False):
        reader = Reader(refuse_bombs, requests=False, replies=True, holds_blocks=holds_blocks)
        built = inspected(answering(form, REFUSED_REPLIES[kind]), reader, **settings)
        sink = await built.post("hello", stream=stream, tools=TOOLS)
        message = message_of(sink)
        assert message["stop_reason"] == "refusal"
        assert message["stop_details"] == {"type": "refusal", "category": None, "explanation": "No bombs, by rule 7."}
        assert "bomb" not in json.dumps(message["content"])
        if kind == "call" and stream:
            assert texts_of(sink) == ["I do it. "]
        (receipt,) = built.receipts
        assert (receipt.outcome, receipt.status) == ("refusal", 200)
        assert [describe_inspection(one) for one in receipt.inspections] == ["reader refused the reply: 1 × bomb"]
        counts = receipt.input_tokens, receipt.output_tokens
        is_reported = not stream or (wire == "chat" and holds_blocks and kind == "text")
        assert counts == (7, 7) if is_reported else min(counts) > 0


class WaitingReader(Reader):
    """It does not decide until the client has left."""

    def __init__(self, client: LeavingSink) -> None:
        super().__init__(requests=False, replies=True, holds_blocks=True)
        self.client = client

    async def inspect(self, texts: InspectedTexts) -> Decision:
        self.client.left.set()
        await asyncio.Event().wait()
        return ()


@BOTH_FORMS
async def test_what_an_inspector_reads_when_the_client_disconnects_counts_as_received(stream: bool) -> None:
    client = LeavingSink()
    settings, form = WIRES["chat"]
    built = inspected(answering(form, Reply(texts=["word " * 40], count=50)), WaitingReader(client), **settings)
    await built.post("hello", stream=stream, sink=client)
    (receipt,) = built.receipts
    assert (receipt.outcome, receipt.output_tokens) == ("cancelled", 50)
    assert receipt.input_tokens > 0


@A_TRANSLATION_AND_A_RELAY
@BOTH_FORMS
@pytest.mark.parametrize("fails_open", [True, False])
async def test_a_failing_inspector_of_replies_shows_them_or_ends_them(
    wire: str, stream: bool, fails_open: bool
) -> None:
    settings, form = WIRES[wire]
    reader = Reader(lambda _: 1 / 0, requests=False, replies=True, fails_open=fails_open)
    built = inspected(answering(form, Reply(texts=["Some ", "words"])), reader, **settings)
    sink = await built.post("hello", stream=stream)
    if fails_open:
        assert texts_of(sink) == ["Some words"]
        return
    assert sink.stream == b""
    assert sink.error is not None
    assert sink.error.code == "inspector-unavailable"
    (receipt,) = built.receipts
    assert (receipt.outcome, receipt.error_code, receipt.status) == ("error", "inspector-unavailable", 503)
    assert min(receipt.input_tokens, receipt.output_tokens) > 0


@A_TRANSLATION_AND_A_RELAY
async def test_a_reply_that_is_too_long_for_its_inspector_is_refused(wire: str) -> None:
    settings, form = WIRES[wire]
    reader = Reader(requests=False, replies=True, max_characters=10)
    built = inspected(answering(form, Reply(texts=["0123456", "789abcd", "efghijk"])), reader, **settings)
    message = message_of(await built.post("hello", stream=True))
    assert message["stop_reason"] == "refusal"
    assert (
        message["stop_details"]["explanation"]
        == "The reply is too long for the inspector reader of this proxy, which must read it before."
    )
    assert reader.read == []


async def test_further_targets_get_the_redacted_request_too() -> None:
    bodies: list[bytes] = []

    def upstream(url: str, request: UpstreamRequest, credential: Any) -> FakeResponse:
        bodies.append(request.body)
        if len(bodies) == 1:
            return FakeResponse(500, b'{"error":{"message":"down"}}')
        response: FakeResponse = answering(CHAT, Reply(texts=["ok"]))(url, request, credential)
        return response

    reader = Reader(redact_secret)
    settings = {**OPENAI, "GROQ_API_KEY": "gsk_test0123456789", "FALLBACK_SONNET": "groq/llama-3.3-70b-versatile"}
    built = inspected(upstream, reader, **settings, MODEL_SONNET="openai/gpt-4.1")
    assert texts_of(await built.post(f"Use {SECRET}.")) == ["ok"]
    assert [len(PLACEHOLDER.findall(body.decode())) for body in bodies] == [1] * len(bodies)
    assert len(bodies) > 1
    assert len(reader.read) == 1


async def test_the_tool_loop_searches_with_the_placeholder() -> None:
    searcher = Searcher()
    script = Script(reply(text("?")))
    built = proxy(script, searcher)
    built.services = structs.replace(built.services, inspectors=[Reader(redact_secret)])
    await built.post(f"Use {SECRET}.")
    (placeholder,) = PLACEHOLDER.findall(json.dumps(script.requests[0]))
    script.answers += [calls(call("web_search", query=f"about {placeholder}")), reply(text(f"It is {placeholder}."))]
    sink = await built.post(f"Search {SECRET}.", tools=[SEARCH], stream=True)
    assert [query for query, *_ in searcher.requests] == [f"about {placeholder}"]
    assert "-81" not in json.dumps(script.requests, ensure_ascii=False)
    content = message_of(sink)["content"]
    assert content[0]["input"] == {"query": f"about {SECRET}"}
    assert content[-1]["text"] == f"It is {SECRET}."


async def test_results_of_the_tool_loop_are_read_before_the_model_gets_them() -> None:
    for decide, sent in ((redact_secret, True), (refuse_bombs, False)):
        found = SearchResult(url="https://a.test", title="A bomb", snippet=f"It is {SECRET}, a bomb.")
        searcher, reader = Searcher([found]), Reader(decide)
        script = Script(calls(call("web_search", query="q")), reply(text("Done.")))
        built = proxy(script, searcher)
        built.services = structs.replace(built.services, inspectors=[reader])
        sink = await built.post("Search it.", tools=[SEARCH], stream=True)
        result = message_of(sink)["content"][1]["content"]
        told = json.dumps(script.requests[-1], ensure_ascii=False)
        assert "-81" not in told
        assert (PLACEHOLDER.search(told) is not None) == sent
        if sent:
            assert PLACEHOLDER.search(decode_passage(result[0]["encrypted_content"]))
            assert ("tool_result", f"It is {SECRET}, a bomb.") in reader.passages()
        else:
            assert result == {"type": "web_search_tool_result_error", "error_code": "unavailable"}


class Recorder:
    def __init__(self) -> None:
        self.recorded: dict[RecordPoint, bytes] = {}

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        self.recorded[point] = self.recorded.get(point, b"") + data


async def post_bytes(built: ProxyHarness, **fields: Any) -> bytes:
    """Return the bytes of the response, which a server records."""
    body = {"model": "claude-sonnet-4-5", "max_tokens": 64_000, **fields}
    incoming = new_client_request(json.dumps(body).encode())
    sink = CollectingSink(incoming.receipt)
    await Exchange(built.services, incoming, sink).run()
    return bytes(sink.body)


@A_TRANSLATION_AND_A_RELAY
@BOTH_FORMS
async def test_records_of_contents_have_the_placeholders(wire: str, stream: bool) -> None:
    settings, form = WIRES[wire]
    recorder = Recorder()
    built = inspected(Echo(form), Reader(redact_secret), **settings)
    built.services = structs.replace(built.services, recorders=[recorder])
    assert "é-81".encode() in await post_bytes(built, messages=CONVERSATION, tools=TOOLS, stream=stream)
    assert [*recorder.recorded] == ["client request", "upstream request", "client response"]
    for data in recorder.recorded.values():
        assert b"-81" not in data
        assert PLACEHOLDER.search(data.decode())


def redact_numbers(texts: InspectedTexts) -> Decision:
    return [
        Redaction(place, match.start(), match.end(), "test key")
        for place, passage in enumerate(texts.passages)
        for match in re.finditer(r"K-\d+", passage.text)
    ]


@pytest.mark.parametrize(
    ("values", "pieces", "stream", "is_whole"),
    [(40, 5_000, True, True), (1_000, 400, True, False), (1_000, 0, False, True), (4_000, 0, False, False)],
)
async def test_a_record_tells_that_the_rest_of_a_reply_is_not_in_it(
    values: int, pieces: int, stream: bool, is_whole: bool
) -> None:
    def upstream(url: str, request: UpstreamRequest, credential: Any) -> FakeResponse:
        found = PLACEHOLDER.findall(request.body.decode())
        response: FakeResponse = answering(CHAT, Reply(texts=[" ".join(found), *["so "] * pieces]))(
            url, request, credential
        )
        return response

    recorder = Recorder()
    built = inspected(upstream, Reader(redact_numbers), **OPENAI)
    built.services = structs.replace(built.services, recorders=[recorder])
    text = " ".join(f"K-{number}" for number in range(10_000, 10_000 + values))
    got = await post_bytes(built, messages=[{"role": "user", "content": text}], stream=stream)
    assert text.encode() in got
    recorded = recorder.recorded.get("client response", b"")
    assert b"K-1" not in recorded
    notice = b": the rest is not recorded, because the reply has too many restored values\n\n"
    if is_whole:
        assert recorded[-100:] == got[-100:]
    else:
        assert recorded.endswith(notice) if stream else recorded == b""


async def test_a_refused_request_is_not_recorded() -> None:
    recorder = Recorder()
    built = inspected(Echo(CHAT), Reader(refuse_bombs), **OPENAI)
    built.services = structs.replace(built.services, recorders=[recorder])
    await post_bytes(built, messages=[{"role": "user", "content": "a bomb"}])
    assert recorder.recorded == {}


BATCHES = {"PREFERRED_PROVIDER": "anthropic", **ANTHROPIC}


async def test_token_counts_and_batches_are_inspected() -> None:
    bodies: list[bytes] = []

    def upstream(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        bodies.append(request.body)
        return FakeResponse(200, b'{"input_tokens":3}')

    built = inspected(upstream, Reader(redact_secret), Reader(refuse_bombs, name="law"), **BATCHES)
    params = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": f"Use {SECRET}"}]}
    incoming = new_client_request(json.dumps(params).encode(), path="/v1/messages/count_tokens")
    await count_tokens(built.services, incoming, RecordingSink().wait_disconnected)
    batch = {"requests": [{"custom_id": "a", "params": params}]}
    incoming = new_client_request(json.dumps(batch).encode(), path="/v1/messages/batches")
    await forward_resource(built.services, incoming, "POST", RecordingSink())
    assert [len(PLACEHOLDER.findall(body.decode())) for body in bodies] == [1, 1]
    assert [one.decision for one in incoming.receipt.inspections] == ["redacted", "passed"]
    batch["requests"][0]["params"] = {**params, "system": "bomb"}
    with pytest.raises(InvalidRequest, match=r"\ANo bombs, by rule 7\.\Z"):
        await forward_resource(
            built.services,
            new_client_request(json.dumps(batch).encode(), path="/v1/messages/batches"),
            "POST",
            RecordingSink(),
        )


MANY = ["x"] * 250_001


def replied(**call_or_block: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": [call_or_block]}]}


MANY_TEXTS: dict[str, dict[str, Any]] = {
    "arguments of a call": replied(type="tool_use", id="toolu_1", name="Bash", input={"a": MANY}),
    "keys of arguments": replied(
        type="tool_use", id="toolu_1", name="Bash", input=dict.fromkeys(map("key {}".format, range(250_001)))
    ),
    "a block of a later version": replied(type="later", a=MANY),
    "a schema": {
        "messages": [{"role": "user", "content": "go"}],
        "tools": [{"name": "Bash", "input_schema": {"type": "object", "properties": {"a": {"enum": MANY}}}}],
    },
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("is_batch", [True, False], ids=["batch", "message"])
@pytest.mark.parametrize("case", MANY_TEXTS)
async def test_a_relayed_request_of_too_many_texts_is_refused(case: str, is_batch: bool) -> None:
    params = {"model": "claude-opus-5-5", "max_tokens": 9, **MANY_TEXTS[case]}
    built = inspected(lambda *_: FakeResponse(500), Reader(tool_descriptions=True), **BATCHES)
    sink = RecordingSink()
    if is_batch:
        body = json.dumps({"requests": [{"custom_id": "a", "params": params}]}).encode()
        with pytest.raises(InvalidRequest) as raised:
            await forward_resource(built.services, new_client_request(body, path="/v1/messages/batches"), "POST", sink)
        error: Any = raised.value
    else:
        await Exchange(built.services, new_client_request(json.dumps(params).encode()), sink).run()
        error = sink.error
    assert str(error) == "The request body contains more than 250,000 texts for the inspectors of this proxy."


@pytest.mark.parametrize("wire", ["chat", "relay"])
async def test_many_short_texts_of_a_request_are_counted_as_memory(wire: str) -> None:
    settings, form = WIRES[wire]
    counted: list[int] = []

    def note_memory(_: InspectedTexts) -> Decision:
        counted.append(memory.size)
        return ()

    built = inspected(answering(form, Reply(texts=["ok"])), Reader(note_memory), **settings)
    for texts in (["x"] * 30_000, ["some words of a usual text\n"] * 30_000):
        body = {"model": "claude-opus-5-5", "max_tokens": 9, **replied(type="later", a=texts)}
        incoming = new_client_request(json.dumps(body).encode())
        incoming.memory = memory = BodyMemory(built.services, "ann")
        await Exchange(built.services, incoming, RecordingSink()).run()
    few, none = counted
    assert 850_000 < few < 950_000
    assert none == 0


async def test_files_are_sent_only_if_no_inspector_has_to_read_them() -> None:
    bodies: list[bytes] = []

    def upstream(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        bodies.append(request.body)
        return FakeResponse(200, b"{}")

    for reader in (Reader(fails_open=True), Reader(requests=False, replies=True), Reader(name="law")):
        built = inspected(upstream, reader, **BATCHES)
        request = new_client_request(b"--x", path="/v1/files")
        if reader.scope.name == "law":
            with pytest.raises(InvalidRequest) as caught:
                await forward_resource(built.services, request, "POST", RecordingSink())
            assert caught.value.message == (
                "'/v1/files' is not served, because the inspector law of this proxy cannot read files and skills. "
                "Send the text within a message."
            )
        else:
            await forward_resource(built.services, request, "POST", RecordingSink())
    assert len(bodies) == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "is_sent"),
    [
        ("POST", "/v1/messages/batches/b_1/cancel", b"", True),
        ("POST", "/v1/messages/batches/b_1/cancel", b"{}", True),
        ("POST", "/v1/messages/batches/b_1/cancel", b'{"a":"text"}', False),
        ("DELETE", "/v1/messages/batches", b"text", False),
        ("DELETE", "/v1/files/f_1", b"", True),
        ("DELETE", "/v1/files/f_1", b"text", False),
    ],
)
async def test_no_body_leaves_that_no_inspector_has_read(method: str, path: str, body: bytes, is_sent: bool) -> None:
    bodies: list[bytes] = []

    def upstream(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        bodies.append(request.body)
        return FakeResponse(200, b"{}")

    built = inspected(upstream, Reader(), **BATCHES)
    work = forward_resource(built.services, new_client_request(body, path=path), method, RecordingSink())
    if is_sent:
        await work
        assert bodies == [body]
    else:
        with pytest.raises(InvalidRequest, match=rf"\A'{path}' is not served, because the inspector reader"):
            await work
        assert bodies == []


def sse(*events: dict[str, Any], line_end: str = "\n") -> list[bytes]:
    return [f"event: {one['type']}{line_end}data: {json.dumps(one)}{line_end}{line_end}".encode() for one in events]


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


START = {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}}
START["message"] |= {"content": [], "stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 1}}  # type: ignore[operator]
END = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]


class Relayed:
    """A provider with the Messages API. `@@` in its events stands for the placeholder that it got."""

    def __init__(self, *events: dict[str, Any], line_end: str = "\n") -> None:
        self.frames = sse(START, *events, *END, line_end=line_end)

    def __call__(self, _: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        found = PLACEHOLDER.findall(request.body.decode())
        frames = [frame.replace(b"@@", found[0].encode() if found else b"@@") for frame in self.frames]
        return FakeResponse(200, *frames, headers={"content-type": "text/event-stream"})


TEXT = {"type": "text", "text": ""}
RELAYED_BLOCKS: list[tuple[list[dict[str, Any]], list[Any]]] = [
    (block(0, TEXT, {"type": "text_delta", "text": "It is @@."}), [f"It is {SECRET}."]),
    (block(0, {"type": "tool_use", "id": "t", "name": "Bash", "input": {"a": "it is @@"}}), [{"a": f"it is {SECRET}"}]),
    (
        block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Is it @"},
            {"type": "thinking_delta", "thinking": "@? REDACTED_"},
            {"type": "signature_delta", "signature": "c2ln"},
        ),
        ["Is it @@? REDACTED_"],
    ),
    (
        block(
            0,
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"query": "@@"}'},
        )
        + block(
            1,
            {
                "type": "web_search_tool_result",
                "tool_use_id": "s",
                "content": [{"type": "web_search_result", "title": "@@", "url": "u", "encrypted_content": "@@"}],
            },
        ),
        [{"query": SECRET}],
    ),
]


@pytest.mark.parametrize(("events", "expected"), RELAYED_BLOCKS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
async def test_placeholders_come_back_in_all_blocks_of_a_relay(
    events: list[dict[str, Any]], expected: list[Any], line_end: str
) -> None:
    built = inspected(Relayed(*events, line_end=line_end), Reader(redact_secret), **ANTHROPIC)
    sink = await built.post(f"Use {SECRET}.", stream=True)
    blocks = fold_events(sink.stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))["content"]
    assert [one.get("input") or one.get("thinking") or one.get("text") for one in blocks][: len(expected)] == expected
    if len(blocks) > 1:
        (result,) = blocks[1]["content"]
        assert result["title"] == SECRET
        assert PLACEHOLDER.fullmatch(result["encrypted_content"])


async def test_an_event_without_a_change_passes_as_it_came() -> None:
    events = block(
        0, TEXT, {"type": "text_delta", "text": "caf\u00e9 of REDACTED"}, {"type": "text_delta", "text": " words"}
    )
    odd = Relayed(*events)
    odd.frames = [frame.replace(b'"index": 0', b'"index" :  0, "x":1.0') for frame in odd.frames]
    sink = await inspected(odd, Reader(redact_secret), **ANTHROPIC).post(f"Use {SECRET}.", stream=True)
    unchanged = [frame for frame in odd.frames if b"REDACTED" not in frame and b" words" not in frame]
    assert all(frame in sink.stream for frame in unchanged)
    assert fold_events(sink.stream)["content"][0]["text"] == "caf\u00e9 of REDACTED words"
    assert sink.stream.count(b'"index" :  0, "x":1.0') == 4


async def test_the_text_of_a_block_of_a_later_type_comes_back() -> None:
    events = block(0, {"type": "compaction", "content": ""}, {"type": "compaction_delta", "content": "It was @@."})
    sink = await inspected(Relayed(*events), Reader(redact_secret), **ANTHROPIC).post(f"Use {SECRET}.", stream=True)
    found = [one["delta"]["content"] for one in events_of(sink.stream) if one["type"] == "content_block_delta"]
    assert found == [f"It was {SECRET}."]


CITATION = {"type": "char_location", "cited_text": "It is @@", "document_title": "t", "file_id": "file_1"}
UNREAD_FORMS: dict[str, list[dict[str, Any]]] = {
    "citation": block(0, TEXT, {"type": "citations_delta", "citation": CITATION}),
    "null in unused fields": block(
        0,
        {**TEXT, "name": None, "citations": None},
        {"type": "text_delta", "text": "It is @@", "thinking": None, "partial_json": None, "content": None},
    ),
    "without the first event": block(0, TEXT, {"type": "text_delta", "text": "It is @@"})[1:],
    "index that is no number": [{**one, "index": None} for one in block(0, TEXT, {"type": "text_delta", "text": "@@"})],
    "delta of a later type": block(0, {"type": "later"}, {"type": "later_delta", "words": ["It is @@"]}),
    "event of a later type": [{"type": "later", "words": ["It is @@"]}],
    "delta with a list": block(0, {"type": "later"}, {"type": "later_delta", "content": [{"name": "It is @@"}]}),
}


@pytest.mark.parametrize("form", UNREAD_FORMS)
async def test_each_form_of_an_event_is_read_and_restored(form: str) -> None:
    events = UNREAD_FORMS[form]
    sink = await inspected(Relayed(*events), Reader(redact_secret), **ANTHROPIC).post(f"Use {SECRET}.", stream=True)
    assert json.dumps(SECRET, ensure_ascii=False)[1:-1] in sink.stream.decode()
    assert b"REDACTED" not in sink.stream
    reader = Reader(refuse_bombs, requests=False, replies=True)
    bombs = json.loads(json.dumps(events).replace("@@", "a bomb"))
    sink = await inspected(Relayed(*bombs), reader, **ANTHROPIC).post("hello", stream=True)
    assert b"a bomb" not in sink.stream
    assert b"No bombs, by rule 7." in sink.stream


_TEXT_OF_CLIENTS = b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "delta": '
BESIDE_EVENTS = {
    "comment": b": a bomb\n\n",
    "comment in an event": b': a bomb\nevent: ping\ndata: {"type": "ping"}\n\n',
    "comment at the end of an event": b'event: ping\r\ndata: {"type": "ping"}\r\n:a bomb\r\n\r\n',
    "id": b'id: a bomb\nevent: ping\ndata: {"type": "ping"}\n\n',
    "time": b"retry: a bomb\n\n",
    "name": b'event: a bomb\ndata: {"type": "ping"}\n\n',
    "line that is no field": b"a bomb\n\n",
    "field of a later version": b'note: a bomb\ndata: {"type": "ping"}\n\n',
    "data that is no JSON": b"event: ping\ndata: a bomb\n\n",
    "data that is a string": b'event: ping\ndata: "a bomb"\n\n',
    "data that is a list": b'data: ["a bomb"]\n\n',
    "ping": b'event: ping\ndata: {"type": "ping", "note": "a bomb"}\n\n',
    "ping with a known field": b'event: ping\ndata: {"type": "ping", "delta": {"text": "a bomb"}}\n\n',
    "field of a fragment": _TEXT_OF_CLIENTS + b'{"type": "text_delta", "text": "b"}, "note": ["a bomb"]}\n\n',
    "field of a fragment that is there twice": _TEXT_OF_CLIENTS
    + b'{"type": "text_delta", "text": "b"}, "note": "a bomb", "note": "c"}\n\n',
    "second text of a fragment": _TEXT_OF_CLIENTS + b'{"type": "text_delta", "text": "b", "thinking": "a bomb"}}\n\n',
    "text of another type": _TEXT_OF_CLIENTS + b'{"type": "text_delta", "thinking": "a bomb"}}\n\n',
}
"""What clients get beside the texts of a relayed stream."""


@pytest.mark.parametrize("place", BESIDE_EVENTS)
async def test_nothing_of_a_relayed_stream_passes_that_no_inspector_reads(place: str) -> None:
    relayed = Relayed(*block(0, TEXT, {"type": "text_delta", "text": "Well"}))
    frames = relayed.frames
    for position in (2, len(frames) - 1):  # within the block, and before the end
        relayed.frames = [*frames[:position], BESIDE_EVENTS[place], *frames[position:]]
        reader = Reader(refuse_bombs, requests=False, replies=True)
        sink = await inspected(relayed, reader, **ANTHROPIC).post("hello", stream=True)
        assert b"a bomb" not in sink.stream
        is_ended = b"No bombs, by rule 7." in sink.stream or b"event: error" in sink.stream
        assert is_ended or fold_events(sink.stream)["content"][0]["text"] in ("Well", "bWell", "Wellb")
    plain = await inspected(relayed, Reader(redact_secret), **ANTHROPIC).post(f"Use {SECRET}.", stream=True)
    is_repaired = place in ("name", "field of a fragment that is there twice")
    assert (b"a bomb" in plain.stream) != is_repaired, "without a reader of replies, all passes"


async def test_a_refusal_a_stop_sequence_and_an_error_of_a_relay_are_restored() -> None:
    relayed = Relayed()
    details = {"type": "refusal", "category": None, "explanation": "Not @@."}
    delta = {"stop_reason": "refusal", "stop_sequence": "@@", "stop_details": details}
    relayed.frames = sse(START, {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}}, END[1])
    sink = await inspected(relayed, Reader(redact_secret), **ANTHROPIC).post(f"Use {SECRET}.", stream=True)
    (found,) = [one["delta"] for one in events_of(sink.stream) if one["type"] == "message_delta"]
    assert (found["stop_sequence"], found["stop_details"]["explanation"]) == (SECRET, f"Not {SECRET}.")


async def test_a_stop_sequence_and_a_refusal_of_a_translation_are_restored() -> None:
    settings, form = WIRES["responses"]
    built = inspected(Echo(form), Reader(redact_secret), **settings)
    message = message_of(await built.post(f"Use {SECRET}.", stream=True, stop_sequences=[SECRET]))
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", SECRET)
    assert message["content"] == [{"type": "text", "text": "The key is "}]


async def test_a_citation_of_a_translation_is_read_and_redacted() -> None:
    quoted = {"url": "https://a.test", "title": "t", "start_index": 0, "end_index": 3, "content": f"It is {SECRET}"}
    mark = {"annotations": [{"type": "url_citation", "url_citation": quoted}]}
    settings = {"OPENAI_API_KEY": "sk-or-0123456789", "OPENAI_BASE_URL": "https://openrouter.ai/api/v1"}
    reader = Reader(redact_secret, requests=False, replies=True)
    built = inspected(Script(reply(text("Yes."), mark)), reader, **settings, BIG_MODEL="openai/m")
    message = message_of(await built.post("hello", stream=True, tools=[SEARCH]))
    found = json.dumps(message, ensure_ascii=False)
    assert '"cited_text": "It is [test key]"' in found
    assert "-81" not in found


SOURCE = {"type": "text", "media_type": "text/plain", "data": "The key is a word."}
CITED = {"type": "document", "source": SOURCE, "citations": {"enabled": True}}


CITED_QUESTION = [{"role": "user", "content": [CITED]}]
WORD = find_word(CITED_QUESTION)


async def test_a_citation_within_a_text_of_a_relay_does_not_divide_it() -> None:
    fragments = [
        {"type": "text_delta", "text": f"It is {SECRET[:4]}"},
        {"type": "text_delta", "text": f"{SECRET[4:]}."},
    ]
    citation = {"type": "citations_delta", "citation": {**CITATION, "cited_text": "c"}}
    relayed = Relayed(*block(0, TEXT, fragments[0], citation, fragments[1]))
    reader = Reader(redact_secret, requests=False, replies=True)
    sink = await inspected(relayed, reader, **ANTHROPIC).post("hello", stream=True)
    (shown,) = fold_events(sink.stream)["content"]
    assert (shown["text"], [one["cited_text"] for one in shown["citations"]]) == ("It is [test key].", ["c"])


@BOTH_FORMS
async def test_a_mark_of_a_citation_does_not_divide_what_the_inspectors_read(stream: bool) -> None:
    reader = Reader(redact_secret, requests=False, replies=True)
    built = inspected(Script(reply(text(f"It is <{WORD} 1>{SECRET}</{WORD}>."))), reader, **OPENAI)
    message = message_of(await built.post(messages=CITED_QUESTION, stream=stream))
    (quoted,) = message["content"][1].pop("citations")
    assert quoted["cited_text"] == "The key is a word."
    shown = [{"type": "text", "text": written} for written in ("It is ", "[test key]", ".")]
    assert message["content"] == shown


@pytest.mark.parametrize("reads_replies", [True, False])
async def test_an_event_that_is_no_json_is_shown_only_if_nobody_has_to_read_it(reads_replies: bool) -> None:
    relayed = Relayed(*block(0, TEXT, {"type": "text_delta", "text": "a bomb"}))
    relayed.frames = [
        frame.replace(b'"index": 0, "delta"', b'"x": 01, "index": 0, "delta"') for frame in relayed.frames
    ]
    reader = Reader(refuse_bombs, requests=True, replies=reads_replies)
    sink = await inspected(relayed, reader, Reader(redact_secret), **ANTHROPIC).post(f"Use {SECRET}.", stream=True)
    assert (b"a bomb" in sink.stream) == (not reads_replies)
    if reads_replies:
        error = events_of(sink.stream)[-1]["error"] if sink.error is None else {"message": sink.error.message}
        assert error["message"] == "anthropic: an event of the reply is not valid JSON"


async def test_a_restored_value_in_arguments_that_were_cut_is_spelled_for_them() -> None:
    def upstream(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        placeholder = PLACEHOLDER.findall(request.body.decode())[0]
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        cut = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}}
        events = block(
            0,
            {"type": "tool_use", "id": "t", "name": "Bash", "input": {}},
            {"type": "input_json_delta", "partial_json": f'{{"command": "echo {placeholder}'},
        )
        return FakeResponse(200, *sse(START, *events, cut, END[1]), headers={"content-type": "text/event-stream"})

    built = inspected(upstream, Reader(redact_secret), **ANTHROPIC)
    sink = await built.post(f"Use {SECRET}.", stream=True, tools=TOOLS)
    pieces = [one["delta"]["partial_json"] for one in events_of(sink.stream) if one["type"] == "content_block_delta"]
    spelled = json.dumps(SECRET, ensure_ascii=False)[1:-1]
    assert "".join(pieces) == f'{{"command": "echo {spelled}'


@in_virtual_time
@pytest.mark.parametrize("path", ["messages", "count_tokens", "batches"])
async def test_an_inspection_ends_when_the_client_disconnects(path: str) -> None:
    class Leaving(RecordingSink):
        async def wait_disconnected(self) -> None:
            await asyncio.sleep(1)

    class Waiting(Reader):
        ended_at = 0.0

        async def inspect(self, texts: InspectedTexts) -> Decision:
            try:
                await asyncio.sleep(9)
            finally:
                self.ended_at = asyncio.get_running_loop().time()
            return ()

    bodies: list[bytes] = []
    reader, sink = Waiting(timeout_seconds=10.0), Leaving()
    built = inspected(answering(MESSAGES, Reply(texts=["ok"]), bodies), reader, **BATCHES)
    params = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    started_at = asyncio.get_running_loop().time()
    if path == "messages":
        incoming = new_client_request(json.dumps(params).encode())
        await Exchange(built.services, incoming, sink).run()
        assert (incoming.receipt.outcome, incoming.receipt.status) == ("cancelled", 0)
    else:
        body = params if path == "count_tokens" else {"requests": [{"custom_id": "a", "params": params}]}
        incoming = new_client_request(json.dumps(body).encode(), path=f"/v1/messages/{path}")
        work: Any = count_tokens(built.services, incoming, sink.wait_disconnected)
        if path == "batches":
            work.close()
            work = forward_resource(built.services, incoming, "POST", sink)
        with pytest.raises(ClientDisconnected):
            await work
    assert bodies == []
    assert sink.error is None
    assert reader.ended_at - started_at == pytest.approx(1, abs=0.05)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_event_with_half_a_character_is_read() -> None:
    relayed = Relayed(*block(0, TEXT, {"type": "text_delta", "text": "It is @@."}))
    relayed.frames = [frame.replace(b"It is", b"\\ud83d It is") for frame in relayed.frames]
    sink = await inspected(relayed, Reader(redact_secret), **ANTHROPIC).post(f"Use {SECRET}.", stream=True)
    assert f"It is {SECRET}." in json.loads(sink.stream.split(b"data: ")[3].split(b"\n")[0])["delta"]["text"]


async def test_an_event_in_several_lines_is_read() -> None:
    relayed = Relayed(*block(0, TEXT, {"type": "text_delta", "text": "It is @@."}))
    relayed.frames = [frame.replace(b', "delta"', b',\ndata: "delta"') for frame in relayed.frames]
    sink = await inspected(relayed, Reader(redact_secret), **ANTHROPIC).post(f"Use {SECRET}.", stream=True)
    assert fold_events(sink.stream)["content"][0]["text"] == f"It is {SECRET}."


@A_TRANSLATION_AND_A_RELAY
@pytest.mark.parametrize("reads_replies", [False, True])
async def test_of_a_broken_reply_no_text_is_shown_that_was_not_read(wire: str, reads_replies: bool) -> None:
    settings, form = WIRES[wire]
    whole = form.stream(Reply(texts=["Some words REDAC"]))
    frames = [*whole[: 1 + next(place for place, frame in enumerate(whole) if b"REDAC" in frame)]]
    readers = [Reader(redact_secret), *([Reader(name="whole", replies=True)] if reads_replies else [])]
    built = inspected(lambda *_: FakeResponse(200, *frames, UpstreamUnreachable("gone")), *readers, **settings)
    sink = await built.post(f"Use {SECRET}.", stream=True)
    texts = [one["delta"]["text"] for one in events_of(sink.stream) if one["type"] == "content_block_delta"]
    assert "".join(texts) == ("" if reads_replies else "Some words REDAC")
    if reads_replies and wire == "chat":  # nothing was sent, so the error has its status
        assert sink.error is not None
    else:
        assert events_of(sink.stream)[-1]["type"] == "error"


async def test_calls_leave_in_their_order_each_when_it_is_complete() -> None:
    def part(index: int, text: str, **more: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, "function": {"arguments": text}, **more}]}

    def begin(index: int, text: str) -> dict[str, Any]:
        call = {"index": index, "id": f"call_{index}", "type": "function"}
        return {"tool_calls": [{**call, "function": {"name": "Bash", "arguments": text}}]}

    deltas = [begin(0, '{"a":'), begin(1, '{"b":'), part(0, "1}"), part(1, "2}")]
    built = inspected(Script(calls(text("Both. "), *deltas)), Reader(replies=True), **OPENAI)
    sink = await built.post("hello", stream=True, tools=TOOLS)
    assert texts_of(sink) == ["Both. ", {"a": 1}, {"b": 2}]


@in_virtual_time
async def test_a_long_call_of_a_relay_is_held_with_pings() -> None:
    class Slow(FakeResponse):
        async def read(self) -> bytes:
            await asyncio.sleep(2)
            return await super().read()

    pieces = ['{"a": "', *["word "] * 10, '"}']
    events = block(
        0,
        {"type": "tool_use", "id": "t", "name": "Bash", "input": {}},
        *({"type": "input_json_delta", "partial_json": piece} for piece in pieces),
    )
    frames = sse(START, *events, *END)
    reader = Reader(replies=True)
    sink = await inspected(lambda *_: Slow(200, *frames), reader, **ANTHROPIC).post("hello", stream=True)
    kinds = [one["type"] for one in events_of(sink.stream)]
    assert kinds[:6] == ["message_start", *["ping"] * 4, "content_block_start"]
    assert fold_events(sink.stream)["content"][0]["input"] == {"a": "word " * 10}


async def test_processes_of_one_store_have_the_same_placeholders() -> None:
    upstream = Echo(CHAT)
    first, second = (inspected(upstream, Reader(redact_secret), **OPENAI) for _ in range(2))
    second.services = structs.replace(second.services, store=first.services.store)
    for built in (first, second):
        await built.post(f"Use {SECRET}.")
    one, other = (PLACEHOLDER.findall(body.decode())[0] for body in upstream.bodies)
    assert one == other


@pytest.mark.parametrize(("client", "other_client", "is_same_owner"), PAIRS_OF_CLIENTS)
async def test_each_owner_has_placeholders_of_its_own(
    client: Client, other_client: Client, is_same_owner: bool
) -> None:
    upstream = Echo(CHAT)
    built = inspected(upstream, Reader(redact_secret), **OPENAI)
    body = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": CONVERSATION}).encode()
    for one in (client, other_client):
        await Exchange(built.services, new_client_request(body, client=one), RecordingSink()).run()
    first, second = (PLACEHOLDER.findall(body.decode())[0] for body in upstream.bodies)
    assert (first == second) == is_same_owner


async def test_redactions_go_on_while_the_store_is_unavailable() -> None:
    class Down(MemoryStore):
        async def get(self, key: str) -> str | None:
            raise StoreUnavailable

    built = inspected(Echo(CHAT), Reader(redact_secret), **OPENAI)
    built.services = structs.replace(built.services, store=Down())
    assert texts_of(await built.post(f"Use {SECRET}.", tools=TOOLS))[0] == f"The key is {SECRET}."


TEXTS = st.text(max_size=12).map(lambda word: word.replace(SECRET[0], "")) | st.just(SECRET)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def replaced(value: Any, placeholder: str) -> Any:
    if isinstance(value, str):
        return value.replace(SECRET, placeholder)
    if isinstance(value, list):
        return [replaced(one, placeholder) for one in value]
    if isinstance(value, dict):
        return {replaced(key, placeholder): replaced(one, placeholder) for key, one in value.items()}
    return value


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=4),
    arguments=st.dictionaries(st.text("ab", max_size=3), VALUES, max_size=3),
    ascii_only=st.booleans(),
    indent=st.none() | st.integers(0, 2),
)
async def test_all_texts_of_any_request_are_found_and_nothing_else_changes(
    texts: list[str], arguments: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    bodies: list[bytes] = []
    built = inspected(answering(MESSAGES, Reply(texts=["ok"]), bodies), Reader(redact_secret), **ANTHROPIC)
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    call_block = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": arguments}
    body = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 9,
        "system": blocks,
        "messages": [{"role": "user", "content": f"{SECRET}"}, {"role": "assistant", "content": [*blocks, call_block]}],
    }
    encoded = json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace")
    await Exchange(built.services, new_client_request(encoded), RecordingSink()).run()
    (placeholder, *_) = PLACEHOLDER.findall(bodies[0].decode())
    expected = replaced(json.loads(encoded), placeholder)
    assert json.loads(bodies[0]) == expected
