"""`ExchangeGateway`: the methods of the proxy that plugins may call. It implements the interface `plugins.Gateway`.

`run` serves a request that a plugin makes. `describe_targets` explains which provider and model serve a model id.
`calculate_cost` returns the cost of a finished request. `health` counts blocked servers and skipped keys. `store` keeps
limits and shared state. `ledger_state` describes the ledger, the database of finished requests.
`collect_running_requests` returns the records of running requests. `reload_settings` makes all workers read the
settings files again, and returns False if this server reads them only at its start.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

import msgspec

from anthropic_proxy.errors import InternalError, ProxyError
from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.exchange.exchange import Exchange
from anthropic_proxy.exchange.model_features import describe_models
from anthropic_proxy.exchange.plugin_http import MAX_REPLY_BYTES, send_http
from anthropic_proxy.exchange.recording import start_recording
from anthropic_proxy.log.request_feed import stream_request_events
from anthropic_proxy.messages.events import Event
from anthropic_proxy.messages.models import MessagesResponse
from anthropic_proxy.plugins import Client, Cost, HttpReply, LedgerState, Receipt, Store
from anthropic_proxy.plugins.setup import ModelFeatures, Setup
from anthropic_proxy.routing.model_listing import list_models
from anthropic_proxy.routing.router import RoutingQuery, build_route
from anthropic_proxy.routing.setup_description import describe_setup
from anthropic_proxy.services import Services
from anthropic_proxy.settings import Settings


class ExchangeGateway:
    """Implementation of `plugins.Gateway`, the interface through which plugins use the proxy.

    `calculate_cost` is the function that calculates the cost of a finished request. It is called in a thread. `reload`
    is the function that makes all workers read the settings files again. It returns False if this server reads them
    only at its start.
    """

    def __init__(
        self,
        current_services: Callable[[], Services],
        calculate_cost: Callable[[Receipt], Cost],
        reload: Callable[[], Awaitable[bool]],
    ) -> None:
        self._current_services = current_services
        self._calculate_cost = calculate_cost
        self._reload = reload

    @property
    def settings(self) -> Settings:
        """Settings in use. A reload of the settings files replaces this object."""
        return self._current_services().settings

    async def run(self, body: bytes, client: Client) -> bytes:
        """Serve a Messages API request of a plugin, and return the reply message as JSON.

        `body` is a request without `stream`. Raises `ProxyError`.
        """
        services, sink = self._current_services(), _BufferSink()
        request = ClientRequest(request_id=services.new_id("req_"), client=client, headers={}, body=body)
        request.trace = None if services.tracer is None else services.tracer.start_trace(None)
        record = start_recording(services, request)
        await Exchange(services, request, sink).run()
        record(sink.body)
        if sink.error is not None:
            raise sink.error
        return sink.body

    def describe_targets(self, model: str) -> str:
        """Return a text with the providers and models that serve the model id `model`, and the reason for this choice.

        Raises `UnknownModel`.
        """
        services = self._current_services()
        route = build_route(RoutingQuery(model), services.settings, services.catalog)
        return f"{', '.join(f'{target.provider.prefix}/{target.model}' for target in route.targets)} ({route.reason})"

    def list_models(self) -> Sequence[str]:
        """Return the model ids of the proxy's own list, which clients receive from `GET /v1/models`.

        If Anthropic is the preferred provider, clients usually receive Anthropic's list instead.
        """
        services = self._current_services()
        return [entry.id for entry in list_models(services.settings, services.catalog)]

    async def send_http(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        max_bytes: int = MAX_REPLY_BYTES,
    ) -> HttpReply:
        """Send an HTTP request of a plugin to any server, and return the response.

        Raises `UpstreamError` if the request fails, takes more than ten seconds, or the response body exceeds
        `max_bytes`.
        """
        return await send_http(self._current_services(), method, url, headers or {}, body, max_bytes=max_bytes)

    async def calculate_cost(self, receipt: Receipt) -> Cost:
        """Return the costs of a finished request in nano-dollars, at the current prices, calculated in a thread."""
        return await asyncio.to_thread(self._calculate_cost, receipt)

    @property
    def store(self) -> Store:
        """Store that the settings select, with the counters of limits and budgets, and other values that expire."""
        return self._current_services().store

    def log_warning_once(self, text: str) -> None:
        """Log a warning, once per process for the same text. API keys in the text are masked."""
        self._current_services().log.write_once(text, "warning")

    def health(self) -> Mapping[str, int]:
        """Return the numbers of servers and API keys that are not used for some time, because of errors.

        The key `open_circuits` has the number of servers, and `keys_in_cooldown` the number of API keys.
        """
        services = self._current_services()
        return {
            "open_circuits": services.circuit_breakers.open_circuit_count(),
            "keys_in_cooldown": services.credentials.cooldown_count(),
        }

    @property
    def ledger_state(self) -> LedgerState | None:
        """State of the ledger, the database of finished requests. None: the ledger is disabled."""
        find_state = self._current_services().ledger_state
        return None if find_state is None else find_state()

    def log_warning_each_time(self, text: str) -> None:
        """Log a warning even if the same text was logged before. API keys in the text are masked.

        Any thread may call the method.
        """
        self._current_services().log.write_warning(text)

    def describe_setup(self) -> Setup:
        """Return the state of the providers and the model mapping, without a request to a provider.

        Any thread may call the method.
        """
        services = self._current_services()
        return describe_setup(services.settings, services.catalog, services.circuit_breakers, services.credentials)

    async def reload_settings(self) -> bool:
        """Read the settings files again, in all workers. Return False if this server reads them only at its start."""
        return await self._reload()

    async def describe_models(self, names: Sequence[str]) -> Sequence[ModelFeatures]:
        """Return the limits and features of the models `names`. Models that no request can reach are omitted.

        Each name is a model id with the prefix of a provider: `openai/gpt-4.1`.
        """
        return await describe_models(self._current_services(), names)

    async def collect_running_requests(self) -> Sequence[Receipt]:
        """Return the records (receipts) of the running requests of all worker processes, the latest last.

        The fields about the reply are still empty.
        """
        return (await self._current_services().receipts.feed.collect_snapshot()).running

    def stream_request_events(self, client_names: Collection[str] | None = None) -> AsyncIterator[bytes]:
        """Return an iterator over the SSE bytes of `GET /api/requests/live`: changes of the requests of all workers.

        With `client_names`, only requests of these clients are included. None: all clients.
        """
        return stream_request_events(self._current_services().receipts.feed, client_names)


class _BufferSink:
    """A `ResponseSink` that stores one complete reply, or raises its error, because a plugin expects a return value."""

    def __init__(self) -> None:
        self.body = b""
        self.error: ProxyError | None = None

    def attach_receipt(self, receipt: Receipt) -> None: ...

    async def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> None:
        raise InternalError("a plugin sent a request with stream")

    async def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> None:
        self.body += data

    async def send_message(self, response: MessagesResponse) -> None:
        self.body = msgspec.json.encode(response)

    async def send_error_response(self, error: ProxyError) -> None:
        self.error = error

    async def wait_disconnected(self) -> None:
        await asyncio.Event().wait()
