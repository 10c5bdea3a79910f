"""A refused parameter is left out or said otherwise, at once and from then on."""

import json
from typing import Any

import pytest

from anthropic_proxy.wire.contract import Credential, UpstreamRequest
from tests.house import Answer, Town

REPLY = json.dumps(
    {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1},
    }
).encode()
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {}}}


def refusal(message: str, param: str | None = None, code: str = "unsupported_parameter") -> Answer:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Answer(400, json.dumps({"error": error}).encode())


class Server:
    """Refuses a body as long as a rule finds fault with it."""

    def __init__(self, finds_fault: Any, answer: Any) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._finds_fault = finds_fault
        self._answer = answer

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> Answer:
        body = json.loads(request.body)
        self.bodies.append(body)
        return self._answer(body) if self._finds_fault(body) else Answer(200, REPLY)


def town(server: Server, **settings: str) -> Town:
    return Town(server, OPENAI_API_KEY="sk-test-0123456789", BIG_MODEL="openai/some-new-model", **settings)


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
    ],
    ids=["dropped", "renamed", "lowered", "unknown", "named in the text only", "asked for in words", "shown as text"],
)
async def test_a_refused_parameter_is_healed_at_once_and_remembered(fields: Any, finds_fault: Any, answer: Any) -> None:
    server = Server(finds_fault, answer)
    somewhere = town(server)
    keeper = await somewhere.ask(**fields)
    assert keeper.error is None
    assert keeper.body["content"][0]["text"] == "well"
    assert len(server.bodies) == 2
    assert any(note.fate == "approximated" for note in somewhere.receipts[0].notes)
    await somewhere.ask(**fields)
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
    somewhere = Town(server, OPENAI_API_KEY="sk-test-0123456789", OPENAI_WIRE="chat", BIG_MODEL="gpt-5.1")
    keeper = await somewhere.ask(output_config={"effort": "medium"})
    assert keeper.error is None
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
    somewhere = town(server)
    assert (await somewhere.ask()).error is None
    assert server.bodies[-1]["max_completion_tokens"] <= 10_000
    await somewhere.ask(max_tokens=9_999)
    await somewhere.ask(max_tokens=20_000)
    assert [body["max_completion_tokens"] for body in server.bodies[2:4]] == [9_999, 20_000]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, ("image_url is not supported", "image_url")),
        ({}, ("Unsupported parameter: 'model'", "model")),
        ({}, ("something else is wrong", None)),
        ({"temperature": 1.0}, ("Unsupported parameter: 'top_k'", "top_k")),
    ],
    ids=["the question is about the picture", "the model itself", "nothing named", "what was not sent"],
)
async def test_what_cannot_be_healed_is_reported_after_one_call(fields: Any, answer: tuple[str, str | None]) -> None:
    server = Server(lambda body: True, lambda body: refusal(*answer))
    keeper = await town(server).ask(**fields)
    assert keeper.error is not None
    assert keeper.error.status == 400
    assert answer[0] in keeper.error.message
    assert len(server.bodies) == 1


async def test_at_most_two_lessons_are_learned_in_one_request() -> None:
    server = Server(
        lambda body: True,
        lambda body: refusal(
            "Unsupported parameter",
            next(name for name in ("temperature", "store", "prompt_cache_key", "model") if name in body),
        ),
    )
    keeper = await town(server).ask(temperature=0.1, metadata={"user_id": "u"})
    assert keeper.error is not None
    assert len(server.bodies) == 3
