"""The fake server of Gemini: its rules reject violations, and Google's own client library accepts its replies."""

import base64
import json
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import types

from tests.support.fakes.gemini.models import MODELS, find_model
from tests.support.fakes.gemini.rules import check_body
from tests.support.fakes.gemini.server import KEY, PROJECT, new_gemini
from tests.support.fakes.gemini.signatures import PLACEHOLDER, Signatures, decode
from tests.support.fakes.server import Running, serving
from tests.support.paths import GOLDEN

CASES = GOLDEN / "gemini"
ADD = types.FunctionDeclaration(
    name="add",
    parameters_json_schema={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)


def breaches_of(body: dict[str, Any], model: str, api: str) -> list[Any]:
    return list(check_body(body, model, MODELS[model], Signatures(random.Random(1)), vertex=api == "vertex"))


@pytest.mark.parametrize(
    ("field", "apis"),
    [
        ({"labels": {"a": "b"}}, ["vertex"]),
        ({"toolConfig": {"includeServerSideToolInvocations": True}}, ["google"]),
        ({"tools": [{"enterpriseWebSearch": {}}]}, ["vertex"]),
        ({"tools": [{"fileSearch": {"fileSearchStoreNames": ["a"]}}]}, ["google"]),
    ],
)
def test_each_api_has_fields_of_its_own(field: dict[str, Any], apis: list[str]) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], **field}
    accepting = [api for api in ("google", "vertex") if not breaches_of(body, "gemini-3.6-flash", api)]
    assert accepting == apis


@pytest.mark.parametrize("path", sorted(CASES.glob("*/*/expected_upstream_request.json")), ids=lambda p: p.parent.name)
def test_what_the_wire_sends_breaks_no_rule(path: Path) -> None:
    expected = json.loads(path.read_bytes())
    name, body = expected["url"].split("/models/")[1].split(":")[0], expected["body"]
    model = find_model(name)
    if model is None:
        assert path.parent.name == "error_not_found"
        return
    signatures = Signatures(random.Random(1))
    parts = [part for content in body["contents"] for part in content["parts"] if "thoughtSignature" in part]
    for signature, part in [(part["thoughtSignature"], part) for part in parts]:
        if signature != PLACEHOLDER:
            signatures.given[decode(signature)] = (name, part.get("functionCall", {}).get("name", ""))
    scenario = path.with_name("case.toml").read_text("utf-8")
    vertex = "aiplatform" in expected["url"] or 'signature_tag = "vtx"' in scenario
    assert list(check_body(body, name, model, signatures, vertex=vertex)) == []


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(new_gemini()) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Any:
    return genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=running.url))


def test_the_official_client_holds_a_conversation_with_tools(client: Any, running: Running) -> None:
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[ADD])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        thinking_config=types.ThinkingConfig(include_thoughts=True),
    )
    contents = [types.Content(role="user", parts=[types.Part(text="Add 2, 3 and 4")])]
    for _ in range(3):
        reply = client.models.generate_content(model="gemini-3.6-flash", contents=contents, config=config)
        content = reply.candidates[0].content
        contents.append(content)
        if not reply.function_calls:
            break
        assert content.parts[0].thought
        (part,) = [part for part in content.parts if part.function_call]
        assert part.thought_signature
        added = {"output": part.function_call.args["a"] + part.function_call.args["b"]}
        answer = types.FunctionResponse(id=part.function_call.id, name="add", response=added)
        contents.append(types.Content(role="user", parts=[types.Part(function_response=answer)]))
    assert reply.text == "The sum is 9."
    assert reply.usage_metadata.thoughts_token_count
    assert running.journal.violations() == []


def test_vertex_is_served_too(running: Running) -> None:
    from google.oauth2 import credentials

    vertex = genai.Client(
        vertexai=True,
        project=PROJECT,
        location="global",
        credentials=credentials.Credentials(KEY),
        http_options=types.HttpOptions(base_url=running.url, api_version="v1"),
    )
    assert vertex.models.generate_content(model="gemini-2.5-pro", contents="Say exactly: x").text == "x"
    assert running.journal.exchanges[-1].path.startswith(f"/v1/projects/{PROJECT}/locations/global/publishers/google/")


def post(url: str, body: bytes, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "words"),
    [
        ("/v1beta/models/gemini-3.6-flash:generateContent", {}, b"{}", 403, "unregistered callers"),
        ("/v1beta/models/gemini-3.6-flash:generateContent", {"x_goog_api_key": "no"}, b"{}", 400, "API key not valid"),
        ("/v1beta/models/gemini-3.6-flahs:generateContent", {"x_goog_api_key": KEY}, b"{}", 404, "is not found"),
        ("/v1beta/models/gemini-3.6-flash:explain", {"x_goog_api_key": KEY}, b"{}", 404, "not found"),
        ("/v1beta/models/gemini-3.6-flash:generateContent", {"x_goog_api_key": KEY}, b"{", 400, "Invalid JSON"),
        ("/v1beta/models/gemini-3.6-flash:generateContent", {"x_goog_api_key": KEY}, b"{}", 400, "not specified"),
        ("/v1beta/models/gemini-3.6-flash:streamGenerateContent", {"x_goog_api_key": KEY}, b"{}", 400, "alt=sse"),
        (
            "/v1/projects/p/locations/eu/publishers/google/models/gemini-2.5-pro:generateContent",
            {},
            b"{}",
            401,
            "OAuth",
        ),
        (
            "/v1/projects/p/locations/eu/publishers/google/models/gemini-2.5-pro:generateContent",
            {"authorization": f"Bearer {KEY}"},
            b"{}",
            403,
            "projects/p/locations/eu",
        ),
    ],
)
def test_what_is_wrong_before_the_fields(
    running: Running, path: str, headers: dict[str, str], body: bytes, status: int, words: str
) -> None:
    got, answer = post(running.url + path, body, content_type="application/json", **headers)
    assert got == answer["error"]["code"] == status
    assert words in answer["error"]["message"]


def test_unknown_fields_are_named_all_at_once(running: Running) -> None:
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "a", "b": 1}]}], "c": 2}).encode()
    path = "/v1beta/models/gemini-3.6-flash:generateContent"
    status, answer = post(running.url + path, body, x_goog_api_key=KEY)
    assert status == 400
    fields = [violation["field"] for violation in answer["error"]["details"][0]["fieldViolations"]]
    assert sorted(fields) == ["", "contents[0].parts[0]"]


def test_a_signature_counts_only_where_it_was_given() -> None:
    signatures = Signatures(random.Random(1))
    given = signatures.give("gemini-3.6-flash", "look")
    urlsafe = base64.urlsafe_b64encode(base64.b64decode(given)).decode()
    assert signatures.knows(given, "gemini-3.6-flash", "look")
    assert signatures.knows(urlsafe, "gemini-3.6-flash", "look")
    assert not signatures.knows(given, "gemini-3.8-flash", "look")
    assert not signatures.knows(given, "gemini-3.6-flash", "write")
    assert not signatures.knows(given[4:], "gemini-3.6-flash", "look")
