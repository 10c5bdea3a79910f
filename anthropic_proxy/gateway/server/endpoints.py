"""HTTP requests of clients: `serve_request`, and the endpoints that it calls.

An endpoint is an async function for one method and URL path. The table `ENDPOINTS` has them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from urllib.parse import parse_qs

import msgspec
from msgspec import Struct

from anthropic_proxy import __version__
from anthropic_proxy.engine.exchange import forwarding
from anthropic_proxy.engine.exchange.client_side import ClientRequest, json_headers, record_client, record_failure
from anthropic_proxy.engine.exchange.exchange import Exchange, log_internal_error
from anthropic_proxy.engine.exchange.forwarding import RESOURCE_PATHS, forward_resource
from anthropic_proxy.engine.exchange.watchdog import ClientDisconnected
from anthropic_proxy.engine.hooks import NEGOTIATED
from anthropic_proxy.engine.memory_plan import SMALL_BODY_BYTES, UNCOUNTED_BODIES, UNCOUNTED_BODY_BYTES
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.platforms.program import COMMANDS_USER_AGENT
from anthropic_proxy.engine.routing.model_listing import find_model, open_model_list
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.trace_context import TRACEPARENT, read_trace_context
from anthropic_proxy.errors import (
    InvalidRequest,
    MethodNotAllowed,
    ProxyError,
    ShuttingDown,
    UnknownModel,
    build_extra_install_command,
    join_with_or,
)
from anthropic_proxy.gateway.error_catalog import PAGE as ERROR_CATALOG_PATH
from anthropic_proxy.gateway.permissions import PUBLIC_PATHS, RECENT_REQUESTS_PATH, REFUSALS_PATH
from anthropic_proxy.gateway.problems import find_server_problems
from anthropic_proxy.gateway.server.asgi import AsgiSink, BodyMemory, Receive, Scope, Send, read_body
from anthropic_proxy.gateway.server.auth import (
    MAX_REQUEST_BYTES,
    authenticate,
    build_size_error,
    claude_code_command,
    decode_headers,
    find_client_address,
    require_accepted_length,
)
from anthropic_proxy.gateway.server.http1.cycle import CYCLE_EXTENSION, RequestResponseCycle
from anthropic_proxy.gateway.server.path_prefix import remove_prefix
from anthropic_proxy.gateway.server.request_views import get_live_requests, get_recent_requests
from anthropic_proxy.gateway.services import FoundRoute, Services, fetch_model_limits, fetch_model_lists
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.lines import format_utc_time
from anthropic_proxy.plugins import Client, Receipt, RouteRequest, RouteResponse

Endpoint = Callable[[Services, ClientRequest, AsgiSink], Awaitable[None]]
TOUR_PATH = "/tour"
_DASHBOARD_PATHS = frozenset({"/dashboard", "/dashboard/"})
LIVE_REQUESTS_PATH = "/api/requests/live"
PROBE_PATHS = PUBLIC_PATHS | _DASHBOARD_PATHS | {"/metrics", RECENT_REQUESTS_PATH, LIVE_REQUESTS_PATH}
"""Probes, metrics and views of requests. Plugins receive no record of these requests."""
_DEBUG_LOGGED_PATHS = PROBE_PATHS | {"/v1/messages/count_tokens"}
DEFAULT_MODELS_PER_PAGE = 20
MAX_MODELS_PER_PAGE = 1000
"""A larger `limit` is rejected with 400."""
_PAGE_SIZE_DIGITS = compile_anchored(r"[0-9]{1,4}")
_CREDENTIAL_HEADERS = frozenset({"authorization", "x-api-key"})
_OTHER_FORMATS = {
    "OpenAI's API": compile_anchored(r"(?:/v1)?/(?:chat/completions|completions|responses|embeddings)"),
    "Gemini's API": compile_anchored(r"/v1(?:beta)?/models/[^/]+:\w+"),
    "Ollama's API": compile_anchored(r"/api/(?:chat|generate|tags|show)"),
}
"""Name of another API → pattern of its URL paths. The error message for such a path contains the name."""
_UNKNOWN = Client()
"""Client of a request before its authentication."""
_STORE_CHECKS = {"redis": "redis", "database": "budgets"}
"""Kind of a store → name of its check in `/readyz`."""
_STORE_FAILURES = {
    "open": "unavailable, limits are approximated",
    "closed": "unavailable, requests with limits are rejected",
}


class _KnownHead(Struct, frozen=True):
    """Result of the checks of a head, for the next request of the connection with the same head."""

    services: Services
    """Services whose settings the checks used."""
    headers: Mapping[str, str]
    client: Client | None
    """None: policies identify the client of each request, because a key can be revoked at any time."""


async def serve_request(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Check head and client, read the body, and call the endpoint. Every client receives a response.

    A request whose endpoint is unknown or not allowed is rejected after the check of its key, so that nobody without a
    key learns which endpoints exist. Its body is not read.
    """
    settings = services.settings
    if settings.path_prefix:
        scope = {**scope, "path": remove_prefix(scope["path"], settings.path_prefix)}
    method, path = scope["method"], scope["path"]
    if path.startswith("/v1/v1/"):  # the base URL of the client ends in `/v1`, and it appends `/v1/messages`
        path = path.removeprefix("/v1")
    receipt = Receipt(
        request_id=services.new_id("req_"), client=_UNKNOWN, started_at=services.clock(), method=method, path=path
    )
    cycle: RequestResponseCycle | None = scope.get("extensions", {}).get(CYCLE_EXTENSION)
    sink, memory = AsgiSink(receipt, receive, send, cycle, settings.path_prefix), BodyMemory(services)
    running_number = services.running.begin(receipt)
    methods = ENDPOINTS.get(path)
    plugin_route = None if methods is not None else services.plugin_routes.find(path)
    route = None if plugin_route is None else plugin_route.routes.get(method)
    if plugin_route is not None:  # all routes of a path have the same form of errors
        sink.encode_error = next(iter(plugin_route.routes.values())).encode_error

    # the head, which is known if the client has repeated it
    head = None if cycle is None else cycle.head
    known: _KnownHead | None = None
    if head is not None and isinstance(head.facts, _KnownHead) and head.facts.services is services:
        known = head.facts
        headers = {**known.headers, "content-length": scope["headers"][head.length_place][1].decode("latin-1")}
    else:
        headers = decode_headers(scope)
    body_read = False
    try:
        # who asks
        trace = read_trace_context(headers) if TRACEPARENT in headers else None
        receipt.trace = trace if services.tracer is None else services.tracer.start_trace(trace)
        if known is not None and known.client is not None:
            require_accepted_length(headers["content-length"])
            receipt.client = known.client
        else:
            is_public = plugin_route is None and path in _DASHBOARD_PATHS  # how to install the dashboard
            receipt.client = await authenticate(scope, headers, settings, services.policies, route, is_public=is_public)
            if head is not None:
                head.facts = _KnownHead(services, headers, None if services.policies else receipt.client)

        if cycle is not None and cycle.places is not None and path not in PUBLIC_PATHS:
            await cycle.places.enter(cycle)

        # for what
        if methods is not None and method in methods:
            endpoint = methods[method]
        else:
            endpoint = find_endpoint(scope, path, methods, plugin_route)

        # with which body
        memory.payer = receipt.client.payer
        body = b"" if method in ("GET", "HEAD") else None if cycle is None else cycle.pop_complete_body()
        if body is None:
            # what a stranger without a key may send is small, and needs no memory of others
            most = MAX_REQUEST_BYTES if route is None else route.max_body_bytes
            body = await read_body(receive, memory, headers.get("content-length", ""), most)
        if (
            (size := len(body)) > UNCOUNTED_BODY_BYTES
            and not memory.size
            and (size > SMALL_BODY_BYTES or services.running.count > UNCOUNTED_BODIES)
        ):
            await memory.grow(size)
        body_read = True
        request = ClientRequest(
            receipt=receipt,
            headers=headers,
            body=body,
            background=services.background.of(memory.payer),
            query=scope.get("query_string", b"").decode("latin-1"),
            on_model=services.running.find_naming(running_number),
            memory=memory,
        )
        del body  # the exchange frees the body after decoding, if no other reference exists
        await endpoint(services, request, sink)
    except ProxyError as error:
        if not body_read and "expect" in headers:
            error.closes_connection = True  # after `expect`, the client may or may not send the body
        await _reject(services, sink, error, headers)
    except ClientDisconnected:
        receipt.outcome = "cancelled"
        receipt.status = sink.status if sink.started else 0
        _finish(services, sink)
    except asyncio.CancelledError:
        if not sink.started:
            await _reject(services, sink, ShuttingDown(), headers)
    except Exception as error:  # noqa: BLE001  # every client receives an error body
        await _reject(services, sink, log_internal_error(error, services, receipt.request_id), headers)
    else:
        if endpoint is not post_messages:  # `Exchange` logs its request
            receipt.status = sink.status
            # each start of `code` queries the list of models several times
            is_quiet = method == "GET" and headers.get("user-agent") == COMMANDS_USER_AGENT
            _finish(services, sink, is_quiet=is_quiet)
    finally:
        services.running.end(running_number)
        if memory.size:
            memory.release()


async def _reject(services: Services, sink: AsgiSink, error: ProxyError, headers: Mapping[str, str]) -> None:
    receipt = sink.receipt
    record_client(receipt, headers)
    # `HEAD` asks whether something is served, and `code` asks about any name that the user has chosen
    asks = receipt.method == "HEAD" and isinstance(error, (UnknownModel, MethodNotAllowed))
    asks |= error.code == "model-not-available" and receipt.user_agent == COMMANDS_USER_AGENT
    error.is_negotiated |= asks
    settings = services.settings
    record_failure(receipt, error, settings.reveal_proxy_keys())
    _finish(services, sink)
    is_unknown = receipt.client is _UNKNOWN and settings.virtual_keys
    if is_unknown or not receipt.client.administers:
        error.message = error.describe_to_people(settings.limit_contact)
    await sink.send_error_response(error)


def _finish(services: Services, sink: AsgiSink, *, is_quiet: bool = False) -> None:
    """Log a rejected request, or one that is not `POST /v1/messages`, and queue its receipt for plugins. `is_quiet`:
    at the level `debug`.
    """
    receipt = sink.receipt
    receipt.duration_seconds = time.monotonic() - sink.began
    is_probe = receipt.path in PROBE_PATHS or services.plugin_routes.find(receipt.path) is not None
    is_quiet |= is_probe or receipt.path in _DEBUG_LOGGED_PATHS
    services.receipts.flush()  # in the order of the ends
    services.log.write_request(receipt, "debug" if is_quiet else "info")
    if not is_probe and receipt.outcome != NEGOTIATED:
        services.receipts.finish_request(receipt, hide_if_successful=receipt.path in _DEBUG_LOGGED_PATHS)


def log_rejected_request(
    error: ProxyError, log: Log, new_id: Callable[[str], str], clock: Callable[[], float], proxy_keys: Sequence[str]
) -> Receipt:
    """Log a request whose head cannot be read, and return its receipt.

    `proxy_keys` are the keys to mask in the log.
    """
    receipt = Receipt(request_id=new_id("req_"), client=_UNKNOWN, started_at=clock(), method="–", path="–")
    record_failure(receipt, error, proxy_keys)
    log.write_request(receipt)
    return receipt


def post_messages(services: Services, request: ClientRequest, sink: AsgiSink) -> Awaitable[None]:
    sink.has_exchange_headers = True
    return Exchange(services, request, sink).run()


async def post_count_tokens(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    reply = await forwarding.count_tokens(services, request, sink.wait_disconnected)
    await _send_json_reply(sink, reply)


def _send_json_reply(sink: AsgiSink, reply: forwarding.JsonReply) -> Awaitable[None]:
    return sink.send_response(200, reply.body, {**json_headers(sink.receipt.request_id), **reply.headers})


async def get_models(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """If the preferred provider serves Claude models and has a model list, that list is forwarded instead."""
    if reply := await forwarding.list_models(services, request, sink.wait_disconnected):
        await _send_json_reply(sink, reply)
        return
    await fetch_model_lists(services)
    query = {name: values[-1] for name, values in parse_qs(request.query).items()}
    models = open_model_list(services.settings, services.catalog)
    requested = query.get("limit", str(DEFAULT_MODELS_PER_PAGE))
    limit = int(requested) if _PAGE_SIZE_DIGITS.fullmatch(requested) else 0
    if not 1 <= limit <= MAX_MODELS_PER_PAGE:
        raise InvalidRequest(
            f"limit: {requested[:20]!r} is not allowed; use a number from 1 to {MAX_MODELS_PER_PAGE}.", code="paging"
        )
    ids = models.ids
    start = 0
    end = len(ids)
    if "after_id" in query:
        start = _position(ids, "after_id", query["after_id"]) + 1
    if "before_id" in query:
        end = _position(ids, "before_id", query["before_id"])
        start = max(start, end - limit)
        has_more = start > 0
    else:
        has_more = start + limit < end
    page = ids[start : min(end, start + limit)]
    first, last = (page[0], page[-1]) if page else (None, None)
    listing = {"data": models.describe_all(page), "has_more": has_more, "first_id": first, "last_id": last}
    await sink.send_response(200, msgspec.json.encode(listing))


async def get_model(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    if reply := await forwarding.list_models(services, request, sink.wait_disconnected):
        await _send_json_reply(sink, reply)
        return
    name = request.receipt.path.removeprefix("/v1/models/")
    await fetch_model_limits(services, name)
    entry = find_model(name, services.settings, services.catalog)
    await sink.send_response(200, msgspec.json.encode(entry))


def _position(ids: Sequence[str], name: str, value: str) -> int:
    if value not in ids:
        raise InvalidRequest(f"{name}: {value!r} is not an id of this list.", code="paging")
    return ids.index(value)


async def send_resource(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    method = request.receipt.method
    sink.has_exchange_headers = method == "POST" and request.receipt.path == forwarding.BATCHES_PATH
    await forward_resource(services, request, method, sink)


async def get_health(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Also the state of the ledger and of Redis, if they are enabled."""
    body: dict[str, object] = {"status": "ok", **_version(services)}
    if services.ledger_state is not None:
        state = services.ledger_state()
        body["ledger"] = {"condition": state.condition, "queued": state.queued_rows, "dropped": state.dropped_rows}
    if (store := services.store.state).kind == "redis":
        body["redis"] = {"available": store.available, "processes": store.processes}
    await _send(request, sink, 200, body)


async def get_livez(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    await _send(request, sink, 200, {"status": "ok"})


async def get_readyz(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """503 while the process stops. What concerns all instances, such as a failed database, leaves the status 200."""
    draining = services.running.draining
    checks = {"server": "draining" if draining else "ok"}
    if services.ledger_state is not None:
        checks["ledger"] = services.ledger_state().condition
    store = services.store.state
    if (name := _STORE_CHECKS.get(store.kind)) is not None:
        checks[name] = "ok" if store.available else _STORE_FAILURES[services.settings.redis_failure]
    for condition in services.list_conditions():
        checks[condition.check] = condition.state
    status, text = (503, "draining") if draining else (200, "ready")
    await _send(request, sink, status, {"status": text, "checks": checks})


async def get_version(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    await _send(request, sink, 200, {"name": "anthropic-proxy", **_version(services)})


async def get_hello(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /api/hello`, a greeting: Claude Code 2.1.330 sends `HEAD /api/hello` at each interactive start."""
    await _send(request, sink, 200, {"message": "hello"})


def _version(services: Services) -> dict[str, object]:
    return {"version": __version__, "started_at": format_utc_time(services.started_at)}


async def _send(request: ClientRequest, sink: AsgiSink, status: int, body: dict[str, object]) -> None:
    headers = {**json_headers(request.receipt.request_id), "cache-control": "no-store"}
    await sink.send_response(status, msgspec.json.encode(body), headers)


async def get_root(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Models and providers are shown only to clients on this machine, or if every client is served without a key."""
    from anthropic_proxy.gateway.server import web_page  # noqa: PLC0415  # most clients are programs

    settings = services.settings
    scheme = "http" if settings.tls_certificate_file is None else "https"
    host = f"{request.headers.get('host', '127.0.0.1:8082')}{settings.path_prefix}"
    command = claude_code_command(f"{scheme}://{host}", settings)
    if not web_page.prefers_html(request.headers.get("accept", "")):
        text = f"anthropic-proxy {__version__} serves the Anthropic Messages API. Use it with Claude Code: {command}"
        headers = {"content-type": "application/json", "vary": "accept"}
        body = msgspec.json.encode({"message": text})
    else:
        view: web_page.SetupView | None = None
        if request.receipt.client.address_trusted:
            server_problems = await find_server_problems(settings, services.catalog, services.transports)
            view = web_page.build_setup_view(settings, services.catalog, server_problems)
        needs_key = bool(settings.requires_client_key or services.policies) or view is None
        public = [
            path
            for path in services.plugin_routes.paths
            if (found := services.plugin_routes.find(path)) and (route := found.routes.get("GET")) and route.checks_key
        ]
        paths = ["/health", *public] if needs_key else [*ENDPOINTS, *services.plugin_routes.paths]
        headers = {"content-type": "text/html; charset=utf-8", "vary": "accept", **web_page.SECURITY_HEADERS}
        is_missing = view is not None and services.plugin_routes.find("/dashboard") is None
        body = web_page.render_web_page(command, view, paths, settings.start_again if is_missing else "").encode()
    await sink.send_route_response(RouteResponse(headers=headers, body=body))


async def delete_refusals(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Forget what refusals of the model in the query have shown, for all clients."""
    model = parse_qs(request.query).get("model", [""])[-1]
    if not model:
        raise InvalidRequest(
            "model: the query names no model. Example: /api/refusals?model=openai/gpt-4.1", code="model-name"
        )
    target = build_plan(RoutingQuery(model), services.settings, services.catalog).targets[0]
    forgotten = services.observations.forget_refusals(target.upstream, target.model)
    reply = {"names": forgotten.names, "text": forgotten.describe(target.prefixed_id)}
    headers = {"content-type": "application/json"}
    await sink.send_route_response(RouteResponse(headers=headers, body=msgspec.json.encode(reply)))


async def get_error_catalog(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    from anthropic_proxy.gateway.server import web_page  # noqa: PLC0415  # most clients are programs

    policy = web_page.SECURITY_HEADERS["content-security-policy"].replace("form-action 'none'", "form-action 'self'")
    headers = {
        "content-type": "text/html; charset=utf-8",
        **web_page.SECURITY_HEADERS,
        "content-security-policy": policy,
    }
    search = parse_qs(request.query).get("q", [""])[-1][: web_page.MAX_SEARCH_CHARACTERS]
    await sink.send_route_response(RouteResponse(headers=headers, body=web_page.render_error_catalog(search).encode()))


async def get_tour(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    from anthropic_proxy.gateway.server.tour import render_tour  # noqa: PLC0415  # imports the price list
    from anthropic_proxy.gateway.server.web_page import SECURITY_HEADERS  # noqa: PLC0415

    headers = {"content-type": "text/html; charset=utf-8", **SECURITY_HEADERS}
    provider = parse_qs(request.query).get("provider", [""])[-1]
    page = await render_tour(provider)
    await sink.send_route_response(RouteResponse(headers=headers, body=page.encode()))


async def get_missing_dashboard(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    from anthropic_proxy.gateway.server import web_page  # noqa: PLC0415  # most clients are programs

    step = services.settings.start_again if request.receipt.client.address_trusted else ""
    if not web_page.prefers_html(request.headers.get("accept", "")):
        command = build_extra_install_command("dashboard")
        install = f" Install it: {command}, then {step}." if step else ""
        text = f"The dashboard is not installed.{install}"
        raise UnknownModel(text, code="path-not-found")
    headers = {"content-type": "text/html; charset=utf-8", "vary": "accept", **web_page.SECURITY_HEADERS}
    body = web_page.render_missing_dashboard(step).encode()
    await sink.send_route_response(RouteResponse(status=404, headers=headers, body=body))


async def get_icon(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    from anthropic_proxy.gateway.server import web_page  # noqa: PLC0415  # most clients are programs

    headers = {"content-type": "image/svg+xml", "cache-control": "public, max-age=86400"}
    await sink.send_route_response(RouteResponse(headers=headers, body=web_page.ICON))


async def _send_plugin_route(
    found: FoundRoute, scope: Scope, services: Services, request: ClientRequest, sink: AsgiSink
) -> None:
    """Serve a route of a plugin. Raises `RequestTooLarge` for a body above the limit of the route."""
    route = found.routes[scope["method"]]
    if len(request.body) > route.max_body_bytes:
        raise build_size_error(route.max_body_bytes)
    route_request = RouteRequest(
        method=scope["method"],
        path=request.receipt.path,
        path_parameters=found.path_parameters,
        query=parse_qs(request.query, keep_blank_values=True) if request.query else {},
        headers={name: value for name, value in request.headers.items() if name not in _CREDENTIAL_HEADERS},
        body=request.body,
        client=request.receipt.client,
        scheme=scope.get("scheme", "http"),
        address=find_client_address(scope, request.headers, services.settings),
        request_id=request.receipt.request_id,
        path_prefix=services.settings.path_prefix,
    )
    services.receipts.flush()  # for pages and metrics
    response = await route.respond(route_request)
    if response.is_negotiated:
        request.receipt.outcome = NEGOTIATED
    await sink.send_route_response(response, has_body=scope["method"] != "HEAD")


ENDPOINTS: Mapping[str, Mapping[str, Endpoint]] = {
    "/v1/messages": {"POST": post_messages},
    "/v1/messages/count_tokens": {"POST": post_count_tokens},
    "/v1/models": {"GET": get_models},
    "/": {"GET": get_root, "HEAD": get_root},
    ERROR_CATALOG_PATH: {"GET": get_error_catalog, "HEAD": get_error_catalog},
    TOUR_PATH: {"GET": get_tour, "HEAD": get_tour},
    "/health": {"GET": get_health, "HEAD": get_health},
    "/livez": {"GET": get_livez, "HEAD": get_livez},
    "/readyz": {"GET": get_readyz, "HEAD": get_readyz},
    "/version": {"GET": get_version, "HEAD": get_version},
    "/api/hello": {"GET": get_hello, "HEAD": get_hello},
    "/favicon.ico": {"GET": get_icon, "HEAD": get_icon},
    RECENT_REQUESTS_PATH: {"GET": get_recent_requests},
    LIVE_REQUESTS_PATH: {"GET": get_live_requests},
    REFUSALS_PATH: {"DELETE": delete_refusals},
}


def find_endpoint(
    scope: Scope, path: str, methods: Mapping[str, Endpoint] | None, plugin_route: FoundRoute | None
) -> Endpoint:
    """Return the endpoint for a path of a plugin, or with an id, which `ENDPOINTS` cannot list.

    `methods`: the endpoints of the path in `ENDPOINTS`.
    Raises `UnknownModel` (404) for an unknown path, and `MethodNotAllowed` (405) for another method.
    """
    method = scope["method"]
    if plugin_route is not None:
        if method not in plugin_route.routes:
            raise _method_not_allowed(method, scope["path"], plugin_route.routes)
        return partial(_send_plugin_route, plugin_route, scope)
    if methods is None and path.startswith("/v1/models/"):
        methods = {"GET": get_model}
    elif methods is None and RESOURCE_PATHS.fullmatch(path):
        methods = dict.fromkeys(("GET", "POST", "DELETE"), send_resource)
    elif methods is None and path in _DASHBOARD_PATHS:  # a plugin serves an installed one
        methods = dict.fromkeys(("GET", "HEAD"), get_missing_dashboard)
    if methods is None:
        text = f"Nothing is served at {path!r}. The main endpoint is POST /v1/messages."
        for api, pattern in _OTHER_FORMATS.items():
            if pattern.fullmatch(path):
                text += f" This proxy accepts Anthropic's Messages API; the client uses the format of {api}."
        if (place := path.find("/v1/messages")) > 0:
            text += f" ANTHROPIC_BASE_URL of the client must end before {path[:place]!r}."
        raise UnknownModel(text, code="path-not-found")
    if method not in methods:
        raise _method_not_allowed(method, path, methods)
    return methods[method]


def _method_not_allowed(method: str, path: str, allowed: Collection[str]) -> MethodNotAllowed:
    return MethodNotAllowed(f"{method} is not supported at {path!r}; use {join_with_or([*allowed])}.", allowed)
