"""Claude Code with a server of the Messages API whose streams it cannot read by itself: each turn is one call."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.e2e.claude import run_claude
from tests.support import replies
from tests.support.fakes.server import RequestLog, new_application, serving
from tests.support.server_process import running_proxy
from tests.support.waiting import wait_for

WELL = replies.Reply(texts=["All is well."], count=5)
OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'


def without_names(stream: list[bytes]) -> bytes:
    lines = b"".join(stream).split(b"\n")
    return b"\n".join(line for line in lines if not line.startswith(b"event:"))


def with_empty_events(stream: list[bytes]) -> bytes:
    return b"event: ping\ndata:\n\n".join(stream) + b"event: ping\n\n"


def new_server(write: Callable[[int], bytes]) -> web.Application:
    """Return a server that answers the call with this number (from 1)."""

    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.Response:
        exchange = journal.open(request, json.loads(raw or b"{}"))
        if exchange.body.get("stream"):
            return web.Response(body=write(exchange.number), content_type="text/event-stream")
        return web.Response(body=replies.MESSAGES.whole(WELL), content_type="application/json")

    return new_application(answer, RequestLog())


@pytest.mark.parametrize(
    ("write", "calls"),
    [
        pytest.param(lambda number: without_names(replies.MESSAGES.stream(WELL)), 1, id="no names"),
        pytest.param(lambda number: with_empty_events(replies.MESSAGES.stream(WELL)), 1, id="empty events"),
        # the proxy repeats the first call; the second one of the client is the third here
        pytest.param(
            lambda number: OVERLOADED if number <= 2 else b"".join(replies.MESSAGES.stream(WELL)), 3, id="overload"
        ),
    ],
)
def test_a_turn_is_answered_by_one_streamed_call(
    claude: Path, server: Path, work: Path, write: Callable[[int], bytes], calls: int
) -> None:
    with serving(new_server(write)) as running:
        settings = {
            "PREFERRED_PROVIDER": "anthropic",
            "ANTHROPIC_API_KEY": "sk-ant-test-0123456789",
            "ANTHROPIC_UPSTREAM_URL": running.url,
        }
        with running_proxy(server, settings) as proxy:
            run = run_claude(claude, proxy.url, work, "Say how it is")
            assert run.text == "All is well."
            streamed = [exchange.body.get("stream") for exchange in running.journal.exchanges if exchange.body]
            assert streamed == [True] * calls
            wait_for(lambda: proxy.log.count(" 529 ") == (calls > 1))
