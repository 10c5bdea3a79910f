"""A provider that is silent on an open connection: only the limits of the settings end it.

Minutes are tried in virtual time (`tests/unit/exchange/test_silence.py`). Here, the limits are small.
"""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.fakes.server import RequestLog, new_application, serving
from tests.support.server_process import running_forked_proxy
from tests.support.waiting import WAIT_SECONDS

IDLE_SECONDS = 0.3
START = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
REST = {"choices": [{"index": 0, "delta": {"content": "Well."}, "finish_reason": "stop"}]}


async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
    """Send headers and an event, and after a silence longer than the limit between pieces, the reply.

    After content, the silence lasts until the proxy ends the request.
    """
    if not request.path.endswith("/chat/completions"):
        return web.json_response({}, status=404)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    first = START if (thinks := json.loads(raw)["messages"][-1]["content"] == "think") else REST
    await response.write(b"data: " + json.dumps(first).encode().replace(b'"stop"', b"null") + b"\n\n")
    await asyncio.sleep(4 * IDLE_SECONDS if thinks else WAIT_SECONDS)
    await response.write(b"data: " + json.dumps(REST).encode() + b"\n\ndata: [DONE]\n\n")
    return response


@pytest.mark.parametrize(("text", "is_complete"), [("think", True), ("speak", False)])
def test_silence_before_the_first_content_has_the_longer_limit(text: str, is_complete: bool, tmp_path: Path) -> None:
    with serving(new_application(answer, RequestLog())) as upstream:
        settings = {"OPENAI_BASE_URL": f"{upstream.url}/v1", "OPENAI_API_KEY": "key", "BIG_MODEL": "openai/m"}
        settings |= {"UPSTREAM_IDLE_TIMEOUT": str(IDLE_SECONDS), "UPSTREAM_FIRST_BYTE_TIMEOUT": "60"}
        with running_forked_proxy(tmp_path, settings) as proxy:
            body = {"model": "claude-opus-4-6", "max_tokens": 100, "stream": True}
            body |= {"messages": [{"role": "user", "content": text}]}
            reply = proxy.client().post("/v1/messages", json=body).text
    assert ("event: message_stop" in reply, "timeout_error" in reply) == (is_complete, not is_complete)
    assert "Well." in reply
