"""`read_client_request`: decodes the body of a client request, only as far as its possible providers require.

A relay is a provider to which the body is forwarded unchanged, so the proxy needs only its top-level fields. Therefore
the other fields are decoded only if a provider that is no relay may serve the request.
"""

from anthropic_proxy.errors import ClientError
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.route_choice import RuleChoice, build_routing_query, choose_rule, find_rule_route
from anthropic_proxy.messages.models import MessagesRequest, decode_request_or_envelope, guess_model, scan_request
from anthropic_proxy.messages.tokens import EstimateCache
from anthropic_proxy.routing.router import RoutingQuery
from anthropic_proxy.routing.rules import SESSION_HEADER
from anthropic_proxy.services import Services


def read_client_request(services: Services, incoming: ClientRequest) -> tuple[MessagesRequest, RuleChoice | None]:
    """Return the decoded request, and its matching route of the configuration file if it was already determined.

    None in place of the route: the caller must choose it. Raises `InvalidRequest` if the request has no valid model.
    Any other decoding error is stored in the field `decode_error` of the request.
    """
    choice = None
    if _may_be_relayed(services, incoming):
        scanned = scan_request(incoming.body)
        if scanned is not None:
            choice = _choose_scanned(services, incoming, scanned)
            if _is_relayed(services, scanned, choice):
                return scanned, choice
    return decode_request_or_envelope(incoming.body), choice


def _may_be_relayed(services: Services, incoming: ClientRequest) -> bool:
    """Return True if all providers that may serve the request can be relays, so that a scan of the body suffices."""
    rules = services.route_rules
    if rules is not None:
        needs_session = rules.uses_session and SESSION_HEADER not in incoming.headers  # it may be in the body
        return services.route_cache.some_relayed and not rules.reads_body and not needs_session
    model = guess_model(incoming.body)
    if not model:
        return services.route_cache.some_relayed
    try:
        return find_rule_route(services, RoutingQuery(model), None).is_relayed
    except ClientError:
        return False


def _choose_scanned(services: Services, incoming: ClientRequest, scanned: MessagesRequest) -> RuleChoice | None:
    """Return the result of the routes of the configuration file for a request with scanned top-level fields.

    None: no routes are configured, or the model is invalid.
    """
    if services.route_rules is None:
        return None
    try:
        return choose_rule(services, services.route_rules, incoming, scanned, EstimateCache())
    except ClientError:
        return None


def _is_relayed(services: Services, scanned: MessagesRequest, choice: RuleChoice | None) -> bool:
    rule = None if choice is None else choice.rule
    try:
        return find_rule_route(services, build_routing_query(scanned), rule).is_relayed
    except ClientError:
        return False
