"""Plugin of the models that people choose for their running sessions."""

import asyncio
from importlib import import_module

from anthropic_proxy.console.ledger.reader_threads import ReaderThreads
from anthropic_proxy.console.session_models.table import SessionModelTable
from anthropic_proxy.gateway.permissions import SESSION_MODELS_PATH
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Plugin, Route, RouteRequest, RouteResponse

_API = "anthropic_proxy.console.session_models.api"


def open_plugin(settings: Settings) -> Plugin:
    opened = _SessionModels(settings)
    route = Route(path=SESSION_MODELS_PATH, respond=opened.respond, methods=["GET"])
    return Plugin(
        session_models=opened.table,
        routes=[route, Route(path=SESSION_MODELS_PATH, respond=opened.respond, methods=["POST"])],
        start=opened.start,
        stop=opened.stop,
    )


class _SessionModels:
    def __init__(self, settings: Settings) -> None:
        self.table = SessionModelTable(settings)
        self._threads = ReaderThreads()
        self._gateway: Gateway[Settings] | None = None

    async def start(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway
        self.table.start()

    async def stop(self) -> None:
        await self._threads.stop()
        await self.table.stop()

    async def respond(self, request: RouteRequest) -> RouteResponse:
        assert self._gateway is not None
        api = await asyncio.to_thread(import_module, _API)  # SQLAlchemy
        response: RouteResponse = await api.respond(request, self._gateway, self._threads)
        return response
