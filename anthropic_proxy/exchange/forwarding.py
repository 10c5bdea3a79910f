"""Functions that forward requests for a token count or a model list to a provider with the Messages API.

Failed requests are not repeated. `count_tokens` and `list_models` return a `JsonReply`: the body and the headers of the
response to the client.
"""

import asyncio
import re
from collections.abc import Mapping
from functools import partial

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.errors import (
    InternalError,
    ProxyError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from anthropic_proxy.exchange.adaptation import apply_stored_adaptations
from anthropic_proxy.exchange.attempt_records import AttemptRecords
from anthropic_proxy.exchange.call_building import build_relay_call, find_client_credential
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.error_messages import decode_error_response, require_api_response
from anthropic_proxy.exchange.loop_or_thread import MAX_BYTES_ON_LOOP, is_large_request
from anthropic_proxy.exchange.not_found import add_not_found_cause
from anthropic_proxy.exchange.relay import forwarded_headers
from anthropic_proxy.exchange.route_choice import choose_route
from anthropic_proxy.exchange.upstream_stream import MAX_BODY_BYTES
from anthropic_proxy.messages.models import MessagesRequest, decode_request_or_envelope
from anthropic_proxy.messages.tokens import EstimateCache
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.redaction import redact_error
from anthropic_proxy.routing.router import RoutingQuery, Target, build_route, find_preferred_provider
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import BaseDialect, Call, Credential, UpstreamResponse, read_body

COUNT_TIMEOUT_SECONDS = 10.0
"""Maximum seconds for a token count by the provider. After this time the client gets an estimate of the proxy."""
LIST_TIMEOUT_SECONDS = 2.5
"""Maximum seconds for the provider's model list. After this time the proxy's own list is sent. Claude Code waits 3
s."""

_MODEL_PATHS = re.compile(r"/v1/models(?:/[\w.:@-]*\w)?", re.ASCII)
"""Pattern of the URL paths of model lists that are sent to the provider unchanged. They cannot contain `..` or a
query."""


class JsonReply(Struct, frozen=True):
    """Response to a request for a token count or a model list: a JSON body, and headers of the provider."""

    body: bytes
    """Body of the client response: JSON text."""
    headers: Mapping[str, str] = {}
    """Provider headers for the client. Empty if the proxy produced the body itself."""


async def count_tokens(services: Services, incoming: ClientRequest) -> JsonReply:
    """Return the response to `POST /v1/messages/count_tokens`.

    The provider counts the tokens if it has this endpoint. Otherwise, or if the provider fails, the proxy returns an
    estimate.
    """
    large = len(incoming.body) > MAX_BYTES_ON_LOOP
    request = await services.background.run_in_thread_if_large(
        large, partial(decode_request_or_envelope, for_token_count=True), incoming.body
    )
    estimates = EstimateCache()
    target = (await choose_route(services, incoming, request, estimates)).targets[0]
    target = await apply_stored_adaptations(services, target, [])
    if target.dialect.has_count_tokens:
        try:
            return await _call_provider(services, incoming, request, target, COUNT_TIMEOUT_SECONDS)
        except ProxyError as error:
            if request.decode_error is not None:
                raise
            services.log.write_once(f"count_tokens: estimated by the proxy, because {error.message}")
    if request.decode_error is not None:
        raise request.decode_error
    scale = await services.observations.find_token_scale(target.provider.name, target.model)
    count = await services.background.run_in_thread_if_large(
        is_large_request(incoming, len(request.tools)), estimates.get_or_estimate, request
    )
    return JsonReply(b'{"input_tokens":%d}' % round(count * scale))


async def list_models(services: Services, incoming: ClientRequest) -> JsonReply | None:
    """Return the preferred provider's own response to `GET /v1/models` or to a path below it.

    None: the provider has no list of Claude models, or its response is an error. The caller then sends the proxy's own
    list.
    """
    preferred = find_preferred_provider(services.settings, services.catalog)
    if not preferred.serves_claude or not _MODEL_PATHS.fullmatch(incoming.path):
        return None
    request = MessagesRequest(model=f"{preferred.prefix}/models", messages=[])
    target = build_route(RoutingQuery(request.model), services.settings, services.catalog).targets[0]
    if not target.dialect.has_model_list:
        return None
    try:
        return await _call_provider(
            services, structs.replace(incoming, body=b""), request, target, LIST_TIMEOUT_SECONDS
        )
    except ProxyError as error:
        if error.status != 404:
            services.log.write_once(f"models: listed from the proxy's own tables, because {error.message}")
        return None


async def _call_provider(
    services: Services, incoming: ClientRequest, request: MessagesRequest, target: Target, seconds: float
) -> JsonReply:
    provider, pool = target.provider, services.credentials
    credential = find_client_credential(services, incoming, provider) or pool.next_credential(provider)
    send = partial(_send, services, incoming, request, target)
    try:
        return await send(credential, seconds)
    except UpstreamError as error:
        if error.status != 401 or not await pool.replace_rejected_key(provider, credential):
            raise
    return await send(pool.next_credential(provider), seconds)


async def _send(  # noqa: PLR0917
    services: Services,
    incoming: ClientRequest,
    request: MessagesRequest,
    target: Target,
    credential: Credential | None,
    seconds: float,
) -> JsonReply:
    provider = target.provider
    call = build_relay_call(incoming, request, target, services.new_id)
    records = AttemptRecords(incoming.receipt or _new_receipt(services, incoming), services)
    upstream_request = records.begin_attempt(target, target.wire.encode_request(call))
    try:
        async with asyncio.timeout(seconds):
            response = await services.transports[provider.transport](target.base_url, upstream_request, credential)
            records.set_status(response.status)
            try:
                return await _read_answer(target, call, response)
            finally:
                await response.close()
    except UpstreamError as error:
        redact_error(error, [credential.secret] if credential is not None else [])
        add_not_found_cause(error, target, call.client_path, services.settings)
        records.fail_attempt(error)
        raise
    except TimeoutError:
        late = UpstreamTimeout(f"{provider.prefix} did not answer within {seconds:g} s", provider=provider.prefix)
        records.fail_attempt(late)
        raise late from None
    finally:
        records.end_attempt()


def _new_receipt(services: Services, incoming: ClientRequest) -> Receipt:
    return Receipt(request_id=incoming.request_id, client=incoming.client, started_at=services.clock())


class _Counted(Struct):
    input_tokens: int


class _Listed(Struct):
    data: list[Raw] | None = None
    id: str | None = None


def _require_expected_shape(body: bytes, path: str, target: Target) -> None:
    """Raise `UpstreamProtocolError` if a response with status 200 has no token count or model list.

    Some servers answer unknown paths with status 200 and another body.
    """
    try:
        if path.endswith("/count_tokens"):
            msgspec.json.decode(body, type=_Counted)
        elif (listed := msgspec.json.decode(body, type=_Listed)).data is None and listed.id is None:
            raise msgspec.ValidationError("neither a list of models nor a model")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        name = target.provider.prefix
        raise UpstreamProtocolError(f"{name} answered {path} with an unexpected body", provider=name) from error


async def _read_answer(target: Target, call: Call[BaseDialect], response: UpstreamResponse) -> JsonReply:
    require_api_response(response, target)
    body = await read_body(response, MAX_BODY_BYTES)
    if 200 <= response.status < 300:
        _require_expected_shape(body, call.client_path, target)
        return JsonReply(body, forwarded_headers(response.headers))
    decode_error_response(target, call, response.status, response.headers, body)
    raise InternalError("a relayed error was decoded as a reply")
