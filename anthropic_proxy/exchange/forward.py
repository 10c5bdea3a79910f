"""What a provider of the same language knows better than we: token counts and its models. One call, no second try."""

import asyncio
import re
from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.errors import (
    InternalError,
    ProxyError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from anthropic_proxy.exchange.answer import read_whole
from anthropic_proxy.exchange.blame import expect_api
from anthropic_proxy.exchange.house import House, Inbound
from anthropic_proxy.exchange.masking import hide_key_in
from anthropic_proxy.exchange.passing import lent_credential, relay_call
from anthropic_proxy.exchange.relay import passed_headers
from anthropic_proxy.messages.tokens import estimate
from anthropic_proxy.messages.types import MessagesRequest, read_request
from anthropic_proxy.routing.router import Facts, Target, find_home, resolve
from anthropic_proxy.wire.contract import Call, UpstreamResponse, relays

COUNT_SECONDS = 10.0
"""How long an exact count is waited for; clients ask for many at once while somebody looks at the screen."""
LIST_SECONDS = 2.5
"""How long a list of models is waited for; Claude Code gives up after 3 s."""

_LISTED = re.compile(r"/v1/models(?:/[\w.:@-]*\w)?", re.ASCII)
"""Paths that are passed on as they are: nothing in them can lead elsewhere."""


class Told(Struct, frozen=True):
    """A JSON body for the client, with the provider's headers where it is the provider's."""

    body: bytes
    headers: Mapping[str, str] = {}


async def count_tokens(house: House, inbound: Inbound) -> Told:
    """Return a count: the provider's own where it relays and counts, else the estimate made here.

    The estimate is scaled by what the model counted for earlier requests.

    Raises the provider's refusal, or ours, where the request cannot be read here.
    """
    request = read_request(inbound.body, counting=True)
    target = resolve(Facts(request.model), house.settings, house.catalogue).targets[0]
    if relays(target.wire) and target.dialect.counts:
        try:
            return await _ask(house, inbound, request, target, COUNT_SECONDS)
        except ProxyError as error:
            if request.refusal is not None:
                raise
            house.log.once(f"count_tokens: estimated here, because {error.message}")
    if request.refusal is not None:
        raise request.refusal
    scale = await house.learned.find_scale(target.provider.name, target.model)
    return Told(b'{"input_tokens":%d}' % round(estimate(request) * scale))


async def list_models(house: House, inbound: Inbound) -> Told | None:
    """Return what the preferred provider answers to `GET /v1/models` or below, where it relays and lists them.

    None: it does not, or not in time, or it does not know the model. Then our own list holds.
    """
    home = find_home(house.settings, house.catalogue)
    if not home.keeps_tiers or not _LISTED.fullmatch(inbound.path):
        return None
    request = MessagesRequest(model=f"{home.prefix}/models", messages=[])
    target = resolve(Facts(request.model), house.settings, house.catalogue).targets[0]
    if not (relays(target.wire) and target.dialect.lists):
        return None
    try:
        return await _ask(house, structs.replace(inbound, body=b""), request, target, LIST_SECONDS)
    except ProxyError as error:
        if error.status != 404:
            house.log.once(f"models: listed from what is known here, because {error.message}")
        return None


async def _ask(house: House, inbound: Inbound, request: MessagesRequest, target: Target, seconds: float) -> Told:
    provider = target.provider
    credential = lent_credential(house, inbound, provider) or house.credentials.find(provider)
    call = relay_call(inbound, request, target, house.new_id)
    try:
        async with asyncio.timeout(seconds):
            response = await house.ways[provider.way](target.base_url, target.wire.encode_request(call), credential)
            try:
                return await _read_answer(target, call, response)
            finally:
                await response.close()
    except UpstreamError as error:
        hide_key_in(error, credential)
        raise
    except TimeoutError:
        text = f"{provider.name} did not answer within {seconds:g} s"
        raise UpstreamTimeout(text, provider=provider.name) from None


class _Counted(Struct):
    input_tokens: int


class _Listed(Struct):
    data: list[Raw] | None = None
    id: str | None = None


def _expect_answer(body: bytes, path: str, target: Target) -> None:
    """Refuse a success that is none: some servers answer paths that they do not know with 200."""
    try:
        if path.endswith("/count_tokens"):
            msgspec.json.decode(body, type=_Counted)
        elif (listed := msgspec.json.decode(body, type=_Listed)).data is None and listed.id is None:
            raise msgspec.ValidationError("neither a list nor a model")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        name = target.provider.name
        raise UpstreamProtocolError(f"{name} answered {path} with something else", provider=name) from error


async def _read_answer(target: Target, call: Call, response: UpstreamResponse) -> Told:
    expect_api(response, target)
    body = await read_whole(response)
    if 200 <= response.status < 300:
        _expect_answer(body, call.path, target)
        return Told(body, passed_headers(response.headers))
    error = target.wire.decode_error(call, response.status, response.headers, body)
    if isinstance(error, UpstreamError):
        error.headers = passed_headers(response.headers)
    if isinstance(error, Exception):
        raise error
    raise InternalError("a relayed error was taken for a reply")
