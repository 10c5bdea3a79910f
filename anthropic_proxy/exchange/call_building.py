"""Step 5 of an exchange:

`AttemptState`, one attempt with its call for the wire, built from the prepared or relayed request.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, structs

from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.encoding import MAX_STEPS_ON_LOOP
from anthropic_proxy.messages.models import MessagesRequest, Tool, decode_request_or_keep
from anthropic_proxy.messages.preparation import (
    STATED_WINDOW_MARGIN,
    UNPREPARED,
    PreparationResult,
    ProxyTool,
    ServerToolKind,
    TargetLimits,
)
from anthropic_proxy.messages.reply_schema import ReplySchema
from anthropic_proxy.messages.tokens import EstimateCache, estimate
from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.routing.router import Target
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import CLIENT_CREDENTIAL_ORIGIN, BaseDialect, Call, Credential


class AttemptState(Struct, frozen=True, kw_only=True):
    """One upstream attempt: its target, its call for the wire, and facts that its reply and its errors need."""

    target: Target
    """Provider, model and address of the attempt."""
    call: Call[BaseDialect]
    """Input of the wire. Its field `raw` is emptied after the request was sent, to free memory."""
    credential: Credential | None
    """Credential sent to the provider. None: the provider needs no key."""
    is_relay: bool = False
    """True if the client's bytes are forwarded unchanged. False: the request is translated."""
    token_scale: float
    """Factor for token estimates of this model, computed from the counts in earlier replies. 1.0: no counts yet."""
    proxy_tools: Mapping[str, ProxyTool] = {}
    """Tool name in a call of the model → tool that the proxy runs."""
    deferred_tools: Sequence[Tool] = ()
    """Tools that are not sent to the model until its tool search finds them."""
    upstream_path: str = ""
    """Path of the upstream request, below the base URL. "": not encoded yet."""
    reply_schema: ReplySchema | None = None
    """Schema that the proxy checks the reply with. None: the client requested none, or the provider enforces the
    schema."""


class SentAttempts(Struct):
    """Latest attempt of one exchange, read by its pings and its error messages."""

    latest: AttemptState | None = None
    """State of the attempt that was sent last. None: no upstream request was sent."""


_PROXY_TOOLS: tuple[ServerToolKind, ...] = ("web_search", "tool_search")
_PROXY_TOOLS_WITH_FETCH: tuple[ServerToolKind, ...] = (*_PROXY_TOOLS, "web_fetch")
"""Server tools that the proxy runs if the provider does not run them, with `FETCH_URLS`. Without `SEARCH_URL`, a web
search returns an error block."""


@functools.lru_cache(maxsize=256)
def target_limits(
    target: Target, *, must_fit: bool = False, searches: bool = True, fetches: bool = False
) -> TargetLimits:
    """Return the limits of a target for `prepare`, the preparation of a client request.

    `must_fit`: True if a request above the context window is rejected. `searches`: True if `SEARCH_URL` is set.
    `fetches`: True if `FETCH_URLS` is set.
    """
    facts, dialect = target.capabilities, target.dialect
    stated = facts.context_window_from_error
    outputs = [
        limit for limit in (facts.max_output if facts.known else None, facts.max_output_from_error) if limit is not None
    ]
    return TargetLimits(
        context_window=stated or (facts.context_window if facts.known else None),
        max_input=facts.max_input if facts.known and stated is None else None,
        max_output=min(outputs, default=None),
        reject_overflow=must_fit and stated is None,
        margin=STATED_WINDOW_MARGIN if stated is not None else 0.0,
        efforts=facts.efforts,
        accepts_thinking_budget=dialect.accepts_thinking_budget,
        default_effort=facts.default_effort,
        accepts_images=(facts.accepts_images or not facts.known) and not facts.rejects_images,
        accepts_pdf=facts.accepts_pdf and not facts.rejects_documents,
        accepts_tools=facts.tools,
        server_tools=dialect.server_tools,
        server_tools_exclusive=dialect.server_tools_exclusive,
        proxy_tool_kinds=_PROXY_TOOLS_WITH_FETCH if fetches else _PROXY_TOOLS,
        can_search=searches,
        provider=target.provider.prefix,
        tool_name_pattern=dialect.tool_name_pattern,
        max_tool_name_length=dialect.max_tool_name_length,
    )


def limits_for(services: Services, target: Target) -> TargetLimits:
    """Return the limits of a target for `prepare`, with the settings and proxy tools of these services."""
    searches, fetches = services.web_search is not None, services.web_fetch is not None
    return target_limits(target, must_fit=services.settings.check_context_window, searches=searches, fetches=fetches)


def build_call(
    request: MessagesRequest,
    prepared: PreparationResult,
    target: Target,
    limits: TargetLimits,
    *,
    continuation: str,
    estimate: Callable[[], int],
    new_id: Callable[[str], str],
) -> Call[BaseDialect]:
    """Return the call for the wire, from a prepared request.

    `continuation`: token that continues a split reply; "": none. `estimate`: function that returns the estimated input
    tokens. `new_id`: function that returns an id with the given prefix.
    """
    return Call(
        request=prepared.request,
        model=target.model,
        requested_model=request.model,
        dialect=target.dialect,
        streams_upstream=request.stream or bool(prepared.request.stop_sequences) or target.dialect.always_stream,
        client_tool_names=prepared.aliases,
        continuation_token=continuation,
        new_id=new_id,
        provider=target.provider.prefix,
        base_url=target.base_url,
        context_window=limits.context_window,
        max_input_tokens=limits.max_input,
        estimate_input_tokens=estimate,
        max_schema_steps=MAX_STEPS_ON_LOOP,
    )


def build_relay_call(
    incoming: ClientRequest, request: MessagesRequest, target: Target, new_id: Callable[[str], str]
) -> Call[BaseDialect]:
    """Return the call for a relay: the client's body, headers, path and query."""
    return Call(
        request=UNPREPARED,
        model=target.model,
        requested_model=request.model,
        is_renamed=request.model != target.model,
        dialect=target.dialect,
        streams_upstream=request.stream,
        client_body=incoming.body,
        client_headers=incoming.headers,
        client_path=incoming.path,
        client_query=incoming.query,
        new_id=new_id,
        provider=target.provider.prefix,
        context_window=target.capabilities.context_window if target.capabilities.known else None,
        max_input_tokens=target.capabilities.max_input if target.capabilities.known else None,
        has_proxy_signatures=request.has_proxy_signatures,
        estimate_input_tokens=functools.partial(_estimate, request, incoming),
    )


def _estimate(request: MessagesRequest, incoming: ClientRequest) -> int:
    return estimate(decode_request_or_keep(incoming.body) if request.scanned_only else request)


def estimate_scaled(estimates: EstimateCache, token_scale: float, request: MessagesRequest) -> int:
    """Return the estimated input tokens of a request, multiplied by `token_scale`, the factor of the model."""
    return round(estimates.get_or_count(request) * token_scale)


def client_credential(services: Services, incoming: ClientRequest, provider: Provider) -> Credential | None:
    """Return the credential of the client request, to send to the provider.

    None: the provider accepts no credentials of clients, the proxy has its own key, or the client sent none.
    """
    if not (
        provider.accepts_client_credential and incoming.client.credential_forwardable
    ) or services.settings.keys.get(provider.name):
        return None
    for header in ("x-api-key", "authorization"):
        if value := incoming.headers.get(header):
            return Credential(header, value, CLIENT_CREDENTIAL_ORIGIN)
    return None


def continuation_target(target: Target) -> Target:
    """Return the target with the API version in its base URL that can continue a split reply.

    Most targets are unchanged.
    """
    version = target.dialect.continuation_version
    if not version:
        return target
    base_url = target.base_url.replace(f"{target.provider.default_url_path}/", f"{version}/", 1)
    return structs.replace(target, base_url=base_url)
