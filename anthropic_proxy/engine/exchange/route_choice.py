"""Reading a client request as far as its route requires, and choice of the route.

A route has the targets (provider and model) in the order of the calls. A relay is a target to which the body is
forwarded unchanged, so the proxy needs only its top-level fields; `read_client_request` decodes the other fields only
if a target that is no relay may serve the request.

Each route of the configuration file has conditions. `choose_rule` finds the first route with conditions that the
request meets. `find_rule_route` returns its targets. `choose_route` does both; without a matching route, the model
mapping of the settings decides. `record_response_time` and `record_failed_call` store response times and failures of
targets, for routes with `balance = "latency"`.
"""

from msgspec import Struct, structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.call_building import MAX_BYTES_ON_LOOP, find_client_credential
from anthropic_proxy.engine.exchange.client_request import ClientRequest
from anthropic_proxy.engine.messages.models import (
    MessagesRequest,
    decode_request_or_envelope,
    guess_model,
    scan_request,
)
from anthropic_proxy.engine.messages.preparation import server_tool_kinds
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.options.routes import ConfiguredRoute
from anthropic_proxy.engine.routing.router import (
    Route,
    RoutingQuery,
    Target,
    find_preferred_provider,
    resolve_model_name_and_tier,
)
from anthropic_proxy.engine.routing.rules import SESSION_HEADER, RequestFacts, RouteBalancer, RouteRules
from anthropic_proxy.errors import ClientError, UpstreamError

_KEY_ERRORS = (401, 429)
"""HTTP statuses that concern the API key and not the server: 401, key rejected; 429, no quota left for the key."""


class RuleChoice(Struct, frozen=True):
    """Result of the search for the first route of the configuration file that matches a client request.

    It also has the compared facts of the request, because the order of the targets may depend on them.
    """

    facts: RequestFacts
    """Properties of the request that the conditions of the routes compare."""
    rule: ConfiguredRoute | None
    """First matching route. None: no route matches."""


def read_client_request(engine: Engine, incoming: ClientRequest) -> tuple[MessagesRequest, RuleChoice | None]:
    """Return the decoded request, and its matching route of the configuration file if it was already determined.

    None in place of the route: the caller must choose it. Raises `InvalidRequest` if the request has no valid model.
    Any other decoding error is stored in the field `decode_error` of the request.
    """
    choice = None
    if _may_be_relayed(engine, incoming):
        scanned = scan_request(incoming.body)
        if scanned is not None:
            choice = _choose_scanned(engine, incoming, scanned)
            if _is_relayed(engine, scanned, choice):
                return scanned, choice
    return decode_request_or_envelope(incoming.body), choice


def _may_be_relayed(engine: Engine, incoming: ClientRequest) -> bool:
    """Return True if all providers that may serve the request can be relays, so that a scan of the body suffices."""
    rules = engine.route_rules
    if rules is not None:
        needs_session = rules.uses_session and SESSION_HEADER not in incoming.headers  # it may be in the body
        return engine.route_cache.some_relayed and not rules.reads_body and not needs_session
    model = guess_model(incoming.body)
    if not model:
        return engine.route_cache.some_relayed
    try:
        return find_rule_route(engine, RoutingQuery(model), None).is_relayed
    except ClientError:
        return False


def _choose_scanned(engine: Engine, incoming: ClientRequest, scanned: MessagesRequest) -> RuleChoice | None:
    """Return the result of the routes of the configuration file for a request with scanned top-level fields.

    None: no routes are configured, or the model is invalid.
    """
    if engine.route_rules is None:
        return None
    try:
        return choose_rule(engine, engine.route_rules, incoming, scanned, EstimateCache())
    except ClientError:
        return None


def _is_relayed(engine: Engine, scanned: MessagesRequest, choice: RuleChoice | None) -> bool:
    rule = None if choice is None else choice.rule
    try:
        return find_rule_route(engine, build_routing_query(scanned), rule).is_relayed
    except ClientError:
        return False


async def choose_route(
    engine: Engine,
    incoming: ClientRequest,
    request: MessagesRequest,
    estimates: EstimateCache,
    choice: RuleChoice | None = None,
) -> Route:
    """Return the route of a client request: its targets (provider and model) in the order of the calls.

    `choice` is the result of `choose_rule`, if the caller already has it. Raises `ClientError` if no target can serve
    the request.
    """
    query = build_routing_query(request)
    rules = engine.route_rules
    if rules is None:
        return engine.route_cache.find_route(query, engine.settings, engine.catalog)
    if choice is None:
        large = rules.reads_body and len(incoming.body) > MAX_BYTES_ON_LOOP
        choice = await engine.background.run_in_thread_if_large(
            large, choose_rule, engine, rules, incoming, request, estimates
        )
    rule = choice.rule
    route = find_rule_route(engine, query, rule)
    if rule is None or rule.balance == "order":
        return route
    balancer = RouteBalancer(engine.store, engine.route_prices)
    return structs.replace(route, targets=await balancer.order_targets(route.targets, rule, choice.facts))


def choose_rule(
    engine: Engine, rules: RouteRules, incoming: ClientRequest, request: MessagesRequest, estimates: EstimateCache
) -> RuleChoice:
    """Find the first route of the configuration file that matches a request.

    Return the route, or None if no route matches, together with the facts of the request that were compared.
    """
    facts = build_request_facts(engine, incoming, request, estimates)
    return RuleChoice(facts, rules.find_matching_route(facts))


def find_rule_route(engine: Engine, query: RoutingQuery, rule: ConfiguredRoute | None) -> Route:
    """Return the targets (provider and model) that the route `rule` of the configuration file names.

    If `rule` is None, the targets follow from the model mapping of the settings.
    """
    if rule is not None:
        query = structs.replace(query, rule=rule)
    return engine.route_cache.find_route(query, engine.settings, engine.catalog)


def build_request_facts(
    engine: Engine, incoming: ClientRequest, request: MessagesRequest, estimates: EstimateCache
) -> RequestFacts:
    """Return the facts about a client request, such as model and headers, that conditions of routes compare."""
    settings = engine.settings
    model, tier = resolve_model_name_and_tier(
        request.model, find_preferred_provider(settings, engine.catalog), settings
    )
    return RequestFacts(
        request,
        model=model,
        tier=tier,
        headers=incoming.headers,
        key=incoming.client.name,
        team=incoming.client.team,
        now=engine.clock(),
        count_tokens=estimates.get_or_estimate,
        request_id=incoming.request_id,
    )


def build_routing_query(request: MessagesRequest) -> RoutingQuery:
    """Return the model and the kinds of server tools of a request, from which its route is computed."""
    return RoutingQuery(request.model, server_tool_kinds(request.tools))


def record_response_time(
    engine: Engine, rule: ConfiguredRoute | None, target: Target, session: str, seconds: float
) -> None:
    """Store the response time of a target (provider and model), for a route with `balance = "latency"`.

    `seconds` is the time until the first content.
    """
    if rule is not None and rule.balance == "latency":
        engine.background.start_task(_store_reply(engine, rule, target, session, seconds))


async def _store_reply(engine: Engine, rule: ConfiguredRoute, target: Target, session: str, seconds: float) -> None:
    balancer = RouteBalancer(engine.store, engine.route_prices)
    await balancer.record_latency(target, seconds)
    await balancer.store_session_target(rule, session, target)


def record_failed_call(
    engine: Engine, incoming: ClientRequest, rule: ConfiguredRoute | None, target: Target, error: UpstreamError
) -> None:
    """Store that a call to `target` failed, if its route `rule` has `balance = "latency"`.

    Such routes then call the target last for some time. Only failures of the server, or of the proxy's own API key, are
    stored.
    """
    if rule is None or rule.balance != "latency":
        return
    concerns_key = error.status in _KEY_ERRORS and find_client_credential(engine, incoming, target.provider) is None
    if error.status >= 500 or concerns_key:
        balancer = RouteBalancer(engine.store, engine.route_prices)
        engine.background.start_task(balancer.record_failure(target))
