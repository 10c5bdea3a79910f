"""The plugin with the URL paths below `/scim/v2`. `SCIM_TOKEN` enables them, and a reload may set it, so the endpoints
are imported with their first request.
"""

import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from anthropic_proxy.console.scim.paths import METHODS
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Plugin, Route, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.scim.endpoints import Endpoints

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Enough for a group with 20,000 members in one request."""
_ENDPOINTS = "anthropic_proxy.console.scim.endpoints"


def open_plugin(settings: Settings, clock: Callable[[], float] = time.time) -> Plugin:
    """`clock` returns seconds since the epoch."""
    scim = _Scim(settings, clock)
    return Plugin(
        routes=[
            Route(
                path=path,
                respond=scim.respond,
                methods=methods,
                max_body_bytes=MAX_BODY_BYTES,
                encode_error=_encode_error,
            )
            for path, methods in METHODS.items()
        ],
        start=scim.start,
        stop=scim.stop,
    )


class _Scim:
    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._gateway: Gateway[Settings] | None = None
        self._endpoints: Endpoints | None = None
        """None: there was no request yet."""

    async def start(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway

    async def stop(self) -> None:
        if self._endpoints is not None:
            await self._endpoints.stop()

    async def respond(self, request: RouteRequest) -> RouteResponse:
        if self._endpoints is None:
            self._endpoints = import_module(_ENDPOINTS).Endpoints(self._find_settings, self._warn, self._clock)
        return await self._endpoints.respond(request, self._find_settings())

    def _find_settings(self) -> Settings:
        return self._settings if self._gateway is None else self._gateway.settings

    def _warn(self, text: str) -> None:
        if self._gateway is not None:
            self._gateway.log_warning_each_time(text)


def _encode_error(error: ProxyError) -> RouteResponse:
    response: RouteResponse = import_module(_ENDPOINTS).encode_error(error)
    return response
