"""The plugin with the paths for telemetry of Claude Code, of each proxy with a ledger. Their code is imported with the
first request.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Plugin, Route, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.gateway_protocol.telemetry_relay import TelemetryRelay

PATHS = ("/v1/metrics", "/v1/logs", "/v1/traces")
_RELAY = "anthropic_proxy.console.gateway_protocol.telemetry_relay"


def open_plugin(settings: Settings) -> Plugin:
    telemetry = _Telemetry()
    return Plugin(
        routes=[
            Route(
                path=path,
                respond=telemetry.respond,
                methods=["POST"],
                max_body_bytes=MAX_REQUEST_BYTES,
                decompresses=True,
            )
            for path in PATHS
        ],
        telemetry_counts=telemetry.list_counts,
        telemetry_drops=telemetry.list_drops,
        start=telemetry.start,
        stop=telemetry.stop,
    )


class _Telemetry:
    def __init__(self) -> None:
        self._gateway: Gateway[Settings] | None = None
        self._relay: TelemetryRelay | None = None
        """None: there was no request yet."""

    async def start(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway

    async def stop(self) -> None:
        if self._relay is not None:
            await self._relay.stop()

    async def respond(self, request: RouteRequest) -> RouteResponse:
        assert self._gateway is not None  # no request is served before the start of the plugins
        if self._relay is None:
            self._relay = import_module(_RELAY).TelemetryRelay(self._gateway)
        return await self._relay.accept(request)

    def list_counts(self) -> Mapping[str, int]:
        return {} if self._relay is None else self._relay.counts

    def list_drops(self) -> Mapping[str, int]:
        return {} if self._relay is None else self._relay.dropped
