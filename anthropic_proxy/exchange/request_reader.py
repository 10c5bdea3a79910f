"""Step 2: decoding of a request, as far as its possible targets require."""

from anthropic_proxy.errors import ClientError
from anthropic_proxy.messages.models import MessagesRequest, decode_request_or_keep, guess_model, scan_request
from anthropic_proxy.messages.preparation import server_tool_kinds
from anthropic_proxy.routing.router import RoutingQuery
from anthropic_proxy.services import Services


def read_client_request(services: Services, body: bytes) -> MessagesRequest:
    """Return the request, only scanned if all targets are relays. Raises as `decode_request_or_keep`.

    A model in the middle of the body (clients that sort fields) is searched only if a route has relayed before.
    """
    model = guess_model(body)
    if _is_relayed(services, RoutingQuery(model)) if model else services.route_cache.some_relayed:
        scanned = scan_request(body)
        if scanned is not None and _is_relayed(services, routing_query(scanned)):
            return scanned
    return decode_request_or_keep(body)


def routing_query(request: MessagesRequest) -> RoutingQuery:
    """Return the fields of a request for routing."""
    return RoutingQuery(request.model, server_tool_kinds(request.tools))


def _is_relayed(services: Services, query: RoutingQuery) -> bool:
    try:
        return services.route_cache.resolve(query, services.settings, services.catalog).is_relayed
    except ClientError:
        return False
