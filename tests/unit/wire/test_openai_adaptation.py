"""Rejected parameters: dropped or sent in another form, at once and in later requests."""

import json
from typing import Any

import pytest

from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness

REPLY = json.dumps(
    {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1},
    }
).encode()
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {}}}

DETAILED = {
    "name": "find",
    "input_schema": {
        "type": "object",
        "properties": {
            "name": {"type": ["string", "null"], "pattern": "^a+$", "description": "what to find"},
            "place": {"$ref": "#/$defs/place"},
        },
        "required": ["name"],
        "$defs": {"place": {"type": "object", "properties": {"row": {"type": "integer", "minimum": 1}}}},
    },
}
STREAMED = (
    b'data: {"choices":[{"index":0,"delta":{"content":"well"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


def refusal(message: str, param: str | None = None, code: str = "unsupported_parameter") -> FakeResponse:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return FakeResponse(400, json.dumps({"error": error}).encode())


class Server:
    """Refuses a body as long as a rule finds fault with it."""

    def __init__(self, finds_fault: Any, answer: Any) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._finds_fault = finds_fault
        self._answer = answer

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        self.bodies.append(body)
        if self._finds_fault(body):
            return self._answer(body)
        return FakeResponse(200, STREAMED if body.get("stream") else REPLY)


def proxy(server: Server, **settings: str) -> ProxyHarness:
    return ProxyHarness(server, OPENAI_API_KEY="sk-test-0123456789", BIG_MODEL="openai/some-new-model", **settings)


@pytest.mark.parametrize(
    ("fields", "finds_fault", "answer"),
    [
        (
            {"temperature": 0.5},
            lambda body: "temperature" in body,
            lambda body: refusal(
                "Unsupported value: 'temperature' does not support 0.5 with this model.", "temperature"
            ),
        ),
        (
            {},
            lambda body: "max_completion_tokens" in body,
            lambda body: refusal("Unsupported parameter: 'max_completion_tokens'", "max_completion_tokens"),
        ),
        (
            {},
            lambda body: body.get("max_completion_tokens", 0) > 4096,
            lambda body: refusal(
                "max_tokens is too large: 64000. This model supports at most 4096 completion tokens, whereas you "
                "provided 64000.",
                "max_completion_tokens",
                "invalid_value",
            ),
        ),
        (
            {"metadata": {"user_id": "someone"}},
            lambda body: "safety_identifier" in body,
            lambda body: refusal("Unrecognized request argument supplied: safety_identifier", "safety_identifier"),
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            lambda body: "parallel_tool_calls" in body,
            lambda body: refusal("'parallel_tool_calls' is not supported with this model."),
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "any"}},
            lambda body: body.get("tool_choice") == "required",
            lambda body: refusal("tool_choice 'required' is not supported", "tool_choice"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [PICTURE]},
                    {"role": "assistant", "content": "a hill"},
                    {"role": "user", "content": "and now?"},
                ]
            },
            lambda body: "image_url" in json.dumps(body),
            lambda body: refusal("this model does not support image_url", "messages[0].content[0].image_url"),
        ),
        (
            {"top_p": 0.5},
            lambda body: "top_p" in body,
            lambda body: refusal("invalid top_p: only 0.95 is allowed for this model", None, "invalid_request_error"),
        ),
        (
            {"stream": True},
            lambda body: "stream_options" in body,
            lambda body: FakeResponse(
                422,
                b'{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not '
                b'permitted","input":{}}]}',
            ),
        ),
        (
            {
                "tools": [
                    TOOL | {"strict": True, "input_schema": {**TOOL["input_schema"], "additionalProperties": False}}
                ]
            },
            lambda body: "strict" in body["tools"][0]["function"],
            lambda body: FakeResponse(
                422,
                b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","tools",0,"function",'
                b'"strict"],"msg":"Extra inputs are not permitted","input":true}]}}',
            ),
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            lambda body: "parallel_tool_calls" in body,
            lambda body: refusal("'parallel_tool_calls' : property 'parallel_tool_calls' is unsupported"),
        ),
        (
            {"tools": [DETAILED]},
            lambda body: "pattern" in json.dumps(body),
            lambda body: refusal(
                "Invalid schema for function 'find': 'pattern' is not permitted.",
                "tools[0].function.parameters",
                "invalid_function_parameters",
            ),
        ),
        (
            {"tools": [DETAILED]},
            lambda body: "pattern" in json.dumps(body),
            lambda body: refusal("Invalid schema for function 'find': it is not understood."),
        ),
    ],
    ids=[
        *("dropped", "renamed", "lowered", "unknown", "named in the text only", "asked for in words", "shown as text"),
        *("held at one value", "forbidden by a framework", "forbidden in a tool", "unsupported property"),
        *("schema", "schema, named in the text only"),
    ],
)
async def test_a_rejected_parameter_is_dropped_at_once_and_remembered(
    fields: Any, finds_fault: Any, answer: Any
) -> None:
    server = Server(finds_fault, answer)
    somewhere = proxy(server)
    sink = await somewhere.post(**fields)
    assert sink.error is None
    assert sink.body["content"][0]["text"] == "well" if sink.body else b"well" in sink.stream
    assert len(server.bodies) == 2
    assert any("refused it: " in note.reason for note in somewhere.receipts[0].notes)
    await somewhere.post(**fields)
    assert len(server.bodies) == 3
    assert somewhere.log.getvalue().count("because of") == 1


async def test_an_effort_becomes_the_nearest_that_the_model_has() -> None:
    server = Server(
        lambda body: body.get("reasoning_effort") not in (None, "low", "high"),
        lambda body: refusal(
            f"Unsupported value: 'reasoning_effort' does not support '{body['reasoning_effort']}' with this model. "
            "Supported values are: 'low' and 'high'.",
            "reasoning_effort",
            "unsupported_value",
        ),
    )
    somewhere = ProxyHarness(server, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat", BIG_MODEL="gpt-5.1")
    sink = await somewhere.post(output_config={"effort": "medium"})
    assert sink.error is None
    assert server.bodies[-1]["reasoning_effort"] == "low"


async def test_an_output_limit_that_only_this_prompt_makes_too_large_is_not_remembered() -> None:
    server = Server(
        lambda body: body["max_completion_tokens"] > 100_000 - 90_000,
        lambda body: refusal(
            "This model's maximum context length is 100000 tokens. However, you requested 154000 tokens (90000 in the "
            "messages, 64000 in the completion). Please reduce the length of the messages or completion.",
            "messages",
            "context_length_exceeded",
        ),
    )
    somewhere = proxy(server)
    assert (await somewhere.post()).error is None
    assert server.bodies[-1]["max_completion_tokens"] <= 10_000
    await somewhere.post(max_tokens=9_999)
    await somewhere.post(max_tokens=20_000)
    assert [body["max_completion_tokens"] for body in server.bodies[2:4]] == [9_999, 20_000]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({}, ("Unsupported parameter: 'model'", "model")),
        ({}, ("something else is wrong", None)),
        ({"temperature": 1.0}, ("Unsupported parameter: 'top_k'", "top_k")),
    ],
    ids=["the model itself", "nothing named", "what was not sent"],
)
async def test_a_rejection_without_adaptation_is_reported_after_one_call(
    fields: Any, answer: tuple[str, str | None]
) -> None:
    server = Server(lambda body: True, lambda body: refusal(*answer))
    sink = await proxy(server).post(**fields)
    assert sink.error.status == 400
    assert answer[0] in sink.error.message
    assert len(server.bodies) == 1


async def test_one_request_learns_up_to_two_adaptations() -> None:
    server = Server(
        lambda body: True,
        lambda body: refusal(
            "Unsupported parameter",
            next(name for name in ("temperature", "store", "prompt_cache_key", "model") if name in body),
        ),
    )
    sink = await proxy(server).post(temperature=0.1, metadata={"user_id": "u"})
    assert sink.error is not None
    assert len(server.bodies) == 3


async def test_a_rejected_schema_becomes_an_instruction() -> None:
    server = Server(
        lambda body: "$defs" in json.dumps(body),
        lambda body: refusal("Invalid schema", "tools[0].function.parameters", "invalid_function_parameters"),
    )
    await proxy(server).post(tools=[DETAILED])
    assert server.bodies[-1]["tools"][0]["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "what to find"},
            "place": {"type": "object", "properties": {"row": {"type": "integer"}}},
        },
        "required": ["name"],
    }


def reasoner(server: Server, provider: str, model: str, **settings: str) -> ProxyHarness:
    keys = {f"{provider.upper()}_API_KEY": f"{provider}-key-0123456789"}
    return ProxyHarness(server, BIG_MODEL=f"{provider}/{model}", **keys, **settings)


@pytest.mark.parametrize(
    ("provider", "model", "settings", "fields", "finds_fault", "answer"),
    [
        pytest.param(
            *("moonshot", "kimi-k2.6", {}, {"thinking": {"type": "disabled"}}),
            lambda body: "thinking" in body,
            refusal("invalid thinking: only type=enabled is allowed for this model", None, "invalid"),
            id="a rejected thinking switch is dropped",
        ),
        pytest.param(
            *("xai", "grok-4.5", {}, {"output_config": {"effort": "low"}}),
            lambda body: "reasoning_effort" in body,
            FakeResponse(
                400,
                b'{"code":"Client specified an invalid argument",'
                b'"error":"Model grok-4.5 does not support parameter reasoningEffort."}',
            ),
            id="a name in another spelling is known",
        ),
        pytest.param(
            *("openai", "gpt-5", {"OPENAI_WIRE": "chat"}, {"system": "Be brief."}),
            lambda body: body["messages"][0]["role"] != "system",
            refusal(
                "Failed to deserialize the JSON body into the target type: messages[0].role: unknown variant "
                "`developer`, expected one of `system`, `user`, `assistant`, `tool` at line 1 column 60",
                None,
                "invalid_request_error",
            ),
            id="a server that knows no developer gets a system message",
        ),
    ],
)
async def test_a_rejection_of_one_provider(
    provider: str, model: str, settings: Any, fields: Any, finds_fault: Any, answer: FakeResponse
) -> None:
    server = Server(finds_fault, lambda body: answer)
    sink = await reasoner(server, provider, model, **settings).post(**fields)
    assert sink.error is None
    assert len(server.bodies) == 2


ONLY_RESPONSES = "This model is only supported in v1/responses and not in v1/chat/completions."
RESPONSE = {
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "well"}]}],
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


class Speaker:
    """A fake server that accepts one of the two OpenAI wires."""

    def __init__(self, *refusals: FakeResponse) -> None:
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self._refusals = list(refusals)

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        self.paths.append(request.path)
        self.bodies.append(json.loads(request.body))
        if request.path == "/chat/completions":
            return refusal(ONLY_RESPONSES, "model", "invalid_request_error")
        return self._refusals.pop(0) if self._refusals else FakeResponse(200, json.dumps(RESPONSE).encode())


@pytest.mark.parametrize("status", [400, 404])
async def test_a_model_of_another_wire_is_requested_on_that_wire_afterwards(status: int) -> None:
    speaker = Speaker()
    somewhere = ProxyHarness(speaker, OPENAI_API_KEY="sk-test-0123456789", BIG_MODEL="openai/some-new-model")
    sink = await somewhere.post()
    assert sink.error is None
    assert sink.body["content"][0]["text"] == "well"
    await somewhere.post()
    assert speaker.paths == ["/chat/completions", "/responses", "/responses"]


async def test_adaptations_of_the_other_wire_apply_to_that_wire() -> None:
    speaker = Speaker(refusal("Unsupported parameter: 'store'", "store"))
    somewhere = ProxyHarness(speaker, OPENAI_API_KEY="sk-test-0123456789", BIG_MODEL="openai/some-new-model")
    assert (await somewhere.post()).error is None
    assert (await somewhere.post()).error is None
    assert speaker.paths == ["/chat/completions", "/responses", "/responses", "/responses"]
    assert ["store" in body for body in speaker.bodies[1:]] == [True, False, False]


async def test_a_language_that_the_user_chose_is_not_changed_but_named() -> None:
    speaker = Speaker()
    sink = await reasoner(speaker, "openai", "gpt-5", OPENAI_WIRE="chat").post()  # type: ignore[arg-type]
    assert speaker.paths == ["/chat/completions"]
    assert sink.error.message.endswith("Set OPENAI_WIRE=responses.")


async def test_a_rejected_schema_becomes_an_instruction_on_the_other_wire() -> None:
    bodies: list[dict[str, Any]] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        if "$defs" in json.dumps(bodies[-1]["tools"]):
            return refusal("Invalid schema for function 'find'", "tools[0].parameters", "invalid_function_parameters")
        return FakeResponse(200, json.dumps(RESPONSE).encode())

    sink = await ProxyHarness(upstream, OPENAI_API_KEY="sk-test-0123456789", BIG_MODEL="openai/gpt-5").post(
        tools=[DETAILED]
    )
    assert sink.error is None
    assert "minimum" not in json.dumps(bodies[-1]["tools"])


ZAI_ALWAYS = "This model always engages in thinking and cannot be disabled; please use low, high, or max"


@pytest.mark.parametrize(
    ("address", "model", "message", "effort"),
    [
        ("https://api.z.ai/api/paas/v4", "glm-5.2", ZAI_ALWAYS, "low"),
        ("https://api.z.ai/api/paas/v4", "glm-5.2", "Thinking can not be turned off. Use high or max.", "high"),
        (
            "https://openrouter.ai/api/v1",
            "x/y",
            "Reasoning is mandatory for this endpoint and cannot be disabled.",
            "low",
        ),
        ("https://openrouter.ai/api/v1", "x/y", "Disabling reasoning is not supported for this model.", "low"),
        ("https://api.mistral.ai/v1", "mistral-large-5-0", "reasoning is always enabled for this model", "low"),
    ],
)
async def test_a_model_that_cannot_stop_thinking_thinks_as_little_as_it_can(
    address: str, model: str, message: str, effort: str
) -> None:
    def sent_effort(body: dict[str, Any]) -> Any:
        return body.get("reasoning_effort") or body.get("reasoning", {}).get("effort")

    server = Server(
        lambda body: body.get("thinking", {}).get("type") == "disabled" or sent_effort(body) == "none",
        lambda body: FakeResponse(400, json.dumps({"error": {"code": "1210", "message": message}}).encode()),
    )
    here = ProxyHarness(
        server, OPENAI_API_KEY="sk-test-0123456789", OPENAI_BASE_URL=address, BIG_MODEL=f"openai/{model}"
    )
    sink = await here.post(thinking={"type": "disabled"})
    assert sink.error is None
    assert len(server.bodies) == 2
    assert sent_effort(server.bodies[1]) == effort
    assert server.bodies[1].get("thinking", {"type": "enabled"})["type"] == "enabled"
    await here.post(thinking={"type": "disabled"})
    assert len(server.bodies) == 3, "it is known from then on"


@pytest.mark.parametrize("message", ["Thinking is disabled for this model", "cannot be disabled: safety_checks"])
async def test_a_refusal_about_something_else_changes_no_effort(message: str) -> None:
    server = Server(
        lambda body: True, lambda body: FakeResponse(400, json.dumps({"error": {"message": message}}).encode())
    )
    here = ProxyHarness(
        server,
        OPENAI_API_KEY="sk-test-0123456789",
        OPENAI_BASE_URL="https://api.z.ai/api/paas/v4",
        BIG_MODEL="openai/glm-5.2",
    )
    assert (await here.post(thinking={"type": "disabled"})).error is not None
    assert len(server.bodies) == 1
