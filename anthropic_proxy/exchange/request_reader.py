"""Step 2 of an exchange: decoding of the client request, only as far as its possible targets need it."""

from anthropic_proxy.errors import ClientError
from anthropic_proxy.messages.models import MessagesRequest, decode_request_or_keep, guess_model, scan_request
from anthropic_proxy.messages.preparation import server_tool_kinds
from anthropic_proxy.routing.router import RoutingQuery
from anthropic_proxy.services import Services


def read_client_request(services: Services, body: bytes) -> MessagesRequest:
    """Decode the body of a client request. If all possible targets are relays, only its top-level fields are scanned.

    Raises `InvalidRequest` for a body that is no valid request.
    """
    model = guess_model(body)
    if _is_relayed(services, RoutingQuery(model)) if model else services.route_cache.some_relayed:
        scanned = scan_request(body)
        if scanned is not None and _is_relayed(services, routing_query(scanned)):
            return scanned
    return decode_request_or_keep(body)


def routing_query(request: MessagesRequest) -> RoutingQuery:
    """Return the fields of a client request that decide its route: the model and the kinds of its server tools."""
    return RoutingQuery(request.model, server_tool_kinds(request.tools))


def _is_relayed(services: Services, query: RoutingQuery) -> bool:
    try:
        return services.route_cache.find_route(query, services.settings, services.catalog).is_relayed
    except ClientError:
        return False
