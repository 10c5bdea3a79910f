"""`open_resource`: forwards requests for batches, files and skills to a preferred provider that serves Claude models.

Other providers have no such resources of the Messages API. The model of each request in a batch is mapped like that of
`POST /v1/messages`, and must be one of this provider.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.errors import (
    InternalError,
    InvalidRequest,
    PermissionDenied,
    UnknownModel,
    UpstreamError,
    UpstreamTimeout,
)
from anthropic_proxy.exchange.attempt_records import AttemptRecords
from anthropic_proxy.exchange.call_building import build_relay_call, find_client_credential
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.error_messages import decode_error_response, idle_timeout_error, require_api_response
from anthropic_proxy.exchange.loop_or_thread import MAX_BYTES_ON_LOOP
from anthropic_proxy.exchange.relay import forwarded_headers
from anthropic_proxy.exchange.upstream_stream import MAX_BODY_BYTES
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.redaction import redact_error
from anthropic_proxy.routing.router import RoutingQuery, Target, build_route, find_preferred_provider
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import BaseDialect, RelayWire, UpstreamResponse, read_body

RESOURCE_PATHS = re.compile(r"/v1/(?:messages/batches|files|skills)(?:/[\w.:@-]*\w){0,5}", re.ASCII)
"""Pattern of the URL paths of batches, files and skills. They cannot contain `..` or a query."""
BATCHES_PATH = "/v1/messages/batches"
_SAFE_HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'",
    "x-content-type-options": "nosniff",
}
"""Headers that keep a browser from running a downloaded file as a page of the proxy."""


class Resource(Struct, frozen=True):
    """Response of the provider to a request for a batch, file or skill."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    """Pieces of the body as they arrive. Raises `UpstreamError`."""


@asynccontextmanager
async def open_resource(services: Services, incoming: ClientRequest, method: str) -> AsyncIterator[Resource]:
    """Forward a request for a batch, file or skill, and return the response, which is closed at the end of the block.

    Raises an error with the status of the provider, or of the proxy if it does not forward the request.
    """
    preferred = find_preferred_provider(services.settings, services.catalog)
    if not preferred.serves_claude:
        raise UnknownModel(
            f"{incoming.path!r} is served only if Anthropic is the preferred provider, because no other provider has "
            f"batches, files and skills of the Messages API. The preferred provider is {preferred.name}."
        )
    if incoming.client.key_id:
        raise PermissionDenied(
            f"{incoming.path!r} is not served for virtual keys: batches, files and skills belong to the API key of "
            "the provider, so that every virtual key would see and delete those of the others."
        )
    target = build_route(RoutingQuery(f"{preferred.prefix}/x"), services.settings, services.catalog).targets[0]
    if isinstance(target.wire, RelayWire) and method == "POST" and incoming.path == BATCHES_PATH:
        incoming = await _with_mapped_models(services, incoming, target, target.wire)
    request = MessagesRequest(model=target.model, messages=[])
    call = build_relay_call(incoming, request, target, services.new_id)
    credential = find_client_credential(services, incoming, preferred) or services.credentials.next_credential(
        preferred
    )
    records = AttemptRecords(incoming.receipt or _new_receipt(services, incoming), services)
    timeouts = services.settings.timeouts
    upstream_request = structs.replace(target.wire.encode_request(call), method=method)
    upstream_request = records.begin_attempt(target, upstream_request)
    try:
        async with asyncio.timeout(timeouts.first_byte_seconds):
            response = await services.transports[preferred.transport](target.base_url, upstream_request, credential)
        try:
            records.set_status(response.status)
            is_download = incoming.path.endswith("/content") and 200 <= response.status < 300
            if not is_download:
                require_api_response(response, target)
            if not 200 <= response.status < 300:
                body = await read_body(response, MAX_BODY_BYTES)
                decode_error_response(target, call, response.status, response.headers, body)
                raise InternalError("a relayed error was decoded as a reply")
            pieces = _read(response, timeouts.idle_seconds, preferred.prefix)
            if incoming.path.startswith(BATCHES_PATH) and not incoming.path.endswith("/results"):
                pieces = _without_results_host(target, await read_body(response, MAX_BODY_BYTES))
            yield Resource(response.status, _headers(response, is_download=is_download), pieces)
        finally:
            await response.close()
    except UpstreamError as error:
        redact_error(error, [credential.secret] if credential is not None else [])
        records.fail_attempt(error)
        raise
    except TimeoutError:
        late = UpstreamTimeout(
            f"{preferred.prefix} did not answer within {timeouts.first_byte_seconds:g} s", provider=preferred.prefix
        )
        records.fail_attempt(late)
        raise late from None
    finally:
        records.end_attempt()


async def _with_mapped_models(
    services: Services, incoming: ClientRequest, target: Target, wire: RelayWire[BaseDialect]
) -> ClientRequest:
    known: dict[str, str] = {}

    def resolve(path: str, model: str) -> str:
        if model not in known:
            found = build_route(RoutingQuery(model), services.settings, services.catalog).targets[0]
            if found.provider is not target.provider:
                raise InvalidRequest(
                    f"{path}: {model!r} is mapped to {found.provider.prefix}/{found.model}. A batch is sent to "
                    f"{target.provider.prefix}, so each of its models must be one of {target.provider.prefix}."
                )
            known[model] = found.model
        return known[model]

    is_large = len(incoming.body) > MAX_BYTES_ON_LOOP
    try:
        body = await services.background.run_in_thread_if_large(
            is_large, wire.encode_batch, incoming.body, target.dialect, resolve
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from None
    return structs.replace(incoming, body=body)


async def _without_results_host(target: Target, body: bytes) -> AsyncIterator[bytes]:
    if isinstance(target.wire, RelayWire):
        body = target.wire.remove_results_host(body)
    yield body


async def _read(response: UpstreamResponse, idle_seconds: float, provider: str) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                piece = await response.read()
        except TimeoutError:
            raise idle_timeout_error(provider, idle_seconds) from None
        if not piece:
            return
        yield piece


def _headers(response: UpstreamResponse, *, is_download: bool) -> dict[str, str]:
    """Return the headers of a response for the client. A download is never shown as a page of the proxy."""
    given = {name.lower(): value for name, value in response.headers.items()}
    headers = forwarded_headers(response.headers)
    headers["content-type"] = given.get("content-type", "application/json")
    if is_download:
        headers |= {"content-disposition": given.get("content-disposition", "attachment"), **_SAFE_HEADERS}
    return headers


def _new_receipt(services: Services, incoming: ClientRequest) -> Receipt:
    return Receipt(request_id=incoming.request_id, client=incoming.client, started_at=services.clock())
