"""`describe_unknown_prefix`: returns an error text if a model in the settings has an unknown provider prefix.

For example, the prefix `grok` of `BIG_MODEL=grok/grok-3` belongs to no provider.
"""

from anthropic_proxy.routing.providers import Provider, ProviderRegistry, find_registry
from anthropic_proxy.routing.router.model_names import ModelChoice
from anthropic_proxy.settings import TARGETS_SETTING, Settings
from anthropic_proxy.settings.values import find_similar_choice, join_with_or

_MIN_SIMILARITY = 0.7


def describe_unknown_prefix(choice: ModelChoice, settings: Settings) -> str:
    """Return an error text if the model of a setting has an unknown provider prefix. "": no such error."""
    prefix, slash, model = choice.model.partition("/")
    is_guess = bool(choice.variable and choice.note)  # no prefix and no model list has selected the provider
    if not slash or not is_guess or _has_ids_with_slash(choice.provider, settings):
        return ""
    registry = find_registry(settings)
    meant = _find_meant(prefix.lower(), registry)
    variable, known = choice.variable, [row.prefix for row in registry if row.offered_to_users]
    place = settings.origins.get(variable, "environment").replace(" line ", ", line ")
    where = "the environment" if place == "environment" else place
    is_list = variable.startswith(("FALLBACK_", TARGETS_SETTING))
    subject = f'{variable} contains "{choice.model}"' if is_list else f'{variable} is "{choice.model}"'
    hint = f" Did you mean {'' if is_list else variable + '='}{meant}/{model}" if meant else ""
    return (
        f"{subject}, but {prefix}/ is the prefix of no provider, and {choice.provider.prefix} has no such model. "
        f"Use {join_with_or(known)} as the prefix. Set in {where}.{hint}"
    )


def _has_ids_with_slash(row: Provider, settings: Settings) -> bool:
    """Return True if model ids of a provider may contain a slash that does not end a provider prefix."""
    is_own_server = row.is_configured or row.uses_installed_models or row.name in settings.base_urls
    if is_own_server or row.key_source == "google" or row.transport != "http":
        return True
    return any("/" in model for model in row.known_models)


def _find_meant(prefix: str, registry: ProviderRegistry) -> str:
    """Return the provider prefix that the user probably means by `prefix`: `xai` for `grok`, or a similar word.

    "": no similar prefix.
    """
    for row in registry:
        if any(model.startswith(f"{prefix}-") for model in row.known_models):
            return row.prefix
    offered = [word for row in registry if row.offered_to_users for word in (row.prefix, row.name)]
    similar = find_similar_choice(prefix, offered, _MIN_SIMILARITY)
    return next((row.prefix for row in registry if similar in (row.prefix, row.name)), "")
