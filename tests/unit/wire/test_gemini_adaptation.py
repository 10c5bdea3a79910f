"""Adaptations to requests that Google rejects by name: sent in another form at once, and in later requests."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness

REPLY = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "{}"}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 1},
}
VIEW = {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PLACEHOLDER = "skip_thought_signature_validator"
ENCODED = base64.b64encode(PLACEHOLDER.encode()).decode()
NEW, OLD, BEFORE_3 = "gemini-9-flash", "gemini-2.5-flash", "gemini-2.0-flash"
ADAPTIVE: dict[str, Any] = {"thinking": {"type": "adaptive"}}
MISSING = (
    "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly, "
    "and missing thought_signature may lead to degraded model performance. Additional data, function call "
    "`default_api:look` , position 2."
)


def history(signature: str = "", result: Any = "seen") -> dict[str, Any]:
    """Return a request with a call in its current turn, after thinking with that signature."""
    thinking = [{"type": "thinking", "thinking": "", "signature": signature}] if signature else []
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "sea"}}
    answer = {"type": "tool_result", "tool_use_id": "toolu_1", "content": result}
    turn = [{"role": "assistant", "content": [*thinking, call]}, {"role": "user", "content": [answer]}]
    return {"tools": [VIEW], "messages": [{"role": "user", "content": "Look."}, *turn]}


def carried(signature: str, model: str) -> str:
    carry = json.dumps({"m": model, "s": signature}).encode()
    return f"px1.gem.{base64.urlsafe_b64encode(carry).rstrip(b'=').decode()}"


def unknown(name: str, place: str) -> str:
    return f"Invalid JSON payload received. Unknown name \"{name}\" at '{place}': Cannot find field."


def config_of(body: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = body["generationConfig"]
    return config


def thinking_of(body: dict[str, Any]) -> dict[str, Any]:
    thinking: dict[str, Any] = config_of(body).get("thinkingConfig", {})
    return thinking


def signature_of(body: dict[str, Any]) -> str:
    parts = [part for content in body["contents"] for part in content["parts"] if "functionCall" in part]
    return str(parts[0].get("thoughtSignature", ""))


class Google:
    """Refuses a body as long as a rule finds fault with it."""

    def __init__(self, *rules: tuple[Callable[[dict[str, Any]], Any], str]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._rules = rules

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        self.bodies.append(body)
        text = next((text for finds_fault, text in self._rules if finds_fault(body)), None)
        if text is None:
            return FakeResponse(200, json.dumps(REPLY).encode())
        error = {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}
        return FakeResponse(400, json.dumps({"error": error}).encode())


def proxy(google: Google) -> ProxyHarness:
    return ProxyHarness(google, GEMINI_API_KEY="AIza-test-0123456789")


ADAPTED: dict[
    str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], Any], str, Callable[[dict[str, Any]], Any]]
] = {
    "thinking unknown": (
        NEW,
        ADAPTIVE,
        lambda body: "thinkingConfig" in config_of(body),
        unknown("thinkingConfig", "generation_config"),
        lambda body: "thinkingConfig" not in config_of(body),
    ),
    "thinking refused": (
        NEW,
        ADAPTIVE,
        lambda body: "thinkingConfig" in config_of(body),
        "Unable to submit request because Thinking_config.include_thoughts is only enabled when thinking is enabled.",
        lambda body: "thinkingConfig" not in config_of(body),
    ),
    "levels refused": (
        "gemini-3-flash",
        {"output_config": {"effort": "low"}},
        lambda body: "thinkingLevel" in thinking_of(body),
        "Thinking level is not supported for this model.",
        lambda body: thinking_of(body)["thinkingBudget"] == 2_048,
    ),
    "levels refused at Vertex AI": (
        "gemini-3-flash",
        {"output_config": {"effort": "low"}},
        lambda body: "thinkingLevel" in thinking_of(body),
        "Unable to submit request because thinking_level is not supported by this model.. Learn more: https://x",
        lambda body: thinking_of(body)["thinkingBudget"] == 2_048,
    ),
    "one level refused": (
        "gemini-3-flash",
        {"output_config": {"effort": "medium"}},
        lambda body: thinking_of(body).get("thinkingLevel") == "medium",
        "Thinking level MEDIUM is not supported for this model. Please retry with other thinking level.",
        lambda body: thinking_of(body)["thinkingLevel"] == "low",
    ),
    "budgets refused": (
        OLD,
        {"output_config": {"effort": "high"}},
        lambda body: "thinkingBudget" in thinking_of(body),
        "Thinking budget is not supported for this model, use thinking level.",
        lambda body: thinking_of(body)["thinkingLevel"] == "high",
    ),
    "thinking cannot be off": (
        OLD,
        {"thinking": {"type": "disabled"}},
        lambda body: thinking_of(body).get("thinkingBudget") == 0,
        "Budget 0 is invalid. This model only works in thinking mode.",
        lambda body: thinking_of(body) == {"thinkingBudget": 128},
    ),
    "another range": (
        OLD,
        {"thinking": {"type": "enabled", "budget_tokens": 1_024}},
        lambda body: thinking_of(body)["thinkingBudget"] < 2_000,
        "The thinking budget 1024 is invalid. Please choose a value between 2000 and 9000.",
        lambda body: thinking_of(body)["thinkingBudget"] == 2_000,
    ),
    "sampling refused": (
        OLD,
        {"temperature": 0.5},
        lambda body: "temperature" in config_of(body),
        "temperature is not supported by this model",
        lambda body: "temperature" not in config_of(body),
    ),
    "sampling refused by its path": (
        OLD,
        {"top_k": 5},
        lambda body: "topK" in config_of(body),
        "* GenerateContentRequest.generation_config.top_k: not supported by this model.\n",
        lambda body: "topK" not in config_of(body),
    ),
    "schemas of tools": (
        NEW,
        {"tools": [VIEW]},
        lambda body: "parametersJsonSchema" in json.dumps(body),
        "* GenerateContentRequest.tools[0].function_declarations[0].parameters_json_schema: invalid",
        lambda body: body["tools"][0]["functionDeclarations"][0]["parameters"]["properties"]["at"]["type"] == "STRING",
    ),
    "schemas of replies": (
        NEW,
        {"output_config": {"format": {"type": "json_schema", "schema": VIEW["input_schema"]}}},
        lambda body: "responseJsonSchema" in config_of(body),
        "response_json_schema is not supported by this model.",
        lambda body: config_of(body)["responseSchema"]["type"] == "OBJECT",
    ),
    "schemas beside tools": (
        NEW,
        {"tools": [VIEW], "output_config": {"format": {"type": "json_schema", "schema": VIEW["input_schema"]}}},
        lambda body: "responseMimeType" in config_of(body),
        "Function calling with a response mime type: 'application/json' is unsupported",
        lambda body: "JSON Schema" in json.dumps(body["systemInstruction"]),
    ),
    "search beside tools": (
        NEW,
        {"tools": [VIEW, SEARCH]},
        lambda body: len(body["tools"]) > 1,
        "Tool use with function calling is unsupported",
        lambda body: list(body["tools"][0]) == ["functionDeclarations"],
    ),
    "search beside tools announced": (
        NEW,
        {"tools": [VIEW, SEARCH]},
        lambda body: "includeServerSideToolInvocations" in body.get("toolConfig", {}),
        unknown("includeServerSideToolInvocations", "tool_config"),
        lambda body: len(body["tools"]) == 2,
    ),
    "ids of calls": (
        NEW,
        history(),
        lambda body: "id" in body["contents"][1]["parts"][0]["functionCall"],
        unknown("id", "contents[1].parts[0].function_call"),
        lambda body: "id" not in body["contents"][2]["parts"][0]["functionResponse"],
    ),
    "pictures in results": (
        NEW,
        history(result=[PICTURE]),
        lambda body: "parts" in body["contents"][2]["parts"][0]["functionResponse"],
        unknown("parts", "contents[2].parts[0].function_response"),
        lambda body: "inlineData" in body["contents"][2]["parts"][1],
    ),
    "pictures in results, in other words": (
        NEW,
        history(result=[PICTURE]),
        lambda body: "parts" in body["contents"][2]["parts"][0]["functionResponse"],
        "Images are not supported in function responses for this model.",
        lambda body: "inlineData" in body["contents"][2]["parts"][1],
    ),
    "a signature is wanted": (
        OLD,
        history(),
        lambda body: not signature_of(body),
        MISSING,
        lambda body: signature_of(body) == PLACEHOLDER,
    ),
    "the placeholder is refused": (
        NEW,
        history(),
        lambda body: signature_of(body) == PLACEHOLDER,
        MISSING,
        lambda body: signature_of(body) == ENCODED,
    ),
}


@pytest.mark.parametrize(("model", "fields", "finds_fault", "text", "is_adapted"), ADAPTED.values(), ids=ADAPTED)
async def test_a_rejection_is_adapted_to_at_once_and_remembered(
    model: str, fields: dict[str, Any], finds_fault: Any, text: str, is_adapted: Any
) -> None:
    google = Google((finds_fault, text))
    somewhere = proxy(google)
    sink = await somewhere.post(model=f"gemini/{model}", **fields)
    assert sink.error is None
    assert sink.body["content"][0]["text"] == "{}"
    assert len(google.bodies) == 2
    assert is_adapted(google.bodies[1])
    assert any("refused it: " in note.reason for note in somewhere.receipts[0].notes)
    await somewhere.post(model=f"gemini/{model}", **fields)
    assert len(google.bodies) == 3
    assert google.bodies[2] == google.bodies[1]
    assert somewhere.log.getvalue().count("because of") == 1


async def test_a_rejected_signature_is_replaced_by_the_placeholder_once() -> None:
    google = Google((lambda body: signature_of(body) == "b2xk", "Corrupted thought signature."))
    somewhere = proxy(google)
    fields = history(carried("b2xk", NEW))
    assert (await somewhere.post(model=f"gemini/{NEW}", **fields)).error is None
    assert [signature_of(body) for body in google.bodies] == ["b2xk", PLACEHOLDER]
    await somewhere.post(model=f"gemini/{NEW}", **history(carried("bmV3", NEW)))
    assert signature_of(google.bodies[-1]) == "bmV3"


async def test_a_rejection_of_both_forms_of_the_placeholder_is_reported() -> None:
    google = Google((lambda body: True, MISSING))
    sink = await proxy(google).post(model=f"gemini/{OLD}", **history())
    assert "thought_signature" in sink.error.message
    assert [signature_of(body) for body in google.bodies] == ["", PLACEHOLDER, ENCODED]


@pytest.mark.parametrize(
    "text",
    [
        "Request contains an invalid argument.",
        "temperature is not supported by this model",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        unknown("thinkingConfig", "generation_config"),
        MISSING,
    ],
)
async def test_a_field_that_was_not_sent_is_not_the_cause(text: str) -> None:
    google = Google((lambda body: True, text))
    sink = await proxy(google).post(model=f"gemini/{BEFORE_3}", temperature=None)
    assert sink.error.status == 400
    assert len(google.bodies) == 1
