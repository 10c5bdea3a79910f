"""Selection of the backends that the doctor examines. A backend is one model of one provider.

`select_backends` usually returns the models to which the Claude tiers (haiku, sonnet, opus, fable) are routed. One
model of each other configured provider follows. `is_configured` returns True if the settings enable a provider.
"""

from collections.abc import Iterable, Sequence

from anthropic_proxy.errors import ClientError, ConfigurationError
from anthropic_proxy.lab.doctor.findings import Backend
from anthropic_proxy.routing.providers import Provider, find_registry
from anthropic_proxy.routing.router import (
    RoutingQuery,
    Target,
    build_route,
    describe_missing_key,
    find_server_override,
)
from anthropic_proxy.routing.router.model_names import find_tier
from anthropic_proxy.services import Services
from anthropic_proxy.settings import TIERS, Settings
from anthropic_proxy.settings.values import find_similar_choice

_UNKNOWN_SERVERS = ("local", "other")
"""Names of server entries that match servers of no known vendor. The dialect of such an entry is only assumed."""


def select_backends(services: Services, names: Sequence[str], *, searches_known_servers: bool = False) -> list[Backend]:
    """Return the backends to examine: models, each with its provider.

    `names` are prefixes of providers, or model ids. Without `names`, all configured providers are examined. The
    built-in demo is examined only if there is no other provider, because it has no real model. With
    `searches_known_servers`, the doctor also tests how known servers deviate from their API. Raises
    `ConfigurationError` for an unknown name.
    """
    found = list(_list_configured(services))
    found = [one for one in found if one.target.provider.transport != "demo"] or found
    if names:
        found = [backend for name in names for backend in _find_named(services, name, found)]
    unique: dict[tuple[str, str], Backend] = {}
    for backend in found:
        unique.setdefault((backend.name, backend.target.model), backend)
    return [_with_search(backend, services.settings, searches_known_servers) for backend in unique.values()]


def is_configured(provider: Provider, settings: Settings) -> bool:
    """Return True if a setting enables the provider: an API key or a base URL.

    Vertex AI needs neither. It is enabled by a Google Cloud project, or if it is the preferred provider.
    """
    if provider.key_source == "google":
        return settings.preferred_provider == provider.name or bool(settings.vertex_project)
    if provider.transport != "http":
        return False
    return bool(settings.keys.get(provider.name) or provider.name in settings.base_urls)


def _list_configured(services: Services) -> Iterable[Backend]:
    tiers: dict[tuple[str, str], list[str]] = {}
    targets: dict[tuple[str, str], list[Target]] = {}
    for tier in TIERS:
        for target in _resolve(services, _name_claude_model(services, tier)):
            key = target.provider.prefix, target.model
            tiers.setdefault(key, []).append(tier)
            targets.setdefault(key, []).append(target)
    for key, found in targets.items():
        variables = dict.fromkeys(target.model_setting.partition(",")[0] for target in found if target.model_setting)
        yield Backend(name=key[0], target=found[0], tiers=tuple(tiers[key]), variables=tuple(variables))
    used = {provider for provider, _ in targets}
    for provider in find_registry(services.settings):
        if provider.prefix not in used and _is_examined(provider, services):
            yield from _find_defaults(services, provider)


def _name_claude_model(services: Services, tier: str) -> str:
    """Return the id of a real Claude model of a tier.

    A provider of Claude models receives the requested id unchanged, so the id must exist there.
    """
    known = [model for row in find_registry(services.settings) if row.serves_claude for model in row.known_models]
    return next((model for model in known if find_tier(model) == tier), f"claude-{tier}")


def _is_examined(provider: Provider, services: Services) -> bool:
    if provider.uses_installed_models:
        return bool(services.catalog.cached_model_ids(provider.name)) or provider.name in services.settings.base_urls
    return is_configured(provider, services.settings) and not describe_missing_key(provider, services.settings)


def _find_defaults(services: Services, provider: Provider) -> Iterable[Backend]:
    """Yield one backend of a provider: with its larger default model, or with its largest installed model."""
    listed = services.catalog.cached_model_ids(provider.name) if provider.uses_installed_models else None
    defaults = (provider.default_big_model, *provider.known_models)
    model = listed[0] if listed else next(filter(None, defaults), None)
    for target in _resolve(services, f"{provider.prefix}/{model}") if model else ():
        if target.provider is provider:  # a Claude model may be mapped to another provider
            yield Backend(name=provider.prefix, target=target)


def _find_named(services: Services, name: str, configured: Sequence[Backend]) -> list[Backend]:
    registry = find_registry(services.settings)
    provider = registry.find_by_prefix(name.lower())
    if provider is not None:
        own = [backend for backend in configured if backend.target.provider is provider]
        return _require_some(provider, own or list(_find_defaults(services, provider)))
    if "/" not in name and not name.startswith("claude"):
        known = [row.prefix for row in registry]
        nearest = find_similar_choice(name.lower(), known)
        raise ConfigurationError(
            f'There is no provider "{name}". The providers are: {", ".join(known)}. A model needs a prefix: '
            f"openai/{name}. " + (f"Did you mean:  anthropic-proxy doctor {nearest}" if nearest else "")
        )
    route = build_route(RoutingQuery(name), services.settings, services.catalog)
    return [
        next(
            (
                backend
                for backend in configured
                if (backend.name, backend.target.model) == (target.provider.prefix, target.model)
            ),
            Backend(name=target.provider.prefix, target=target),
        )
        for target in route.targets
    ]


def _require_some(provider: Provider, found: list[Backend]) -> list[Backend]:
    """Return `found`, the backends of a provider that the user named. Raises `ConfigurationError` if it is empty."""
    if found:
        return found
    if provider.transport == "demo":
        raise ConfigurationError(
            "The demo is built in and has no model to examine. To examine the providers: anthropic-proxy doctor"
        )
    name = provider.prefix
    raise ConfigurationError(
        f"{name} has no default model. Name the model to examine: anthropic-proxy doctor {name}/<model>"
    )


def _resolve(services: Services, model: str) -> Sequence[Target]:
    try:
        return build_route(RoutingQuery(model), services.settings, services.catalog).targets
    except ClientError:
        return ()


def _with_search(backend: Backend, settings: Settings, search: bool) -> Backend:
    provider, target = backend.target.provider, backend.target
    server = find_server_override(provider, settings)
    own = provider.is_configured and provider.key_required == "never"
    chat = provider.wires.get("chat")
    is_chat = chat is not None and chat.wire is target.wire
    unknown = server.name in _UNKNOWN_SERVERS if server else provider.is_configured and provider.key_required == "never"
    return Backend(
        name=backend.name,
        target=target,
        tiers=backend.tiers,
        variables=backend.variables,
        searches_dialect=is_chat and (unknown or own or search),
    )
