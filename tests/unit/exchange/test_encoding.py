"""Large requests and replies are processed in a thread, so that other requests of the event loop go on."""

import asyncio
import gc
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from anthropic_proxy.engine.background import MAX_BYTES_ON_LOOP
from anthropic_proxy.engine.messages.loaded_tools import CALLER_NAME, PLACEHOLDER_NAME
from anthropic_proxy.gateway.server.endpoints import serve_request
from tests.support.harness import FakeResponse, ProxyHarness

REPLY: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Done."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14},
}
ODD_NAME = "a tool name that is not allowed, number %d"
USER = {"role": "user", "content": "x"}


def many_tools() -> dict[str, Any]:
    return {"tools": [{"name": ODD_NAME % i, "input_schema": {"type": "object"}} for i in range(10_000)]}


def many_blocks() -> dict[str, Any]:
    blocks = [{"type": "text", "text": f"line {i}\n" * 20} for i in range(20_000)]
    return {"messages": [{"role": "user", "content": blocks}]}


async def post(
    path: str, fields: dict[str, Any], reply: str | None = "Done.", **members: Any
) -> tuple[dict[str, Any], float]:
    """Return the response, and the longest time between two turns of another task of the event loop, as a part of the
    time of the work in threads. Both are processor time, so that other programs have no effect.
    """
    body = {"model": "openai/gpt-4.1", "max_tokens": 10, "messages": [USER], **fields}
    requests = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    message = {"role": "assistant", "content": reply, **members}
    answered = {**REPLY, "choices": [{**REPLY["choices"][0], "message": message}]}
    services = ProxyHarness(lambda *_: FakeResponse(200, json.dumps(answered).encode()), OPENAI_API_KEY="sk-0").services
    sent: list[bytes] = []

    async def receive() -> Any:
        return requests.pop() if requests else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    longest = 0.0
    gc.disable()  # a collection in the thread of the event loop takes as long as a step
    try:
        before = time.process_time() - time.thread_time()
        request = asyncio.create_task(serve_request(services, {**scope, "client": ("127.0.0.1", 1)}, receive, send))
        turn = time.thread_time()
        while not request.done():
            await asyncio.sleep(0)
            last, turn = turn, time.thread_time()
            longest = max(longest, turn - last)
        in_threads = time.process_time() - time.thread_time() - before
    finally:
        gc.enable()
    await request
    return json.loads(b"".join(sent)), longest / in_threads


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("make_fields", "limit"),
    [
        pytest.param(many_tools, 1 / 3, id="tools"),  # their body is read by the event loop, because it is small
        pytest.param(many_blocks, 1 / 6, id="blocks"),
    ],
)
async def test_a_large_request_leaves_the_event_loop_free(
    path: str, make_fields: Callable[[], dict[str, Any]], limit: float
) -> None:
    response, longest = await post(path, make_fields())
    assert response.get("type", "message") == "message"
    assert longest < limit


async def test_a_large_reply_is_decoded_beside_the_event_loop() -> None:
    lines = "".join(f"line {i} of a long reply with ümlauts\n" for i in range(300_000))
    response, _ = await post("/v1/messages", {}, lines)
    assert response["content"] == [{"type": "text", "text": lines}]


async def test_a_large_request_gets_the_errors_of_a_small_one() -> None:
    large = {"role": "user", "content": "x" * (MAX_BYTES_ON_LOOP + 1)}
    for messages in ([USER, {"role": "judge", "content": "y"}], [large, {"role": "judge", "content": "y"}]):
        response, _ = await post("/v1/messages", {"messages": messages})
        assert response["error"] == {
            "type": "invalid_request_error",
            "message": """messages.1.role: Input should be 'user', 'assistant' or 'system', got "judge\"""",
        }


DEFERRED = [
    {"name": name, "input_schema": {"type": "object"}, "defer_loading": True} for name in (PLACEHOLDER_NAME, "WebFetch")
]
SIZE = 600_000
ARGUMENTS = {
    "texts": '{"a":[' + '"",' * (SIZE // 3) + "0]}",
    "nested": '{"a":[' + "[[]]," * (SIZE // 5) + "0]}",
    "objects": '{"a":[' + '{"b":1},' * (SIZE // 8) + "0]}",
    "incomplete": '{"a":[' + '{"b":1},' * (SIZE // 8),
}


FORMS = ("loaded, name first", "loaded, name last", "listed")
IN_EACH_RUN = [("loaded, name last", "texts"), ("listed", "nested"), ("loaded, name first", "incomplete")]


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        pytest.param(*call, marks=[] if call in IN_EACH_RUN else pytest.mark.merge)
        for call in itertools.product(FORMS, ARGUMENTS)
    ],
)
async def test_large_arguments_of_a_call_leave_the_event_loop_free(form: str, kind: str) -> None:
    arguments = ARGUMENTS[kind]
    name, text = (CALLER_NAME, f'{{"name":"WebFetch","arguments":{arguments}}}')
    if form == "loaded, name last":
        text = f'{{"arguments":{arguments},"name":"WebFetch"}}'
    tools = DEFERRED
    if form == "listed":
        name, text, tools = "WebFetch", arguments, [{"name": "WebFetch", "input_schema": {"type": "object"}}]
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": text}}
    response, longest = await post("/v1/messages", {"tools": tools}, None, tool_calls=[call])
    assert [block["type"] for block in response["content"]] == ["tool_use"]
    assert longest < 1 / 3


async def test_stop_sequences_of_a_large_reply_leave_the_event_loop_free() -> None:
    response, longest = await post("/v1/messages", {"stop_sequences": ["xy1", "xy2", "xy3", "xy4", "xy5"]}, "x" * SIZE)
    assert response["content"] == [{"type": "text", "text": "x" * SIZE}]
    assert longest < 1 / 3
