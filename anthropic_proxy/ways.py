"""The ways out that one set of settings needs, and how many exchanges use them."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anthropic_proxy.settings import Secret, Settings, lend_to_litellm
from anthropic_proxy.upstream.errands import Fetch, Page, Search
from anthropic_proxy.upstream.google_auth import GoogleCredentials, GoogleTokens
from anthropic_proxy.upstream.http import HttpUpstream
from anthropic_proxy.upstream.search import SearchService, Searxng
from anthropic_proxy.wire.contract import Credential, Send, UpstreamRequest, UpstreamResponse

if TYPE_CHECKING:
    from anthropic_proxy.upstream.litellm import Engine, LiteLLMUpstream
    from anthropic_proxy.upstream.pages import Pages


class Ways:
    """Connections, engines and tokens. Exchanges keep those with which they began; `close` waits for the last one."""

    def __init__(self, settings: Settings, *, lent: dict[str, Secret] | None = None) -> None:
        self._settings = settings
        self._proxies = {scheme: proxy.reveal() for scheme, proxy in settings.proxies.items()}
        self._http = HttpUpstream(settings.timeouts.connect, proxies=self._proxies, unproxied=settings.unproxied)
        self._pages: Pages | None = None
        self.tokens = _new_google_tokens(settings)
        self._engine: Engine | None = None
        self._litellm: LiteLLMUpstream | None = None
        self._lent: dict[str, Secret] = {} if lent is None else lent
        """What stands in the environment for LiteLLM; shared with the ways that take the place of these."""
        self.exchanges = 0
        """How many are under way."""
        self._empty: asyncio.Event | None = None

    def by_name(self) -> Mapping[str, Send]:
        """Return them by the name that a provider's row gives."""
        return {"http": self._http.send, "demo": _send_to_demo, "litellm": self._send_to_litellm}

    @property
    def fetch(self) -> Fetch | None:
        """What fetches pages for a model; None: the user has not asked for that."""
        return self._fetch_page if self._settings.fetch_urls else None

    @property
    def search(self) -> Search | None:
        """What searches the web for a model; None: the user has set no service."""
        url = self._settings.search_url
        return None if url is None else SearchService(self._http.send, url, Searxng()).search

    def renew(self, settings: Settings) -> "Ways":
        """Return the ways for later settings: these, with their open connections, where they still serve."""
        before = self._settings
        if _connecting(settings) != _connecting(before):
            return Ways(settings, lent=self._lent)
        self._settings, self._litellm = settings, None
        if _identifying(settings) != _identifying(before):
            self.tokens = _new_google_tokens(settings)
        if self._engine is not None:
            self._lend()
        return self

    def enter(self) -> None:
        """Say that an exchange begins."""
        self.exchanges += 1

    def leave(self) -> None:
        """Say that an exchange has ended."""
        self.exchanges -= 1
        if self._empty is not None and not self.exchanges:
            self._empty.set()

    async def wait_until_empty(self) -> None:
        """Wait until no exchange is under way."""
        while self.exchanges:
            self._empty = self._empty or asyncio.Event()
            self._empty.clear()
            await self._empty.wait()

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()
        if self._pages is not None:
            await self._pages.close()
        if self._engine is not None:
            await self._engine.close()

    async def _fetch_page(self, url: str, **wish: Any) -> Page:
        """Load what fetches pages with the first one: most never ask for any."""
        if self._pages is None:
            from anthropic_proxy.upstream.pages import Pages  # noqa: PLC0415

            self._pages = Pages(proxies=self._proxies, unproxied=self._settings.unproxied)
        return await self._pages.fetch(url, **wish)

    async def _send_to_litellm(
        self, base_url: str, request: UpstreamRequest, credential: Credential | None
    ) -> UpstreamResponse:
        if self._litellm is None:
            from anthropic_proxy.upstream.litellm import Engine, LiteLLMUpstream  # noqa: PLC0415

            timeouts = self._settings.timeouts
            self._engine = self._engine or Engine(self._lend)
            self._litellm = LiteLLMUpstream(self._engine, max(timeouts.first_byte, timeouts.idle))
        return await self._litellm.send(base_url, request, credential)

    def _lend(self) -> None:
        lend_to_litellm(self._settings, self._lent)


def _connecting(settings: Settings) -> tuple[object, ...]:
    """Return what decides how connections are made."""
    return settings.timeouts.connect, settings.proxies, settings.unproxied


def _identifying(settings: Settings) -> tuple[object, ...]:
    """Return what decides who we are at Google Cloud."""
    return settings.google_credentials_file, settings.vertex_project is None, settings.timeouts.connect


def _new_google_tokens(settings: Settings) -> GoogleTokens:
    needs_project = settings.vertex_project is None
    connect_timeout = settings.timeouts.connect
    file = settings.google_credentials_file
    return GoogleTokens(GoogleCredentials(file, needs_project=needs_project, connect_timeout=connect_timeout))


async def _send_to_demo(base_url: str, request: UpstreamRequest, credential: Credential | None) -> UpstreamResponse:
    """Load the demo with its first request: who has a provider never needs it."""
    from anthropic_proxy.upstream import demo  # noqa: PLC0415

    return await demo.send(base_url, request, credential)
