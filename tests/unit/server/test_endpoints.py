"""The endpoints without a socket: effects that no request may have, and its answer."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.errors import InternalError
from anthropic_proxy.gateway.server.endpoints import serve_request
from anthropic_proxy.gateway.server.response_sink import AsgiSink
from anthropic_proxy.plugins import AdmissionRequest, Client, Headers
from tests.support.harness import FakeResponse, ProxyHarness


class Broken:
    """A policy with a bug."""

    async def identify(self, headers: Headers) -> Client | None:
        return {}["nobody"]  # type: ignore[no-any-return]

    async def admit(self, ticket: AdmissionRequest) -> None:
        raise AssertionError


async def test_an_unexpected_error_of_an_endpoint_is_answered_in_the_envelope_and_logged() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"))
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [], "query_string": b"", "client": None}
    await serve_request(structs.replace(proxy.services, policies=[Broken()]), scope, receive, send)
    start, body = sent
    assert start["status"] == 500
    assert json.loads(body["body"])["error"]["type"] == "api_error"
    log_text = proxy.log.getvalue()
    assert "KeyError: 'nobody'" in log_text
    assert "GET /v1/models 500" in log_text.splitlines()[-1]
    assert "✕ KeyError in the proxy" in log_text.splitlines()[-1]


async def test_after_a_header_that_cannot_be_sent_an_error_can_be_sent() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    sink = AsgiSink(receive, send, "req_1")
    with pytest.raises(UnicodeEncodeError):
        await sink.send_relayed_bytes(b"{}", {"anthropic-x": "☃"}, is_stream=False, is_last=True)
    assert not sink.started
    await sink.send_error_response(InternalError("said in the envelope"))
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["message"] == "said in the envelope"


KEY = "s3cr3t-proxy-key-1234"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/messages", {"model": f"demo/{KEY}"}),
        ("POST", "/v1/messages", {"model": f"groq/{KEY}"}),
        ("POST", "/v1/messages", {"model": KEY, "max_tokens": KEY}),
        ("POST", "/v1/messages", {"model": KEY, "stream": True}),
        ("POST", "/v1/messages", {"model": KEY}),
        ("POST", "/v1/messages/count_tokens", {"model": f"groq/{KEY}"}),
        ("GET", f"/v1/models/{KEY}", None),
        ("GET", f"/{KEY}", None),
        ("DELETE", f"/v1/models/{KEY}", None),
    ],
)
async def test_an_error_does_not_contain_a_proxy_key_that_was_sent_as_a_value(
    method: str, path: str, body: dict[str, Any] | None
) -> None:
    """The provider repeats the name of the model in its refusal."""
    refusal = json.dumps({"error": {"message": f"The model {KEY} does not exist.", "code": "model_not_found"}})
    proxy = ProxyHarness(lambda *_: FakeResponse(404, refusal.encode()), OPENAI_API_KEY="sk-none", PROXY_API_KEY=KEY)
    message = {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"" if body is None else json.dumps({**message, **body}).encode()}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"x-api-key", KEY.encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "client": None}
    await serve_request(proxy.services, scope, receive, send)
    assert sent[0]["status"] >= 400 or path.endswith("count_tokens")
    answer = b"".join(part.get("body", b"") for part in sent).decode()
    assert KEY not in answer
    if path != "/v1/messages/count_tokens":
        assert "…1234" in answer or "groq has no key" in answer


class Waiting:
    """A policy that holds a request until it is cancelled."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def identify(self, headers: Any) -> None:
        return None

    async def admit(self, ticket: AdmissionRequest) -> None:
        self.reached.set()
        await asyncio.Event().wait()


async def test_a_request_that_is_cancelled_before_its_exchange_has_one_receipt_and_the_refusal() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("no call expected"), OPENAI_API_KEY="sk-none")
    sent: list[MutableMapping[str, Any]] = []
    request = {"model": "gpt-4o", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": json.dumps(request).encode()}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": [(b"host", b"localhost")]}
    scope |= {"query_string": b"", "client": None}
    policy = Waiting()
    task = asyncio.create_task(serve_request(structs.replace(proxy.services, policies=[policy]), scope, receive, send))
    await policy.reached.wait()
    task.cancel()
    await task
    assert [(receipt.status, receipt.outcome) for receipt in proxy.receipts] == [(503, "error")]
    assert proxy.log.getvalue().count("POST /v1/messages 503") == 1
    assert [message.get("status") for message in sent] == [503, None]
