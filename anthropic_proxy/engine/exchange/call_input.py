"""The input of a call to a provider, also for requests that are no messages: limits of the target, `Call` of a relay,
the client's own key, size and estimated tokens.
"""

from collections.abc import Callable, Collection
from functools import lru_cache

from anthropic_proxy.engine.engine import MAX_BYTES_ON_LOOP, Engine
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN
from anthropic_proxy.engine.messages.models import MessagesRequest, decode_request_or_envelope
from anthropic_proxy.engine.messages.preparation import STATED_WINDOW_MARGIN, UNPREPARED, ServerToolKind, TargetLimits
from anthropic_proxy.engine.messages.tokens import EstimateCache, TokenScale
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.routing.router import Target
from anthropic_proxy.engine.wires.contract import CLIENT_CREDENTIAL_ORIGIN, BaseDialect, Call, Credential
from anthropic_proxy.errors import ClientError

_BYTES_PER_TOOL = 512
"""Bytes added to the size of a request for each tool definition, because each definition costs additional time."""
_PROXY_TOOLS: tuple[ServerToolKind, ...] = ("web_search", "tool_search")
_PROXY_TOOLS_WITH_FETCH: tuple[ServerToolKind, ...] = (*_PROXY_TOOLS, "web_fetch")
"""Kinds of server tools that the proxy itself can run for a provider without them, if `FETCH_URLS` is set. Without
`SEARCH_URL`, a web search returns an error block."""


@lru_cache(maxsize=256)
def build_target_limits(
    target: Target,
    rejects_overflow: bool = False,  # also by position: lru_cache is slower with keywords
    has_web_search: bool = True,
    has_web_fetch: bool = False,
) -> TargetLimits:
    """Return the limits to which client requests for `target` are adapted.

    `has_web_search` and `has_web_fetch` are True if the proxy itself can run these tools.
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
        reject_overflow=rejects_overflow and stated is None,
        margin=STATED_WINDOW_MARGIN if stated is not None else 0.0,
        efforts=facts.efforts,
        accepts_thinking_budget=dialect.accepts_thinking_budget,
        default_effort=facts.default_effort,
        accepts_images=(facts.accepts_images or not facts.known) and not facts.rejects_images,
        accepts_pdf=facts.accepts_pdf and not facts.rejects_documents,
        accepts_tools=facts.tools,
        server_tools=dialect.server_tools,
        server_tools_exclusive=dialect.server_tools_exclusive,
        proxy_tool_kinds=_PROXY_TOOLS_WITH_FETCH if has_web_fetch else _PROXY_TOOLS,
        can_search=has_web_search,
        provider=target.provider.prefix,
        loaded_tools=dialect.loaded_tool_form,
        tool_name_pattern=dialect.tool_name_pattern,
        max_tool_name_length=dialect.max_tool_name_length,
    )


def resolve_target_limits(engine: Engine, target: Target) -> TargetLimits:
    return build_target_limits(
        target, engine.settings.check_context_window, engine.web_search is not None, engine.web_fetch is not None
    )


def build_relay_call(
    incoming: ClientRequest,
    request: MessagesRequest,
    target: Target,
    new_id: Callable[[str], str],
    refused_signatures: Collection[bytes] = frozenset(),
    *,
    token_scale: TokenScale = TokenScale(),  # noqa: B008  # frozen
) -> Call[BaseDialect]:
    """Return the input of a wire that forwards the client's body, headers, path and query without translation."""
    return Call(
        request=UNPREPARED,
        model=target.model,
        requested_model=request.model,
        is_renamed=request.model != target.model,
        dialect=target.dialect,
        streams_upstream=request.stream,
        client_body=incoming.body,
        client_headers=incoming.headers,
        client_path=incoming.receipt.path,
        client_query=incoming.query,
        new_id=new_id,
        provider=target.provider.prefix,
        context_window=target.capabilities.context_window if target.capabilities.known else None,
        max_input_tokens=target.capabilities.max_input if target.capabilities.known else None,
        has_proxy_signatures=request.has_proxy_signatures,
        refused_signatures=refused_signatures,
        estimate_input_tokens=lambda: estimate_client_request_tokens(incoming, EstimateCache(), token_scale, request),
    )


def find_client_credential(engine: Engine, incoming: ClientRequest, provider: Provider) -> Credential | None:
    """Return the client's own key if the provider accepts it and the settings have none. None: it is not sent."""
    is_allowed = provider.accepts_client_credential and incoming.receipt.client.credential_forwardable
    if not is_allowed or engine.settings.keys.get(provider.name):
        return None
    for header in ("x-api-key", "authorization"):
        if value := incoming.headers.get(header):
            return Credential(header, value, CLIENT_CREDENTIAL_ORIGIN)
    return None


def is_large_request(incoming: ClientRequest, tool_count: int) -> bool:
    return len(incoming.body) + _BYTES_PER_TOOL * tool_count > MAX_BYTES_ON_LOOP


def estimate_client_request_tokens(
    incoming: ClientRequest, estimates: EstimateCache, token_scale: TokenScale, request: MessagesRequest
) -> int:
    """Return the estimated input tokens of a client request, also of one that only its provider can decode."""
    if request.scanned_only:
        request = decode_request_or_envelope(incoming.body)
    try:
        if request.decode_error is None:
            return estimates.get_or_estimate(request, token_scale)
    except ClientError:  # content that only the provider understands
        pass
    return round(len(incoming.body) / CHARACTERS_PER_TOKEN * token_scale.factor)
