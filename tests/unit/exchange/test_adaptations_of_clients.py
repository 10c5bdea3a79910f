"""What an error has taught about the request of one client changes no request of another one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec import Struct, structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.hooks import Client
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import UpstreamTimeout
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.unit.exchange.test_adaptation import AFTER, GONE

TEXT = '{"a": "well"}'
CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}]}
OUTPUT = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TEXT}]}
RESPONSES = {"id": "r", "object": "response", "status": "completed", "output": [OUTPUT]}
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": TEXT}], "role": "model"}, "index": 0, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 1},
}
OLLAMA = {"message": {"role": "assistant", "content": TEXT}, "done": True, "done_reason": "stop"}
MESSAGES = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 1},
}
SHOWN = {
    "model_info": {"general.architecture": "x", "x.context_length": 8_192},
    "capabilities": ["completion", "thinking"],
}
REPLIES: Mapping[str, Any] = {
    "chat/completions": CHAT,
    "responses": RESPONSES,
    "generateContent": GEMINI,
    "api/chat": OLLAMA,
    "messages": MESSAGES,
}
"""End of the path of a request → reply."""
OPENAI = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}
EITHER_API = {"OPENAI_API_KEY": "sk-test-0123456789"}
LOCAL = {**OPENAI, "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}
GOOGLE = {"GEMINI_API_KEY": "test-0123456789"}
CLOUD = {"ANTHROPIC_FOUNDRY_API_KEY": "test-0123456789", "FOUNDRY_BASE_URL": "http://127.0.0.1:8000/anthropic"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False, "required": ["a"]}
TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK"}}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 2_000}}
NO_THINKING = {"thinking": {"type": "disabled"}}
RESULT = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}]},
]
THOUGHT = [
    {"role": "user", "content": "hello"},
    {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "text", "text": "yes"}],
    },
    {"role": "user", "content": "go on"},
]
BETAS = "files-api-2025-04-14,context-1m-2025-08-07"


def content(*blocks: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}, *blocks]}]}


class Lesson(Struct, frozen=True):
    """Errors, or replies, that change later requests of the client which caused them."""

    settings: Mapping[str, str]
    model: str
    fields: Mapping[str, Any]
    responses: Sequence[tuple[int, Any]]
    """The first ones of the server, with their status."""
    betas: str = ""
    now: float = 0.0


def chat(text: str, finish: str = "stop", **fields: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **fields}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def refuse(message: str, param: str | None = None, status: int = 400, **fields: Any) -> tuple[int, Any]:
    return status, {"error": {"message": message, "param": param, "type": "invalid_request_error", **fields}}


def lesson(
    settings: Mapping[str, str], model: str, fields: Mapping[str, Any], *responses: tuple[int, Any], betas: str = ""
) -> Lesson:
    return Lesson(settings, model, fields, responses, betas)


QUOTED = "Invalid schema for response_format 'reply': In context=('properties', '{}'), 'x' is not of type 'object'."
FORMAT = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
LESSONS: Mapping[str, Lesson] = {
    "limit": lesson(OPENAI, "openai/gpt-4.1", {}, refuse("max_tokens must be at most 1024", "max_tokens")),
    "quoted limit": lesson(
        OPENAI, "openai/gpt-4.1", FORMAT, refuse(QUOTED.format("max_tokens must be at most 1024"), "response_format")
    ),
    "window": lesson(
        LOCAL,
        "openai/local",
        {},
        refuse(
            "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 4096 "
            "tokens and your request has 10 input tokens (8000 > 4096 - 10)."
        ),
    ),
    "quoted window": lesson(
        OPENAI,
        "openai/gpt-4.1",
        FORMAT,
        refuse(
            QUOTED.format(
                "This model's maximum context length is 4096 tokens. However, you requested 8010 tokens (10 in the "
                "messages, 8000 in the completion)."
            ),
            "response_format",
        ),
    ),
    "wire": lesson(EITHER_API, "openai/gpt-4.1", {"tools": TOOLS}, refuse("Use /v1/responses instead.", "x", 404)),
    "model": structs.replace(lesson(OPENAI, "claude-sonnet-4-5", {}, (404, GONE)), now=AFTER),
    "drop": lesson(OPENAI, "openai/gpt-4.1", {"temperature": 0.5}, refuse("Unknown parameter", "temperature")),
    "images": lesson(
        LOCAL, "openai/local", content(IMAGE), refuse("this model does not support image_url", "image_url")
    ),
    "documents": lesson(OPENAI, "openai/gpt-4.1", content(PDF), refuse("Invalid file", "file")),
    "minimum": lesson(
        OPENAI, "openai/gpt-4.1", {"max_tokens": 1}, refuse("max_tokens: expected a value >= 16", "max_tokens")
    ),
    "effort": lesson(
        OPENAI,
        "openai/gpt-5.2",
        {"output_config": {"effort": "low"}},
        refuse(
            "Unsupported value: 'reasoning_effort' does not support 'low' with this model. Supported values are: "
            "'medium' and 'high'.",
            "reasoning_effort",
        ),
    ),
    "role": lesson(
        OPENAI,
        "openai/gpt-5.2",
        {"system": "Be brief."},
        refuse("Unknown message role: developer is not supported", "messages[0].role"),
    ),
    "say": lesson(
        LOCAL, "openai/local", {}, refuse("Unsupported parameter: 'max_tokens' is not supported", "max_tokens")
    ),
    "replay": lesson(
        {**OPENAI, "OPENAI_BASE_URL": "https://opencode.ai/zen/v1"},
        "openai/big-pickle",
        {"messages": RESULT, "tools": TOOLS},
        refuse("The `reasoning_content` in the thinking mode must be passed back to the API."),
    ),
    "budget": lesson(
        GOOGLE,
        "gemini/gemini-2.5-flash",
        THINKING,
        (
            400,
            {
                "error": {
                    "code": 400,
                    "status": "INVALID_ARGUMENT",
                    "message": "The thinking budget 2000 is invalid. Please choose a value between 128 and 1024.",
                }
            },
        ),
    ),
    "think": lesson(
        {}, "ollama/qwen3", {"output_config": {"effort": "high"}}, (400, {"error": '"qwen3" does not support thinking'})
    ),
    "reasons": lesson(LOCAL, "openai/local", {"max_tokens": 300}, (200, chat("", "length", reasoning_content="Hm."))),
    "template": lesson(LOCAL, "openai/local", NO_THINKING, (200, chat(TEXT, reasoning_content="Hm."))),
    "thinking": lesson(
        CLOUD,
        "foundry/claude-sonnet-4-5",
        {"messages": THOUGHT, **THINKING},
        refuse("messages.1.content.0: Invalid `signature` in `thinking` block"),
    ),
    "betas": lesson(
        CLOUD,
        "foundry/claude-sonnet-4-5",
        {},
        refuse("Unexpected value(s) `files-api-2025-04-14` for the `anthropic-beta` header."),
        betas=BETAS,
    ),
    "suspects": lesson(CLOUD, "foundry/claude-sonnet-4-5", {}, refuse("invalid beta flag"), betas=BETAS),
    "fields": lesson(
        CLOUD,
        "foundry/claude-sonnet-4-5",
        {"temperature": 0.5},
        refuse("temperature: Extra inputs are not permitted"),
    ),
}


_QUOTED_WINDOW = (
    "This model's maximum context length is 4096 tokens. However, you requested 8010 tokens (10 in the messages, "
    "8000 in the completion)."
)
QUOTES: Mapping[str, Lesson] = {
    name: lesson(
        settings,
        "openai/gpt-4.1",
        {**FORMAT, "tools": TOOLS, "temperature": 0.5},
        refuse(QUOTED.format(text), "response_format"),
        refuse("Unsupported parameter: 'temperature' is not supported", "temperature"),
    )
    for name, settings, text in (
        ("limit", OPENAI, "max_tokens must be at most 1024"),
        ("window", OPENAI, _QUOTED_WINDOW),
        ("API", EITHER_API, "Use /v1/responses instead."),
    )
}


class Server:
    """A server with given responses to the first requests."""

    def __init__(self, responses: Sequence[tuple[int, Any]], retired: str = "") -> None:
        """`retired`: model whose requests are all refused."""
        self.requests: list[tuple[str, Any, str]] = []
        self._responses = list(responses)
        self._retired = retired

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.path.endswith("api/show"):
            return FakeResponse(200, json.dumps(SHOWN).encode())
        if not any(request.path.partition("?")[0].endswith(end) for end in REPLIES):
            return FakeResponse(404)  # not a call of a model
        body = json.loads(request.body)
        betas = dict(request.headers).get("anthropic-beta", "")
        self.requests.append((request.path, body, betas))
        if self._retired and body["model"] == self._retired:
            return FakeResponse(404, json.dumps(GONE).encode())
        if self._responses:
            status, content = self._responses.pop(0)
            return FakeResponse(status, json.dumps(content).encode())
        reply = next(reply for end, reply in REPLIES.items() if request.path.partition("?")[0].endswith(end))
        return FakeResponse(200, json.dumps(reply).encode())


async def post(proxy: ProxyHarness, lesson: Lesson, key_id: str, sign_in: str = "") -> RecordingSink:
    fields = {"max_tokens": 8_000, "messages": [{"role": "user", "content": "hello"}], **lesson.fields}
    body = json.dumps({"model": lesson.model, **fields}).encode()
    headers = {"anthropic-beta": lesson.betas} if lesson.betas else {}
    incoming = new_client_request(body, headers, client=Client(name="same", key_id=key_id, sign_in=sign_in))
    sink = RecordingSink()
    await Exchange(proxy.services, incoming, sink).run()
    return sink


def proxy_for(server: Server, lesson: Lesson) -> ProxyHarness:
    proxy = ProxyHarness(server, **lesson.settings)
    if lesson.now:
        proxy.services = structs.replace(proxy.services, clock=lambda: lesson.now)
    return proxy


@pytest.mark.parametrize("lesson", QUOTES.values(), ids=QUOTES)
async def test_a_quoted_number_or_api_changes_no_later_request_if_the_repetition_with_it_was_rejected(
    lesson: Lesson,
) -> None:
    server = Server(lesson.responses)
    proxy = proxy_for(server, lesson)
    for _ in range(2):
        assert (await post(proxy, lesson, "key_a")).error is None
    (path, first, _), *_, (later_path, later, _) = server.requests
    assert (later_path, later) == (path, {name: value for name, value in first.items() if name != "temperature"})


async def test_an_api_whose_first_repetition_was_rejected_is_found_by_the_second_request() -> None:
    server = Server([])

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        response = server(base_url, request, credential)
        path, body, _ = server.requests[-1]
        if path == "/chat/completions":
            return FakeResponse(404, json.dumps({"error": {"message": "Use /v1/responses instead."}}).encode())
        if "truncation" in body:
            return FakeResponse(400, json.dumps({"error": {"message": "Unsupported parameter: 'truncation'"}}).encode())
        return response

    proxy = ProxyHarness(answer, **EITHER_API)
    for _ in range(3):
        assert (await post(proxy, lesson(EITHER_API, "openai/gpt-4.1", {"tools": TOOLS}), "key_a")).error is None
    assert [path for path, _, _ in server.requests] == [
        *("/chat/completions", "/responses", "/responses"),
        *("/chat/completions", "/responses"),
        "/responses",
    ]


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
async def test_what_an_error_has_taught_changes_only_requests_of_the_same_client(lesson: Lesson) -> None:
    server, undisturbed = Server(lesson.responses), Server([])
    proxy = proxy_for(server, lesson)
    for key_id in ("key_a", "key_a", "key_b"):
        assert (await post(proxy, lesson, key_id)).error is None
    await post(proxy_for(undisturbed, lesson), lesson, "key_b")
    (usual,) = undisturbed.requests
    *_, second, other = server.requests
    assert second != usual
    assert other == usual


async def test_each_client_finds_the_successor_of_a_retired_model_after_one_refused_call() -> None:
    lesson = LESSONS["model"]
    server = Server([], retired="gpt-4.1")
    proxy = proxy_for(server, lesson)
    for key_id in ("key_a", "key_a", "key_b", "key_b"):
        assert (await post(proxy, lesson, key_id)).error is None
    assert [body["model"] for _, body, _ in server.requests] == ["gpt-4.1", *["gpt-6-luna"] * 2] * 2


async def test_all_devices_of_a_person_know_what_an_error_has_taught_on_one_of_them() -> None:
    server = Server(LESSONS["drop"].responses)
    proxy = proxy_for(server, LESSONS["drop"])
    for device in ("sign_a", "sign_b"):
        assert (await post(proxy, LESSONS["drop"], "key_a", sign_in=device)).error is None
    assert ["temperature" in body for _, body, _ in server.requests] == [True, False, False]


COUNT = "/v1/messages/count_tokens"


async def count(proxy: ProxyHarness, key_id: str, text: str) -> int:
    body = json.dumps({"model": "openai/gpt-4.1", "messages": [{"role": "user", "content": text}]}).encode()
    incoming = new_client_request(body, {}, path=COUNT, client=Client(name="same", key_id=key_id))
    reply = await count_tokens(proxy.services, incoming, RecordingSink().wait_disconnected)
    return int(json.loads(reply.body)["input_tokens"])


@pytest.mark.parametrize(
    "failure",
    [
        FakeResponse(404, json.dumps({"error": {"message": "No file with id 'file_1' was found."}}).encode()),
        FakeResponse(200, b"{}"),
        UpstreamTimeout("openai sent no data."),
    ],
    ids=["404", "no count", "late"],
)
async def test_a_failed_count_of_one_client_stops_no_count_of_another_one(failure: FakeResponse | Exception) -> None:
    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if b"file_1" not in bytes(request.body):
            return FakeResponse(200, b'{"input_tokens": 77}')
        if isinstance(failure, Exception):
            raise failure
        return failure

    proxy = ProxyHarness(answer, **EITHER_API)
    await count(proxy, "key_a", "file_1")
    assert await count(proxy, "key_b", "hello") == 77


async def test_the_tokens_of_one_client_do_not_change_the_estimates_of_another_one() -> None:
    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(200, b'{"input_tokens": 90000}')

    proxy = ProxyHarness(answer, **EITHER_API)
    await count(proxy, "key_a", "word " * 5_000)
    find_scale = proxy.services.observations.find_token_scale
    assert [find_scale("openai", "gpt-4.1", key_id).factor for key_id in ("key_a", "key_b")] == [1.6, 1.0]


async def test_the_count_of_a_short_request_changes_no_estimates() -> None:
    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(200, b'{"input_tokens": 90000}')

    proxy = ProxyHarness(answer, **EITHER_API)
    await count(proxy, "key_a", "word")
    assert proxy.services.observations.find_token_scale("openai", "gpt-4.1", "key_a").factor == 1.0
