"""Reading a client request as far as its plan requires, and choice of the plan.

A plan has the targets in the order of the calls. A relay gets the body unchanged, so the proxy needs only its top-level
fields; the other fields are decoded only if a target that is no relay may serve the request. The first route whose
conditions the request meets names the targets. Without a match, the model mapping of the settings decides.
"""

from msgspec import Struct, structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.adaptation import find_learned_dialect
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.histories import Conversation
from anthropic_proxy.engine.hooks import SessionModels
from anthropic_proxy.engine.messages.models import (
    MessagesRequest,
    decode_request_or_envelope,
    guess_model,
    scan_request,
)
from anthropic_proxy.engine.messages.preparation import server_tool_kinds
from anthropic_proxy.engine.messages.purpose import BACKGROUND_KINDS
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.options import ConfiguredRoute
from anthropic_proxy.engine.routing.choices import (
    find_preferred_provider,
    resolve_model_name_and_tier,
    without_suffix,
)
from anthropic_proxy.engine.routing.router import Plan, RoutingQuery
from anthropic_proxy.engine.routing.routes import CompiledRoutes, RequestFacts, RouteBalancer
from anthropic_proxy.engine.wires.anthropic.betas import makes_edits
from anthropic_proxy.errors import ClientError


class RouteMatch(Struct, frozen=True):
    """First table `[[routes]]` that matches a client request, and the facts that were compared."""

    facts: RequestFacts
    """Needed again for the order of the targets."""
    route: ConfiguredRoute | None
    """First matching route. None: no route matches."""


def read_client_request(
    engine: Engine, incoming: ClientRequest, *, may_postpone: bool = False
) -> tuple[MessagesRequest, RouteMatch | None]:
    """Return the decoded request, and the result of `match_route` if it was already determined.

    `may_postpone`: see `BackgroundWork.run_postponable`.

    Raises `InvalidRequest` if the request has no valid model. Any other decoding error is stored in the field
    `decode_error` of the request.
    """
    if incoming.plans:
        all_relayed = all(plan.is_relayed for plan in incoming.plans)
        scanned = scan_request(incoming.body, may_postpone=may_postpone) if all_relayed else None
        if scanned is None or (
            scanned.context_edits and any(_edits_some(engine, incoming, plan, scanned) for plan in incoming.plans)
        ):
            scanned = decode_request_or_envelope(incoming.body, may_postpone=may_postpone)
        return scanned, None
    routes = engine.compiled_routes
    plans = engine.plan_cache
    match: RouteMatch | None = None
    try:
        if routes is not None:
            may_be_relayed = plans.some_relayed and not routes.reads_body
        elif model := guess_model(incoming.body):
            may_be_relayed = plans.find_plan(RoutingQuery(model), engine.settings, engine.catalog).is_relayed
        else:
            may_be_relayed = plans.some_relayed
        if may_be_relayed and (scanned := scan_request(incoming.body, may_postpone=may_postpone)) is not None:
            if routes is not None:
                match = match_route(engine, routes, incoming, scanned, EstimateCache())
            route = match.route if match is not None else None
            query = RoutingQuery(scanned.model, server_tool_kinds(scanned.tools), route)
            plan = plans.find_plan(query, engine.settings, engine.catalog)
            if plan.is_relayed and not (scanned.context_edits and _edits_some(engine, incoming, plan, scanned)):
                return scanned, match
    except ClientError:
        pass  # of an invalid model, or one without a target: raised again with the complete request
    histories = engine.histories
    conversation: Conversation | None = None
    if len(incoming.body) >= histories.min_bytes:
        conversation = histories.find(incoming.receipt.client, incoming.headers, incoming.body)
    if conversation is None:
        return decode_request_or_envelope(incoming.body, may_postpone=may_postpone), match
    request = decode_request_or_envelope(incoming.body, known=conversation.known, may_postpone=may_postpone)
    histories.learn(conversation, incoming.body, request)
    return request, match


def _edits_some(engine: Engine, incoming: ClientRequest, plan: Plan, request: MessagesRequest) -> bool:
    """Return True if the proxy edits the conversation, because a target of the plan does not."""
    edits = request.context_edits or ()
    client = incoming.receipt.client.id
    return not all(makes_edits(find_learned_dialect(engine, target, client), edits) for target in plan.targets)


async def follow_session(models: SessionModels, incoming: ClientRequest, request: MessagesRequest) -> bool:
    """Return True if a person has chosen another model for the session than the one of the request, which is then
    planned as if the client had named it. Calls beside the conversation keep their models.
    """
    receipt = incoming.receipt
    if models.is_empty or not receipt.session or incoming.plans:
        return False
    chosen = await models.find(receipt.client, receipt.session)
    if chosen is None or receipt.kind in BACKGROUND_KINDS or without_suffix(request.model) != chosen.replaced:
        return False
    receipt.session_model = chosen.model
    return True


async def choose_plan(
    engine: Engine,
    incoming: ClientRequest,
    request: MessagesRequest,
    estimates: EstimateCache,
    match: RouteMatch | None = None,
) -> Plan:
    """Return the plan of a client request: the first that its sender has chosen, or that of routes and settings.

    `match` is the result of `match_route`, if the caller already has it. Raises `ClientError` if no target can serve
    the request.
    """
    if incoming.plans:
        return incoming.plans[0]
    routes = engine.compiled_routes
    if routes is not None and match is None:
        large = routes.reads_body and incoming.is_large
        match = await incoming.background.run_in_thread_if_large(
            large, match_route, engine, routes, incoming, request, estimates
        )
    route = match.route if match is not None else None
    model = incoming.receipt.session_model or request.model
    query = RoutingQuery(model, server_tool_kinds(request.tools), route)
    plan = engine.plan_cache.find_plan(query, engine.settings, engine.catalog)
    if match is None or route is None or route.balance == "order":
        return plan
    balancer = RouteBalancer(engine.route_values or engine.store, engine.route_prices)
    return structs.replace(plan, targets=await balancer.order_targets(plan.targets, route, match.facts))


_CITATIONS = b'"citations"'
"""Text in the JSON of each request with sources, unless its client hides it by escapes."""


async def find_citation_key(engine: Engine, incoming: ClientRequest) -> bytes:
    """Return `MessagesRequest.citation_key`. All calls for a client request need the same one."""
    if _CITATIONS in incoming.body:
        await engine.own_keys.open(engine.store)
    return engine.own_keys.derive("citations", incoming.receipt.client.payer)


def match_route(
    engine: Engine, routes: CompiledRoutes, incoming: ClientRequest, request: MessagesRequest, estimates: EstimateCache
) -> RouteMatch:
    facts = build_request_facts(engine, incoming, request, estimates)
    return RouteMatch(facts, routes.find_matching_route(facts))


def build_request_facts(
    engine: Engine, incoming: ClientRequest, request: MessagesRequest, estimates: EstimateCache
) -> RequestFacts:
    preferred = find_preferred_provider(engine.settings, engine.catalog)
    name = incoming.receipt.session_model or request.model
    model, tier = resolve_model_name_and_tier(name, preferred, engine.settings)
    return RequestFacts(
        request,
        model=model,
        tier=tier,
        headers=incoming.headers,
        client=incoming.receipt.client,
        now=engine.clock(),
        count_tokens=estimates.get_or_estimate,
        request_id=incoming.receipt.request_id,
        own_kind=incoming.receipt.kind,
    )
