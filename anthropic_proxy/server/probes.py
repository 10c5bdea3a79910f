"""Probes of the server: `/health`, `/livez`, `/readyz`, `/version`, `/api/hello`. They need no key and have no secret.

A probe is a request by which a load balancer, command or client checks the server. `/livez` shows that the event loop
runs, `/readyz` that requests are accepted. No probe waits for a database or another server.
"""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from anthropic_proxy import __version__
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.log.lines import format_utc_time
from anthropic_proxy.server.response_sink import AsgiSink
from anthropic_proxy.server.responses import json_headers
from anthropic_proxy.services import Services


async def get_health(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /health` and `HEAD /health`: status `ok`, version and start time.

    The response also has the state of the ledger (database of requests) and of Redis, if they are enabled.
    """
    body: dict[str, object] = {"status": "ok", **_version(services)}
    if services.ledger_state is not None:
        state = services.ledger_state()
        body["ledger"] = {"condition": state.condition, "queued": state.queued_rows, "dropped": state.dropped_rows}
    if (store := services.store.state).kind == "redis":
        body["redis"] = {"available": store.available, "processes": store.processes}
    await _send(request, sink, 200, body)


async def get_livez(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /livez`: send 200, which shows that the event loop runs."""
    await _send(request, sink, 200, {"status": "ok"})


async def get_readyz(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /readyz`: 200 if the process accepts new requests, 503 while it stops.

    A failed database or Redis does not change the status. Otherwise a load balancer would remove all instances of the
    proxy, because they share the failed service.
    """
    draining = services.in_progress.draining
    checks = {"server": "draining" if draining else "ok"}
    if services.ledger_state is not None:
        checks["ledger"] = services.ledger_state().condition
    if (store := services.store.state).kind == "redis":
        checks["redis"] = "ok" if store.available else _REDIS_FAILURES[services.settings.redis_failure]
    status, text = (503, "draining") if draining else (200, "ready")
    await _send(request, sink, status, {"status": text, "checks": checks})


async def get_version(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /version`: the version of the program, and the start time of this process."""
    await _send(request, sink, 200, {"name": "anthropic-proxy", **_version(services)})


async def get_hello(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /api/hello`, a greeting: Claude Code 2.1.330 sends `HEAD /api/hello` at each interactive start."""
    await _send(request, sink, 200, {"message": "hello"})


def _version(services: Services) -> dict[str, object]:
    return {"version": __version__, "started_at": format_utc_time(services.started_at)}


_REDIS_FAILURES = {
    "open": "unavailable, limits are approximated",
    "closed": "unavailable, requests with limits are rejected",
}
"""Value of `REDIS_FAILURE` → text for `/readyz` while Redis is unavailable."""
PROBES: Mapping[str, Callable[[Services, ClientRequest, AsgiSink], Awaitable[None]]] = {
    "/health": get_health,
    "/livez": get_livez,
    "/readyz": get_readyz,
    "/version": get_version,
    "/api/hello": get_hello,
}
"""URL path of a probe → function that serves GET and HEAD requests for the path."""


async def _send(request: ClientRequest, sink: AsgiSink, status: int, body: dict[str, object]) -> None:
    headers = {**json_headers(request.request_id), "cache-control": "no-store"}
    await sink.send_response(status, msgspec.json.encode(body), headers)
