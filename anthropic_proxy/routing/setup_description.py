"""`describe_setup`: describes the state of all providers and the model mapping, for plugins that show them.

Providers without a key are included, with the state `unset`.
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import structs

from anthropic_proxy.plugins import ModelMapping, ProviderSetup, Setup
from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.credentials import Credentials
from anthropic_proxy.routing.health import CircuitBreakers
from anthropic_proxy.routing.providers import Provider, find_registry
from anthropic_proxy.routing.readiness import find_readiness, group_tier_mappings
from anthropic_proxy.routing.router import describe_missing_key
from anthropic_proxy.settings import Settings


def describe_setup(
    settings: Settings,
    catalog: Catalog,
    breakers: CircuitBreakers | None = None,
    credentials: Credentials | None = None,
) -> Setup:
    """Return the state of all providers, the model mapping, and the problems of the settings.

    Blocked servers and skipped keys are included if `breakers` and `credentials` of the running proxy are given.
    """
    readiness = find_readiness(settings, catalog)
    rows = group_tier_mappings(settings, catalog)
    found = (*(problem for _, row in rows for problem in row.problems), *readiness.obstacles)
    problems = list(dict.fromkeys(found))
    ready = {provider.name: provider.state for provider in readiness.ready}
    mapping = [
        ModelMapping(tiers=tiers, target=row.target, fallbacks=row.fallbacks, reason=row.reason) for tiers, row in rows
    ]
    listed = _list_providers(settings, ready, [*problems, *readiness.advice])
    providers = [_add_health(one, settings, breakers, credentials) for one in listed]
    return Setup(providers=providers, mapping=mapping, problems=problems, advice=readiness.advice)


def _list_providers(settings: Settings, ready: dict[str, str], problems: list[str]) -> Iterator[ProviderSetup]:
    for provider in find_registry(settings):
        name = provider.env_prefix.lower() or provider.name
        if provider.name == "demo" or not (provider.offered_to_users or name in ready):
            continue
        address = settings.base_urls.get(provider.name) or provider.base_url
        if name in ready:
            yield _describe(provider, "ready", address, detail=ready[name])
        elif problem := next((text for text in problems if text.startswith((provider.name, name))), ""):
            yield _describe(provider, "problem", address, remedy=problem)
        else:
            yield _describe(provider, "unset", address, remedy=describe_missing_key(provider, settings) or "")


def _add_health(
    setup: ProviderSetup, settings: Settings, breakers: CircuitBreakers | None, credentials: Credentials | None
) -> ProviderSetup:
    """Return a copy of a provider's description with its open circuit (blocked calls) and its skipped keys."""
    circuits = {} if breakers is None else breakers.list_open_circuits()
    blocked = [found for upstream, found in circuits.items() if upstream.partition(" ")[0] == setup.name]
    seconds, failure = max(blocked, default=(0.0, ""))
    return structs.replace(
        setup,
        key_count=len(settings.keys.get(setup.name, ())),
        cooldowns=[] if credentials is None else credentials.list_cooldown_seconds(setup.name),
        open_seconds=seconds,
        failure=failure,
    )


def _describe(
    provider: Provider,
    state: Literal["ready", "problem", "unset"],
    address: str,
    *,
    detail: str = "",
    remedy: str = "",
) -> ProviderSetup:
    return ProviderSetup(
        name=provider.name, prefix=provider.prefix, state=state, detail=detail, base_url=address, remedy=remedy
    )
