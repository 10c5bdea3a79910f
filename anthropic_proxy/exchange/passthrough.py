"""Relayed requests: the bytes of the client, and its credential if it is meant for the provider."""

from collections.abc import Callable
from functools import partial

from anthropic_proxy.messages.models import MessagesRequest, decode_request_or_keep
from anthropic_proxy.messages.preparation import UNPREPARED
from anthropic_proxy.messages.tokens import estimate
from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.routing.router import Target
from anthropic_proxy.services import ClientRequest, Services
from anthropic_proxy.wire.contract import FROM_CLIENT, Call, Credential


def build_relay_call(
    incoming: ClientRequest, request: MessagesRequest, target: Target, new_id: Callable[[str], str]
) -> Call:
    """Return the call of a relay, with the bytes, path and query of the client."""
    return Call(
        request=UNPREPARED,
        model=target.model,
        requested_model=request.model,
        is_renamed=request.model != target.model,
        dialect=target.dialect,
        stream=request.stream,
        raw=incoming.body,
        headers=incoming.headers,
        path=incoming.path,
        query=incoming.query,
        new_id=new_id,
        provider=target.provider.prefix,
        window=target.facts.context_window if target.facts.known else None,
        max_input=target.facts.max_input if target.facts.known else None,
        has_proxy_signatures=request.has_proxy_signatures,
        estimate=partial(_estimate, request, incoming),
    )


def _estimate(request: MessagesRequest, incoming: ClientRequest) -> int:
    return estimate(decode_request_or_keep(incoming.body) if request.scanned_only else request)


def client_credential(services: Services, incoming: ClientRequest, provider: Provider) -> Credential | None:
    """Return the credential of the client. None: not meant for this provider, or a key is configured."""
    if not (
        provider.accepts_client_credential and incoming.client.credential_forwardable
    ) or services.settings.keys.get(provider.name):
        return None
    for header in ("x-api-key", "authorization"):
        if value := incoming.headers.get(header):
            return Credential(header, value, FROM_CLIENT)
    return None
