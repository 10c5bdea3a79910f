"""The door without a socket: what no request may bring about, and is answered all the same."""

import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.errors import InternalError
from anthropic_proxy.hooks import Client, Headers, Ticket
from anthropic_proxy.server.endpoints import HttpOutlet, serve
from tests.house import Town


class Broken:
    """A policy with a bug."""

    async def identify(self, headers: Headers) -> Client | None:
        return {}["nobody"]  # type: ignore[no-any-return]

    async def admit(self, ticket: Ticket) -> None:
        raise AssertionError


async def test_a_bug_at_the_door_is_answered_in_the_envelope_and_leaves_a_line() -> None:
    town = Town(lambda *_: pytest.fail("nobody is called"))
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [], "query_string": b"", "client": None}
    await serve(structs.replace(town.house, policies=[Broken()]), scope, receive, send)
    start, body = sent
    assert start["status"] == 500
    assert json.loads(body["body"])["error"]["type"] == "api_error"
    said = town.log.getvalue()
    assert "KeyError: 'nobody'" in said
    assert "GET /v1/models 500" in said.splitlines()[-1]
    assert "✕ KeyError inside the proxy" in said.splitlines()[-1]


async def test_a_header_that_cannot_be_sent_leaves_room_for_the_refusal() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    outlet = HttpOutlet(receive, send, "req_1")
    with pytest.raises(UnicodeEncodeError):
        await outlet.relay(b"{}", {"anthropic-x": "☃"}, streams=False, last=True)
    assert not outlet.opened
    await outlet.refuse(InternalError("said in the envelope"))
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["message"] == "said in the envelope"
