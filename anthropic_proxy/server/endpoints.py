"""HTTP endpoints of the proxy, and `serve_request`, which authenticates a client request and passes it to its endpoint.

An endpoint is an async function that serves one method and URL path, such as `get_models` for `GET /v1/models`. The
main one is `post_messages`. `ENDPOINTS` contains those with fixed paths, and `MODEL_ENDPOINTS` those for the paths
below `/v1/models/`. A receipt is the record of one request for log and metrics. `log_rejected_request` returns the
receipt of a request that the HTTP parser rejected.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec

from anthropic_proxy import __version__
from anthropic_proxy.error_catalog import PAGE as ERROR_CATALOG_PATH
from anthropic_proxy.errors import (
    InvalidRequest,
    MethodNotAllowed,
    ProxyError,
    RequestTooLarge,
    ShuttingDown,
    UnknownModel,
)
from anthropic_proxy.exchange import forwarding
from anthropic_proxy.exchange.admission import admitted_token_count_request
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.exchange import Exchange, log_internal_error, record_client, record_failure
from anthropic_proxy.exchange.recording import start_recording
from anthropic_proxy.exchange.resources import RESOURCE_PATHS, forward_resource
from anthropic_proxy.exchange.watchdog import ClientDisconnected
from anthropic_proxy.installation import build_extra_install_command
from anthropic_proxy.log import Log
from anthropic_proxy.log.lines import format_utc_time
from anthropic_proxy.plugins import Client, Receipt, RouteRequest, RouteResponse
from anthropic_proxy.route_table import FoundRoute
from anthropic_proxy.routing.model_listing import ModelEntry, find_model, list_models
from anthropic_proxy.server import request_views
from anthropic_proxy.server.auth import PUBLIC_PATHS, authenticate, claude_code_command
from anthropic_proxy.server.request_body import decode_headers, pop_complete_body, read_body
from anthropic_proxy.server.response_sink import AsgiSink, Receive, Scope, Send
from anthropic_proxy.server.responses import json_headers
from anthropic_proxy.server.web_page import SECURITY_HEADERS, build_setup_view, render_error_catalog, render_web_page
from anthropic_proxy.services import Services
from anthropic_proxy.trace_context import TRACEPARENT, TraceContext, read_trace_context


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


_CREDENTIAL_HEADERS = frozenset({"authorization", "x-api-key"})

Responder = Callable[[Services, RouteRequest], Awaitable[RouteResponse]]
"""Async function of the proxy itself that returns the response to a request."""


async def send_built_in_route(respond: Responder, services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Call `respond`, a function of the proxy itself, for a client request, and send the response that it returns."""
    await sink.send_route_response(await respond(services, build_route_request(request)))


async def send_plugin_route(found: FoundRoute, scope: Scope, request: ClientRequest, sink: AsgiSink) -> None:
    """Call the plugin's function for a client request, and send the response that it returns.

    Raises `MethodNotAllowed` or, for a body above the limit, `RequestTooLarge`.
    """
    route = found.routes[require_method(scope["method"], request.path, found)]
    if len(request.body) > route.max_body_bytes:
        raise RequestTooLarge(f"The body is larger than {route.max_body_bytes:,} bytes.")
    response = await route.respond(build_route_request(request, scope, found.path_parameters))
    await sink.send_route_response(response, has_body=scope["method"] != "HEAD")


def require_method(method: str, path: str, found: FoundRoute) -> str:
    """Return `method` unchanged if a plugin serves the URL path with this HTTP method.

    Raises `MethodNotAllowed` (405) otherwise. `found` contains the routes of the path by HTTP method.
    """
    if method not in found.routes:
        raise MethodNotAllowed(f"{method} is not supported at {path!r}; use {' or '.join(found.routes)}.", found.routes)
    return method


def is_key_checked_by_route(method: str, found: FoundRoute | None) -> bool:
    """Return True if the plugin that serves a path checks client keys itself, as for a sign-in page.

    The server then accepts requests without a key.
    """
    route = found.routes.get(method) if found else None
    return route is not None and route.checks_key


def build_route_request(
    request: ClientRequest, scope: Mapping[str, Any] | None = None, path_parameters: Mapping[str, str] | None = None
) -> RouteRequest:
    """Convert a client request to the `RouteRequest` that plugins receive. Headers that contain keys are left out.

    The HTTP method and the client's address come from `scope`. If `scope` is None, the method is GET and the address
    is unknown ("").
    """
    scope = scope or {}
    return RouteRequest(
        method=scope.get("method", "GET"),
        path=request.path,
        path_parameters=path_parameters or {},
        query=parse_qs(request.query, keep_blank_values=True) if request.query else {},
        headers={name: value for name, value in request.headers.items() if name not in _CREDENTIAL_HEADERS},
        body=request.body,
        client=request.client,
        scheme=scope.get("scheme", "http"),
        address=(scope.get("client") or ("",))[0],
        request_id=request.request_id,
    )


PROBE_PATHS = PUBLIC_PATHS | {"/metrics", *request_views.PATHS}
"""URL paths for health probes, metrics collectors and views of requests. Plugins receive no record of these requests.
"""
DEBUG_LOGGED_PATHS = PROBE_PATHS | {"/v1/messages/count_tokens"}
"""URL paths with frequent requests, which are logged only at level debug."""
_METHODS_WITHOUT_BODY = frozenset({"GET", "HEAD"})
_OTHER_FORMATS = {
    "OpenAI's API": re.compile(r"(?:/v1)?/(?:chat/completions|completions|responses|embeddings)"),
    "Gemini's API": re.compile(r"/v1(?:beta)?/models/[^/]+:\w+"),
    "Ollama's API": re.compile(r"/api/(?:chat|generate|tags|show)"),
}
"""Name of another API → pattern of its URL paths. The error message for such a path contains the name."""
DEFAULT_MODELS_PER_PAGE = 20
"""Number of models in one page of `GET /v1/models` if the query has no `limit`."""
MAX_MODELS_PER_PAGE = 1000
"""Maximum of the query parameter `limit` of `GET /v1/models`. A larger `limit` is rejected with 400."""
_PAGE_SIZE_DIGITS = re.compile(r"[0-9]{1,4}")


async def serve_request(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Authenticate the client of a request, read the body and call the endpoint. Exceptions become error responses."""
    request_id = services.new_id("req_")
    sink = AsgiSink(receive, send, request_id)
    receipt = Receipt(request_id=request_id, client=Client(), started_at=services.clock(), method=scope["method"])
    receipt.path = path if (path := scope["path"]) in ENDPOINTS else remove_repeated_v1(path)
    number = services.in_progress.add_request(request_id, receipt.method, receipt.path)
    headers, body_read, settings = decode_headers(scope), False, services.settings
    route = None if receipt.path in ENDPOINTS else services.routes.find(receipt.path)
    receipt.trace = _start_trace(services, headers)
    try:
        checks_key, policies = is_key_checked_by_route(receipt.method, route), services.policies
        client = receipt.client = await authenticate(scope, headers, settings, policies, route_checks_key=checks_key)
        endpoint = find_endpoint(receipt.method, receipt.path) if route is None else _bind_route(route, scope)
        body = await _read_body(scope, receive)
        if body is None:
            raise ClientDisconnected  # noqa: TRY301
        body_read = True
        request = ClientRequest(request_id=request_id, client=client, headers=headers, body=body, number=number)
        request.trace, request.path, request.receipt = receipt.trace, receipt.path, receipt
        request.query = scope.get("query_string", b"").decode("latin-1")
        del body  # the exchange frees the body after decoding, if no other reference exists
        await endpoint(services, request, sink)
    except ProxyError as error:
        if not body_read and "expect" in headers:
            error.closes_connection = True  # after `expect`, the client may or may not send the body
        await _reject(services, receipt, sink, error, headers)
    except ClientDisconnected:
        receipt.outcome = "cancelled"
        receipt.status = sink.status if sink.started else 0
        _finish(services, receipt)
    except asyncio.CancelledError:
        if not sink.started:
            await _reject(services, receipt, sink, ShuttingDown(), headers)
    except Exception as error:  # noqa: BLE001  # every client receives an error body
        await _reject(services, receipt, sink, log_internal_error(error, services, request_id), headers)
    else:
        if endpoint is not post_messages:  # `Exchange` logs its request
            receipt.status = sink.status
            _finish(services, receipt)
    finally:
        services.in_progress.remove_request(number)


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    """Return the body of a request. None: the client disconnected before the end."""
    if scope["method"] in _METHODS_WITHOUT_BODY:
        return b""
    body = pop_complete_body(scope)
    return await read_body(receive) if body is None else body


def _start_trace(services: Services, headers: Mapping[str, str]) -> TraceContext | None:
    """Return the trace of a client request. None: traces are off, and the client sent no valid `traceparent`."""
    trace = read_trace_context(headers) if TRACEPARENT in headers else None
    return trace if services.tracer is None else services.tracer.start_trace(trace)


def log_rejected_request(
    error: ProxyError, log: Log, new_id: Callable[[str], str], clock: Callable[[], float], proxy_keys: Sequence[str]
) -> Receipt:
    """Log a client request that is no valid HTTP, and return its receipt with a new request id.

    `proxy_keys` are the keys to mask in the log.
    """
    receipt = Receipt(request_id=new_id("req_"), client=Client(), started_at=clock(), method="–", path="–")
    record_failure(receipt, error, proxy_keys)
    log.write_request(receipt)
    return receipt


async def _reject(
    services: Services, receipt: Receipt, sink: AsgiSink, error: ProxyError, headers: Mapping[str, str]
) -> None:
    record_client(receipt, headers)
    record_failure(receipt, error, services.settings.reveal_proxy_keys())
    _finish(services, receipt)
    await sink.send_error_response(error)


def _finish(services: Services, receipt: Receipt) -> None:
    """Log a rejected request, or one that is not `POST /v1/messages`, and queue its receipt (record) for plugins."""
    receipt.duration_seconds = services.clock() - receipt.started_at
    is_probe = receipt.path in PROBE_PATHS or services.routes.find(receipt.path) is not None
    services.log.write_request(receipt, "debug" if is_probe or receipt.path in DEBUG_LOGGED_PATHS else "info")
    if not is_probe:
        services.receipts.queue_request_receipt(receipt, hide_if_successful=receipt.path in DEBUG_LOGGED_PATHS)


def post_messages(services: Services, request: ClientRequest, sink: AsgiSink) -> Awaitable[None]:
    """Serve `POST /v1/messages`: send a reply of the model, streamed or as one message."""
    if services.recorders:
        sink.attach_body_recorder(start_recording(services, request))
    return Exchange(services, request, sink).run()


async def post_count_tokens(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `POST /v1/messages/count_tokens`: send the provider's count of input tokens, or an estimate."""
    async with admitted_token_count_request(services, request):
        reply = await forwarding.count_tokens(services, request, sink.wait_disconnected)
    await sink.send_json_reply(reply)


async def get_models(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /v1/models`: send one page of the proxy's own model list.

    If the preferred provider serves Claude models and has a model list, that list is forwarded instead.
    """
    if reply := await forwarding.list_models(services, request, sink.wait_disconnected):
        await sink.send_json_reply(reply)
        return
    query = {name: values[-1] for name, values in parse_qs(request.query).items()}
    models = list_models(services.settings, services.catalog)
    await sink.send_response(200, msgspec.json.encode(build_model_list_page(models, query)))


async def get_model(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /v1/models/{id}`: send the entry of one model. An unknown id gets status 404."""
    if reply := await forwarding.list_models(services, request, sink.wait_disconnected):
        await sink.send_json_reply(reply)
        return
    entry = find_model(request.path.removeprefix("/v1/models/"), services.settings, services.catalog)
    await sink.send_response(200, msgspec.json.encode(entry))


async def send_resource(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve batches, files and skills: forward the request to the preferred provider, if it has them."""
    method = request.receipt.method if request.receipt else "GET"
    async with admitted_token_count_request(services, request):
        await forward_resource(services, request, method, sink)


async def build_root_response(services: Services, request: RouteRequest) -> RouteResponse:
    """Return the response to `GET /`: a web page for browsers, a JSON message for other clients.

    The page shows models and providers only to clients on this machine, or if every client is served without a key.
    """
    settings = services.settings
    scheme = "http" if settings.tls_certificate_file is None else "https"
    command = claude_code_command(f"{scheme}://{request.headers.get('host', '127.0.0.1:8082')}", settings)
    if not prefers_html(request.headers.get("accept", "")):
        text = f"anthropic-proxy {__version__} serves the Anthropic Messages API. Use it with Claude Code: {command}"
        headers = {"content-type": "application/json", "vary": "accept"}
        return RouteResponse(headers=headers, body=msgspec.json.encode({"message": text}))
    view = build_setup_view(settings, services.catalog) if request.client.address_trusted else None
    needs_key = bool(settings.requires_client_key() or services.policies) or view is None
    public = [path for path in services.routes.paths if is_key_checked_by_route("GET", services.routes.find(path))]
    paths = ["/health", *public] if needs_key else [*ENDPOINTS, *services.routes.paths]
    headers = {"content-type": "text/html; charset=utf-8", "vary": "accept", **SECURITY_HEADERS}
    return RouteResponse(headers=headers, body=render_web_page(command, view, paths).encode())


async def build_error_catalog_response(services: Services, request: RouteRequest) -> RouteResponse:
    """Return the page with cause and remedy of each error. It is the same for every client."""
    headers = {"content-type": "text/html; charset=utf-8", **SECURITY_HEADERS}
    return RouteResponse(headers=headers, body=render_error_catalog().encode())


get_error_catalog = partial(send_built_in_route, build_error_catalog_response)
"""Serve `GET` and `HEAD` of the error catalog."""
get_root = partial(send_built_in_route, build_root_response)
"""Serve `GET /` and `HEAD /` with the response of `build_root_response`."""


def _bind_route(found: FoundRoute, scope: Scope) -> "Endpoint":
    """Return an endpoint that calls the plugin's route for the request method.

    Raises `MethodNotAllowed` (405) if no route has the method.
    """
    require_method(scope["method"], scope["path"], found)
    return lambda _, request, sink: send_plugin_route(found, scope, request, sink)


Endpoint = Callable[[Services, ClientRequest, AsgiSink], Awaitable[None]]
"""Type of an async function that serves one authenticated client request and sends the response to the sink."""

ENDPOINTS: Mapping[str, Mapping[str, Endpoint]] = {
    "/v1/messages": {"POST": post_messages},
    "/v1/messages/count_tokens": {"POST": post_count_tokens},
    "/v1/models": {"GET": get_models},
    "/": {"GET": get_root, "HEAD": get_root},
    ERROR_CATALOG_PATH: {"GET": get_error_catalog, "HEAD": get_error_catalog},
    **{path: {"GET": probe, "HEAD": probe} for path, probe in PROBES.items()},
    request_views.RECENT_PATH: {"GET": request_views.get_recent_requests},
    request_views.LIVE_PATH: {"GET": request_views.get_live_requests},
}
"""URL path → HTTP method → function that serves such requests."""
MODEL_ENDPOINTS: Mapping[str, Endpoint] = {"GET": get_model}
"""HTTP method → endpoint, for all URL paths below `/v1/models/`."""

RESOURCE_ENDPOINTS: Mapping[str, Endpoint] = dict.fromkeys(("GET", "POST", "DELETE"), send_resource)
"""HTTP method → endpoint, for the URL paths of batches, files and skills."""


def remove_repeated_v1(path: str) -> str:
    """Return a URL path with `/v1/v1/` at its beginning replaced by `/v1/`, and other paths unchanged.

    Clients send such a path if their base URL ends in `/v1`, because they append paths such as `/v1/messages` to it.
    """
    return path.removeprefix("/v1") if path.startswith("/v1/v1/") else path


def find_endpoint(method: str, path: str) -> Endpoint:
    """Return the endpoint of the proxy itself for an HTTP method and URL path.

    Raises `UnknownModel` (404) for an unknown path, and `MethodNotAllowed` (405) for another method.
    """
    methods = ENDPOINTS.get(path)
    if methods is None and path.startswith("/v1/models/"):
        methods = MODEL_ENDPOINTS
    elif methods is None and RESOURCE_PATHS.fullmatch(path):
        methods = RESOURCE_ENDPOINTS
    if methods is None:
        raise path_not_found_error(path)
    if method not in methods:
        raise MethodNotAllowed(f"{method} is not supported at {path!r}; use {' or '.join(methods)}.", methods)
    return methods[method]


def path_not_found_error(path: str) -> UnknownModel:
    """Return the 404 error for a URL path that the proxy does not serve."""
    text = f"Nothing is served at {path!r}. The main endpoint is POST /v1/messages."
    for api, pattern in _OTHER_FORMATS.items():
        if pattern.fullmatch(path):
            text += f" This proxy accepts Anthropic's Messages API; the client uses the format of {api}."
    if path.rstrip("/") == "/dashboard":
        command = build_extra_install_command("dashboard")
        text += f" The dashboard is not installed. Install it and start the proxy again: {command}"
    return UnknownModel(text)


def build_model_list_page(models: Sequence[ModelEntry], query: Mapping[str, str]) -> dict[str, Any]:
    """Return one page of the proxy's model list, as the JSON object of Anthropic's `GET /v1/models`.

    Raises `InvalidRequest` for an invalid limit or an unknown id in `query`.
    """
    requested = query.get("limit", str(DEFAULT_MODELS_PER_PAGE))
    limit = int(requested) if _PAGE_SIZE_DIGITS.fullmatch(requested) else 0
    if not 1 <= limit <= MAX_MODELS_PER_PAGE:
        raise InvalidRequest(f"limit: {requested[:20]!r} is not allowed; use a number from 1 to {MAX_MODELS_PER_PAGE}.")
    ids = [entry.id for entry in models]
    start, end = 0, len(ids)
    if "after_id" in query:
        start = _position(ids, "after_id", query["after_id"]) + 1
    if "before_id" in query:
        end = _position(ids, "before_id", query["before_id"])
        start = max(start, end - limit)
        has_more = start > 0
    else:
        has_more = start + limit < end
    page = models[start : min(end, start + limit)]
    return {
        "data": page,
        "has_more": has_more,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def _position(ids: Sequence[str], name: str, value: str) -> int:
    if value not in ids:
        raise InvalidRequest(f"{name}: {value!r} is not an id of this list.")
    return ids.index(value)


_ELEMENT = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.?)*+"?)++', re.DOTALL)
"""Pattern of one element of a comma-separated header. A quoted string without an end quote ends with the header."""
_MEDIA_RANGE = re.compile(r"\s*([\w!#$&^.+*-]+/[\w!#$&^.+*-]+)\s*(?:;|$)")
_QUALITY = re.compile(r";\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)", re.IGNORECASE)
_HAS_QUALITY = re.compile(r";\s*q\s*=", re.IGNORECASE)
_JSON_RANGES = ("application/json", "application/*", "*/*")
"""Media types and wildcards that include JSON, the most specific one first."""


def prefers_html(accept: str) -> bool:
    """Return True if the request header `Accept` prefers HTML at least as much as JSON, as web browsers do.

    A wildcard such as `*/*` does not count as HTML.
    """
    qualities: dict[str, float] = {}
    for media_range, quality in _split_header(accept):
        qualities[media_range] = max(quality, qualities.get(media_range, 0.0))
    json_quality = next((qualities[name] for name in _JSON_RANGES if name in qualities), 0.0)
    html_quality = qualities.get("text/html", 0.0)
    return html_quality > 0 and html_quality >= json_quality


def _split_header(accept: str) -> Iterator[tuple[str, float]]:
    """Yield each valid media type in lower case with its weight `q` (default 1). Invalid elements are ignored."""
    for element in _ELEMENT.findall(accept):
        found = _MEDIA_RANGE.match(element)
        if found is None:
            continue
        quality = _QUALITY.search(element, found.end(1))
        if quality is None and _HAS_QUALITY.search(element, found.end(1)):
            continue
        yield found[1].lower(), float(quality[1]) if quality else 1.0
