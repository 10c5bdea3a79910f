"""The plugin of virtual keys, with the URL paths that Claude Code asks of the gateway of a company."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from msgspec import structs

from anthropic_proxy.console.gateway_protocol import managed_settings, usage
from anthropic_proxy.console.gateway_protocol.generated_settings import GeneratedSettings
from anthropic_proxy.console.keys.access import Access
from anthropic_proxy.console.keys.limits import Scope, find_proxy_scopes
from anthropic_proxy.console.keys.machine_reports import MachineReport, store_report
from anthropic_proxy.console.keys.own_budget import list_budget_routes
from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.messages.purpose import SETTINGS_HEADER
from anthropic_proxy.errors import UnknownModel
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
    StoreUnavailable,
)

if TYPE_CHECKING:
    from anthropic_proxy.console.gateway_protocol.sign_in import SignInEndpoints

_MAX_MACHINES = 10_000
_MAX_CHECKSUM = 100
"""Maximum number of characters of a stated checksum that are compared."""
_FORM_BYTES = 16_384
_SIGN_IN = "anthropic_proxy.console.gateway_protocol.sign_in"
_BOOTSTRAP_PATH = "/user/bootstrap"
_SIGN_IN_PATHS = {
    "/.well-known/oauth-authorization-server": "GET",
    **dict.fromkeys(("/oauth/device_authorization", "/oauth/token", "/oauth/revoke"), "POST"),
}
_Send = Callable[[Gateway[Settings], RouteRequest], Awaitable[RouteResponse]]


def open_plugin(settings: Settings) -> Plugin:
    """Raises `ConfigurationError` if `settings` disable the database with the keys."""
    protocol = _GatewayProtocol(settings)
    if settings.sign_in is not None:
        import_module(_SIGN_IN)  # the first sign-in does not wait for its libraries
    return Plugin(
        policies=[protocol.access.policy],
        routes=[
            *protocol.access.api.routes,
            *protocol.list_routes(),
            *list_budget_routes(find_proxy_scopes(settings), protocol.access.limits),
        ],
        budget_uses=protocol.access.limits.budget_uses,
        start=protocol.start,
        stop=protocol.stop,
    )


class _GatewayProtocol:
    def __init__(self, settings: Settings) -> None:
        self.access = Access(settings, self._note_settings)
        self._sign_in: SignInEndpoints | None = None
        """None: nobody has signed in yet."""
        self._threads = ReaderThreads()
        self._generated = GeneratedSettings()
        self._gateway: Gateway[Settings] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stated = BoundedDict[tuple[str, str], str](_MAX_MACHINES)
        """Key and sign-in → checksum of the managed settings that the last request stated."""

    async def start(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway
        await self.access.start(gateway)

    async def stop(self) -> None:
        if self._sign_in is not None:
            await self._sign_in.stop()
        await self._threads.stop()
        await self.access.stop()

    def list_routes(self) -> Sequence[Route]:
        return [
            self._build_route(managed_settings.PATH, self._send_managed_settings),
            self._build_route(usage.PATH, self._send_usage),
            self._build_route(_BOOTSTRAP_PATH, _refuse_desktop),
            *(
                structs.replace(
                    self._build_route(path, self._serve_sign_in),
                    methods=[method],
                    max_body_bytes=_FORM_BYTES,
                    checks_key=True,
                )
                for path, method in _SIGN_IN_PATHS.items()
            ),
        ]

    async def _serve_sign_in(self, gateway: Gateway[Settings], request: RouteRequest) -> RouteResponse:
        """Raises `UnknownModel` without `SIGN_IN_SECRET`, which a reload may set or remove."""
        if gateway.settings.sign_in is None:
            raise UnknownModel("SIGN_IN_SECRET is not set, so nobody signs in here.", code="sign-in-off")
        if self._sign_in is None:
            self._sign_in = import_module(_SIGN_IN).SignInEndpoints(gateway)
        return await self._sign_in.respond(request)

    def _build_route(self, path: str, send: _Send) -> Route:
        async def respond(request: RouteRequest) -> RouteResponse:
            assert self._gateway is not None  # no request is served before the start of the plugins
            return await send(self._gateway, request)

        return Route(path=path, respond=respond, max_body_bytes=MAX_REQUEST_BYTES)

    def _find_scopes(self, client: Client) -> Sequence[Scope]:
        return [] if client.administers else self.access.table.find_scopes(client.key_id)

    async def _send_managed_settings(self, gateway: Gateway[Settings], request: RouteRequest) -> RouteResponse:
        note = partial(self._note_machine, gateway, request.client.key_id)
        scopes = self._find_scopes(request.client)
        generated = self._generated
        return await managed_settings.serve_managed_settings(request, gateway, scopes, generated, note)

    def _note_machine(self, gateway: Gateway[Settings], key_id: str, report: MachineReport) -> None:
        """No answer waits for the store."""

        async def store() -> None:
            with suppress(StoreUnavailable):  # the next report follows within an hour
                await store_report(gateway.store, key_id, report)

        task = asyncio.create_task(store())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note_settings(self, client: Client, headers: Headers) -> None:
        """Store the settings that a machine states in a request, if they differ from those in its request before."""
        held = headers[SETTINGS_HEADER][:_MAX_CHECKSUM]
        machine = (client.key_id, client.sign_in)
        if self._gateway is None or self._stated.get(machine) == held:
            return
        self._stated[machine] = held
        program = headers.get("user-agent", "").partition(" ")[0]
        self._note_machine(self._gateway, client.key_id, MachineReport(client.sign_in, time.time(), program, held))

    async def _send_usage(self, gateway: Gateway[Settings], request: RouteRequest) -> RouteResponse:
        return await usage.serve_usage(request, gateway, self._find_scopes(request.client), self._threads)


async def _refuse_desktop(gateway: Gateway[Settings], request: RouteRequest) -> RouteResponse:
    """Claude Desktop asks for its settings. 404 is the answer of `claude gateway` without settings for it."""
    raise UnknownModel(
        f"Nothing is served at {request.path}: there are no settings of Claude Desktop.", code="path-not-found"
    )
