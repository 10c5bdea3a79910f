"""Large replies: one without an end is not collected without a limit, and none is read by the event loop."""

import asyncio
import io
import json
import threading
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from anthropic_proxy.console.doctor.findings import ProbeTotals
from anthropic_proxy.console.doctor.probe_runner import ProbeRunner
from anthropic_proxy.console.doctor.run import select_backends
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.telemetry.log import Log
from tests.support.fakes.server import RequestLog, new_application, serving

BODY = {"max_tokens": 20, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
CHOICE = {"index": 0, "delta": {"content": "x" * 10_000}, "finish_reason": None}
CHUNK = f"data: {json.dumps({'choices': [CHOICE]})}\n\n".encode()


async def test_a_reply_without_an_end_is_an_error_after_4_mib() -> None:
    limit, written = 100 * 1024**2, 0

    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        with suppress(ConnectionError):
            while written < limit:  # a defect of the proxy must not fill the memory
                await response.write(CHUNK)
                written += len(CHUNK)
                await asyncio.sleep(0)
        return response

    with serving(new_application(answer, RequestLog())) as server:
        settings = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": f"{server.url}/v1"}
        services = await open_services(load_settings(settings, PROVIDERS, env_file=None), log=Log(io.StringIO()))
        (backend,) = select_backends(services, ["openai/mine"])
        result = await ProbeRunner(services, ProbeTotals()).send(backend.target, BODY)
        await services.close()
    assert isinstance(result.error, UpstreamProtocolError)
    assert result.error.message == "the reply is larger than 4 MiB"
    assert (result.blocks, result.last_status) == ((), 200)
    assert written < limit


async def test_a_large_reply_is_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    last = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})

    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        body = CHUNK * 100 + f"data: {last}\n\ndata: [DONE]\n\n".encode()
        return web.Response(body=body, headers={"content-type": "text/event-stream"})

    readers, loads = set[str](), json.loads

    def record(text: Any) -> Any:
        readers.add(threading.current_thread().name)
        return loads(text)

    with serving(new_application(answer, RequestLog())) as server:
        settings = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": f"{server.url}/v1"}
        services = await open_services(load_settings(settings, PROVIDERS, env_file=None), log=Log(io.StringIO()))
        (backend,) = select_backends(services, ["openai/mine"])
        monkeypatch.setattr("anthropic_proxy.console.doctor.probe_runner.json.loads", record)
        result = await ProbeRunner(services, ProbeTotals()).send(backend.target, BODY)
        await services.close()
    assert (result.text, result.text_events, result.stop_reason) == ("x" * 1_000_000, 100, "end_turn")
    assert threading.current_thread().name not in readers
