"""Why a model of the settings cannot be called, as an error text with a remedy."""

from anthropic_proxy.engine.options import EngineOptions, format_origin_in_sentence
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.hosts import describe_missing_key, find_netloc, find_server_name, has_own_list
from anthropic_proxy.engine.routing.choices import (
    ModelChoice,
    ModelSetting,
    find_preferred_provider,
    list_route_choices,
    split_prefix,
    suggest_prefixes,
    without_suffix,
)
from anthropic_proxy.engine.routing.targets import Target, build_target
from anthropic_proxy.errors import ClientError


def list_rule_problems_and_warnings(settings: EngineOptions, catalog: Catalog) -> tuple[list[str], list[str]]:
    problems, warnings = [], []
    for route, choice in list_route_choices(settings, catalog):
        if problem := describe_choice_problem(choice, settings, catalog):
            problems.append(problem if route.name in problem else f"The {route.label}: {problem}")
        elif choice.note and (setting := choice.model_setting) is not None:
            warnings.append(
                f'{route.targets_setting} contains "{choice.model}", which has no prefix and is in no model list, so '
                f"it is sent to {choice.provider.prefix}. Write {choice.prefixed_id}, or the prefix of another "
                f"provider.{_place_of(setting, settings)}"
            )
    return problems, warnings


def describe_choice_problem(choice: ModelChoice, settings: EngineOptions, catalog: Catalog) -> str:
    try:
        build_target(choice, settings, catalog)
    except ClientError as error:
        return error.message
    setting = choice.model_setting
    if setting is not None and choice.note:  # with a note, no prefix and no model list chose the provider
        problem = describe_unknown_prefix(
            choice.model,
            choice.provider,
            settings,
            subject=_subject_of(setting),
            lead=_lead_of(setting),
            place=_place_of(setting, settings),
        )
        if problem:
            return problem
    return describe_missing_key_of(choice, settings, catalog)


def describe_missing_key_of(choice: ModelChoice | Target, settings: EngineOptions, catalog: Catalog) -> str:
    """Return an error text with a remedy if the provider of a model has no key, or has it only under its whole name.
    "": it can be called.

    The name in a setting may be the id at another server: `google/gemini-2.5-pro` is one of OpenRouter, and so is
    `openai/gpt-5`, of which the prefix is removed. Then the remedy is the line with the prefix of that server. Before
    its list of models is read, it is the second of two remedies, for a name with another prefix than ours.
    """
    provider, setting = choice.provider, choice.model_setting
    problem = describe_missing_key(provider, settings)
    if setting is None or "/" not in setting.value or provider.transport != "http":
        return problem
    name, preferred = without_suffix(setting.value), find_preferred_provider(settings, catalog)
    # with the log-in of the client, only models that the proxy knows are surely meant
    is_known = not provider.accepts_client_credential or choice.model in provider.known_models
    is_served = settings.keys.get(provider.name) or (not problem and is_known)
    for row in (preferred, *find_registry(settings)):
        if not has_own_list(row, settings) or row.transport != "http" or describe_missing_key(row, settings):
            continue
        listed = catalog.cached_model_ids(row.name) or catalog.list_reported_models(find_server_name(row, settings))
        if is_served and (row is not provider or choice.model in (name, *listed)):
            continue
        host = find_netloc(settings.base_urls.get(row.name, row.base_url))
        line = f"{_lead_of(setting)}{row.prefix}/{setting.value}"
        if name in listed:
            cause = f"a model of {provider.prefix}, which has no key"
            if row is provider:
                cause = f"of which the prefix is removed, so {choice.model} is requested"
            return (
                f'{_subject_of(setting)} "{setting.value}", {cause}. {host} lists this name.'
                f"{_place_of(setting, settings)} Did you mean:  {line}"
            )
        if problem and row is preferred and not listed and not setting.value.startswith(f"{provider.prefix}/"):
            return f"{problem} Or, for the model of {host}:  {line}"
    return problem


def _subject_of(setting: ModelSetting) -> str:
    return f"{setting.name} {'contains' if setting.is_list else 'is'}"


def _lead_of(setting: ModelSetting) -> str:
    return "" if setting.is_list else f"{setting.name}="


def _place_of(setting: ModelSetting, settings: EngineOptions) -> str:
    place = format_origin_in_sentence(settings.origins.get(setting.name, "environment"))
    return f" Set in {'the environment' if place == 'environment' else place}."


def has_plain_model_names(provider: Provider, settings: EngineOptions) -> bool:
    """Return True if no model id of `provider` contains a slash, so that a text before one is the prefix of a
    provider."""
    is_own_server = provider.is_configured or provider.uses_installed_models or provider.name in settings.base_urls
    if is_own_server or provider.key_source != "settings" or provider.transport != "http":
        return False
    return not any("/" in model_id for model_id in provider.known_models)


def describe_unknown_prefix(
    name: str, provider: Provider, settings: EngineOptions, *, subject: str, lead: str, place: str = ""
) -> str:
    """Return an error text if `name`, which would be sent to `provider`, begins with the prefix of no provider.

    "": the name has no such prefix, or `provider` may have it. `subject` begins the text, `place` follows the
    sentences, and `lead` stands before the name that the user may have meant.
    """
    prefix, slash, model = name.partition("/")
    registry = find_registry(settings)
    if not slash or split_prefix(name, registry)[0] is not None or not has_plain_model_names(provider, settings):
        return ""
    return (
        f'{subject} "{name}", but {prefix}/ is the prefix of no provider, and {provider.prefix} has no such model. '
        f"{suggest_prefixes(prefix, model, registry, lead=lead, place=place)}"
    )


def describe_guess(target: Target, settings: EngineOptions) -> str:
    """Return sentences about a provider that was chosen without a prefix and a model list, for an error of it."""
    prefix, slash, model = target.model.partition("/")
    if not slash:
        return f"The name has no prefix and is in no model list, so it was sent to {target.provider.prefix}."
    cause = f"No provider has the prefix {prefix}/, so the name was sent to {target.provider.prefix}."
    return f"{cause} {suggest_prefixes(prefix, model, find_registry(settings))}"
