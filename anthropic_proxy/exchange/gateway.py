"""`ExchangeGateway`: the functions of the proxy that plugins may call."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from anthropic_proxy.errors import InternalError, ProxyError
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.pipeline import run_exchange
from anthropic_proxy.messages.events import Event
from anthropic_proxy.messages.models import MessagesResponse
from anthropic_proxy.plugins import Client, Receipt
from anthropic_proxy.routing.model_listing import list_models
from anthropic_proxy.routing.router import RoutingQuery, resolve_route
from anthropic_proxy.services import Services
from anthropic_proxy.settings import Settings


class ExchangeGateway:
    """Implementation of `plugins.Gateway`, the functions that plugins may call.

    `current_services`: function that returns the services for new exchanges.
    """

    def __init__(self, current_services: Callable[[], Services]) -> None:
        self._current_services = current_services

    @property
    def settings(self) -> Settings:
        """The current settings."""
        return self._current_services().settings

    async def run(self, body: bytes, client: Client) -> bytes:
        """Serve a request of the Messages API without `stream`, and return the reply message as JSON.

        Raises `ProxyError`.

        `client`: client that the receipt names.
        """
        services, sink = self._current_services(), _BufferSink()
        request = ClientRequest(request_id=services.new_id("req_"), client=client, headers={}, body=body)
        await run_exchange(services, request, sink)
        if sink.error is not None:
            raise sink.error
        return sink.body

    def explain(self, model: str) -> str:
        """Return the targets for a requested model and the reason of the route, as text. Raises `UnknownModel`."""
        services = self._current_services()
        route = resolve_route(RoutingQuery(model), services.settings, services.catalog)
        return f"{', '.join(f'{target.provider.prefix}/{target.model}' for target in route.targets)} ({route.reason})"

    def list_models(self) -> Sequence[str]:
        """Return the model ids of the proxy's own list.

        If Anthropic is preferred, clients receive Anthropic's list instead.
        """
        services = self._current_services()
        return [entry.id for entry in list_models(services.settings, services.catalog)]

    def health(self) -> Mapping[str, int]:
        """Return counts by name: `open_circuits`, `keys_in_cooldown`."""
        services = self._current_services()
        return {
            "open_circuits": services.circuit_breakers.open_count(),
            "keys_in_cooldown": services.credentials.cooldown_count(),
        }


class _BufferSink:
    """A `ResponseSink` that stores one complete reply instead of sending it."""

    def __init__(self) -> None:
        self.body = b""
        self.error: ProxyError | None = None

    def attach_receipt(self, receipt: Receipt) -> None: ...

    async def send_events(self, events: Sequence[Event], *, last: bool = False) -> None:
        raise InternalError("a plugin sent a request with stream")

    async def send_relayed(self, data: bytes, headers: Mapping[str, str], *, streams: bool, last: bool) -> None:
        self.body += data

    async def send_message(self, response: MessagesResponse) -> None:
        self.body = msgspec.json.encode(response)

    async def send_error(self, error: ProxyError) -> None:
        self.error = error

    async def wait_disconnected(self) -> None:
        await asyncio.Event().wait()
