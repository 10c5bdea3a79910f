"""Exchanges without a server, and `examples/in_process.py`, which uses them."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from anthropic_proxy.engine.engine import build_engine
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.options import ConfiguredProvider, EngineOptions
from anthropic_proxy.errors import ConfigurationError
from tests.support.harness import STALL, FakeResponse, ProxyHarness
from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS

SERVER_PARTS = {
    *("anthropic_proxy.gateway", "anthropic_proxy.console", "anthropic_proxy.cli"),
    *("cyclopts", "jinja2", "sqlalchemy", "starlette", "uvicorn"),
}
PIECE = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )


def body_of(**fields: Any) -> bytes:
    messages = [{"role": "user", "content": "hello"}]
    return json.dumps({"model": "claude-sonnet-5", "max_tokens": 100, "messages": messages, **fields}).encode()


def test_the_example_streams_a_reply_and_loads_no_part_of_the_server() -> None:
    program = (
        "import runpy, sys; runpy.run_path('examples/in_process.py'); print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    ended = run_program(program)
    assert ended.stdout.startswith("This is the built-in demonstration of anthropic-proxy.")
    assert SERVER_PARTS.isdisjoint(ended.stderr.splitlines())


async def test_a_reply_that_is_not_streamed_is_one_message() -> None:
    engine = build_engine(EngineOptions())
    response = await send_request(engine, body_of())
    message = json.loads(b"".join([piece async for piece in response.body]))
    await engine.close()
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert (message["model"], message["stop_reason"]) == ("claude-sonnet-5", "end_turn")


async def test_an_error_is_a_response() -> None:
    engine = build_engine(EngineOptions())
    response = await send_request(engine, body_of(max_tokens="many"))
    error = json.loads(b"".join([piece async for piece in response.body]))
    await engine.close()
    assert response.status == 400
    message = 'max_tokens: Input should be an integer, got "many"'
    assert error == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": message},
        "request_id": response.headers["request-id"],
    }


async def test_a_reader_that_stops_ends_the_call_of_the_provider() -> None:
    answer = FakeResponse(200, PIECE, STALL, headers={"content-type": "text/event-stream"})
    proxy = ProxyHarness(lambda *_: answer, OPENAI_API_KEY="k")
    response = await send_request(proxy.services, body_of(stream=True))
    async for piece in response.body:
        if b"Hello" in piece:
            break
    await response.body.aclose()
    assert answer.closed == 1
    assert [receipt.outcome for receipt in proxy.receipts] == ["cancelled"]


async def test_a_body_that_is_never_read_ends_when_it_is_closed() -> None:
    def answer(*_: object) -> FakeResponse:
        return FakeResponse(200, *[PIECE] * 100, STALL, headers={"content-type": "text/event-stream"})

    proxy = ProxyHarness(answer, OPENAI_API_KEY="k", MAX_UPSTREAM_CALLS="1")
    for _ in range(2):
        response = await send_request(proxy.services, body_of(stream=True))
        await response.body.aclose()
        assert [piece async for piece in response.body] == []
    assert [receipt.outcome for receipt in proxy.receipts] == ["cancelled"] * 2


def test_a_program_ends_although_it_has_not_read_a_response() -> None:
    program = (
        "import asyncio\nfrom tests.unit.exchange.test_in_process import *\n"
        "answer = FakeResponse(200, *[PIECE] * 100, STALL, headers={'content-type': 'text/event-stream'})\n"
        "proxy = ProxyHarness(lambda *_: answer, OPENAI_API_KEY='k')\n"
        "async def main():\n    global kept\n    kept = await send_request(proxy.services, body_of(stream=True))\n"
        "asyncio.run(main())\nprint(proxy.receipts[0].error_type)"
    )
    ended = run_program(program)
    assert ended.stdout == "api_error\n"


async def test_an_error_of_the_provider_keeps_its_body_and_headers() -> None:
    body = b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}'
    headers = {"content-type": "application/json", "retry-after": "7", "anthropic-ratelimit-requests-limit": "9"}
    proxy = ProxyHarness(lambda *_: FakeResponse(429, body, b"", headers=headers), ANTHROPIC_API_KEY="k")
    response = await send_request(proxy.services, body_of())
    assert [piece async for piece in response.body] == [body]
    assert (response.status, response.headers["retry-after"]) == (429, "7")
    assert response.headers["anthropic-ratelimit-requests-limit"] == "9"


def test_an_unknown_wire_is_rejected() -> None:
    table = ConfiguredProvider(name="own", base_url="http://h", wire="chats", has_key=False)
    with pytest.raises(ConfigurationError) as rejected:
        build_engine(EngineOptions(configured_providers=(table,)))
    assert str(rejected.value) == 'The wire of own is "chats". Use chat, responses, messages, gemini or ollama.'
