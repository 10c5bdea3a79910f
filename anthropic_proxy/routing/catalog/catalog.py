"""Cache of model capabilities and listings, refreshed in the background."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from anthropic_proxy.routing.catalog.table import ModelCapabilities, table_capabilities

FIRST_QUERY_TIMEOUT_SECONDS = 1.0
"""Time that the first request for a model waits for its capabilities. Later requests do not wait."""
REFRESH_INTERVAL_SECONDS = 300.0
"""Age of capabilities that starts a refresh. The request does not wait for it."""
RETRY_SECONDS = 5.0
"""Delay after a failed query."""
LISTING_SECONDS = 60.0
"""Age of a model list that starts a refresh. Users install and remove models at any time."""

_MAX_ENTRIES = 4096


class ModelListing(Protocol):
    """A provider that reports its models and their capabilities."""

    async def list_models(self) -> Sequence[str] | None:
        """Return the model ids, the largest model first. None: no reply."""
        ...

    async def describe(self, model: str) -> ModelCapabilities | None:
        """Return the capabilities of a model. None: no reply, or no such model."""
        ...

    def assume(self, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
        """Return the capabilities to use before `describe` returned. `capabilities`: those of the table."""
        ...


class Catalog:
    """Capabilities and listings of models. A reload creates a new catalog.

    `listings`: provider name → its model ids, the largest model first. Absent: unknown. `sources`: provider name → its
    model listing. `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        listings: Mapping[str, Sequence[str]] | None = None,
        sources: Mapping[str, ModelListing] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        first_seconds: float = FIRST_QUERY_TIMEOUT_SECONDS,
    ) -> None:
        self._listings = dict(listings or {})
        self._sources = sources or {}
        self._clock = clock
        self._first_seconds = first_seconds
        self._found: dict[tuple[str, str], ModelCapabilities] = {}
        """Provider and model → capabilities, from the table or the provider."""
        self._described: set[tuple[str, str]] = set()
        self._failed: set[tuple[str, str]] = set()
        """Models with a failed first query. No request waits for further queries."""
        self._queried_at: dict[tuple[str, str], float] = {}
        """Provider and model ("": the listing) → clock time of the last query."""
        self._queries: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.edition = 0
        """Version number. A change invalidates cached routes."""

    def listing(self, provider: str) -> Sequence[str] | None:
        """Return the model ids of a provider, the largest model first. None: unknown."""
        return self._listings.get(provider)

    def capabilities_of(self, provider: str, model: str) -> ModelCapabilities:
        """Return the capabilities that the provider reported, else those of the table."""
        capabilities = self._found.get((provider, model))
        if capabilities is None:
            capabilities = table_capabilities(provider, model)
            source = self._sources.get(provider)
            if source is not None:
                capabilities = source.assume(model, capabilities)
            if len(self._found) < _MAX_ENTRIES:  # clients may ask for any name
                self._found[provider, model] = capabilities
        return capabilities

    def has_source(self, provider: str) -> bool:
        """Return True if the provider reports capabilities, so that `fetch` can return more than the table."""
        return provider in self._sources

    async def fetch(self, provider: str, model: str) -> ModelCapabilities:
        """Return the capabilities of a model. Wait for its first query, for at most `first_seconds`."""
        self.refresh_in_background(provider, model)
        key = (provider, model)
        query = self._queries.get(key)
        if query is not None and key not in self._described and key not in self._failed:
            remaining = self._queried_at[key] + self._first_seconds - self._clock()
            if remaining > 0:
                await asyncio.wait((query,), timeout=remaining)
        return self.capabilities_of(provider, model)

    def refresh_in_background(self, provider: str, model: str) -> None:
        """Start queries for the model list and the model, if their last results are old enough."""
        source = self._sources.get(provider)
        if source is None:
            return
        if self._is_due((provider, ""), LISTING_SECONDS):
            self._start_query((provider, ""), self.refresh_listing(provider))
        key = (provider, model)
        if self._is_due(key, REFRESH_INTERVAL_SECONDS if key in self._described else RETRY_SECONDS):
            self._start_query(key, self._describe(source, provider, model))

    async def refresh_listing(self, provider: str) -> None:
        """Query the model list of a provider. Keep the previous list if there is no reply."""
        source = self._sources.get(provider)
        if source is None:
            return
        self._queried_at[provider, ""] = self._clock()
        listed = await source.list_models()
        if listed is not None:
            self._listings[provider] = tuple(listed)
            self.edition += 1

    async def close(self) -> None:
        """Cancel all running queries."""
        queries = list(self._queries.values())
        for query in queries:
            query.cancel()
        await asyncio.gather(*queries, return_exceptions=True)

    async def _describe(self, source: ModelListing, provider: str, model: str) -> None:
        capabilities = await source.describe(model)
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


def load_catalog(
    ollama_models: Sequence[str] | None = None, sources: Mapping[str, ModelListing] | None = None
) -> Catalog:
    """Return the catalog of a new process. `ollama_models`: largest first. None: not queried."""
    return Catalog({} if ollama_models is None else {"ollama": tuple(ollama_models)}, sources)
