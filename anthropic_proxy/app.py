"""Puts the house together and answers ASGI; decides nothing about a request."""

import asyncio
import gc
import os
import random
import string
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from anthropic_proxy.banner import write_banner
from anthropic_proxy.errors import ClientError, ConfigurationError, ProxyError
from anthropic_proxy.exchange.house import House
from anthropic_proxy.hooks import Observer
from anthropic_proxy.log import Log
from anthropic_proxy.routing.catalogue import Catalogue, OllamaModels
from anthropic_proxy.routing.credentials import Credentials
from anthropic_proxy.routing.health import Queue
from anthropic_proxy.routing.learned import Learned
from anthropic_proxy.routing.providers import PROVIDERS, find_provider
from anthropic_proxy.routing.router import Facts, asks_ollama, resolve
from anthropic_proxy.routing.store import MemoryStore
from anthropic_proxy.server.endpoints import Receive, Scope, Send, note_unreadable, serve
from anthropic_proxy.settings import TIERS, Settings, lend_to_litellm, load_settings
from anthropic_proxy.upstream.google_auth import GoogleCredentials, GoogleTokens
from anthropic_proxy.upstream.http import HttpUpstream
from anthropic_proxy.wire.contract import Credential, UpstreamRequest, UpstreamResponse
from anthropic_proxy.wire.contract import Send as UpstreamSend

if TYPE_CHECKING:
    from anthropic_proxy.upstream.litellm import LiteLLMUpstream

FAILED_START = 3
"""Exit status by which servers that start workers know that starting them again will not help."""
_ALPHABET = (string.digits + string.ascii_letters).encode()
_CHARACTERS = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_COLLECTIONS = (10_000, 10, 10)
"""More objects than before a young one is looked at; CPython begins with 700."""


class App:
    """The ASGI application: one house, made when the first request or the server's start-up comes."""

    def __init__(self, settings: Settings, *, address: str | None = None, announces: bool = True) -> None:
        self._settings = settings
        self._address = address
        """Where the server listens, for the banner; None: not known, the server says it itself."""
        self._announces = announces
        self._house: House | None = None
        self._opening = asyncio.Lock()
        self._http = HttpUpstream(
            settings.timeouts.connect,
            proxies={scheme: proxy.reveal() for scheme, proxy in settings.proxies.items()},
            unproxied=settings.unproxied,
        )
        self._litellm: LiteLLMUpstream | None = None
        self._log = Log(form=settings.log_format, level=settings.log_level, colours=settings.colours)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "http":
            await serve(self._house or await self._open(), scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def announce(self, workers: int) -> None:
        """Say what start-up says, on behalf of so many processes that then serve without saying it."""
        write_banner(await self._build(), self._address, workers=workers)
        await self._close()

    def note_refusal(self, error: ProxyError) -> str:
        """Write the line of a request that could not be read, and return the id that it is given."""
        return note_unreadable(error, self._log, new_id, time.time)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._open()
                _spare_the_collector()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _open(self) -> House:
        async with self._opening:
            if self._house is None:
                house = await self._build()
                _study_defaults(house)
                if self._announces:
                    write_banner(house, self._address)
                self._house = house
        return self._house

    async def _build(self) -> House:
        ways: dict[str, UpstreamSend]
        ways = {"http": self._http.send, "demo": _send_to_demo, "litellm": self._send_to_litellm}
        house = build_house(self._settings, ways, self._log, new_id=new_id)
        if asks_ollama(self._settings):
            await house.catalogue.look("ollama")
        return house

    async def _close(self) -> None:
        if self._house is not None:
            await self._house.catalogue.close()
        await self._http.close()
        if self._litellm is not None:
            await self._litellm.close()
        self._log.flush()

    async def _send_to_litellm(
        self, base_url: str, request: UpstreamRequest, credential: Credential | None
    ) -> UpstreamResponse:
        if self._litellm is None:
            from anthropic_proxy.upstream.litellm import Engine, LiteLLMUpstream  # noqa: PLC0415

            timeouts = self._settings.timeouts
            engine = Engine(partial(lend_to_litellm, self._settings))
            self._litellm = LiteLLMUpstream(engine, max(timeouts.first_byte, timeouts.idle))
        return await self._litellm.send(base_url, request, credential)


def build_house(
    settings: Settings,
    ways: Mapping[str, UpstreamSend],
    log: Log,
    *,
    new_id: Callable[[str], str],
    observers: Sequence[Observer] = (),
) -> House:
    """Return one set of parts."""
    credentials = Credentials(settings, {"google": _new_google_tokens(settings)})
    ollama = find_provider("ollama")
    models = OllamaModels(
        ways[ollama.way],
        settings.base_urls.get(ollama.name, ollama.base_url),
        window=settings.ollama_context_length,
        find_credential=lambda: credentials.find(ollama),
    )
    return House(
        settings=settings,
        catalogue=Catalogue(sources={ollama.name: models}),
        credentials=credentials,
        learned=Learned(MemoryStore()),
        queue=Queue(settings.max_upstream_calls),
        ways=ways,
        log=log,
        new_id=new_id,
        clock=time.time,
        observers=observers,
    )


def _new_google_tokens(settings: Settings) -> GoogleTokens:
    needs_project = settings.vertex_project is None
    connect_timeout = settings.timeouts.connect
    file = settings.google_credentials_file
    return GoogleTokens(GoogleCredentials(file, needs_project=needs_project, connect_timeout=connect_timeout))


def _spare_the_collector() -> None:
    """Never look again at what start-up made, and seldom at the rest: an exchange leaves no circles behind it.

    A large request makes thousands of objects, so that one in ten would wait for a look at the whole heap.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)


def _study_defaults(house: House) -> None:
    """Let the catalogue ask about the models that the tiers map to, before the first request needs to know."""
    for tier in TIERS:
        try:
            targets = resolve(Facts(f"claude-{tier}"), house.settings, house.catalogue).targets
        except ClientError:
            continue  # the banner says so
        for target in targets:
            house.catalogue.study(target.provider.name, target.model)


def create_app(settings: Settings, *, address: str | None = None, announces: bool = True) -> App:
    """Return the ASGI application for these settings; `announces`: whether it says what start-up says."""
    return App(settings, address=address, announces=announces)


def load_app(
    overrides: Mapping[str, object] | None = None, *, address: str | None = None, announces: bool = True
) -> App:
    """Return the application for the environment and `.env`; `overrides` are settings from the command line."""
    settings = load_settings(os.environ, PROVIDERS)
    settings = msgspec.structs.replace(settings, **(overrides or {}))
    return create_app(settings, address=address, announces=announces)


def app_from_environment() -> App:
    """Return the application for a server that imports it by name; a wrong setting ends that with one line."""
    try:
        return load_app()
    except ConfigurationError as error:
        Log(form="plain").line(f"✕ {error.message}", level="error")
        raise SystemExit(FAILED_START) from None


def new_id(prefix: str) -> str:
    """Return a fresh identifier: the prefix and 24 base-62 characters, 22 after `toolu_px`.

    Unique, not secret: nothing is granted to who knows one.
    """
    return prefix + random.randbytes(22 if prefix == "toolu_px" else 24).translate(_CHARACTERS).decode()


async def _send_to_demo(base_url: str, request: UpstreamRequest, credential: Credential | None) -> UpstreamResponse:
    """Load the demo with its first request: who has a provider never needs it."""
    from anthropic_proxy.upstream import demo  # noqa: PLC0415

    return await demo.send(base_url, request, credential)
