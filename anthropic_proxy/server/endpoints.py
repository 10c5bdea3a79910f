"""HTTP endpoints of the proxy, and `serve_request`, which passes one client request to its endpoint.

`POST /v1/messages` is the main endpoint. `exchange/pipeline.py` serves it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec

from anthropic_proxy import __version__
from anthropic_proxy.errors import (
    InvalidRequest,
    MethodNotAllowed,
    ProxyError,
    ShuttingDown,
    UnknownModel,
)
from anthropic_proxy.exchange import forwarding
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.outcomes import log_internal_error, record_failure
from anthropic_proxy.exchange.pipeline import run_exchange
from anthropic_proxy.log import Log
from anthropic_proxy.plugins import Client, Receipt
from anthropic_proxy.routing.model_listing import ModelEntry, find_model, list_models
from anthropic_proxy.server.auth import PUBLIC_PATHS, authenticate, claude_code_command
from anthropic_proxy.server.request_body import body_if_complete, read_body
from anthropic_proxy.server.request_limits import headers_of
from anthropic_proxy.server.response_sink import AsgiSink, Receive, Scope, Send
from anthropic_proxy.services import Services

PROBE_PATHS = PUBLIC_PATHS | {"/metrics"}
"""URL paths for health probes and metrics collectors. Plugins receive no receipt of requests to these paths."""
DEBUG_LOGGED_PATHS = PROBE_PATHS | {"/v1/messages/count_tokens"}
"""URL paths of frequent requests, which are logged at level debug. The command `/context` of Claude Code counts tokens
25 times."""
_OTHER_FORMATS = {
    "OpenAI's API": re.compile(r"(?:/v1)?/(?:chat/completions|completions|responses|embeddings)"),
    "Gemini's API": re.compile(r"/v1(?:beta)?/models/[^/]+:\w+"),
    "Ollama's API": re.compile(r"/api/(?:chat|generate|tags|show)"),
}
"""Name of another API → URL paths of that API, for the error message about a client with the wrong format."""
DEFAULT_MODELS_PER_PAGE = 20
"""Number of models in one page of `GET /v1/models` if the query has no `limit`."""
MAX_MODELS_PER_PAGE = 1000
"""Maximum of the query parameter `limit` of `GET /v1/models`. A larger one is rejected with 400."""
_PAGE_SIZE_DIGITS = re.compile(r"[0-9]{1,4}")


async def serve_request(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Authenticate the client, read its request body and call the endpoint. Exceptions become error responses."""
    request_id = services.new_id("req_")
    sink = AsgiSink(receive, send, request_id)
    receipt = Receipt(request_id=request_id, client=Client(), started_at=services.clock())
    receipt.method = scope["method"]
    receipt.path = path if (path := scope["path"]) in ENDPOINTS else remove_repeated_v1(path)
    number = services.in_progress.add_request(request_id, receipt.method, receipt.path)
    headers, body_read = headers_of(scope), False
    try:
        client = receipt.client = await authenticate(scope, headers, services.settings, services.policies)
        endpoint = find_endpoint(receipt.method, receipt.path, services.routes)
        body: bytes | None = b""
        if receipt.method == "POST" and (body := body_if_complete(scope)) is None:
            body = await read_body(receive)
        if body is None:
            receipt.outcome = "cancelled"
            _finish(services, receipt)
            return
        body_read = True
        request = ClientRequest(request_id=request_id, client=client, headers=headers, body=body, number=number)
        request.path, request.query = receipt.path, scope.get("query_string", b"").decode("latin-1")
        del body  # the exchange frees the body after decoding, if no other reference exists
        await endpoint(services, request, sink)
    except ProxyError as error:
        if not body_read and "expect" in headers:
            error.closes_connection = True  # after `expect`, the client may or may not send the body
        await _reject(services, receipt, sink, error)
    except asyncio.CancelledError:
        if not sink.started:
            await _reject(services, receipt, sink, ShuttingDown())
    except Exception as error:  # noqa: BLE001  # every client receives an error body
        await _reject(services, receipt, sink, log_internal_error(error, services, request_id))
    else:
        if endpoint is not post_messages:  # `run_exchange` logs its request
            receipt.status = 200
            _finish(services, receipt)
    finally:
        services.in_progress.remove_request(number)


def log_rejected_request(
    error: ProxyError, log: Log, new_id: Callable[[str], str], clock: Callable[[], float], proxy_keys: Sequence[str]
) -> Receipt:
    """Log a client request that the HTTP parser rejected, and return its receipt, with a new request id.

    Method and path of the request are unknown. `new_id`: returns an id with the given prefix. `clock`: returns seconds
    since the epoch. `proxy_keys`: keys to redact in the log.
    """
    receipt = Receipt(request_id=new_id("req_"), client=Client(), started_at=clock(), method="–", path="–")
    record_failure(receipt, error, proxy_keys)
    log.write_request(receipt)
    return receipt


async def _reject(services: Services, receipt: Receipt, sink: AsgiSink, error: ProxyError) -> None:
    record_failure(receipt, error, services.settings.reveal_proxy_keys())
    _finish(services, receipt)
    await sink.send_error(error)


def _finish(services: Services, receipt: Receipt) -> None:
    """Log a request without an exchange (rejected, or not `POST /v1/messages`), and queue its receipt for plugins."""
    receipt.duration_seconds = services.clock() - receipt.started_at
    services.log.write_request(receipt, "debug" if receipt.path in DEBUG_LOGGED_PATHS else "info")
    if receipt.path not in PROBE_PATHS:
        services.receipts.queue_request_receipt(receipt)


def post_messages(services: Services, request: ClientRequest, sink: AsgiSink) -> Awaitable[None]:
    """Serve `POST /v1/messages`: send a reply of the model, streamed or as one message."""
    return run_exchange(services, request, sink)


async def post_count_tokens(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `POST /v1/messages/count_tokens`: send the provider's count, or an estimate."""
    await sink.send_json_reply(await forwarding.count_tokens(services, request))


async def get_models(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /v1/models`: send the model list of the preferred provider if it has one.

    Otherwise send one page of the proxy's own list. Query parameters: `limit`, `after_id`, `before_id`.
    """
    if reply := await forwarding.list_models(services, request):
        await sink.send_json_reply(reply)
        return
    query = {name: values[-1] for name, values in parse_qs(request.query).items()}
    models = list_models(services.settings, services.catalog)
    await sink.send_response(200, msgspec.json.encode(paginate_models(models, query)))


async def get_model(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /v1/models/{id}`: send the entry of one model. An unknown id gets status 404."""
    if reply := await forwarding.list_models(services, request):
        await sink.send_json_reply(reply)
        return
    entry = find_model(request.path.removeprefix("/v1/models/"), services.settings, services.catalog)
    await sink.send_response(200, msgspec.json.encode(entry))


async def get_root(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /` and `HEAD /`: send a JSON message with the version and the command that starts Claude Code."""
    command = claude_code_command(f"http://{request.headers.get('host', '127.0.0.1:8082')}", services.settings)
    text = f"anthropic-proxy {__version__} serves the Anthropic Messages API. Use it with Claude Code: {command}"
    await sink.send_response(200, msgspec.json.encode({"message": text}))


async def get_health(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /health` and `HEAD /health`, for health probes: send status `ok` and the version as JSON."""
    await sink.send_response(200, msgspec.json.encode({"status": "ok", "version": __version__}))


async def get_plugin_route(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET` and `HEAD` on a path that a plugin has registered, such as `/metrics`."""
    body, media_type = await services.routes[request.path].render(request.headers.get("accept", ""))
    await sink.send_response(200, body, {"request-id": request.request_id, "content-type": media_type})


Endpoint = Callable[[Services, ClientRequest, AsgiSink], Awaitable[None]]
"""Function that serves one authenticated client request and sends the response to the sink."""

ENDPOINTS: Mapping[str, Mapping[str, Endpoint]] = {
    "/v1/messages": {"POST": post_messages},
    "/v1/messages/count_tokens": {"POST": post_count_tokens},
    "/v1/models": {"GET": get_models},
    "/": {"GET": get_root, "HEAD": get_root},
    "/health": {"GET": get_health, "HEAD": get_health},
}
"""URL path → HTTP method → endpoint."""
PLUGIN_ENDPOINTS: Mapping[str, Endpoint] = {"GET": get_plugin_route, "HEAD": get_plugin_route}
"""HTTP method → endpoint, for the URL paths that plugins register."""
MODEL_ENDPOINTS: Mapping[str, Endpoint] = {"GET": get_model}
"""HTTP method → endpoint, for all URL paths below `/v1/models/`."""


def remove_repeated_v1(path: str) -> str:
    """Return a URL path with `/v1/v1/` at its beginning replaced by `/v1/`, and other paths unchanged.

    A client with `/v1` in its `ANTHROPIC_BASE_URL` doubles the prefix.
    """
    return path.removeprefix("/v1") if path.startswith("/v1/v1/") else path


def find_endpoint(method: str, path: str, plugin_paths: Container[str] = ()) -> Endpoint:
    """Return the endpoint for an HTTP method and a URL path. `plugin_paths`: URL paths that plugins have registered.

    Raises `UnknownModel` (404) for an unknown path, and `MethodNotAllowed` (405) for another method.
    """
    methods = ENDPOINTS.get(path)
    if methods is None and path.startswith("/v1/models/"):
        methods = MODEL_ENDPOINTS
    elif methods is None and path in plugin_paths:
        methods = PLUGIN_ENDPOINTS
    if methods is None:
        raise path_not_found_error(path)
    if method not in methods:
        raise MethodNotAllowed(f"{method} is not supported at {path!r}; use {' or '.join(methods)}.", methods)
    return methods[method]


def path_not_found_error(path: str) -> UnknownModel:
    """Return the 404 error for an unknown URL path. For a path of OpenAI, Gemini or Ollama, its text names that API."""
    text = f"Nothing is served at {path!r}. The main endpoint is POST /v1/messages."
    for api, pattern in _OTHER_FORMATS.items():
        if pattern.fullmatch(path):
            text += f" This proxy accepts Anthropic's Messages API; the client uses the format of {api}."
    return UnknownModel(text)


def paginate_models(models: Sequence[ModelEntry], query: Mapping[str, str]) -> dict[str, Any]:
    """Return one page of a model list, as the JSON object of Anthropic's `GET /v1/models`.

    `query`: URL parameters `limit`, `after_id`, `before_id`. Raises `InvalidRequest` for an invalid limit or an unknown
    id.
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
