"""Reading a client request as far as its plan requires, and choice of the plan.

A plan has the targets (provider, model and wire) in the order of the calls. A relay is a target that gets the body
unchanged, so the proxy needs only its top-level fields; the other fields are decoded only if a target that is
no relay may serve the request. A route is a table `[[routes]]` of the configuration file. The first one whose
conditions the request meets names the targets. Without a match, the model mapping of the settings decides.
`resolve_target_limits` has the limits to which the request is then adapted for a target: what model, API and proxy can
do.
"""

from functools import lru_cache

from msgspec import Struct, structs

from anthropic_proxy.engine.engine import Engine, is_large_request
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN
from anthropic_proxy.engine.messages.models import (
    MessagesRequest,
    decode_request_or_envelope,
    guess_model,
    scan_request,
)
from anthropic_proxy.engine.messages.preparation import (
    STATED_WINDOW_MARGIN,
    ServerToolKind,
    TargetLimits,
    server_tool_kinds,
)
from anthropic_proxy.engine.messages.tokens import EstimateCache, TokenScale
from anthropic_proxy.engine.options import ConfiguredRoute
from anthropic_proxy.engine.routing.router import (
    Plan,
    RoutingQuery,
    Target,
    find_preferred_provider,
    resolve_model_name_and_tier,
)
from anthropic_proxy.engine.routing.routes import SESSION_HEADER, CompiledRoutes, RequestFacts, RouteBalancer
from anthropic_proxy.errors import ClientError


class RouteMatch(Struct, frozen=True):
    """First table `[[routes]]` that matches a client request, and the facts that were compared."""

    facts: RequestFacts
    """Needed again for the order of the targets."""
    route: ConfiguredRoute | None
    """First matching route. None: no route matches."""


def read_client_request(engine: Engine, incoming: ClientRequest) -> tuple[MessagesRequest, RouteMatch | None]:
    """Return the decoded request, and the result of `match_route` if it was already determined.

    Raises `InvalidRequest` if the request has no valid model. Any other decoding error is stored in the field
    `decode_error` of the request.
    """
    routes, plans, match = engine.compiled_routes, engine.plan_cache, None
    try:
        if routes is not None:
            needs_session = routes.uses_session and SESSION_HEADER not in incoming.headers  # it may be in the body
            may_be_relayed = plans.some_relayed and not routes.reads_body and not needs_session
        elif model := guess_model(incoming.body):
            may_be_relayed = plans.find_plan(RoutingQuery(model), engine.settings, engine.catalog).is_relayed
        else:
            may_be_relayed = plans.some_relayed
        if may_be_relayed and (scanned := scan_request(incoming.body)) is not None:
            if routes is not None:
                match = match_route(engine, routes, incoming, scanned, EstimateCache())
            route = match.route if match is not None else None
            query = RoutingQuery(scanned.model, server_tool_kinds(scanned.tools), route)
            if plans.find_plan(query, engine.settings, engine.catalog).is_relayed:
                return scanned, match
    except ClientError:
        pass  # of an invalid model, or one without a target: raised again with the complete request
    return decode_request_or_envelope(incoming.body), match


async def choose_plan(
    engine: Engine,
    incoming: ClientRequest,
    request: MessagesRequest,
    estimates: EstimateCache,
    match: RouteMatch | None = None,
) -> Plan:
    """Return the plan of a client request.

    `match` is the result of `match_route`, if the caller already has it. Raises `ClientError` if no target can serve
    the request.
    """
    routes = engine.compiled_routes
    if routes is not None and match is None:
        large = routes.reads_body and is_large_request(incoming.body, len(request.tools))
        match = await engine.background.run_in_thread_if_large(
            large, match_route, engine, routes, incoming, request, estimates
        )
    route = match.route if match is not None else None
    query = RoutingQuery(request.model, server_tool_kinds(request.tools), route)
    plan = engine.plan_cache.find_plan(query, engine.settings, engine.catalog)
    if match is None or route is None or route.balance == "order":
        return plan
    balancer = RouteBalancer(engine.store, engine.route_prices)
    return structs.replace(plan, targets=await balancer.order_targets(plan.targets, route, match.facts))


def match_route(
    engine: Engine, routes: CompiledRoutes, incoming: ClientRequest, request: MessagesRequest, estimates: EstimateCache
) -> RouteMatch:
    facts = build_request_facts(engine, incoming, request, estimates)
    return RouteMatch(facts, routes.find_matching_route(facts))


def build_request_facts(
    engine: Engine, incoming: ClientRequest, request: MessagesRequest, estimates: EstimateCache
) -> RequestFacts:
    settings = engine.settings
    model, tier = resolve_model_name_and_tier(
        request.model, find_preferred_provider(settings, engine.catalog), settings
    )
    return RequestFacts(
        request,
        model=model,
        tier=tier,
        headers=incoming.headers,
        key=incoming.receipt.client.name,
        team=incoming.receipt.client.team,
        now=engine.clock(),
        count_tokens=estimates.get_or_estimate,
        request_id=incoming.receipt.request_id,
    )


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
        always_reasons=dialect.always_reasons,
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
