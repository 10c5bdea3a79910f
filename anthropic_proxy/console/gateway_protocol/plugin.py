"""The plugin of virtual keys, with the URL paths that Claude Code asks of the gateway of a company."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from anthropic_proxy.console.gateway_protocol import managed_settings, telemetry_relay, usage
from anthropic_proxy.console.gateway_protocol.generated_settings import GeneratedSettings
from anthropic_proxy.console.keys.limits import Scope
from anthropic_proxy.console.keys.machine_reports import MachineReport, store_report
from anthropic_proxy.console.keys.plugin import Access, open_access
from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.engine.messages.purpose import SETTINGS_HEADER
from anthropic_proxy.errors import ConfigurationError, MissingExtra
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import (
    Client,
    Gateway,
    Headers,
    Plugin,
    Route,
    RouteRequest,
    RouteResponse,
    Store,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from anthropic_proxy.console.gateway_protocol.sign_in import SignInEndpoints

_MAX_MACHINES = 10_000
_MAX_CHECKSUM = 100
"""Maximum number of characters of a stated checksum that are compared."""
_Send = Callable[[Gateway, RouteRequest], Awaitable[RouteResponse]]


def open_plugin(settings: Settings) -> Plugin:
    """Raises `ConfigurationError` if `settings` disable the database with the keys, or if a library is missing."""
    access = open_access(settings)
    protocol = _GatewayProtocol(access, _open_sign_in(settings))
    return Plugin(
        policies=[access.policy],
        routes=[*access.api.routes, *protocol.list_routes()],
        budget_uses=access.budget_uses,
        telemetry_counts=protocol.count_telemetry,
        start=protocol.start,
        stop=protocol.stop,
    )


class _GatewayProtocol:
    def __init__(self, access: Access, sign_in: "SignInEndpoints | None") -> None:
        self._access = access
        self._sign_in = sign_in
        self._threads = ReaderThreads()
        self._telemetry = telemetry_relay.TelemetryRelay()
        self._generated = GeneratedSettings()
        self._gateway: Gateway | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stated: dict[tuple[str, str], str] = {}
        """Key and sign-in → checksum of the managed settings that the last request stated."""
        access.policy.note_settings = self._note_settings

    async def start(self, gateway: Gateway) -> None:
        self._gateway = gateway
        await self._access.start(gateway)
        if self._sign_in is not None:
            await self._sign_in.start(gateway)

    async def stop(self) -> None:
        if self._sign_in is not None:
            await self._sign_in.stop()
        await self._telemetry.stop()
        await self._threads.stop()
        await self._access.stop()

    def count_telemetry(self) -> Mapping[str, int]:
        return self._telemetry.counts

    def list_routes(self) -> Sequence[Route]:
        return [
            self._build_route(managed_settings.PATH, self._send_managed_settings),
            self._build_route(usage.PATH, self._send_usage),
            *(self._build_route(path, self._telemetry.accept, "POST") for path in telemetry_relay.PATHS),
            *(() if self._sign_in is None else self._sign_in.list_routes()),
        ]

    def _build_route(self, path: str, send: _Send, method: str = "GET") -> Route:
        async def respond(request: RouteRequest) -> RouteResponse:
            assert self._gateway is not None  # no request is served before the start of the plugins
            return await send(self._gateway, request)

        return Route(path=path, respond=respond, methods=[method], max_body_bytes=MAX_REQUEST_BYTES)

    def _find_scopes(self, client: Client) -> Sequence[Scope]:
        return self._access.table.find_scopes(client.key_id) if client.role == "member" else []

    async def _send_managed_settings(self, gateway: Gateway, request: RouteRequest) -> RouteResponse:
        note = partial(self._note_machine, gateway, request.client.key_id)
        scopes, found = self._find_scopes(request.client), self._generated
        return await managed_settings.serve_managed_settings(request, gateway, scopes, found, note)

    def _note_machine(self, gateway: Gateway, key_id: str, report: MachineReport) -> None:
        """No answer waits for the store."""
        task = asyncio.create_task(_store_report(gateway.store, key_id, report))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note_settings(self, client: Client, headers: Headers) -> None:
        """Store the settings that a machine states in a request, if they differ from those in its request before."""
        held, machine = headers[SETTINGS_HEADER][:_MAX_CHECKSUM], (client.key_id, client.sign_in)
        if self._gateway is None or self._stated.get(machine) == held:
            return
        if len(self._stated) >= _MAX_MACHINES:
            self._stated.clear()
        self._stated[machine] = held
        program = headers.get("user-agent", "").partition(" ")[0]
        self._note_machine(self._gateway, client.key_id, MachineReport(client.sign_in, time.time(), program, held))

    async def _send_usage(self, gateway: Gateway, request: RouteRequest) -> RouteResponse:
        return await usage.serve_usage(request, gateway, self._find_scopes(request.client), self._threads)


def _open_sign_in(settings: Settings) -> "SignInEndpoints | None":
    """Return None if nobody signs in from Claude Code."""
    if settings.sign_in is None:
        return None
    if find_spec("jinja2") is None:
        needed = MissingExtra("The page for the sign-in from Claude Code (SIGN_IN_SECRET) needs Jinja2", "dashboard")
        raise ConfigurationError(needed.message, code="package-missing")
    from anthropic_proxy.console.gateway_protocol.sign_in import SignInEndpoints  # noqa: PLC0415  # optional library

    return SignInEndpoints()


async def _store_report(store: Store, key_id: str, report: MachineReport) -> None:
    with suppress(StoreUnavailable):  # the next report follows within an hour
        await store_report(store, key_id, report)
