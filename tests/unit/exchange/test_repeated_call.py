"""Replies that the provider could not read after thinking: the call is repeated within the open stream."""

import json
import re
from typing import Any

import pytest

from anthropic_proxy.cli.lint_stream import check_bytes
from anthropic_proxy.engine.wires.contract import UpstreamRequest
from anthropic_proxy.errors import UpstreamUnreachable
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.tool_loop import SEARCH, Script, Searcher, call, calls, folded, message_of, reply, text
from tests.support.tool_loop import frame as chat_frame
from tests.support.tool_loop import proxy as chat_proxy

WRITE = {"name": "Write", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
THOUGHT = {"text": "I write it.", "thought": True}
CALL = {"functionCall": {"name": "Write", "args": {"path": "a"}}}
BROKEN = "MALFORMED_FUNCTION_CALL"
MESSAGE = f"gemini: the model's reply could not be read ({BROKEN})"


def frame(*parts: dict[str, Any], finish: str | None = None, output: int = 0, thoughts: int = 7) -> bytes:
    usage = {"promptTokenCount": 30, "candidatesTokenCount": output, "thoughtsTokenCount": thoughts}
    candidate = {"content": {"parts": list(parts)}} | ({"finishReason": finish} if finish else {})
    return b"data: " + json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode() + b"\n\n"


def failed(*parts: dict[str, Any]) -> list[bytes]:
    return [frame(*(parts or [THOUGHT])), frame(finish=BROKEN)]


@pytest.mark.parametrize("trailing", [UpstreamUnreachable("It broke."), b"data: nonsense\n\n"])
async def test_a_failure_after_the_finish_reason_does_not_replace_it(trailing: bytes | Exception) -> None:
    script = Script([*failed(), trailing], called())
    message = message_of(await gemini(script).post(tools=[WRITE], stream=True))
    assert [block.type for block in message.content] == ["thinking", "tool_use"]


def called() -> list[bytes]:
    return [frame({"text": "Again.", "thought": True}), frame(CALL, finish="STOP", output=5)]


def gemini(script: Script, **settings: str) -> ProxyHarness:
    return ProxyHarness(script, GEMINI_API_KEY="AIza-test-0123456789", PREFERRED_PROVIDER="google", **settings)


def error_of(sink: RecordingSink) -> Any:
    assert check_bytes(sink.stream) == []
    return folded(sink.stream)["error"]


async def test_after_thinking_the_call_is_repeated_within_the_stream() -> None:
    script = Script(failed(), called())
    proxy = gemini(script)
    sink = await proxy.post(tools=[WRITE], stream=True)
    assert re.findall(rb'"thinking":"([^"]+)"', sink.stream) == [b"I write it.", b"Again."]
    message = message_of(sink)
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert (message.content[1].name, message.content[1].input) == ("Write", {"path": "a"})
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (30, 19)
    assert script.requests[0] == script.requests[1]
    assert [response.closed > 0 for response in script.given] == [True, True]
    (receipt,) = proxy.receipts
    assert (receipt.outcome, receipt.failed_attempts) == ("tool_use", ["gemini 502"])
    assert (receipt.input_tokens, receipt.output_tokens, receipt.thinking_tokens) == (60, 19, 14)
    assert [(one.error, one.input_tokens, one.output_tokens, one.thinking_tokens) for one in receipt.attempts] == [
        (MESSAGE, 30, 7, 7),
        ("", 30, 12, 7),
    ]


async def test_a_second_unreadable_reply_is_an_error() -> None:
    script = Script(failed(), failed())
    proxy = gemini(script)
    assert error_of(await proxy.post(tools=[WRITE], stream=True)) == {"type": "api_error", "message": MESSAGE}
    (receipt,) = proxy.receipts
    assert (receipt.outcome, receipt.failed_attempts) == ("error", ["gemini 502"])
    assert (receipt.input_tokens, receipt.output_tokens) == (60, 14)
    assert [(one.error_type, one.input_tokens, one.output_tokens) for one in receipt.attempts] == [
        ("api_error", 30, 7),
        ("api_error", 30, 7),
    ]


@pytest.mark.parametrize("part", [{"text": "I write it."}, CALL])
async def test_after_other_content_the_call_is_not_repeated(part: dict[str, Any]) -> None:
    script = Script(failed(THOUGHT, part))
    sink = await gemini(script).post(tools=[WRITE], stream=True)
    assert error_of(sink) == {"type": "api_error", "message": MESSAGE}
    assert len(script.requests) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_the_retry_before_the_first_content_is_the_only_one(stream: bool) -> None:
    script = Script([frame(finish=BROKEN)], failed())
    if not stream:
        script = Script(*[[json.dumps({"candidates": [{"finishReason": BROKEN}]}).encode()]] * 2)
    proxy = gemini(script)
    sink = await proxy.post(tools=[WRITE], stream=stream)
    if stream:
        assert error_of(sink) == {"type": "api_error", "message": MESSAGE}
    else:
        assert (sink.error.status, sink.error.error_type, sink.error.message) == (502, "api_error", MESSAGE)
    assert len(script.requests) == 2
    assert proxy.receipts[0].failed_attempts == ["gemini 502"]


async def test_the_error_of_the_repeated_call_ends_the_stream() -> None:
    quota = json.dumps({"error": {"code": 403, "message": "No.", "status": "PERMISSION_DENIED"}}).encode()
    script = Script(failed(), FakeResponse(403, quota))
    sink = await gemini(script).post(tools=[WRITE], stream=True)
    assert error_of(sink)["type"] == "permission_error"


@pytest.mark.parametrize("finish", ["function_call_filter: MALFORMED_FUNCTION_CALL", "malformed_function_call"])
async def test_chat_completions_are_repeated_too(finish: str) -> None:
    first = [chat_frame({"reasoning_content": "Hm."}), *reply(finish=finish)]
    script = Script(first, calls(call("Write", path="a"), tokens=(100, 20)))
    message = message_of(await chat_proxy(script).post(tools=[WRITE], stream=True))
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (100, 30)


async def test_a_call_after_a_search_of_the_proxy_is_repeated() -> None:
    broken = [chat_frame({"reasoning_content": "Hm."}), *reply(finish="malformed_function_call")]
    script = Script(calls(call("web_search", query="Oslo")), broken, reply(text("Cold."), tokens=(150, 5)))
    proxy = chat_proxy(script, Searcher())
    message = message_of(await proxy.post(tools=[SEARCH], stream=True))
    assert [block.type for block in message.content] == [
        "server_tool_use",
        "web_search_tool_result",
        "thinking",
        "text",
    ]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (250, 25)
    (receipt,) = proxy.receipts
    assert (receipt.input_tokens, receipt.output_tokens) == (350, 25)
    assert [(one.input_tokens, one.output_tokens) for one in receipt.attempts] == [(100, 10), (100, 10), (150, 5)]
    assert receipt.failed_attempts == ["openai 502"]


def usage_of(message: Any) -> tuple[int, int, int]:
    return message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens


async def test_the_client_is_told_the_cached_input_of_the_last_call_only() -> None:
    def counted(part: dict[str, Any], finish: str, **counts: int) -> list[bytes]:
        candidate = {"content": {"parts": [part]}}
        end = {"candidates": [{"finishReason": finish}], "usageMetadata": {"promptTokenCount": 1000, **counts}}
        return [b"data: %b\n\n" % json.dumps(one).encode() for one in ({"candidates": [candidate]}, end)]

    script = Script(
        counted(THOUGHT, BROKEN, cachedContentTokenCount=900, candidatesTokenCount=7),
        counted(CALL, "STOP", candidatesTokenCount=5),
    )
    proxy = gemini(script)
    assert usage_of(message_of(await proxy.post(tools=[WRITE], stream=True))) == (1000, 0, 12)
    (receipt,) = proxy.receipts
    assert (receipt.input_tokens, receipt.cache_read_tokens, receipt.output_tokens) == (1100, 900, 12)
    assert [(one.input_tokens, one.cache_read_tokens, one.output_tokens) for one in receipt.attempts] == [
        (100, 900, 7),
        (1000, 0, 5),
    ]


async def test_a_repeated_call_that_fails_before_its_content_is_counted_once() -> None:
    proxy = gemini(Script(failed(), [frame(finish=BROKEN)]))
    assert error_of(await proxy.post(tools=[WRITE], stream=True)) == {"type": "api_error", "message": MESSAGE}
    (receipt,) = proxy.receipts
    assert (receipt.input_tokens, receipt.output_tokens) == (60, 14)
    assert [(one.input_tokens, one.output_tokens) for one in receipt.attempts] == [(30, 7), (30, 7)]


def gemini_body(parts: list[Any], finish: str) -> dict[str, Any]:
    counts = {"promptTokenCount": 30, "candidatesTokenCount": 7}
    return {"candidates": [{"content": {"parts": parts}, "finishReason": finish}], "usageMetadata": counts}


def chat_body(content: str, finish: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37}}


def responses_body(text: str, reason: str) -> dict[str, Any]:
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    details = {"status": "incomplete", "incomplete_details": {"reason": reason}} if reason else {"status": "completed"}
    usage = {"input_tokens": 30, "output_tokens": 7, "total_tokens": 37}
    return {"id": "resp_1", "output": [item] if text else [], "usage": usage, **details}


def ollama_body(content: str, reason: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"message": message, "done": True, "done_reason": reason, "prompt_eval_count": 30, "eval_count": 7}


CHAT = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}
RESPONSES = {"OPENAI_API_KEY": "sk-test-0123456789"}
GEMINI = {"GEMINI_API_KEY": "AIza-test-0123456789", "PREFERRED_PROVIDER": "google"}
OLLAMA = {"PREFERRED_PROVIDER": "ollama"}
SSE = "data: {}\n\n"
UNREADABLE = {
    "gemini": (GEMINI, "gemini/gemini-2.5-pro", SSE, gemini_body([], BROKEN), gemini_body([{"text": "Hi"}], "STOP")),
    "chat": (CHAT, "openai/gpt-5", SSE, chat_body("", "malformed_function_call"), chat_body("Hi", "stop")),
    "responses": (
        RESPONSES,
        "openai/gpt-5",
        SSE,
        responses_body("", "malformed_function_call"),
        responses_body("Hi", ""),
    ),
    "ollama": (OLLAMA, "ollama/qwen3", "{}\n", ollama_body("", "malformed_function_call"), ollama_body("Hi", "stop")),
}


@pytest.mark.parametrize("recovers", [True, False])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wire", UNREADABLE)
async def test_the_tokens_of_an_unreadable_reply_without_content_are_counted(
    wire: str, stream: bool, recovers: bool
) -> None:
    settings, model, framing, *bodies = UNREADABLE[wire]
    texts = [json.dumps(body) for body in bodies]
    if stream and wire == "responses":
        events = [{"type": f"response.{body['status']}", "response": body} for body in bodies]
        texts = [json.dumps(event) for event in events]
    if stream:
        texts = [framing.replace("{}", text) for text in texts]
    replies = [texts[0], texts[recovers]]

    def upstream(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        if request.path in ("/api/tags", "/api/show"):
            return FakeResponse(404)
        return FakeResponse(200, replies.pop(0).encode())

    proxy = ProxyHarness(upstream, **settings)
    sink = await proxy.post(stream=stream, model=model)
    if recovers:
        assert usage_of(message_of(sink)) == (30, 0, 7)
    (receipt,) = proxy.receipts
    assert (receipt.input_tokens, receipt.output_tokens) == (60, 14)
    assert [(one.input_tokens, one.output_tokens) for one in receipt.attempts] == [(30, 7), (30, 7)]


async def test_an_unreadable_reply_that_is_not_streamed_is_retried_after_any_content() -> None:
    bodies = [gemini_body([{"text": "I write."}, CALL], BROKEN), gemini_body([{"text": "Hi"}], "STOP")]
    proxy = gemini(Script(*[[json.dumps(body).encode()] for body in bodies]))
    message = message_of(await proxy.post(tools=[WRITE]))
    assert [block.text for block in message.content] == ["Hi"]
    assert (usage_of(message), proxy.receipts[0].input_tokens) == ((30, 0, 7), 60)


FAILURES = (
    "image input is not supported in tool messages; prompt is too long: 20 tokens > 10 maximum; insufficient_quota"
)
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
WITH_PICTURE = [{"role": "user", "content": [PICTURE, {"type": "text", "text": "Hi"}]}]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wire", UNREADABLE)
async def test_a_model_that_writes_about_failures_causes_none(wire: str, stream: bool) -> None:
    settings, model, framing, *_ = UNREADABLE[wire]
    bodies = {
        "gemini": gemini_body([{"text": FAILURES, "thought": True}, {"text": FAILURES}], "STOP"),
        "chat": chat_body(FAILURES, "stop"),
        "responses": responses_body(FAILURES, ""),
        "ollama": ollama_body(FAILURES, "stop"),
    }
    body: dict[str, Any] = bodies[wire]
    if stream and wire == "responses":
        body = {"type": "response.completed", "response": body}
    text = json.dumps(body)
    script = Script([(framing.replace("{}", text) if stream else text).encode()])

    def upstream(url: str, request: UpstreamRequest, credential: Any) -> FakeResponse:
        return FakeResponse(404) if request.path in ("/api/tags", "/api/show") else script(url, request, credential)

    proxy = ProxyHarness(upstream, **settings)
    message = message_of(await proxy.post(stream=stream, model=model, messages=WITH_PICTURE))
    assert (message.content[-1].text, message.stop_reason) == (FAILURES, "end_turn")
    assert (proxy.receipts[0].adaptations, proxy.receipts[0].failed_attempts) == ([], [])


async def test_a_model_text_that_gemini_quotes_changes_no_request() -> None:
    body = gemini_body([], BROKEN)
    body["candidates"][0]["finishMessage"] = f"Malformed function call: print({FAILURES!r})"
    script = Script([json.dumps(body).encode()], [json.dumps(gemini_body([{"text": "Hi"}], "STOP")).encode()])
    proxy = gemini(script)
    assert message_of(await proxy.post(messages=WITH_PICTURE)).content[0].text == "Hi"
    assert script.requests[0] == script.requests[1]
    assert proxy.receipts[0].adaptations == []


@pytest.mark.parametrize("thinks", [True, False])
async def test_a_tool_call_that_ollama_could_not_parse_is_requested_again(thinks: bool) -> None:
    error = {"error": f"error parsing tool call: raw='{FAILURES}', err=invalid character 'i'"}
    thought = {"message": {"role": "assistant", "thinking": "Hm."}, "done": False}
    lines = [json.dumps(line).encode() + b"\n" for line in ([thought] if thinks else []) + [error]]
    script = Script(lines, [json.dumps(ollama_body("Hi", "stop")).encode() + b"\n"])

    def upstream(url: str, request: UpstreamRequest, credential: Any) -> FakeResponse:
        return FakeResponse(404) if request.path in ("/api/tags", "/api/show") else script(url, request, credential)

    proxy = ProxyHarness(upstream, **OLLAMA)
    message = message_of(await proxy.post(stream=True, model="ollama/qwen3", messages=WITH_PICTURE))
    assert message.content[-1].text == "Hi"
    assert script.requests[0] == script.requests[1]
    expected = "ollama: the model's reply could not be read (error parsing tool call)"
    assert [one.error for one in proxy.receipts[0].attempts] == [expected, ""]
