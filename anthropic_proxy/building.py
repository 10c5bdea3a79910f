"""Construction of `Services`, with the state that survives a reload."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from anthropic_proxy.exchange.receipts import Receipts
from anthropic_proxy.in_progress import InProgress
from anthropic_proxy.log import Log
from anthropic_proxy.plugins import GetRoute
from anthropic_proxy.routing.catalog import Catalog, OllamaListing
from anthropic_proxy.routing.credentials import Credentials, TokenSource
from anthropic_proxy.routing.health import FairQueue, worker_share
from anthropic_proxy.routing.memory_store import MemoryStore
from anthropic_proxy.routing.model_observations import ModelObservations
from anthropic_proxy.routing.providers import find_provider
from anthropic_proxy.services import Services
from anthropic_proxy.settings import Settings
from anthropic_proxy.upstream.contract import WebFetch, WebSearch
from anthropic_proxy.wire.contract import Transport


def build_services(
    settings: Settings,
    transports: Mapping[str, Transport],
    log: Log,
    *,
    new_id: Callable[[str], str],
    tokens: Mapping[str, TokenSource] | None = None,
    fetch: WebFetch | None = None,
    search: WebSearch | None = None,
    in_progress: InProgress | None = None,
    receipts: Receipts | None = None,
    metrics: GetRoute | None = None,
    worker_position: tuple[int, int] = (0, 1),
    before: Services | None = None,
) -> Services:
    """Return the services for these settings.

    `worker_position`: index of this worker, from 0, and number of workers. `before`: services that a reload replaces;
    their observations, cooldowns and queue are carried over.
    """
    credentials = Credentials(settings, tokens)
    services = Services(
        settings=settings,
        catalogue=_new_catalogue(settings, transports, credentials),
        credentials=credentials,
        observations=ModelObservations(MemoryStore()),
        queue=_new_queue(settings.max_upstream_calls, *worker_position),
        transports=transports,
        log=log,
        web_fetch=fetch,
        web_search=search,
        new_id=new_id,
        clock=time.time,
        receipts=receipts or Receipts(log),
        metrics_route=metrics,
        in_progress=in_progress or InProgress(),
    )
    return services if before is None else _carry_over_state(services, before)


def _new_catalogue(settings: Settings, transports: Mapping[str, Transport], credentials: Credentials) -> Catalog:
    ollama = find_provider("ollama")
    models = OllamaListing(
        transports[ollama.transport],
        settings.base_urls.get(ollama.name, ollama.base_url),
        window=settings.ollama_context_length,
        find_credential=lambda: credentials.next_credential(ollama),
    )
    return Catalog(sources={ollama.name: models})


def _new_queue(limit: int | None, worker_index: int, worker_count: int) -> FairQueue:
    return FairQueue(None) if limit is None else FairQueue(worker_share(limit, worker_index, worker_count), limit)


def _carry_over_state(services: Services, before: Services) -> Services:
    """Return the services with the state that survives a reload: observations, cooldowns, queue, model listings."""
    now, then = services.settings, before.settings
    services.credentials.restore_state(before.credentials)
    carried: dict[str, Any] = {"retry_budget": before.retry_budget}
    same_upstreams = (now.base_urls, now.wires) == (then.base_urls, then.wires)
    if same_upstreams:
        carried["observations"] = before.observations
    if same_upstreams and now.keys == then.keys:
        carried["circuit_breakers"] = before.circuit_breakers  # a new address or key may repair the failure
        if services.transports == before.transports and now.ollama_context_length == then.ollama_context_length:
            carried["catalogue"] = before.catalogue
    if now.max_upstream_calls == then.max_upstream_calls:
        carried["queue"] = before.queue
    return msgspec.structs.replace(services, **carried)
