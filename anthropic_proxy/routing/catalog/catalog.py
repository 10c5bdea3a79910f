"""`Catalog`: a cache of the limits and features (capabilities) of models, and of the model lists of providers.

Until a provider has replied to a query, the capabilities of its models come from the file `models.toml`. `ModelSource`
is the interface for such queries. Methods `cached_…` return cached values without a query. `fetch_capabilities` waits
for the reply to the first query about a model. `start_due_queries` queries outdated values in the background.
`refresh_listing` queries a model list at once. `close` cancels the running queries.

Learned models are facts about models that the command `doctor` has observed. `replace_learned_models` stores them in
the catalog.
"""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.json_decoding import InvalidJson, decode_json
from anthropic_proxy.routing.catalog.learned import LearnedModel, LearnedModels
from anthropic_proxy.routing.catalog.table import ModelCapabilities, find_table_capabilities
from anthropic_proxy.wire.contract import Credential, Transport, UpstreamRequest, read_body

FIRST_QUERY_TIMEOUT_SECONDS = 1.0
"""Maximum seconds that a request waits for the first query about its model. After this time, values of `models.toml`
apply."""
REFRESH_INTERVAL_SECONDS = 300.0
"""Age in seconds of cached capabilities at which the next request starts a query in the background."""
QUERY_RETRY_INTERVAL_SECONDS = 5.0
"""Minimum seconds between two queries about a model while the provider has not reported its capabilities."""
LISTING_REFRESH_INTERVAL_SECONDS = 60.0
"""Age in seconds of a cached model list at which the next request starts a query in the background."""

_MAX_ENTRIES = 4096


class ModelSource(Protocol):
    """Interface of a client that queries one provider for its models and their limits and features.

    `OllamaModelSource` implements it.
    """

    async def list_models(self) -> Sequence[str] | None:
        """Query and return the ids of the provider's models, the largest model first. None: no reply."""
        ...

    async def query_capabilities(self, model: str) -> ModelCapabilities | None:
        """Query and return the limits and features of a model. None: no reply, or unknown model."""
        ...

    def provisional_capabilities(self, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
        """Return the limits and features of a model that apply until the provider has replied to a query.

        They are based on `capabilities`, the values of `models.toml` for the model.
        """
        ...


class Catalog:
    """Cached limits and features (capabilities) of models, and model lists of providers.

    `listings` maps a provider name to its model ids, the largest model first.
    """

    def __init__(
        self,
        listings: Mapping[str, Sequence[str]] | None = None,
        sources: Mapping[str, ModelSource] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        first_seconds: float = FIRST_QUERY_TIMEOUT_SECONDS,
    ) -> None:
        self._listings = dict(listings or {})
        self._sources = sources or {}
        self._clock = clock
        self._first_seconds = first_seconds
        self._found: dict[tuple[str, str], ModelCapabilities] = {}
        """Provider and model → capabilities, from `models.toml` or reported by the provider."""
        self._described: set[tuple[str, str]] = set()
        self._failed: set[tuple[str, str]] = set()
        """Models with a failed query. Requests no longer wait for queries about the same model."""
        self._queried_at: dict[tuple[str, str], float] = {}
        """Provider and model ("": the listing) → clock time of the last query."""
        self._queries: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._learned: LearnedModels = {}
        self.edition = 0
        """Version number of the contents, increased by each change. `RouteCache` then discards its routes."""

    def cached_model_ids(self, provider: str) -> Sequence[str] | None:
        """Return the cached model ids of a provider, the largest model first. None: never reported."""
        return self._listings.get(provider)

    def cached_capabilities(self, provider: str, model: str, models_table: str = "") -> ModelCapabilities:
        """Return the limits and features of a model from the cache, without a query.

        If the provider has not reported them, they are based on `models.toml`. `models_table` is the name of the table
        in this file; "": the name of the provider.
        """
        capabilities = self._found.get((provider, model))
        if capabilities is None:
            capabilities = find_table_capabilities(models_table or provider, model)
            source = self._sources.get(provider)
            if source is not None:
                capabilities = source.provisional_capabilities(model, capabilities)
            if len(self._found) < _MAX_ENTRIES:  # clients may ask for any name
                # the provider may have reported other values since the check above, in another thread
                return self._found.setdefault((provider, model), capabilities)
        return capabilities

    @property
    def has_learned_models(self) -> bool:
        """True if the command `doctor` has stored facts about at least one model."""
        return bool(self._learned)

    def find_learned_model(self, server: str, model: str) -> LearnedModel | None:
        """Return the facts about a model that the command `doctor` has observed. None: there are none.

        `server` is a provider and host, such as `openai api.openai.com`.
        """
        return self._learned.get((server, model))

    def replace_learned_models(self, learned: LearnedModels) -> None:
        """Replace the facts about models that the command `doctor` has observed."""
        if learned != self._learned:
            self._learned = learned
            self.edition += 1

    def can_query_provider(self, provider: str) -> bool:
        """Return True if the limits and features of the provider's models can be queried from the provider."""
        return provider in self._sources

    def has_reported_capabilities(self, provider: str, model: str) -> bool:
        """Return True if the provider itself has reported the cached limits and features of a model.

        False: they come from `models.toml`, or from a setting.
        """
        return (provider, model) in self._described

    async def fetch_capabilities(self, provider: str, model: str) -> ModelCapabilities:
        """Return the limits and features of a model, if possible as its provider reports them.

        The call waits only for the first query about the model, for a limited time. If there is no reply in this time,
        the values are based on `models.toml`.
        """
        self.start_due_queries(provider, model)
        key = (provider, model)
        query = self._queries.get(key)
        if query is not None and key not in self._described and key not in self._failed:
            remaining = self._queried_at[key] + self._first_seconds - self._clock()
            if remaining > 0:
                await asyncio.wait((query,), timeout=remaining)
        return self.cached_capabilities(provider, model)

    def start_due_queries(self, provider: str, model: str) -> None:
        """Start queries of the provider for its model list and for one model, if the cached values are too old.

        The call does not wait for the replies.
        """
        source = self._sources.get(provider)
        if source is None:
            return
        if self._is_due((provider, ""), LISTING_REFRESH_INTERVAL_SECONDS):
            self._start_query((provider, ""), self.refresh_listing(provider))
        key = (provider, model)
        if self._is_due(key, REFRESH_INTERVAL_SECONDS if key in self._described else QUERY_RETRY_INTERVAL_SECONDS):
            self._start_query(key, self._describe(source, provider, model))

    async def refresh_listing(self, provider: str) -> None:
        """Query the model list of a provider now and store it. Without a reply, the cached list is kept.

        Ids with control characters are left out: commands print them on terminals.
        """
        source = self._sources.get(provider)
        if source is None:
            return
        self._queried_at[provider, ""] = self._clock()
        listed = await source.list_models()
        if listed is not None:
            self._listings[provider] = tuple(filter(str.isprintable, listed))
            self.edition += 1

    async def close(self) -> None:
        """Cancel all running queries and wait until they have ended."""
        queries = list(self._queries.values())
        for query in queries:
            query.cancel()
        await asyncio.gather(*queries, return_exceptions=True)

    async def _describe(self, source: ModelSource, provider: str, model: str) -> None:
        capabilities = await source.query_capabilities(model)
        if capabilities is None:
            self._failed.add((provider, model))
        else:
            self._found[provider, model] = capabilities
            self.edition += 1
            self._described.add((provider, model))

    def _is_due(self, key: tuple[str, str], seconds: float) -> bool:
        if key in self._queries:
            return False
        queried_at = self._queried_at.get(key)
        if queried_at is None:
            return len(self._queried_at) < _MAX_ENTRIES
        return self._clock() - queried_at >= seconds

    def _start_query(self, key: tuple[str, str], query: Coroutine[Any, Any, None]) -> None:
        self._queried_at[key] = self._clock()
        task = self._queries[key] = asyncio.create_task(query)
        task.add_done_callback(lambda _: self._queries.pop(key, None))


def build_catalog(
    ollama_models: Sequence[str] | None = None, sources: Mapping[str, ModelSource] | None = None
) -> Catalog:
    """Return a new catalog of models, which uses `models.toml` for models that no provider has reported.

    `ollama_models` are the ids of the installed models of Ollama; None: unknown. `sources` maps the name of a provider
    to the client that queries it. Other providers are not queried.
    """
    return Catalog({} if ollama_models is None else {"ollama": tuple(ollama_models)}, sources)


TAGS_TIMEOUT_SECONDS = 1.0
"""Maximum seconds of a query for the model list."""
SHOW_TIMEOUT_SECONDS = 10.0
"""Maximum seconds of a query about one model. Long, because an Ollama server replies late while it loads a model."""
MAX_DEFAULT_WINDOW = 65_536
"""Maximum context window, in tokens, of a local model without a configured one. A larger window costs memory."""

_MAX_BYTES = 8 * 1024 * 1024
_CLOUD_HOST = "ollama.com"
_LEVELS = ("low", "medium", "high")
_LEVEL_ONLY_FAMILIES = frozenset(("gptoss", "gpt-oss"))
"""Model families that always think: effort level `none` is not supported (docs.ollama.com, Thinking)."""
_NUM_CTX = re.compile(r"^num_ctx\s+(\d+)\s*$", re.MULTILINE)

Reply = TypeVar("Reply")
"""Type variable: struct as which the reply of the server is decoded."""


class _Details(Struct):
    family: str | None = None


class _Tag(Struct):
    name: str
    size: int = 0
    details: _Details | None = None
    capabilities: list[str] | None = None
    """Names of supported features. None: Ollama before 0.30."""


class _Tags(Struct):
    models: list[_Tag] | None = None


class _ModelDetails(Struct):
    parameters: str | None = None
    """Text of the Modelfile parameters. Each line has a name, spaces and a value: `num_ctx 8192`."""
    details: _Details | None = None
    model_info: dict[str, Raw] | None = None
    capabilities: list[str] | None = None
    """Names of supported features. None: Ollama before 0.6.4."""
    remote_host: str | None = None


class OllamaModelSource:
    """Client that queries one Ollama server for its models and their limits and features.

    `window` is the context window in tokens that the user has set for all local models. None: each model has its own.
    """

    def __init__(
        self,
        send: Transport,
        base_url: str,
        *,
        window: int | None = None,
        find_credential: Callable[[], Credential | None] = lambda: None,
        adjust: Callable[[str, ModelCapabilities], ModelCapabilities] = lambda _, reported: reported,
    ) -> None:
        self._send = send
        self._base_url = base_url
        self._window = window
        self._find_credential = find_credential
        self._adjust = adjust

    async def list_models(self) -> Sequence[str] | None:
        """Query and return the ids of the installed chat models, the largest first. None: no valid reply."""
        request = UpstreamRequest(path="/api/tags", body=b"", method="GET")
        tags = await self._query(request, _Tags, TAGS_TIMEOUT_SECONDS)
        if tags is None or tags.models is None:
            return None
        return [model.name for model in sorted(tags.models, key=lambda model: -model.size) if _can_chat(model)]

    async def query_capabilities(self, model: str) -> ModelCapabilities | None:
        """Query and return the limits and features of a model. None: no valid reply, or no such model."""
        body = msgspec.json.encode({"model": model})
        request = UpstreamRequest(path="/api/show", body=body, headers={"content-type": "application/json"})
        details = await self._query(request, _ModelDetails, SHOW_TIMEOUT_SECONDS)
        if details is None:
            return None
        window = self._window_of(model, details)
        abilities = details.capabilities
        family = details.details.family if details.details is not None else None
        efforts: tuple[str, ...] = ()
        if abilities is not None and "thinking" in abilities:
            efforts = _LEVELS if family in _LEVEL_ONLY_FAMILIES else ("none", *_LEVELS, "max")
        reported = ModelCapabilities(
            context_window=window,
            max_output=window,
            efforts=efforts,
            accepts_images=abilities is None or "vision" in abilities,
            tools=abilities is None or "tools" in abilities,
            known=True,
        )
        return self._adjust(model, reported)

    def provisional_capabilities(self, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
        """Return the limits and features of a model for use until the server has replied to a query.

        `capabilities` are the values of `models.toml`. For a local model, the context window that the user has set
        replaces the one of `models.toml`.
        """
        if self._window is None or self._is_cloud_model(model):
            return capabilities
        vision = capabilities.accepts_images or not capabilities.known
        return structs.replace(
            capabilities,
            context_window=self._window,
            max_output=self._window,
            accepts_images=vision,
            known=True,
        )

    def _window_of(self, model: str, details: _ModelDetails) -> int:
        info = details.model_info or {}
        lengths = (_positive_int(value) for name, value in info.items() if name.endswith(".context_length"))
        own = max((length for length in lengths if length), default=None)
        if details.remote_host or self._is_cloud_model(model):
            return own or ModelCapabilities().context_window
        chosen = _NUM_CTX.search(details.parameters or "")
        return self._window or (int(chosen[1]) if chosen else min(own or MAX_DEFAULT_WINDOW, MAX_DEFAULT_WINDOW))

    def _is_cloud_model(self, model: str) -> bool:
        if urlsplit(self._base_url).hostname == _CLOUD_HOST:
            return True
        _, colon, tag = model.lower().rpartition(":")
        return bool(colon) and (tag == "cloud" or tag.endswith("-cloud"))

    async def _query(self, request: UpstreamRequest, kind: type[Reply], seconds: float) -> Reply | None:
        try:
            async with asyncio.timeout(seconds):
                return decode_json(await self._read(request), kind)
        except (ProxyError, TimeoutError, InvalidJson):
            return None

    async def _read(self, request: UpstreamRequest) -> bytes:
        """Send a request to the Ollama server and return the reply body. b"": the status is not 200."""
        response = await self._send(self._base_url, request, self._find_credential())
        try:
            return await read_body(response, _MAX_BYTES) if response.status == 200 else b""
        finally:
            await response.close()


def _can_chat(tag: _Tag) -> bool:
    if tag.capabilities is not None:
        return "completion" in tag.capabilities
    family = tag.details.family if tag.details is not None else None
    return "bert" not in (family or "")  # without `capabilities`, the other models are embedding models


def _positive_int(value: Raw) -> int | None:
    try:
        number = decode_json(bytes(value), float)
    except InvalidJson:
        return None
    return int(number) if number > 0 else None
