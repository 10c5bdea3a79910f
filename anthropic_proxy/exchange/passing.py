"""What passes from a client to a provider as it is: its bytes, and its key where that is meant."""

from collections.abc import Callable
from functools import partial

from anthropic_proxy.exchange.house import House, Inbound
from anthropic_proxy.messages.prepare import UNPREPARED
from anthropic_proxy.messages.tokens import estimate
from anthropic_proxy.messages.types import MessagesRequest, read_request
from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.routing.router import Target
from anthropic_proxy.wire.contract import LENT, Call, Credential


def relay_call(inbound: Inbound, request: MessagesRequest, target: Target, new_id: Callable[[str], str]) -> Call:
    """Return what a relay sends: the client's own bytes, path and query."""
    return Call(
        request=UNPREPARED,
        model=target.model,
        asked_model=request.model,
        renamed=request.model != target.model,
        dialect=target.dialect,
        stream=request.stream,
        raw=inbound.body,
        headers=inbound.headers,
        path=inbound.path,
        query=inbound.query,
        new_id=new_id,
        provider=target.provider.name,
        window=target.facts.window if target.facts.known else None,
        max_input=target.facts.max_input if target.facts.known else None,
        bears_marks=request.bears_marks,
        estimate=partial(_estimate, request, inbound),
    )


def _estimate(request: MessagesRequest, inbound: Inbound) -> int:
    return estimate(read_request(inbound.body) if request.skimmed else request)


def lent_credential(house: House, inbound: Inbound, provider: Provider) -> Credential | None:
    """Return the client's own credential, where it is meant for this provider and we have none of our own."""
    if not (provider.takes_client_key and inbound.client.key_forwardable) or house.settings.keys.get(provider.name):
        return None
    for header in ("x-api-key", "authorization"):
        if value := inbound.headers.get(header):
            return Credential(header, value, LENT)
    return None
