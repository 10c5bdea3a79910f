"""`find_capabilities`: finds the limits and features of a model at the server that the settings select.

Facts that the command `doctor` has observed override the values of `models.toml`. Values of the configuration file
override both. `apply_capability_rules` applies the values of the configuration file.
"""

from fnmatch import fnmatchcase

from msgspec import structs

from anthropic_proxy.routing.catalog import Catalog, LearnedModel, ModelCapabilities
from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.routing.router.provider_setup import build_server_name, find_server_override
from anthropic_proxy.settings import Settings


def find_capabilities(provider: Provider, model: str, settings: Settings, catalog: Catalog) -> ModelCapabilities:
    """Return the limits and features (capabilities) of a provider's model at the server that is called.

    A base URL setting can select a server of another vendor, on which the same model may have other limits.
    """
    server = find_server_override(provider, settings)
    learned = _find_learned(provider, model, settings, catalog)
    if server is None:
        capabilities = catalog.cached_capabilities(provider.name, model, provider.models_table)
        return apply_capability_rules(provider, model, learned.apply(capabilities) if learned else capabilities)
    capabilities = catalog.cached_capabilities(server.models_table or provider.name, model)
    if not capabilities.known and server.capabilities:
        capabilities = structs.replace(capabilities, **server.capabilities)
    if server.accepts_pdf:
        capabilities = structs.replace(capabilities, accepts_pdf=True)
    return learned.apply(capabilities) if learned else capabilities


def _find_learned(provider: Provider, model: str, settings: Settings, catalog: Catalog) -> LearnedModel | None:
    """Return the facts that the command `doctor` stored about a model.

    None: no facts, or the server reports the capabilities itself (Ollama).
    """
    if provider.uses_installed_models or not catalog.has_learned_models:
        return None
    return catalog.find_learned_model(
        build_server_name(provider, settings.base_urls.get(provider.name, provider.base_url)), model
    )


def apply_capability_rules(provider: Provider, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
    """Return the limits and features of a model, with the changes from the configuration file.

    The file can contain such changes only for the providers that it defines, not for the built-in ones.
    """
    changes: dict[str, object] = {}
    for pattern, fields in provider.capability_rules:
        if fnmatchcase(model.lower(), pattern):
            changes.update(fields)
    return structs.replace(capabilities, **changes) if changes else capabilities
