"""Puts the parts of a house together, new ones and those that outlive a reload."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from anthropic_proxy.exchange.house import House
from anthropic_proxy.hooks import Observer, Page
from anthropic_proxy.log import Log
from anthropic_proxy.routing.catalogue import Catalogue, OllamaModels
from anthropic_proxy.routing.credentials import Credentials, TokenSource
from anthropic_proxy.routing.health import Queue, portion_of
from anthropic_proxy.routing.learned import Learned
from anthropic_proxy.routing.providers import find_provider
from anthropic_proxy.routing.store import MemoryStore
from anthropic_proxy.settings import Settings
from anthropic_proxy.upstream.errands import Fetch, Search
from anthropic_proxy.wire.contract import Send as UpstreamSend


def build_house(
    settings: Settings,
    ways: Mapping[str, UpstreamSend],
    log: Log,
    *,
    new_id: Callable[[str], str],
    tokens: Mapping[str, TokenSource] | None = None,
    fetch: Fetch | None = None,
    search: Search | None = None,
    observers: Sequence[Observer] = (),
    metrics: Page | None = None,
    place: tuple[int, int] = (0, 1),
    before: House | None = None,
) -> House:
    """Return one set of parts; what the house before it has learned and still holds goes with it.

    `place`: which of how many processes it is for, from 0 on.
    """
    credentials = Credentials(settings, tokens)
    house = House(
        settings=settings,
        catalogue=_new_catalogue(settings, ways, credentials),
        credentials=credentials,
        learned=Learned(MemoryStore()),
        queue=_new_queue(settings.max_upstream_calls, *place),
        ways=ways,
        log=log,
        fetch=fetch,
        search=search,
        new_id=new_id,
        clock=time.time,
        observers=observers,
        metrics=metrics,
    )
    return house if before is None else _inherit(house, before)


def _new_catalogue(settings: Settings, ways: Mapping[str, UpstreamSend], credentials: Credentials) -> Catalogue:
    ollama = find_provider("ollama")
    models = OllamaModels(
        ways[ollama.way],
        settings.base_urls.get(ollama.name, ollama.base_url),
        window=settings.ollama_context_length,
        find_credential=lambda: credentials.find(ollama),
    )
    return Catalogue(sources={ollama.name: models})


def _new_queue(limit: int | None, place: int, number: int) -> Queue:
    return Queue(None) if limit is None else Queue(portion_of(limit, place, number), limit)


def _inherit(house: House, before: House) -> House:
    """Return the house with what outlives a reload: what was learned, who rests, who waits, and what was asked."""
    now, then = house.settings, before.settings
    house.credentials.inherit(before.credentials)
    kept: dict[str, Any] = {"budget": before.budget}
    same_upstreams = (now.base_urls, now.wires) == (then.base_urls, then.wires)
    if same_upstreams:
        kept["learned"] = before.learned
    if same_upstreams and now.keys == then.keys:
        kept["breakers"] = before.breakers  # an address or a key was set to mend what had failed
        if house.ways == before.ways and now.ollama_context_length == then.ollama_context_length:
            kept["catalogue"] = before.catalogue
    if now.max_upstream_calls == then.max_upstream_calls:
        kept["queue"] = before.queue
    return msgspec.structs.replace(house, **kept)
