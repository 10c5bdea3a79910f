"""Ollama's wire: the types of its own package, complete replies, and a case for each quirk."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.engine.messages.deltas import Delta, Stop, Text, Thinking, ToolArgs, ToolCall, ToolEnd, Usage
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import TargetLimits, prepare
from anthropic_proxy.engine.wires import ollama
from anthropic_proxy.engine.wires.contract import Call, Credential, UpstreamRequest
from anthropic_proxy.engine.wires.framing import NDJSONReader
from anthropic_proxy.engine.wires.ollama.request import encode_parameters
from anthropic_proxy.engine.wires.tool_call_repair import OPENED_THINKING_TAGS
from anthropic_proxy.errors import UpstreamError
from tests.support.decoding import decode_whole
from tests.support.dialect_fields import changes_a_scenario, missing_proofs
from tests.support.fakes.ollama.models import MODELS, Model, find_model
from tests.support.fakes.ollama.rules import check_body
from tests.support.fakes.ollama.shapes import check
from tests.support.golden_runner import find_cases
from tests.support.harness import FakeResponse, ProxyHarness

FOLDERS = find_cases("ollama")
IN_THE_CLOUD = MODELS["gpt-oss:120b-cloud"]
LIKE_ALL = Model("any", 131_072, ("completion", "tools", "thinking", "vision"), 1)


def new_call(*tools: str, stream: bool = True, effort: str = "default", **dialect: Any) -> Call:
    body = {
        "model": "claude",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": name, "input_schema": {"type": "object"}} for name in tools],
    }
    prepared = prepare(decode_request(msgspec.json.encode(body)), TargetLimits())
    count = iter(range(1, 1_000_000))
    return Call(
        request=structs.replace(prepared.request, effort=effort),
        model="m",
        dialect=ollama.Dialect(**dialect),
        streams_upstream=stream,
        new_id=lambda prefix: f"{prefix}{next(count):022d}",
        provider="ollama",
    )


def decode_stream(body: bytes, call: Call | None = None) -> list[Delta]:
    """Return the deltas of a stream. `call`: None for a call without tools."""
    decoder, reader = ollama.WIRE.new_decoder(call or new_call()), NDJSONReader()
    deltas = [delta for frame in reader.feed(body) + reader.finish() for delta in decoder.decode_frame(frame)]
    return deltas + decoder.decode_end()


EMPTY_ENTRIES: list[dict[str, Any]] = [
    {},
    {"function": None},
    {"function": {}},
    {"function": {"name": "", "arguments": {}}},
    {"function": {"name": "", "arguments": ""}},
    {"function": {"name": None, "arguments": None}},
    {"id": "call_1", "function": {"name": "", "arguments": {}}},
]


@pytest.mark.parametrize("repairs_names", [False, True])
@pytest.mark.parametrize("tools", [("look",), ("look", "move")])
@pytest.mark.parametrize("entry", EMPTY_ENTRIES)
def test_an_empty_entry_of_tool_calls_is_no_call(
    entry: dict[str, Any], tools: tuple[str, ...], repairs_names: bool
) -> None:
    dialect = {"thinking_tags": OPENED_THINKING_TAGS, "repairs_tool_names": repairs_names}
    messages = [{"content": text, "tool_calls": [entry]} for text in ("<thi", "nk>Hm</think>Hel", "lo")]
    lines = [{"message": message} for message in messages] + [{"done": True, "done_reason": "stop"}]
    body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    expected = [Thinking("Hm"), Text("Hel"), Text("lo"), Stop("end_turn")]
    assert decode_stream(body, new_call(*tools, **dialect)) == expected
    whole = {"message": {"content": "Hello", "tool_calls": [entry]}, "done": True}
    decoder = ollama.WIRE.new_decoder(new_call(*tools, stream=False, repairs_tool_names=repairs_names))
    assert decode_whole(decoder, msgspec.json.encode(whole)) == [Text("Hello"), Stop("end_turn")]


# Every request, judged by Ollama's own types and by the stand-in


def golden_requests() -> list[Any]:
    paths = [folder / "expected_upstream_request.json" for folder in FOLDERS]
    bodies = {path.parent.name: json.loads(path.read_text("utf-8"))["body"] for path in paths if path.exists()}
    return [pytest.param(body, id=name) for name, body in bodies.items()]


@pytest.mark.parametrize("body", golden_requests())
def test_the_fake_server_accepts_every_request(body: Any) -> None:
    """Models are looked up in the fake server.

    Scenarios about missing abilities of a model violate only those rules.
    """
    found = find_model(body["model"])
    model = found[1] if found else IN_THE_CLOUD if body["model"].endswith(":cloud") else LIKE_ALL
    broken = {breach.rule for breach in check_body(body, body["model"], model)}
    assert broken <= {"no_thinking", "no_tools", "no_chat", "no_vision"}


# Quirks


@pytest.mark.parametrize("field", ollama.Dialect.__annotations__)
def test_every_quirk_changes_a_scenario(field: str) -> None:
    assert changes_a_scenario(ollama, field), f"nothing changes when {field} is reset"


def test_what_quirks_name_as_proof_exists() -> None:
    assert missing_proofs(ollama) == {}


# Complete replies


# Odd answers


def test_variants_of_compatible_servers_are_decoded() -> None:
    """Arguments as text, no arguments at all, null for nothing, an end that is sent twice."""
    lines = (
        b'{"message":{"role":"assistant","content":null,"thinking":null,"tool_calls":null},"done":false}\n'
        b'{"message":{"tool_calls":[{"id":"call_1","function":{"name":"a","arguments":"{\\"x\\":1}"}}]}}\n'
        b'{"message":{"tool_calls":[{"id":"call_1","function":{"name":"b","arguments":null}}]}}\n'
        b'{"message":{"tool_calls":[{"function":{"name":"c"}}]},"done":true,"done_reason":"new","eval_count":3}\n'
        b'{"done":true,"done_reason":"length"}'
    )
    fresh = [f"toolu_px{number:022d}" for number in (1, 2)]
    assert decode_stream(lines) == [
        *(ToolCall(0, "call_1", "a"), ToolArgs(0, '{"x":1}'), ToolEnd(0), ToolCall(1, fresh[0], "b"), ToolEnd(1)),
        *(ToolCall(2, fresh[1], "c"), ToolEnd(2), Usage(output_tokens=3), Stop("end_turn")),
    ]


@pytest.mark.parametrize("line", [b"[]", b'"text"', b"null", b'{"message":[]}', b'{"message":{"content":1}}', b"\xff"])
def test_a_line_of_another_shape_is_a_failure_of_the_server(line: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        decode_stream(line + b"\n")
    assert caught.value.status == 502


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_any_line_is_deltas_or_an_upstream_error(line: Any) -> None:
    frame = line if isinstance(line, bytes) else msgspec.json.encode({"message": line, "error": line})
    decoder = ollama.WIRE.new_decoder(new_call())
    try:
        decoder.decode_frame(frame)
    except UpstreamError:
        return


# Schemas

NAMES = st.sampled_from(["type", "default", "a", "$ref", "items"])
VALUES = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["string", "object", "#/$defs/a", "", "x" * 300])
)
KEYWORDS = st.sampled_from(
    [
        *("type", "description", "enum", "const", "items", "properties", "required", "anyOf", "oneOf", "allOf", "$ref"),
        *("$defs", "additionalProperties", "minimum", "format", "not", "prefixItems", "patternProperties", "title"),
    ]
)
SCHEMAS = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYWORDS, inner, max_size=5)
        | st.dictionaries(NAMES, inner, max_size=3)
    ),
    max_leaves=12,
)


@given(SCHEMAS)
def test_any_schema_becomes_one_that_the_server_can_read(schema: Any) -> None:
    parameters, description, _, _ = encode_parameters(schema)
    assert list(check(parameters, "ToolFunctionParameters", "parameters")) == []
    assert isinstance(description, str)


def test_what_is_too_long_for_a_description_is_reported() -> None:
    _, _, lost, _ = encode_parameters({"type": "object", "properties": {"a": {"pattern": "x" * 300}}})
    assert lost == ("pattern is not sent: it is too long for a description",)


# Learning from refusals

REPLY = b'{"message":{"role":"assistant","content":"well"},"done":true,"done_reason":"stop","eval_count":1}'
SHOWN = {
    "model_info": {"general.architecture": "x", "x.context_length": 8_192},
    "capabilities": ["completion", "thinking"],
}


class Server:
    """Answers `/api/show`, and refuses chats as long as a rule finds fault with them."""

    def __init__(self, refusal: str = "", finds_fault: Any = lambda body: False, shown: Any = SHOWN) -> None:
        self.chats: list[Any] = []
        self.shows = 0
        self._refusal = refusal
        self._finds_fault = finds_fault
        self._shown = shown

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.path == "/api/tags":
            return FakeResponse(404)
        body = json.loads(request.body)
        if request.path == "/api/show":
            self.shows += 1
            return FakeResponse(200, msgspec.json.encode(self._shown)) if self._shown else FakeResponse(404, b"{}")
        self.chats.append(body)
        return (
            FakeResponse(400, msgspec.json.encode({"error": self._refusal}))
            if self._finds_fault(body)
            else FakeResponse(200, REPLY)
        )


@pytest.mark.parametrize(
    ("model", "refusal", "finds_fault", "then"),
    [
        ("x", '"x" does not support thinking', lambda body: body.get("think"), None),
        (
            "gpt-oss",
            "json: cannot unmarshal string into Go struct field ChatRequest.think of type bool",
            lambda body: isinstance(body.get("think"), str),
            True,
        ),
        (
            "x",
            'think value "high" is not supported for this model',
            lambda body: isinstance(body.get("think"), str),
            True,
        ),
    ],
)
async def test_a_model_that_refuses_to_think_is_asked_without(
    model: str, refusal: str, finds_fault: Any, then: Any
) -> None:
    server = Server(refusal, finds_fault)
    proxy = ProxyHarness(server, PREFERRED_PROVIDER="ollama", BIG_MODEL=f"ollama/{model}")
    for _ in range(2):
        kept = await proxy.post(output_config={"effort": "high"})
        assert kept.body["content"] == [{"type": "text", "text": "well"}]
    assert [body.get("think") for body in server.chats[1:]] == [then, then]
    assert len(server.chats) == 3


async def test_other_refusals_stand() -> None:
    server = Server("registry.ollama.ai/library/x does not support tools", lambda body: True)
    proxy = ProxyHarness(server, PREFERRED_PROVIDER="ollama", BIG_MODEL="ollama/x")
    kept = await proxy.post()
    assert (kept.error.status, len(server.chats)) == (400, 1)
