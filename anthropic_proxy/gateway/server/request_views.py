"""The endpoints with recent and running requests."""

from msgspec import structs

from anthropic_proxy.engine.exchange.client_side import STREAM_HEADERS, ClientRequest
from anthropic_proxy.engine.messages.deltas import BilledUsage
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.routing.model_listing import find_served_input
from anthropic_proxy.engine.routing.targets import find_capabilities
from anthropic_proxy.errors import replace_remedy
from anthropic_proxy.gateway.permissions import find_client_role, find_permission, may
from anthropic_proxy.gateway.server.asgi import AsgiSink
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.gateway.telemetry.logged_requests import encode_requests
from anthropic_proxy.plugins import Receipt, RouteResponse

MEMBER_FIELDS = (
    *BilledUsage.__struct_fields__,
    "request_id",
    "client",
    "started_at",
    "method",
    "path",
    "user_agent",
    "session",
    "agent",
    "project",
    "requested_model",
    "provider",
    "prefix",
    "model",
    "stream",
    "first_token_seconds",
    "duration_seconds",
    "status",
    "outcome",
    "error_type",
    "error_code",
    "error",
    "retry_after_seconds",
    "failed_attempts",
    "prefix_change",
    "kind",
    "parent",
    "checks",
    "agent_type",
    "prompt_id",
    "session_model",
)
"""Fields of a request that a virtual key reads. The others can name files of the server and addresses of providers."""


def _copy_for_member(receipt: Receipt, contact: str) -> Receipt:
    """Where an administrator would act, the error says where to ask. `contact`: that of `[sign_in]`."""
    copy = Receipt(**{name: getattr(receipt, name) for name in MEMBER_FIELDS})
    copy.error = replace_remedy(receipt.error, receipt.remedy, "", contact)
    return copy


async def get_recent_requests(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Requests of all workers, without message content and keys, and the windows of their models. A virtual key gets
    those that were sent with it for its present owner, without the facts about the server.
    """
    feed = services.receipts.feed
    snapshot = await feed.collect_snapshot()
    snapshot.finished = await feed.add_costs(snapshot.finished)
    client = request.receipt.client
    role = find_client_role(client)
    has_sums = {
        "/api/usage": services.settings.has_ledger(),
        "/api/budget": bool(services.settings.budgets),
        "/api/oauth/usage": bool(client.key_id),
    }
    snapshot.sums = [path for path, exists in has_sums.items() if exists and may(role, find_permission("GET", path))]
    if not may(role, "read all requests"):
        contact = services.settings.limit_contact
        snapshot.finished = [
            structs.replace(logged, receipt=_copy_for_member(logged.receipt, contact))
            for logged in snapshot.finished
            if client.is_sender(logged.receipt.client)
        ]
        running = [receipt for receipt in snapshot.running if client.is_sender(receipt.client)]
        snapshot.running = [_copy_for_member(receipt, contact) for receipt in running]
    registry = find_registry(services.settings)
    receipts = [logged.receipt for logged in snapshot.finished if logged.receipt.model]
    for prefix, model, requested in {(receipt.prefix, receipt.model, receipt.requested_model) for receipt in receipts}:
        if (provider := registry.find_by_prefix(prefix)) is not None:
            limits = find_capabilities(provider, model, services.settings, services.catalog)
            if limits.known:
                name = f"{prefix}/{model}"
                window = find_served_input(requested, limits, services.settings, services.catalog)
                snapshot.windows[name] = min(window, snapshot.windows.get(name, window))
    models = services.session_models
    if models is not None and not models.is_empty:
        for session in {
            logged.receipt.session for logged in snapshot.finished if logged.receipt.client.id == client.id
        }:
            if (chosen := await models.find(client, session)) is not None:
                snapshot.chosen_models[session] = chosen.model
    await sink.send_response(200, encode_requests(snapshot))


async def get_live_requests(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /api/requests/live`: send an SSE event `snapshot`, then one event for each change of a request."""
    events = services.receipts.feed.live.open_stream(request.receipt.client.name)
    await sink.send_route_response(RouteResponse(headers=STREAM_HEADERS, body=events))
