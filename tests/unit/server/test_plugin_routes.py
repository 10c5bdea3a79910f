"""Routes of plugins: path parameters, methods, limits of the body, streams, and clients without a key."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from anthropic_proxy.app import App
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import UnknownModel
from anthropic_proxy.gateway.services import PluginRoutes
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.plugins import Plugin, Route, RouteRequest, RouteResponse
from tests.support.waiting import WAIT_SECONDS


async def describe(request: RouteRequest) -> RouteResponse:
    seen = {
        "method": request.method,
        "path": request.path,
        "parameters": request.path_parameters,
        "query": request.query,
        "headers": sorted(request.headers),
        "body": request.body.decode(),
        "client": request.client.name,
        "address": request.address,
    }
    return RouteResponse(
        status=201,
        headers={"content-type": "application/json", "set-cookie": ["a=1", "b=2"]},
        body=json.dumps(seen).encode(),
    )


async def fail(request: RouteRequest) -> RouteResponse:
    raise UnknownModel("No such request.")


class Application:
    """The application with one plugin, called through ASGI."""

    def __init__(self, *routes: Route, **variables: str) -> None:
        settings = load_settings({"LOG_LEVEL": "error", **variables}, PROVIDERS, env_file=None)
        self._app = App(settings, logs_startup=False, plugins=[Plugin(routes=routes)])
        self.disconnected = asyncio.Event()
        self.sent: list[Any] = []
        self.on_body = asyncio.Event()

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, bytes]:
        bodies, self.sent = [{"type": "http.request", "body": body, "more_body": False}], []

        async def receive() -> Any:
            if bodies:
                return bodies.pop()
            await self.disconnected.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(message)
            if message.get("body"):
                self.on_body.set()

        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        path, _, query = path.partition("?")
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode()}
        scope["headers"] = [(b"host", b"127.0.0.1"), *pairs]
        await self._app({**scope, "client": ("127.0.0.1", 1)}, receive, send)
        content = b"".join(message.get("body", b"") for message in self.sent)
        return self.sent[0]["status"], self.sent[0]["headers"], content


async def test_a_route_receives_parameters_query_body_and_no_credential() -> None:
    app = Application(Route(path="/api/items/{id}/parts/{part}", respond=describe, methods=["GET", "POST"]))
    status, headers, content = await app.send(
        "POST", "/api/items/a.b/parts/7?x=1&x=2&y=", b"hi", authorization="Bearer k"
    )
    assert (status, json.loads(content)) == (
        201,
        {
            "method": "POST",
            "path": "/api/items/a.b/parts/7",
            "parameters": {"id": "a.b", "part": "7"},
            "query": {"x": ["1", "2"], "y": [""]},
            "headers": ["host"],
            "body": "hi",
            "client": "local",
            "address": "127.0.0.1",
        },
    )
    assert [value for name, value in headers if name == b"set-cookie"] == [b"a=1", b"b=2"]
    assert dict(headers)[b"content-length"] == str(len(content)).encode()


async def test_errors_of_a_route_have_the_form_of_the_api() -> None:
    app = Application(
        Route(path="/form", respond=describe, methods=["POST"], max_body_bytes=3), Route(path="/lost", respond=fail)
    )
    results = [
        await app.send("GET", "/form"),
        await app.send("POST", "/form", b"four"),
        await app.send("GET", "/lost"),
        await app.send("GET", "/form/more"),
    ]
    assert [(status, json.loads(content)["error"]["message"]) for status, _, content in results] == [
        (405, "GET is not supported at '/form'; use POST."),
        (413, "The body is larger than 3 bytes."),
        (404, "No such request."),
        (404, "Nothing is served at '/form/more'. The main endpoint is POST /v1/messages."),
    ]


async def test_a_stream_is_closed_when_the_client_disconnects() -> None:
    closed = asyncio.Event()

    async def count() -> AsyncIterator[bytes]:
        try:
            yield b"event: 1\n\n"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def respond(request: RouteRequest) -> RouteResponse:
        return RouteResponse(headers={"content-type": "text/event-stream"}, body=count())

    app = Application(Route(path="/live", respond=respond))
    async with asyncio.timeout(WAIT_SECONDS):
        response = asyncio.create_task(app.send("GET", "/live"))
        await app.on_body.wait()
        app.disconnected.set()
        status, headers, content = await response
        assert (status, content, closed.is_set()) == (200, b"event: 1\n\n", True)
        assert b"content-length" not in dict(headers)


@pytest.mark.parametrize(("key", "expected"), [("", [201, ""]), ("other", [401, None]), ("secret", [201, "key 1"])])
async def test_a_route_that_checks_the_key_receives_clients_without_one(key: str, expected: list[Any]) -> None:
    app = Application(Route(path="/page", respond=describe, checks_key=True), PROXY_API_KEY="secret")
    status, _, content = await app.send("GET", "/page", **({"x_api_key": key} if key else {}))
    assert [status, json.loads(content).get("client")] == expected


async def test_another_route_needs_the_key() -> None:
    app = Application(Route(path="/page", respond=describe), PROXY_API_KEY="secret")
    assert (await app.send("GET", "/page"))[0] == 401


def test_a_path_without_parameters_has_priority() -> None:
    table = PluginRoutes([Route(path="/r/{id}", respond=describe), Route(path="/r/live", respond=fail)])
    found, pattern = table.find("/r/live"), table.find("/r/live2")
    assert found.routes["HEAD"].respond is fail
    assert (pattern.path_parameters, table.find("/r/"), table.find("/r/a/b")) == ({"id": "live2"}, None, None)
