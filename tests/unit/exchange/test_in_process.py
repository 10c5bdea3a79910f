"""Exchanges without a server, and `examples/in_process.py`, which uses them."""

import json
import os
import subprocess
import sys
from typing import Any

from anthropic_proxy.engine.engine import build_engine
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.options import EngineOptions
from tests.support.harness import STALL, FakeResponse, ProxyHarness
from tests.support.paths import ROOT

SERVER_PARTS = {
    *("anthropic_proxy.gateway", "anthropic_proxy.console", "anthropic_proxy.cli"),
    *("alembic", "cyclopts", "jinja2", "sqlalchemy", "starlette", "uvicorn"),
}
PIECE = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'


def body_of(**fields: Any) -> bytes:
    messages = [{"role": "user", "content": "hello"}]
    return json.dumps({"model": "claude-sonnet-5", "max_tokens": 100, "messages": messages, **fields}).encode()


def test_the_example_streams_a_reply_and_loads_no_part_of_the_server() -> None:
    program = (
        "import runpy, sys; runpy.run_path('examples/in_process.py'); print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=True
    )
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
