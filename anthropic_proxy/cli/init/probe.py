"""Requests of `init`: the test of a provider, and the search for model servers on this machine."""

import asyncio
import time
from collections.abc import Sequence

from msgspec import Struct, structs

from anthropic_proxy.cli.init.answers import ChosenProvider
from anthropic_proxy.cli.models import ModelFacts, describe_models
from anthropic_proxy.engine.options import ConfiguredProvider
from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.providers.catalog import TAGS_TIMEOUT_SECONDS
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.provider_models import is_key_accepted, query_chat_models
from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import Settings

TEST_TIMEOUT_SECONDS = 10.0
"""Maximum time in seconds for the test of a key, which queries the provider for its models."""
_SEARCH_SECONDS = 1.0
"""Maximum time in seconds for the search for a server on this machine."""


class ProbeResult(Struct, frozen=True):
    seconds: float
    """Duration of the first request."""
    models: Sequence[ModelFacts] | None = None
    """Models that the server lists. None: its token was tested."""
    is_key_accepted: bool = False
    """False: the list is public, so that it says nothing about the key."""
    list_owner: str = ""
    """See `Host.list_owner`. "": unknown."""
    left_out: tuple[str, ...] = ()
    """Listed names that cannot be used, as text for people."""


async def probe(backend: ChosenProvider, *, uses_token: bool) -> ProbeResult:
    """Query a server for its models, or the credentials of a cloud for a token.

    Raises `UpstreamError` if the server rejects the key, or does not answer, and `ProxyError` if there is no token.
    """
    provider = backend.provider
    settings = backend.settings
    services = await open_services(settings)
    try:
        started = time.monotonic()
        if uses_token:
            await services.credentials.next_token_and_url(provider, "")
            return ProbeResult(time.monotonic() - started)
        credential = Credentials(settings).next_credential(provider)
        send = services.transports[provider.name]
        odd: list[str] = []
        listed = await query_chat_models(provider, settings, send, credential, TEST_TIMEOUT_SECONDS, left_out=odd)
        seconds = time.monotonic() - started
        is_accepted = credential is not None and await is_key_accepted(
            provider, settings, send, credential, TEST_TIMEOUT_SECONDS
        )
        if provider.uses_installed_models:  # each model is described by a query of its own
            catalog = services.catalog
            name = provider.name
            await asyncio.gather(*(catalog.fetch_capabilities(name, model.id) for model in listed))
        owner = next((model.owner for model in listed), "")
        return ProbeResult(seconds, describe_models(services, provider, listed), is_accepted, owner, tuple(odd))
    finally:
        await services.close()


async def choose_installed_models(settings: Settings) -> tuple[str, str]:
    """Return the big and the small model that the proxy uses if no setting names one, as its server lists them."""
    services = await open_services(settings)
    try:
        local = find_registry(settings).local
        catalog = services.catalog
        await catalog.refresh_listing(local.name, TAGS_TIMEOUT_SECONDS)
        listed = catalog.cached_model_ids(local.name) or ()
        big = catalog.choose_installed_model(local.name, local.default_big_model or "", prefers_small=False)
        small = catalog.choose_installed_model(local.name, local.default_small_model or "", prefers_small=True)
    finally:
        await services.close()
    if f"{big}:latest" in listed:
        big = f"{big}:latest"
    if f"{small}:latest" in listed:
        small = f"{small}:latest"
    return big, small


async def find_local_servers(settings: Settings) -> dict[str, int]:
    """Query the usual ports of model servers on this machine. Return name of a provider or vendor → number of models.

    No key is sent. A server that does not list models is not a model server.
    """
    vendors = {server.name: server for server in PROVIDERS.find("openai").hosts if server.has_local_url}
    tables = [
        ConfiguredProvider(name=name, base_url=vendor.base_url, wire="chat", has_key=False, key_variable="")
        for name, vendor in vendors.items()
    ]
    others = [table for table in settings.configured_providers if table.name not in vendors]
    searched = structs.replace(
        settings,
        configured_providers=(*others, *tables),
        base_urls={**settings.base_urls, **{name: vendor.base_url for name, vendor in vendors.items()}},
        keys={name: keys for name, keys in settings.keys.items() if name not in vendors},
    )
    registry = find_registry(searched)
    services = await open_services(searched)
    local = registry.local.name

    async def count_models(name: str) -> int | None:
        if name == local:
            await services.catalog.refresh_listing(local)
            installed = services.catalog.cached_model_ids(local)
            return None if installed is None else len(installed)
        send = services.transports[name]
        try:
            return len(await query_chat_models(registry.find(name), searched, send, None, _SEARCH_SECONDS)) or None
        except UpstreamError:
            return None

    names = [local, *vendors]
    try:
        counts = await asyncio.gather(*map(count_models, names))
    finally:
        await services.close()
    return {name: number for name, number in zip(names, counts, strict=True) if number is not None}
