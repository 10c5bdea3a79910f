"""The door without a socket: what no request may bring about, and is answered all the same."""

import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.hooks import Client, Headers, Ticket
from anthropic_proxy.server.endpoints import serve
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
