"""Puts the house together and answers ASGI; decides nothing about a request."""

import asyncio
import os
import random
import string
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from anthropic_proxy.banner import write_banner
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.exchange.house import House
from anthropic_proxy.hooks import Observer
from anthropic_proxy.log import Log
from anthropic_proxy.routing.catalogue import load_catalogue
from anthropic_proxy.routing.credentials import Credentials
from anthropic_proxy.routing.learned import Learned
from anthropic_proxy.routing.providers import PROVIDERS, find_provider
from anthropic_proxy.routing.router import asks_ollama
from anthropic_proxy.routing.store import MemoryStore
from anthropic_proxy.server.endpoints import Receive, Scope, Send, serve
from anthropic_proxy.settings import Settings, load_settings
from anthropic_proxy.upstream.http import HttpUpstream
from anthropic_proxy.wire.contract import Credential, UpstreamRequest, UpstreamResponse
from anthropic_proxy.wire.contract import Send as UpstreamSend

OLLAMA_PROBE_SECONDS = 1.0
_ALPHABET = string.digits + string.ascii_letters


class _PulledModel(msgspec.Struct):
    name: str
    size: int = 0


class _Pulled(msgspec.Struct):
    """What `/api/tags` answers (source: Ollama's API documentation, read 2026-11)."""

    models: list[_PulledModel]


class App:
    """The ASGI application: one house, made when the first request or the server's start-up comes."""

    def __init__(self, settings: Settings, *, address: str | None = None) -> None:
        self._settings = settings
        self._address = address
        """Where the server listens, for the banner; None: not known, the server says it itself."""
        self._house: House | None = None
        self._opening = asyncio.Lock()
        self._http = HttpUpstream(settings.timeouts.connect)
        self._log = Log(form=settings.log_format)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "http":
            await serve(self._house or await self._open(), scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._open()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._http.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _open(self) -> House:
        async with self._opening:
            if self._house is None:
                pulled = await self._find_ollama() if asks_ollama(self._settings) else None
                ways = {"http": self._http.send, "demo": _send_to_demo}
                house = build_house(self._settings, ways, self._log, pulled, new_id=new_id)
                write_banner(house, self._address)
                self._house = house
        return self._house

    async def _find_ollama(self) -> Sequence[str] | None:
        """Ask once whether Ollama is there: its pulled models, the largest first, or None."""
        ollama = find_provider("ollama")
        base_url = self._settings.base_urls.get(ollama.name, ollama.base_url)
        request = UpstreamRequest(path="/api/tags", body=b"", method="GET")
        try:
            async with asyncio.timeout(OLLAMA_PROBE_SECONDS):
                response = await self._http.send(base_url, request, None)
                body = b""
                while piece := await response.read():
                    body += piece
            pulled = msgspec.json.decode(body, type=_Pulled).models
        except (ProxyError, TimeoutError, msgspec.DecodeError):
            return None
        return [model.name for model in sorted(pulled, key=lambda model: -model.size)]


def build_house(
    settings: Settings,
    ways: Mapping[str, UpstreamSend],
    log: Log,
    pulled: Sequence[str] | None,
    *,
    new_id: Callable[[str], str],
    observers: Sequence[Observer] = (),
) -> House:
    """Return one set of parts. `pulled`: the models that a local Ollama has; None: it does not answer."""
    return House(
        settings=settings,
        catalogue=load_catalogue(pulled),
        credentials=Credentials(settings),
        learned=Learned(MemoryStore()),
        ways=ways,
        log=log,
        new_id=new_id,
        clock=time.time,
        observers=observers,
    )


def create_app(settings: Settings, *, address: str | None = None) -> App:
    """Return the ASGI application for these settings."""
    return App(settings, address=address)


def app_from_environment(overrides: Mapping[str, object] | None = None, *, address: str | None = None) -> App:
    """Return the application for the environment and `.env`; `overrides` are settings from the command line."""
    settings = load_settings(os.environ, PROVIDERS)
    return create_app(msgspec.structs.replace(settings, **(overrides or {})), address=address)


def new_id(prefix: str) -> str:
    """Return a fresh identifier: the prefix and 24 base-62 characters, 22 after `toolu_px`.

    Unique, not secret: nothing is granted to who knows one.
    """
    return prefix + "".join(random.choices(_ALPHABET, k=22 if prefix == "toolu_px" else 24))


async def _send_to_demo(base_url: str, request: UpstreamRequest, credential: Credential | None) -> UpstreamResponse:
    """Load the demo with its first request: who has a provider never needs it."""
    from anthropic_proxy.upstream import demo  # noqa: PLC0415

    return await demo.send(base_url, request, credential)
