"""`Transports`: the outgoing connections of the proxy to providers, web pages and search services.

If changed settings require new connections, `reuse_or_replace` returns a new object. Client requests that are already
running still use the old one. The caller closes it after the last of them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anthropic_proxy.engine.memory_plan import MAX_PROCESSES
from anthropic_proxy.engine.options import CallOptions, EngineOptions
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.upstream.cloud_credentials import (
    FOUNDRY_SCOPE,
    OPENAI_SCOPES,
    RENEWAL_TIMEOUT_SECONDS,
    AwsCredentials,
    EntraCredentials,
    GoogleCredentials,
    TokenCache,
    TokenLoader,
)
from anthropic_proxy.engine.upstream.contract import FetchedPage, WebFetch, WebSearch
from anthropic_proxy.engine.upstream.http.client import PROXY_VARIABLES, HttpTransport
from anthropic_proxy.engine.wires.bound_requests import BoundRequest, ClientOrigin, Transport
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest, UpstreamResponse
from anthropic_proxy.secrets import Secret

if TYPE_CHECKING:
    from anthropic_proxy.engine.upstream.litellm import LiteLLMThread, LiteLLMTransport
    from anthropic_proxy.engine.upstream.web_fetch import PageFetcher


class Transports:
    def __init__(
        self,
        settings: EngineOptions,
        *,
        page_processes: int = MAX_PROCESSES,
        litellm_variables: dict[str, Secret] | None = None,
    ) -> None:
        self._settings = settings
        self._page_processes = page_processes
        self._demo: Transport | None = None
        self._proxies = {scheme: proxy.reveal() for scheme, proxy in settings.http_proxies.items()}
        self._http = HttpTransport(
            settings.timeouts.connect_seconds, proxies=self._proxies, no_proxy_hosts=settings.no_proxy_hosts
        )
        self.http: Transport = self._http.send
        """Transport for servers that are no provider, and for providers without settings for their connections."""
        self._own = {
            name: _new_own_transport(name, options, settings, self._proxies)
            for name, options in settings.call_options.items()
            if any(options.connection)
        }
        """Provider name → transport with its own connections, proxy and certificates."""
        self._fetcher: PageFetcher | None = None
        self.tokens: Mapping[str, TokenCache] = _new_tokens(settings)
        """Value of `Provider.key_source` → its access tokens."""
        self._litellm_thread: LiteLLMThread | None = None
        self._litellm: LiteLLMTransport | None = None
        self._litellm_variables: dict[str, Secret] = {} if litellm_variables is None else litellm_variables
        """Set for LiteLLM. Objects for later versions of the settings share this dictionary."""

    def by_provider(self) -> Mapping[str, Transport]:
        """Return the name of each provider → the transport for its calls."""
        shared = {"http": self.http, "demo": self._send_to_demo, "litellm": self._send_to_litellm}
        return {
            row.name: self._own[row.name].send if row.name in self._own else shared[row.transport]
            for row in find_registry(self._settings)
        }

    def encode_http_head(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> bytes:
        """Return the head that HTTP would send. Nothing is sent."""
        return self._http.encode_head(base_url, request, credential)

    @property
    def web_fetch(self) -> WebFetch | None:
        """Function that fetches a web page for a model. None: the settings disable web fetch."""
        return self._fetch_url if self._settings.fetch_urls else None

    @property
    def web_search(self) -> WebSearch | None:
        """The search service for models. None: the settings name none."""
        url, service = self._settings.search_url, self._settings.search
        if url is None and service is None:
            return None
        from anthropic_proxy.engine.upstream.web_search import (  # noqa: PLC0415  # most installations have none
            BraveClient,
            ExaClient,
            RefusedSearch,
            SearxngClient,
            TavilyClient,
        )

        if url is not None:
            return SearxngClient(self._http.send, url)
        assert service is not None
        if service.base_url is not None and service.service == "searxng":
            return SearxngClient(self._http.send, service.base_url, setting="base_url of [search]")
        if service.key is None:
            return RefusedSearch(service.service, service.problem or "[search] has no key.")
        clients = {
            "brave": (BraveClient, "https://api.search.brave.com", "x-subscription-token", ""),
            "tavily": (TavilyClient, "https://api.tavily.com", "authorization", "Bearer "),
            "exa": (ExaClient, "https://api.exa.ai", "x-api-key", ""),
        }
        client, address, header, scheme = clients[service.service]
        credential = Credential(header, scheme + service.key.reveal(), service.key.origin)
        return client(self._http.send, service.base_url or address, credential=credential, setting="[search]")

    def reuse_or_replace(self, settings: EngineOptions) -> "Transports":
        """Return this object if its connections can be kept with the new settings, or else a new one."""
        previous = self._settings
        if _connection_settings(settings) != _connection_settings(previous):
            return Transports(settings, page_processes=self._page_processes, litellm_variables=self._litellm_variables)
        self._settings = settings
        self._litellm = None
        if _token_settings(settings) != _token_settings(previous):
            self.tokens = _new_tokens(settings)
        if self._litellm_thread is not None:
            settings.export_to_litellm(self._litellm_variables)
        return self

    async def close(self) -> None:
        await self._http.close()
        for transport in self._own.values():
            await transport.close()
        if self._fetcher is not None:
            await self._fetcher.close()
        if self._litellm_thread is not None:
            await self._litellm_thread.close()

    async def _fetch_url(self, origin: ClientOrigin, url: str, **options: Any) -> FetchedPage:
        if self._fetcher is None:
            from anthropic_proxy.engine.upstream.web_fetch import PageFetcher  # noqa: PLC0415

            self._fetcher = PageFetcher(
                proxies=self._proxies,
                no_proxy_hosts=self._settings.no_proxy_hosts,
                processes=self._page_processes,
            )
        return await self._fetcher.fetch(origin, url, **options)

    async def _send_to_demo(self, bound: BoundRequest) -> UpstreamResponse:
        if self._demo is None:
            from anthropic_proxy.engine.upstream import demo  # noqa: PLC0415

            self._demo = demo.new_demo_transport(
                find_registry(self._settings).list_setup_variables(),
                self._settings,
                chunk_interval_seconds=demo.CHUNK_INTERVAL_SECONDS,
            )
        return await self._demo(bound)

    async def _send_to_litellm(self, bound: BoundRequest) -> UpstreamResponse:
        if self._litellm is None:
            from anthropic_proxy.engine.upstream.litellm import LiteLLMThread, LiteLLMTransport  # noqa: PLC0415

            timeouts = self._settings.timeouts
            self._litellm_thread = self._litellm_thread or LiteLLMThread(
                lambda: self._settings.export_to_litellm(self._litellm_variables)
            )
            seconds = max(timeouts.first_byte_seconds, timeouts.idle_seconds)
            self._litellm = LiteLLMTransport(self._litellm_thread, seconds)
        return await self._litellm.send(bound)


def _new_own_transport(
    name: str, options: CallOptions, settings: EngineOptions, proxies: Mapping[str, str]
) -> HttpTransport:
    """Return HTTP with the proxy and the certificates of one provider."""
    no_proxy_hosts = settings.no_proxy_hosts
    if options.proxy is not None:
        address = options.proxy.reveal()
        no_proxy_hosts = ""
        proxies = {"http": address, "https": address} if address else {}
    return HttpTransport(
        settings.timeouts.connect_seconds,
        proxies=proxies,
        no_proxy_hosts=no_proxy_hosts,
        tls_files=options,
        proxy_setting=PROXY_VARIABLES if options.proxy is None else f"proxy of [providers.{name}]",
    )


def _connection_settings(settings: EngineOptions) -> tuple[object, ...]:
    own = {name: options.connection for name, options in settings.call_options.items()}
    common = settings.timeouts.connect_seconds, settings.http_proxies, settings.no_proxy_hosts
    return *common, {name: connection for name, connection in own.items() if any(connection)}


def _token_settings(settings: EngineOptions) -> tuple[object, ...]:
    timeouts = settings.timeouts
    return (
        settings.google_credentials_file,
        settings.vertex_project is None,
        settings.aws_region,
        settings.cloud_variables,
        timeouts.connect_seconds,
        timeouts.first_byte_seconds,
    )


def _new_tokens(settings: EngineOptions) -> Mapping[str, TokenCache]:
    connect_timeout = settings.timeouts.connect_seconds
    loaders: dict[str, TokenLoader] = {
        "google": GoogleCredentials(
            settings.google_credentials_file,
            needs_project=settings.vertex_project is None,
            connect_timeout=connect_timeout,
        ),
        "aws": AwsCredentials(settings.aws_region, settings.cloud_variables),
        "azure": EntraCredentials(settings.cloud_variables, FOUNDRY_SCOPE),
        **{name: EntraCredentials(settings.cloud_variables, *found) for name, found in OPENAI_SCOPES.items()},
    }
    seconds = min(RENEWAL_TIMEOUT_SECONDS, settings.timeouts.first_byte_seconds)
    return {source: TokenCache(loader, seconds=seconds) for source, loader in loaders.items()}
