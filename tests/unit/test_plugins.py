"""A plugin adds observers, policies and routes to the application, and calls the proxy through its gateway."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from anthropic_proxy.app import App
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import InvalidRequest, PermissionDenied
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.plugins import (
    AdmissionRequest,
    Client,
    Condition,
    Gateway,
    Headers,
    Plugin,
    Receipt,
    RecordPoint,
    Route,
    RouteRequest,
    RouteResponse,
)
from tests.support.messages import exactly
from tests.support.virtual_time import in_virtual_time

BODY = {"model": "demo/demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


class RecordingObserver:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    async def record(self, receipt: Receipt) -> None:
        self.seen.append((receipt.method, receipt.path, receipt.status))


class RejectGuests:
    async def identify(self, headers: Headers) -> Client | None:
        return Client("guest") if headers.get("x-guest") else None

    async def admit(self, request: AdmissionRequest) -> None:
        if request.client.name == "guest":
            raise PermissionDenied("Guests have no access.")


async def greet(request: RouteRequest) -> RouteResponse:
    return RouteResponse(headers={"content-type": "text/plain"}, body=b"hello")


async def send_request(app: App, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    requests = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if not requests:
            await asyncio.Event().wait()  # the client stays until it has the reply
        return requests.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = {"host": "127.0.0.1", **headers}
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": pairs}
    await app({**scope, "client": ("127.0.0.1", 1)}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def test_a_plugin_observes_admits_serves_and_calls() -> None:
    observer, gateways, stopped = RecordingObserver(), list[Gateway](), list[bool]()

    async def start(gateway: Gateway) -> None:
        gateways.append(gateway)

    async def stop() -> None:
        stopped.append(True)

    plugin = Plugin(
        observers=[observer],
        policies=[RejectGuests()],
        routes=[Route(path="/greeting", respond=greet)],
        start=start,
        stop=stop,
    )
    settings = load_settings({"LOG_LEVEL": "error", "SERVE_DEMO": "true"}, PROVIDERS, env_file=None)
    app = App(settings, logs_startup=False, plugins=[plugin])
    await app.start()
    assert await send_request(app, "GET", "/greeting") == (200, b"hello")
    assert (await send_request(app, "PUT", "/greeting"))[0] == 405
    status, _ = await send_request(app, "GET", "/nothing")
    refused, error = await send_request(app, "POST", "/v1/messages", json.dumps(BODY).encode(), x_guest="1")
    assert (status, refused) == (404, 403)
    assert json.loads(error)["error"] == {"type": "permission_error", "message": "Guests have no access."}
    (gateway,) = gateways
    message = json.loads(await gateway.run(json.dumps(BODY).encode(), Client("batch")))
    assert (message["type"], message["model"]) == ("message", "demo/demo")
    assert gateway.describe_targets("demo/demo").startswith("demo/demo (")
    assert gateway.health() == {"open_circuits": 0, "keys_in_cooldown": 0}
    assert gateway.list_models()
    with pytest.raises(InvalidRequest, match=exactly("model: Field required")):
        await gateway.run(b"{}", Client("batch"))
    await app.close()
    assert stopped == [True]
    assert observer.seen == [
        ("GET", "/nothing", 404),
        ("POST", "/v1/messages", 403),
        ("POST", "/v1/messages", 200),
        ("POST", "/v1/messages", 400),
    ]
    _, page = await send_request(app, "GET", "/metrics")
    assert b'anthropic_proxy_rejected_requests_total{status="404"} 1' in page
    # what has not happened is counted too: an alert compares with it
    assert b'anthropic_proxy_rejected_requests_total{status="413"} 0' in page
    assert f'anthropic_proxy_receipts_dropped_total{{observer="{type(observer).__name__}"}} 0'.encode() in page


async def test_a_plugin_s_request_is_not_sent_twice_if_a_connection_closes_without_a_reply() -> None:
    gateways, received = list[Gateway](), list[str]()

    async def start(gateway: Gateway) -> None:
        gateways.append(gateway)

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for replies in (True, False):
            received.append((await reader.readuntil(b"\r\n\r\n")).split()[0].decode())
            if replies:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    settings = load_settings({"LOG_LEVEL": "error", "SERVE_DEMO": "true"}, PROVIDERS, env_file=None)
    app = App(settings, logs_startup=False, plugins=[Plugin(start=start)])
    await app.start()
    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for method in ("GET", "GET", "POST", "POST"):
        reply = await gateways[0].send_http(method, url)
        assert reply.status == 200
    await app.close()
    server.close()
    assert received == ["GET", "GET", "GET", "POST", "POST"]


@pytest.mark.parametrize(
    ("status", "header", "expected"),
    [
        (429, "retry-after: 30", 30.0),
        (503, "retry-after: 90000", 3_600.0),
        (429, "x: 1", None),
        (200, "retry-after: 9", None),
    ],
)
async def test_a_reply_names_the_pause_that_the_server_wants(status: int, header: str, expected: float | None) -> None:
    gateways = list[Gateway]()

    async def start(gateway: Gateway) -> None:
        gateways.append(gateway)

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} X\r\n{header}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        writer.close()

    settings = load_settings({"LOG_LEVEL": "error", "SERVE_DEMO": "true"}, PROVIDERS, env_file=None)
    app = App(settings, logs_startup=False, plugins=[Plugin(start=start)])
    await app.start()
    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    reply = await gateways[0].send_http("POST", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    await app.close()
    server.close()
    assert (reply.status, reply.retry_after) == (status, expected)


class FailingRecorder:
    def __init__(self) -> None:
        self.calls = 0

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        self.calls += 1
        raise ValueError("no space")


class KeepingRecorder:
    def __init__(self) -> None:
        self.bytes: dict[RecordPoint, bytes] = {}

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        self.bytes[point] = self.bytes.get(point, b"") + data


@pytest.mark.parametrize("stream", [False, True])
async def test_recorders_receive_the_bytes_of_the_client_and_cannot_fail_a_request(stream: bool) -> None:
    keeping, failing, gateways = KeepingRecorder(), FailingRecorder(), list[Gateway]()

    async def start(gateway: Gateway) -> None:
        gateways.append(gateway)

    app = App(
        load_settings({"SERVE_DEMO": "true"}, PROVIDERS),
        plugins=[Plugin(recorders=[failing, keeping], start=start)],
        logs_startup=False,
    )
    body = json.dumps({**BODY, "stream": stream}).encode()
    status, reply = await send_request(app, "POST", "/v1/messages", body)
    upstream = keeping.bytes.pop("upstream request")
    assert (status, keeping.bytes) == (200, {"client request": body, "client response": reply})
    assert json.loads(upstream)["messages"]
    assert failing.calls == 2
    await send_request(app, "POST", "/v1/messages/count_tokens", body)
    assert keeping.bytes["client request"] == body
    keeping.bytes.clear()
    own = json.dumps(BODY).encode()
    made = await gateways[0].run(own, Client())
    assert keeping.bytes.pop("upstream request")
    assert keeping.bytes == {"client request": own, "client response": made}
    await app.close()


async def test_no_request_is_served_before_all_plugins_have_started() -> None:
    begun, may_end, starts = asyncio.Event(), asyncio.Event(), list[str]()

    async def start(gateway: Gateway) -> None:
        starts.append("first")
        if len(starts) == 1:
            raise RuntimeError("a defect")
        begun.set()
        await may_end.wait()

    async def start_other(gateway: Gateway) -> None:
        starts.append("other")

    settings = load_settings({"LOG_LEVEL": "error", "SERVE_DEMO": "true"}, PROVIDERS, env_file=None)
    routes = [Route(path="/greeting", respond=greet)]
    app = App(settings, logs_startup=False, plugins=[Plugin(routes=routes, start=start), Plugin(start=start_other)])
    with pytest.raises(RuntimeError, match=exactly("a defect")):
        await send_request(app, "GET", "/greeting")
    requests = [asyncio.create_task(send_request(app, "GET", "/greeting")) for _ in range(2)]
    await begun.wait()
    assert not any(request.done() for request in requests)
    may_end.set()
    assert await asyncio.gather(*requests) == [(200, b"hello")] * 2
    assert starts == ["first", "first", "other"]
    await app.close()


async def fail() -> None:
    raise RuntimeError("a defect")


async def hang() -> None:
    await asyncio.Event().wait()


async def cancel() -> None:
    raise asyncio.CancelledError


async def go_on() -> None:
    with suppress(asyncio.CancelledError):
        await hang()
    await hang()


@pytest.mark.parametrize("stop", [fail, hang, cancel, go_on])
@in_virtual_time
async def test_a_plugin_that_cannot_stop_keeps_no_other_from_its_end(stop: Callable[[], Awaitable[None]]) -> None:
    stopped: list[str] = []

    async def end() -> None:
        stopped.append("next")

    settings = load_settings({"SERVE_DEMO": "true", "DATABASE_URL": "off"}, PROVIDERS, env_file=None)
    app = App(settings, logs_startup=False, plugins=[Plugin(stop=stop), Plugin(stop=end)])
    await app.start()
    async with asyncio.timeout(60):
        await app.close()
    assert stopped == ["next"]


async def test_plugins_stop_together_so_that_one_takes_no_time_from_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    has_begun = asyncio.Event()

    async def begin() -> None:
        has_begun.set()

    async def wait_for_next() -> None:
        await has_begun.wait()

    settings = load_settings({"SERVE_DEMO": "true", "DATABASE_URL": "off"}, PROVIDERS, env_file=None)
    app = App(settings, logs_startup=False, plugins=[Plugin(stop=wait_for_next), Plugin(stop=begin)])
    await app.start()
    assert await app.close()
    assert "has not ended" not in capsys.readouterr().err


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("another defect")


async def test_errors_of_a_plugin_with_other_texts_are_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[None] = []

    def find_conditions() -> list[Condition]:
        calls.append(None)
        if len(calls) % 2:
            raise Mute
        raise KeyError(f"no row {len(calls)}")

    settings = load_settings({"SERVE_DEMO": "true", "DATABASE_URL": "off"}, PROVIDERS, env_file=None)
    app = App(settings, logs_startup=False, plugins=[Plugin(conditions=find_conditions)])
    await app.start()
    for _ in range(6):
        status, _ = await send_request(app, "GET", "/readyz")
        assert status == 200
    await app.close()
    assert len(calls) >= 6
    lines = [line.partition("gave ")[2] for line in capsys.readouterr().err.splitlines() if "usable answer" in line]
    assert lines == ["no usable answer: Mute", "no usable answer: KeyError: 'no row 2'"]
