"""Data for the command `models`: models of the Claude tiers and of providers, with limits and prices.

A Claude tier is a family of models: haiku, sonnet, opus or fable. `list_tier_groups` returns the models to which the
tiers are mapped, with a `TierGroup` for each. `query_provider` requests the model list of one provider, and
`query_all_providers` those of all configured providers. Each list is returned as a `ProviderModels`, with a
`ModelFacts` for the limits and price of each model.
"""

import asyncio
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct, structs

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.exchange.not_found import describe_base_url_setting
from anthropic_proxy.ledger.prices import PriceList, Rates
from anthropic_proxy.routing.provider_models import ListedModel, has_model_list, query_chat_models
from anthropic_proxy.routing.providers import Provider, find_registry
from anthropic_proxy.routing.router import (
    describe_missing_key,
    find_capabilities,
    find_preferred_provider,
    list_tier_mappings,
)
from anthropic_proxy.services import Services
from anthropic_proxy.settings import Settings

LIST_TIMEOUT_SECONDS = 5.0
"""Maximum time in seconds of the query for the models of one provider. All providers are queried at the same time."""


class TokenPrices(Struct, frozen=True):
    """Prices of each kind of token in US dollars per million tokens."""

    input: float
    cached_input: float
    """Price of input tokens that the provider reads from its cache, in US dollars per million."""
    output: float
    cache_write: float
    """Price of input tokens that the provider writes to its cache, in US dollars per million."""
    cache_write_1h: float
    """Price of input tokens that are written to a cache for one hour, in US dollars per million."""
    thinking: float
    """Price of output tokens of thinking, in US dollars per million."""


class ModelPrice(TokenPrices, frozen=True, kw_only=True):
    """Price of a model in US dollars per million tokens, with surcharges for long contexts."""

    source: str
    """Origin of the price: `genai-prices 0.2.3`, `anthropic-proxy.toml line 12`, `local`."""
    long_contexts: dict[int, TokenPrices] = {}
    """Number of input tokens → prices of requests with more input tokens."""
    web_search_per_1000: float | None = None
    """Price of 1,000 web searches by the provider, in US dollars. None: unknown."""


class ModelFacts(Struct, frozen=True):
    """Limits and price of one model of a provider."""

    model: str
    """Model id with the prefix of the provider: `openai/gpt-4.1`. For a tier that is sent to Anthropic unchanged:
    `anthropic/claude-opus-…`."""
    context_window: int | None = None
    """Maximum number of input and output tokens together. None: unknown."""
    max_output: int | None = None
    """Maximum number of output tokens in one reply. None: unknown."""
    price: ModelPrice | None = None
    """Price of the model. None: unknown."""


class TierGroup(Struct, frozen=True):
    """One or more Claude tiers (haiku, sonnet, opus, fable) that the same setting maps to the same model."""

    tiers: tuple[str, ...]
    facts: ModelFacts
    setting: str
    """Setting that determines the target model, with its source: `BIG_MODEL, .env line 4`."""
    fallbacks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class ProviderModels(Struct, frozen=True):
    """Models in a provider's own list, or those that the proxy knows if there is no list.

    A failed query adds a message for the user.
    """

    provider: str
    """Prefix of the provider: `gemini`."""
    models: tuple[ModelFacts, ...]
    source: Literal["provider", "built-in"] = "provider"
    """`provider`: models from the provider's list. `built-in`: models that the proxy knows, because the provider has no
    list or did not return it."""
    problem: str = ""
    """Message about the models for the user, such as a failed query or an unknown model. "": no problem."""


async def list_tier_groups(services: Services) -> list[TierGroup]:
    """Return the model to which each Claude tier (haiku, sonnet, …) is mapped, with its limits and price.

    Tiers with the same setting and the same model form one `TierGroup`.
    """
    groups: dict[tuple[str, str], TierGroup] = {}
    for row in list_tier_mappings(services.settings, services.catalog):
        key = (row.target, row.reason)
        found = groups.get(key)
        tiers = (*(found.tiers if found else ()), row.tier)
        facts = found.facts if found else await _find_facts(services, row.target)
        groups[key] = TierGroup(tiers, facts, row.reason, tuple(row.fallbacks), tuple(row.problems))
    return list(groups.values())


async def query_all_providers(services: Services) -> list[ProviderModels]:
    """Request the model lists of all configured providers at the same time, and return their models.

    Providers for which `is_queried_by_default` returns False, such as those without a model list, are left out.
    """
    rows = [row for row in find_registry(services.settings) if is_queried_by_default(row, services)]
    return list(await asyncio.gather(*(query_provider(services, row) for row in rows)))


async def query_provider(services: Services, provider: Provider) -> ProviderModels:
    """Request the model list of `provider`, and return its models with limits and prices.

    If the query fails, the models that the proxy knows are returned.
    """
    if provider.uses_installed_models:
        return await _list_installed(services, provider)
    problem = describe_missing_key(provider, services.settings)
    if has_model_list(provider) and not problem:
        try:
            credential = services.credentials.next_credential(provider)
            send = services.transports[provider.transport]
            listed = await query_chat_models(provider, services.settings, send, credential, LIST_TIMEOUT_SECONDS)
            return ProviderModels(provider.prefix, _add_facts(services, provider, listed))
        except ProxyError as error:
            problem = _explain(error, provider, services.settings)
    catalog = provider.known_models if _is_own_address(provider, services.settings) else ()
    names = dict.fromkeys((*catalog, *services.settings.extra_models.get(provider.name, ())))
    known = [ListedModel(name) for name in names if name not in provider.non_chat_models]
    if not known and not problem:
        problem = f"{provider.title} has no list of models. Request a model with the prefix of its provider."
    return ProviderModels(provider.prefix, _add_facts(services, provider, known), "built-in", problem)


def _is_own_address(provider: Provider, settings: Settings) -> bool:
    """Return True if the proxy calls `provider` at its own server.

    False: a setting selects another server, so the models that the proxy knows may not exist there.
    """
    own = {urlsplit(address).hostname for address in (provider.base_url, *(url for _, url in provider.regional_urls))}
    address = settings.base_urls.get(provider.name)
    return provider.is_configured or address is None or urlsplit(address).hostname in own


async def query_provider_model(services: Services, provider: Provider, name: str) -> ProviderModels:
    """Return a `ProviderModels` with the limits and price of the model `name` (without prefix).

    If the provider does not list `name`, the field `problem` explains this.
    """
    offered = await query_provider(services, provider)
    found = tuple(fact for fact in offered.models if fact.model == f"{provider.prefix}/{name}")
    if not found and provider.uses_installed_models:
        found = tuple(fact for fact in offered.models if fact.model == f"{provider.prefix}/{name}:latest")
    if found or offered.problem:
        return structs.replace(offered, models=found or _add_facts(services, provider, [ListedModel(name)]))
    reason = provider.non_chat_models.get(name)
    cause = f"{provider.prefix}/{name} {reason} and does not support chat." if reason else ""
    problem = cause or f"{provider.prefix} does not list the model {name}."
    return structs.replace(
        offered, problem=f"{problem} Its chat models:  anthropic-proxy models {provider.prefix}", models=()
    )


def is_queried_by_default(provider: Provider, services: Services) -> bool:
    """Return True if the command `models` queries the model list of `provider` when the user names no provider.

    The provider must have a model list. It also needs a configured key, or a configured address that requires no key.
    Ollama needs no configured address if it is the preferred provider.
    """
    settings = services.settings
    if not provider.offered_to_users or not has_model_list(provider):
        return False
    if provider.uses_installed_models:
        preferred = find_preferred_provider(settings, services.catalog).name == provider.name
        return preferred or provider.name in settings.base_urls
    keyless = provider.name in settings.base_urls and not describe_missing_key(provider, settings)
    return bool(settings.keys.get(provider.name)) or keyless


async def _list_installed(services: Services, provider: Provider) -> ProviderModels:
    await services.catalog.refresh_listing(provider.name)
    listed = services.catalog.cached_model_ids(provider.name)
    if listed is None:
        address = services.settings.base_urls.get(provider.name, provider.base_url)
        problem = f"No server answers at {address} ({provider.base_url_variable}). Start Ollama with: ollama serve"
        return ProviderModels(provider.prefix, (), "built-in", problem)
    facts = [await _find_facts(services, f"{provider.prefix}/{name}") for name in listed]
    return ProviderModels(provider.prefix, tuple(facts))


async def _find_facts(services: Services, target: str) -> ModelFacts:
    prefix, _, model = target.partition("/")
    provider = find_registry(services.settings).find_by_prefix(prefix)
    if provider is None:
        return ModelFacts(target)
    if provider.uses_installed_models:
        await services.catalog.fetch_capabilities(provider.name, model)
    return _add_facts(services, provider, [ListedModel(model)])[0]


def _add_facts(services: Services, provider: Provider, models: Iterable[ListedModel]) -> tuple[ModelFacts, ...]:
    """Return `models` in alphabetical order with limits and prices.

    Limits in the list of the provider take precedence over limits that the proxy knows.
    """
    settings, prices, facts = services.settings, PriceList(services.settings), []
    for model in models:
        known = find_capabilities(provider, model.id, settings, services.catalog)
        is_known = known.known or provider.transport == "demo"
        facts.append(
            ModelFacts(
                f"{provider.prefix}/{model.id}",
                model.context_window or (known.context_window if is_known else None),
                model.max_output or (known.max_output if is_known else None),
                _find_price(prices, provider, model.id),
            )
        )
    return tuple(sorted(facts, key=lambda fact: fact.model.lower()))


def find_model_price(settings: Settings, name: str) -> ModelPrice | None:
    """Return the price of the model `name`, an id with prefix such as `openai/gpt-4.1`. None: the price is unknown."""
    prefix, _, model = name.partition("/")
    provider = find_registry(settings).find_by_prefix(prefix)
    return None if provider is None else _find_price(PriceList(settings), provider, model)


def _find_price(prices: PriceList, provider: Provider, model: str) -> ModelPrice | None:
    found = prices.find(provider, model)
    if found is None:
        return None
    longer = {above: TokenPrices(*_list_amounts(rates)) for above, rates in found.long_contexts}
    search = None if found.web_search is None else float(found.web_search)
    return ModelPrice(*_list_amounts(found.base), source=found.source, long_contexts=longer, web_search_per_1000=search)


def _list_amounts(rates: Rates) -> tuple[float, ...]:
    """Return the prices in `rates` in the order of the fields of `TokenPrices`."""
    amounts = rates.input, rates.cache_read, rates.output, rates.cache_write, rates.cache_write_1h, rates.thinking
    return tuple(float(amount) for amount in amounts)


def _explain(error: ProxyError, provider: Provider, settings: Settings) -> str:
    """Return a message about `error`, a failed query for the models of `provider`.

    It names the setting that causes the failure.
    """
    message = error.message.rstrip(".")
    if error.status in (401, 403) and (keys := settings.keys.get(provider.name)):
        return f"{message.replace('the key', f'the key {keys[0]}')}. It is set by {keys[0].origin}."
    prefixed = message if message.startswith(provider.prefix) else f"{provider.prefix}: {message}"
    if error.status in (401, 402, 403, 429) or "The address is set by" in message:
        return f"{prefixed}."
    return f"{prefixed}.{describe_base_url_setting(provider, settings, adds_remedy=error.status in (404, 405))}"


def find_provider(name: str, settings: Settings) -> Provider | None:
    """Return the provider that the user calls `name`, for example `google`, `gemini` or `GEMINI`.

    None means that there is no such provider.
    """
    word = name.lower().removesuffix("/")
    rows = find_registry(settings)
    return next((row for row in rows if word in (row.name, row.prefix, row.env_prefix.lower())), None)
