"""`forward_resource`: forwards requests for batches, files and skills, if the preferred provider serves Claude models.

Other providers have no such resources of the Messages API. The model of each request in a batch is mapped like that of
`POST /v1/messages`, by the routes and the settings, and must be one of this provider. All calls use the first of
several API keys, because the resources of a key are unknown to a key of another workspace.
"""

import re
from functools import partial

from msgspec import structs

from anthropic_proxy.engine.engine import MAX_REPLY_BYTES_ON_LOOP, Engine
from anthropic_proxy.engine.exchange.call_input import build_relay_call
from anthropic_proxy.engine.exchange.client_side import ClientRequest, ResponseSink
from anthropic_proxy.engine.exchange.error_messages import require_api_response
from anthropic_proxy.engine.exchange.forwarding import call_provider
from anthropic_proxy.engine.exchange.plan import match_route
from anthropic_proxy.engine.exchange.relay import forwarded_headers
from anthropic_proxy.engine.exchange.upstream_stream import MAX_BODY_BYTES
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.models import MessagesRequest, decode_request_or_envelope
from anthropic_proxy.engine.messages.preparation import server_tool_kinds
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.routing.router import RoutingQuery, Target, build_plan, find_preferred_provider
from anthropic_proxy.engine.wires.contract import BaseDialect, RelayWire, UpstreamResponse, read_body
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.errors import ClientError, InvalidRequest, PermissionDenied, UnknownModel

RESOURCE_PATHS = compile_later(r"/v1/(?:messages/batches|files|skills)(?:/[\w.:@-]*\w){0,5}", re.ASCII)
"""Pattern of the URL paths of batches, files and skills. They cannot contain `..` or a query."""
BATCHES_PATH = "/v1/messages/batches"
_SAFE_HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'",
    "x-content-type-options": "nosniff",
}
"""Headers that keep a browser from running a downloaded file as a page of the proxy."""


async def forward_resource(engine: Engine, incoming: ClientRequest, method: str, sink: ResponseSink) -> None:
    """Forward a request for a batch, file or skill, and send the response. May raise `ClientDisconnected`."""
    path = incoming.receipt.path
    preferred = find_preferred_provider(engine.settings, engine.catalog)
    if not preferred.serves_claude:
        raise UnknownModel(
            f"{path!r} is served only if Anthropic is the preferred provider, because no other provider has "
            f"batches, files and skills of the Messages API. The preferred provider is {preferred.name}.",
            code="batches-files-skills",
        )
    if incoming.receipt.client.key_id:
        raise PermissionDenied(
            f"{path!r} is not served for virtual keys: batches, files and skills belong to the API key of "
            "the provider, so that every virtual key would see and delete those of the others.",
            code="resources-of-a-virtual-key",
        )
    target = build_plan(RoutingQuery(f"{preferred.prefix}/x"), engine.settings, engine.catalog).targets[0]
    wire = target.wire
    assert isinstance(wire, RelayWire), "a provider with Claude models has the Messages API"
    if method == "POST" and path == BATCHES_PATH:
        incoming = await _with_mapped_models(engine, incoming, target, wire)
    request = MessagesRequest(model=target.model, messages=[], has_proxy_signatures=False)
    call = build_relay_call(incoming, request, target, engine.new_id)
    is_download = path.endswith("/content")

    async def send(response: UpstreamResponse, watchdog: Watchdog) -> None:
        if not is_download:
            require_api_response(response, target)
        given = {name.lower(): value for name, value in response.headers.items()}
        headers = forwarded_headers(response.headers)
        headers["content-type"] = given.get("content-type", "application/json")
        if is_download:
            headers |= {"content-disposition": given.get("content-disposition", "attachment"), **_SAFE_HEADERS}
            if "content-range" in given:  # of a response with status 206
                headers["content-range"] = given["content-range"]
        send_bytes = partial(sink.send_relayed_bytes, headers=headers, status=response.status)
        if is_download or path.endswith("/results"):
            while piece := await response.read():
                watchdog.note_bytes()
                watchdog.writing = True
                await send_bytes(piece, is_stream=True, is_last=False)
                watchdog.upstream_at, watchdog.writing = watchdog.now(), False
            watchdog.calling = False
            watchdog.writing = True
            await send_bytes(b"", is_stream=True, is_last=True)
        else:
            body = await read_body(response, MAX_BODY_BYTES, watchdog.note_bytes)
            watchdog.calling = False
            if path.startswith(BATCHES_PATH):
                is_large = len(body) > MAX_REPLY_BYTES_ON_LOOP
                body = await engine.background.run_in_thread_if_large(is_large, wire.remove_results_host, body)
            watchdog.writing = True
            await send_bytes(body, is_stream=False, is_last=True)
        watchdog.stop()  # complete: a disconnect has no effect now

    await call_provider(
        engine,
        incoming,
        call,
        target,
        send,
        wait_disconnected=sink.wait_disconnected,
        method=method,
        uses_first_key=True,
    )


async def _with_mapped_models(
    engine: Engine, incoming: ClientRequest, target: Target, wire: RelayWire[BaseDialect]
) -> ClientRequest:
    routes, known = engine.compiled_routes, dict[str, str]()

    def resolve(path: str, model: str, params: bytes) -> str:
        if model in known:
            return known[model]
        query = RoutingQuery(model)
        if routes is not None:
            try:
                request = decode_request_or_envelope(params)
            except ClientError as error:
                raise InvalidRequest(f"{path}.{error.message}", code=error.code) from None
            route = match_route(engine, routes, incoming, request, EstimateCache()).route
            query = RoutingQuery(request.model, server_tool_kinds(request.tools), route)
        found = engine.plan_cache.find_plan(query, engine.settings, engine.catalog).targets[0]
        if found.provider is not target.provider:
            field, mapped = f"{path}.model", f"{found.provider.prefix}/{found.model}"
            mapped += f" by the route {query.route.name!r}" if query.route is not None else ""
            raise InvalidRequest(
                f"{field}: {model!r} is mapped to {mapped}. A batch is sent to {target.provider.prefix}, so each "
                f"of its models must be one of {target.provider.prefix}.",
                code="model-of-a-batch",
            )
        if routes is None:
            known[model] = found.model
        return found.model

    try:  # always in a thread: a small body may have many requests, and each may need a comparison with all routes
        body = await engine.background.run_in_thread(wire.encode_batch, incoming.body, target.dialect, resolve)
    except DECODE_ERRORS as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.", code="request-body") from None
    return structs.replace(incoming, body=body)
