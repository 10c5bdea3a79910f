"""Reading a client request as far as its route requires, and choice of the route.

A route has the targets (provider and model) in the order of the calls. A relay is a target to which the body is
forwarded unchanged, so the proxy needs only its top-level fields; the other fields are decoded only if a target that is
no relay may serve the request. A route of the configuration file has conditions, and the first one whose conditions the
request meets names the targets. Without a matching route, the model mapping of the settings decides.
"""

from msgspec import Struct, structs

from anthropic_proxy.engine.engine import MAX_BYTES_ON_LOOP, Engine
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.messages.models import (
    MessagesRequest,
    decode_request_or_envelope,
    guess_model,
    scan_request,
)
from anthropic_proxy.engine.messages.preparation import server_tool_kinds
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.options import ConfiguredRoute
from anthropic_proxy.engine.routing.router import (
    Route,
    RoutingQuery,
    find_preferred_provider,
    resolve_model_name_and_tier,
)
from anthropic_proxy.engine.routing.rules import SESSION_HEADER, RequestFacts, RouteBalancer, RouteRules
from anthropic_proxy.errors import ClientError


class RuleChoice(Struct, frozen=True):
    """First route of the configuration file that matches a client request, and the facts that were compared."""

    facts: RequestFacts
    """Needed again for the order of the targets."""
    rule: ConfiguredRoute | None
    """First matching route. None: no route matches."""


def read_client_request(engine: Engine, incoming: ClientRequest) -> tuple[MessagesRequest, RuleChoice | None]:
    """Return the decoded request, and the result of `choose_rule` if it was already determined.

    Raises `InvalidRequest` if the request has no valid model. Any other decoding error is stored in the field
    `decode_error` of the request.
    """
    rules, routes, choice = engine.route_rules, engine.route_cache, None
    try:
        if rules is not None:
            needs_session = rules.uses_session and SESSION_HEADER not in incoming.headers  # it may be in the body
            may_be_relayed = routes.some_relayed and not rules.reads_body and not needs_session
        elif model := guess_model(incoming.body):
            may_be_relayed = routes.find_route(RoutingQuery(model), engine.settings, engine.catalog).is_relayed
        else:
            may_be_relayed = routes.some_relayed
        if may_be_relayed and (scanned := scan_request(incoming.body)) is not None:
            if rules is not None:
                choice = choose_rule(engine, rules, incoming, scanned, EstimateCache())
            rule = choice.rule if choice is not None else None
            query = RoutingQuery(scanned.model, server_tool_kinds(scanned.tools), rule)
            if routes.find_route(query, engine.settings, engine.catalog).is_relayed:
                return scanned, choice
    except ClientError:
        pass  # of an invalid model, or one without a route: raised again with the complete request
    return decode_request_or_envelope(incoming.body), choice


async def choose_route(
    engine: Engine,
    incoming: ClientRequest,
    request: MessagesRequest,
    estimates: EstimateCache,
    choice: RuleChoice | None = None,
) -> Route:
    """Return the route of a client request.

    `choice` is the result of `choose_rule`, if the caller already has it. Raises `ClientError` if no target can serve
    the request.
    """
    rules = engine.route_rules
    if rules is not None and choice is None:
        large = rules.reads_body and len(incoming.body) > MAX_BYTES_ON_LOOP
        choice = await engine.background.run_in_thread_if_large(
            large, choose_rule, engine, rules, incoming, request, estimates
        )
    rule = choice.rule if choice is not None else None
    query = RoutingQuery(request.model, server_tool_kinds(request.tools), rule)
    route = engine.route_cache.find_route(query, engine.settings, engine.catalog)
    if choice is None or rule is None or rule.balance == "order":
        return route
    balancer = RouteBalancer(engine.store, engine.route_prices)
    return structs.replace(route, targets=await balancer.order_targets(route.targets, rule, choice.facts))


def choose_rule(
    engine: Engine, rules: RouteRules, incoming: ClientRequest, request: MessagesRequest, estimates: EstimateCache
) -> RuleChoice:
    facts = build_request_facts(engine, incoming, request, estimates)
    return RuleChoice(facts, rules.find_matching_route(facts))


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
