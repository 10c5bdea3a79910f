"""The Gemini wire beyond its golden cases: complete replies, the types of the official SDK, properties."""

import base64
import itertools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.engine.exchange.client_side import encode_message
from anthropic_proxy.engine.messages.deltas import Delta, Text, ToolArgs
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import prepare
from anthropic_proxy.engine.wires import gemini
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.framing import SSEReader
from anthropic_proxy.engine.wires.gemini.schema import encode_parameter_schema, encode_reply_schema
from anthropic_proxy.engine.wires.json_repair import repair_json
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from tests.support.decoding import new_limits
from tests.support.fold import fold
from tests.support.paths import GOLDEN

CASES = GOLDEN / "gemini"
VIEW = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
BEFORE_3 = {"requires_signatures": False, "accepts_media_in_results": False}


def a_call(
    *messages: Any,
    stream: bool = True,
    dialect: dict[str, Any] | None = None,
    efforts: Sequence[str] = (),
    **fields: Any,
) -> TranslatedCall:
    body = {"model": "claude-sonnet-4-6", "max_tokens": 1024, "messages": list(messages) or [user("Hi")], **fields}
    spoken = gemini.Dialect(**(dialect or {}))
    limits = new_limits(
        accepts_images=True,
        accepts_pdf=True,
        efforts=efforts,
        thinking_budgets=spoken.thinking_budgets,
        accepts_thinking_budget=spoken.accepts_thinking_budget,
        server_tools=spoken.server_tools,
        tool_name_pattern=spoken.tool_name_pattern,
        max_tool_name_length=spoken.max_tool_name_length,
    )
    prepared = prepare(decode_request(json.dumps(body).encode()), limits)
    count = itertools.count(1)
    return TranslatedCall(
        request=prepared.request,
        model="gemini-3.6-flash",
        dialect=spoken,
        streams_upstream=stream,
        client_tool_names=prepared.aliases,
        new_id=lambda prefix: f"{prefix}{next(count):022d}",
        provider_prefix="google",
    )


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content) if not isinstance(content[0], str) else content[0]}


def body_of(request: UpstreamRequest) -> Any:
    return json.loads(request.body)


def a_frame(*parts: Any, finish: str | None = None, **fields: Any) -> bytes:
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return json.dumps({"candidates": [candidate | fields]}).encode()


def decoded(*frames: bytes, call: TranslatedCall | None = None) -> list[Delta]:
    decoder = gemini.WIRE.new_decoder(call or a_call())
    return [delta for frame in frames for delta in decoder.decode_frame(frame)] + decoder.decode_end()


def message_of(deltas: list[Delta]) -> Any:
    whole = fold(
        deltas, message_id="msg_1", model="claude-sonnet-4-6", signature="px1.gem.e30", estimated_input_tokens=1
    )
    return json.loads(encode_message(whole))


@pytest.mark.parametrize("folder", sorted(CASES.glob("*/*/expected_upstream_request.json")), ids=str)
def test_the_official_sdk_knows_everything_that_is_sent(folder: Path) -> None:
    from google.genai import types

    body = json.loads(folder.read_bytes())["body"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an enum's unknown value is only warned of
        for content in [*body["contents"], body.get("systemInstruction", {})]:
            types.Content.model_validate(content)
        for tool in body.get("tools", []):
            types.Tool.model_validate(tool)
        types.ToolConfig.model_validate(body.get("toolConfig", {}))
        types.GenerationConfig.model_validate(body["generationConfig"])
    assert set(body) <= {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig"}


@pytest.mark.parametrize("path", sorted(CASES.glob("*/*/upstream.sse")), ids=lambda path: path.parent.name)
def test_the_official_sdk_knows_everything_that_scenarios_answer(path: Path) -> None:
    from google.genai import types

    for frame in SSEReader().feed(path.read_bytes()):
        if not frame.startswith(b"{"):  # a text or a page in place of a reply
            continue
        reply = json.loads(repair_json(frame))
        if isinstance(reply, dict) and "error" not in reply:
            types.GenerateContentResponse.model_validate(reply)


signatures = st.binary(min_size=1, max_size=90).map(lambda data: base64.b64encode(data).decode())


@given(st.lists(st.none() | signatures, min_size=1, max_size=4), st.booleans())
def test_signatures_come_back_as_they_were(given_signatures: list[str | None], thinks: bool) -> None:
    parts: list[Any] = [{"text": "Let me see.", "thought": True}] if thinks else []
    for number, signature in enumerate(given_signatures):
        part: dict[str, Any] = {"functionCall": {"name": "look", "args": {"at": number}}}
        parts.append(part if signature is None else part | {"thoughtSignature": signature})
    message = message_of(decoded(a_frame(*parts, finish="STOP")))
    ids = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": one, "content": "seen"} for one in ids]
    history = [user("Look."), {"role": "assistant", "content": message["content"]}, user(*results)]
    _, calls, answers = body_of(gemini.WIRE.encode_request(a_call(*history, tools=[VIEW], dialect=BEFORE_3)))[
        "contents"
    ]
    assert [part.get("thoughtSignature") for part in calls["parts"]] == given_signatures
    assert [part["functionCall"]["args"] for part in calls["parts"]] == [{"at": n} for n in range(len(ids))]
    assert [part["functionResponse"]["id"] for part in answers["parts"]] == ids
    strict = body_of(gemini.WIRE.encode_request(a_call(*history, tools=[VIEW])))["contents"][1]["parts"]
    assert strict[0]["thoughtSignature"] == (given_signatures[0] or "skip_thought_signature_validator")
    assert [part.get("thoughtSignature") for part in strict[1:]] == given_signatures[1:]


SEARCHES = {"type": "web_search_20250305", "name": "web_search"}


def test_searches_beside_calls_come_back_as_they_were() -> None:
    call = {"toolType": "GOOGLE_SEARCH_WEB", "args": {"queries": ["population of Brisbane", "mayor"]}, "id": "s1"}
    result = {"toolType": "GOOGLE_SEARCH_WEB", "response": {"search_suggestions": "<b>…</b>"}, "id": "s1"}
    parts = [
        {"toolCall": call, "thoughtSignature": "QUJD"},
        {"functionCall": {"name": "look", "args": {}, "id": "f1"}},
        {"toolResponse": result, "thoughtSignature": base64.b64encode(b"x" * 86_000).decode()},
    ]
    tools = [VIEW, SEARCHES]
    reply = message_of(decoded(a_frame(*parts, finish="STOP"), call=a_call(tools=tools)))
    answer = {"type": "tool_result", "tool_use_id": "f1", "content": "seen"}
    history = [user("Look."), {"role": "assistant", "content": reply["content"]}, user(answer)]
    _, said, _ = body_of(gemini.WIRE.encode_request(a_call(*history, tools=tools)))["contents"]
    assert said == {"role": "model", "parts": [parts[0], {"functionCall": parts[1]["functionCall"]}, parts[2]]}
    elsewhere = structs.replace(a_call(*history, tools=tools), model="gemini-4-argon")
    _, said, _ = body_of(gemini.WIRE.encode_request(elsewhere))["contents"]
    assert said["parts"] == [
        {"text": "[web_search: population of Brisbane, mayor]"},
        {"text": "[no results listed]"},
        {"functionCall": parts[1]["functionCall"], "thoughtSignature": "skip_thought_signature_validator"},
    ]


REFUSED = [
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "MODEL_ARMOR", "ESCALATION"),
    *("PUP_LIMITED_DISABLED", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_OTHER", "IMAGE_RECITATION"),
]
ENDED = ["STOP", "FINISH_REASON_UNSPECIFIED", "OTHER", "TOO_MANY_TOOL_CALLS", "NO_IMAGE"]
BROKEN = ["MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE"]
REASONS = {
    **dict.fromkeys(REFUSED, "refusal"),
    **dict.fromkeys([*ENDED, "SOMETHING_NEW"], "end_turn"),
    **dict.fromkeys(["MAX_TOKENS", "CONTINUATION"], "max_tokens"),
}


def test_every_finish_reason_of_the_official_sdk_is_known() -> None:
    from google.genai import types

    assert {one.value for one in types.FinishReason} <= set(REASONS) | set(BROKEN)


def test_arguments_are_passed_as_they_were_written() -> None:
    args = '{"n": 12345678901234567890.0, "b":1e2,"a" : "\\u00e9" }'
    frame = a_frame({"functionCall": {"name": "look", "args": {}}}, finish="STOP").replace(b"{}", args.encode())
    assert [delta.json for delta in decoded(frame) if isinstance(delta, ToolArgs)] == [args]


def test_text_waits_for_its_sources_only_where_the_provider_may_search() -> None:
    search = a_call(tools=[{"type": "web_search_20250305", "name": "web_search"}])
    decoder = gemini.WIRE.new_decoder(search)
    assert decoder.decode_frame(a_frame({"text": "Cold."})) == []
    assert Text("Cold.") in decoder.decode_frame(a_frame(finish="STOP"))
    assert gemini.WIRE.new_decoder(a_call()).decode_frame(a_frame({"text": "Cold."})) == [Text("Cold.")]


@pytest.mark.parametrize(
    ("effort", "asked", "limit", "budget", "sent"),
    [
        ("none", None, 100, 0, 100),
        ("minimal", None, 100, 512, 612),
        ("low", None, 100, 2_048, 2_148),
        ("high", None, 50_000, 24_576, 65_536),
        ("max", None, 100, 24_576, 24_676),
        ("high", None, 70_000, 24_576, 70_000),
        ("low", 1_024, 2_000, 1_024, 2_000),
        ("low", 200, 2_000, 512, 2_000),
        ("max", 60_000, 64_000, 24_576, 64_000),
        ("default", None, 100, None, 100),
    ],
)
def test_budgets(effort: str, asked: int | None, limit: int, budget: int | None, sent: int) -> None:
    dialect = {"thinking": "budget", "min_budget_tokens": 512}
    fields: dict[str, Any] = {} if effort == "default" else {"output_config": {"effort": effort}}
    fields["thinking"] = (
        {"type": "enabled", "budget_tokens": asked}
        if asked
        else {"type": "disabled" if effort == "none" else "adaptive"}
    )
    call = a_call(dialect=dialect, efforts=("none", "minimal", "low", "high", "max"), max_tokens=limit, **fields)
    config = body_of(gemini.WIRE.encode_request(call))["generationConfig"]
    assert config["thinkingConfig"].get("thinkingBudget") == budget
    assert config["maxOutputTokens"] == sent
    assert config["thinkingConfig"].get("includeThoughts", False) is (effort != "none")


def test_a_model_s_name_is_escaped_in_the_path() -> None:
    call = msgspec.structs.replace(a_call(), model="models/tuned/my model?")
    assert gemini.WIRE.encode_request(call).path == "/models/tuned%2Fmy%20model%3F:streamGenerateContent?alt=sse"


names = st.sampled_from(["type", "default", "properties", "$ref", "anyOf", "items", "enum", "a", "required", "title"])
schemas: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        [
            {},
            True,
            {"type": "string", "minLength": 1, "pattern": "^a", "default": "x"},
            {"type": ["integer", "null"], "exclusiveMinimum": 0},
            {"enum": ["a", 1, None]},
            {"const": {"a": 1}},
            {"$ref": "#/$defs/Loop"},
            {"$ref": "#/definitions/Old", "description": "d"},
            {"$ref": "#/properties/a"},
            {"type": "array", "items": [{"type": "number"}]},
            {"not": {"type": "string"}, "if": {}, "then": {}, "uniqueItems": True, "format": "uri"},
            {"type": ["string", "number"], "nullable": True},
        ]
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(names, inner, max_size=4)},
            optional={"required": st.lists(names, max_size=3), "additionalProperties": st.booleans() | inner},
        ),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries(
            {}, optional={"anyOf": st.lists(inner, max_size=3), "oneOf": st.lists(inner, max_size=2)}
        ),
        st.fixed_dictionaries({"allOf": st.lists(inner, max_size=3)}),
    ),
    max_leaves=12,
)
tool_schemas = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(names, schemas, min_size=1, max_size=4)}
).map(
    lambda schema: (
        schema
        | {
            "$defs": {"Loop": {"type": "object", "properties": {"again": {"$ref": "#/$defs/Loop"}}}},
            "definitions": {"Old": {"type": "boolean"}},
        }
    )
)
KNOWN = {
    *("type", "format", "title", "description", "enum", "minItems", "maxItems", "minimum", "maximum", "items"),
    *("prefixItems", "anyOf", "oneOf", "properties", "required", "additionalProperties", "$defs", "$ref"),
}


def keywords_in(schema: Any) -> set[str]:
    found = set(schema)
    for key, value in schema.items():
        inner = value.values() if key in ("properties", "$defs") else value if isinstance(value, list) else [value]
        if key in ("properties", "$defs", "items", "prefixItems", "anyOf", "oneOf", "additionalProperties"):
            found |= {word for one in inner if isinstance(one, dict) for word in keywords_in(one)}
    return found


@given(tool_schemas)
def test_schemas_hold_only_known_keywords_and_keep_every_name(schema: Any) -> None:
    reduced = encode_parameter_schema(schema, as_openapi=False)
    assert set(reduced["properties"]) == set(schema["properties"])
    assert keywords_in(reduced) <= KNOWN
    assert keywords_in(encode_reply_schema(schema, as_openapi=False)) <= KNOWN


@given(tool_schemas)
def test_lowered_schemas_are_what_the_official_sdk_calls_a_schema(schema: Any) -> None:
    from google.genai import types

    lowered = encode_parameter_schema(schema, as_openapi=True)
    assert set(lowered["properties"]) == set(schema["properties"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        types.Schema.model_validate(lowered)


def lowered(schema: Any) -> Any:
    parameters = encode_parameter_schema({"type": "object", "properties": {"a": schema}}, as_openapi=True)
    return parameters["properties"]["a"]


nonsense: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


@given(nonsense)
@example({"items": {"type": [None]}})
def test_what_is_no_schema_breaks_nothing(value: Any) -> None:
    for lowered in (False, True):
        json.dumps(encode_parameter_schema(value, as_openapi=lowered))
        json.dumps(encode_reply_schema(value, as_openapi=lowered))
