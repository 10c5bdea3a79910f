"""Ollama's wire: the types of its own package, complete replies, and a case for each quirk."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import prepare
from anthropic_proxy.engine.wires import ollama
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.ollama.request import encode_parameters
from anthropic_proxy.errors import UpstreamError
from messages_conformance.backends.ollama.shapes import check
from tests.support.decoding import new_limits
from tests.support.dialect_fields import changes_a_scenario, missing_proofs
from tests.support.fakes.ollama.models import MODELS, Model, find_model
from tests.support.fakes.ollama.rules import check_body
from tests.support.golden_runner import find_cases

FOLDERS = find_cases("ollama")
IN_THE_CLOUD = MODELS["gpt-oss:120b-cloud"]
LIKE_ALL = Model("any", 131_072, ("completion", "tools", "thinking", "vision"), 1)


def new_call(*tools: str, stream: bool = True, effort: str = "default", **dialect: Any) -> TranslatedCall:
    body = {
        "model": "claude",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": name, "input_schema": {"type": "object"}} for name in tools],
    }
    prepared = prepare(decode_request(msgspec.json.encode(body)), new_limits())
    count = iter(range(1, 1_000_000))
    return TranslatedCall(
        request=structs.replace(prepared.request, effort=effort),
        model="m",
        dialect=ollama.Dialect(**dialect),
        streams_upstream=stream,
        new_id=lambda prefix: f"{prefix}{next(count):022d}",
        provider_prefix="ollama",
    )


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
