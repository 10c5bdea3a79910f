"""Choice of the route of a client request: its targets (provider and model) in the order of the calls.

`choose_rule` finds the first `[[routes]]` table of the configuration file with matching conditions. `find_rule_route`
returns its targets, or those of the model mapping. `choose_route` does both. `record_reply` and `record_failed_call`
store response times and failures for routes with `balance = "latency"`. `require_decodable` raises the error of an
invalid request.
"""

from msgspec import Struct, structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.exchange.call_building import client_credential
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.encoding import MAX_BYTES_ON_LOOP
from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.messages.preparation import server_tool_kinds
from anthropic_proxy.messages.tokens import EstimateCache
from anthropic_proxy.routing.router import Route, RoutingQuery, Target, find_preferred_provider, normalize_model
from anthropic_proxy.routing.rules import RequestFacts, RouteBalancer, RouteRules
from anthropic_proxy.services import Services
from anthropic_proxy.settings import ConfiguredRoute

_KEY_ERRORS = (401, 429)
"""HTTP statuses that concern the API key and not the server: 401, key rejected; 429, no quota left for the key."""


class RuleChoice(Struct, frozen=True):
    """Result of the search for a matching route of the configuration file, for one client request."""

    facts: RequestFacts
    """Properties of the request that the conditions of the routes compare."""
    rule: ConfiguredRoute | None
    """First matching route. None: no route matches."""


async def choose_route(
    services: Services,
    incoming: ClientRequest,
    request: MessagesRequest,
    estimates: EstimateCache,
    choice: RuleChoice | None = None,
) -> Route:
    """Return the route of a client request: its targets (provider and model) in the order of the calls.

    `estimates`: cache of the token estimate, which conditions may need. `choice`: result of `choose_rule`; None: not
    called yet. Raises `ClientError` if no target can serve the request.
    """
    query = routing_query(request)
    rules = services.route_rules
    if rules is None:
        return services.route_cache.find_route(query, services.settings, services.catalog)
    if choice is None:
        large = rules.reads_body and len(incoming.body) > MAX_BYTES_ON_LOOP
        choice = await services.background.run_in_thread_if(
            large, choose_rule, services, rules, incoming, request, estimates
        )
    rule = choice.rule
    route = find_rule_route(services, query, rule)
    if rule is None or rule.balance == "order":
        return route
    balancer = RouteBalancer(services.store, services.route_prices)
    return structs.replace(route, targets=await balancer.order_targets(route.targets, rule, choice.facts))


def choose_rule(
    services: Services, rules: RouteRules, incoming: ClientRequest, request: MessagesRequest, estimates: EstimateCache
) -> RuleChoice:
    """Return the first route of the configuration file that matches a request, with the compared facts."""
    facts = collect_facts(services, incoming, request, estimates)
    return RuleChoice(facts, rules.find(facts))


def find_rule_route(services: Services, query: RoutingQuery, rule: ConfiguredRoute | None) -> Route:
    """Return the targets of a route of the configuration file. `rule` None: return those of the model mapping."""
    if rule is not None:
        query = structs.replace(query, rule=rule)
    return services.route_cache.find_route(query, services.settings, services.catalog)


def collect_facts(
    services: Services, incoming: ClientRequest, request: MessagesRequest, estimates: EstimateCache
) -> RequestFacts:
    """Return the facts of a client request, such as its model and headers, that the conditions of routes compare."""
    settings = services.settings
    model, tier = normalize_model(request.model, find_preferred_provider(settings, services.catalog), settings)
    return RequestFacts(
        request,
        model=model,
        tier=tier,
        headers=incoming.headers,
        key=incoming.client.name,
        now=services.clock(),
        count_tokens=estimates.get_or_count,
        request_id=incoming.request_id,
    )


def routing_query(request: MessagesRequest) -> RoutingQuery:
    """Return the two facts of a client request from which its targets follow: the model and the server tools."""
    return RoutingQuery(request.model, server_tool_kinds(request.tools))


def require_decodable(request: MessagesRequest, route: Route) -> None:
    """Raise the decoding error of an invalid request, unless its first target is a relay.

    A relay forwards the body unchanged, and its provider validates the fields.
    """
    if request.decode_error is not None and not route.targets[0].is_relayed:
        raise request.decode_error


def record_reply(
    services: Services, rule: ConfiguredRoute | None, target: Target, session: str, seconds: float
) -> None:
    """Store how fast `target` replied, and that the session uses it, for a route with `balance = "latency"`.

    Does nothing for other routes. `seconds`: time until the first content. A background task writes the store.
    """
    if rule is not None and rule.balance == "latency":
        services.background.start_task(_store_reply(services, rule, target, session, seconds))


async def _store_reply(services: Services, rule: ConfiguredRoute, target: Target, session: str, seconds: float) -> None:
    balancer = RouteBalancer(services.store, services.route_prices)
    await balancer.record_latency(target, seconds)
    await balancer.keep_session(rule, session, target)


def record_failed_call(
    services: Services, incoming: ClientRequest, rule: ConfiguredRoute | None, target: Target, error: UpstreamError
) -> None:
    """Store a failure of a target, so that a route with `balance = "latency"` calls it last for some time.

    Does nothing for other routes. Only statuses from 500 count, and 401 and 429 for a key of the proxy. A background
    task writes the store.
    """
    if rule is None or rule.balance != "latency":
        return
    concerns_key = error.status in _KEY_ERRORS and client_credential(services, incoming, target.provider) is None
    if error.status >= 500 or concerns_key:
        balancer = RouteBalancer(services.store, services.route_prices)
        services.background.start_task(balancer.record_failure(target))
