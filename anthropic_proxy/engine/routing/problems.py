"""Problems of the models that settings name: why each cannot be called."""

from collections.abc import Iterator, Sequence

from msgspec import Struct, structs

from anthropic_proxy.engine.advice import Problem, ProblemKind, report_problem, report_warning
from anthropic_proxy.engine.options import EngineOptions, format_origin_in_sentence
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.hosts import find_missing_key, find_netloc, find_server_name, has_own_list
from anthropic_proxy.engine.routing.choices import (
    ModelChoice,
    ModelSetting,
    find_preferred_provider,
    list_route_choices,
    split_prefix,
    suggest_prefixes,
    without_suffix,
)
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target, build_target, sees
from anthropic_proxy.errors import ClientError


class OwnServers(Struct, frozen=True):
    """The servers that list models of their own and can be called."""

    preferred: Provider
    servers: Sequence[Provider]
    """The preferred provider is the first, if it is one of them."""


def find_route_problems(settings: EngineOptions, catalog: Catalog) -> list[Problem]:
    """Return the problems of models that routes of the file name by id."""
    found, own = [], find_own_servers(settings, catalog)
    for route, choice in list_route_choices(settings, catalog):
        if problem := find_choice_problem(choice, settings, catalog, own):
            found.append(problem if route.name in problem.text else structs.replace(problem, route=route.label))
        elif choice.note and (setting := choice.model_setting) is not None:
            place, prefix = _place_of(setting, settings), choice.provider.prefix
            facts = {"model": choice.model, "provider": prefix, "place": place}
            found.append(report_warning(ProblemKind.UNLISTED_MODEL, route.targets_setting, **facts))
    return found


def find_image_problems(settings: EngineOptions, catalog: Catalog) -> Iterator[Problem]:
    """Yield the problems of models that describe pictures."""
    named = {f"image_model of {route.label}": route.image_model for route in settings.routes}
    named["model of [images]"] = None if settings.images is None else settings.images.model
    for subject, model in named.items():
        if model is None:
            continue
        try:
            target = build_plan(RoutingQuery(model), settings, catalog).targets[0]
        except ClientError as error:
            yield report_warning(ProblemKind.REFUSED_MODEL, subject, reason=error.message)
            continue
        if missing := find_missing_key(target.provider, settings):
            yield structs.replace(missing, severity="warning")
        elif not sees(target):
            yield report_warning(ProblemKind.UNSEEING_MODEL, subject, model=target.prefixed_id)


def find_choice_problem(
    choice: ModelChoice, settings: EngineOptions, catalog: Catalog, own: OwnServers
) -> Problem | None:
    """`own`: from `find_own_servers`, once for all choices."""
    setting = choice.model_setting
    try:
        build_target(choice, settings, catalog)
    except ClientError as error:
        return report_problem(ProblemKind.REFUSED_MODEL, str(setting or choice.prefixed_id), reason=error.message)
    if setting is not None and choice.note:  # with a note, no prefix and no model list chose the provider
        place = _place_of(setting, settings)
        problem = find_unknown_prefix(
            choice.model, choice.provider, settings, named=_name(setting), lead=_lead_of(setting), place=place
        )
        if problem:
            return problem
    return find_missing_key_of(choice, settings, catalog, own)


def find_missing_key_of(
    choice: ModelChoice | Target, settings: EngineOptions, catalog: Catalog, own: OwnServers | None = None
) -> Problem | None:
    """Return the problem that the provider of a model has no key, or has it only under its whole name. None: it can be
    called.

    The name in a setting may be the id at another server: `google/gemini-2.5-pro` is one of OpenRouter, and so is
    `openai/gpt-5`, of which the prefix is removed. Then the remedy is the line with the prefix of that server. Before
    its list of models is read, it is the second of two remedies, for a name with another prefix than ours.
    """
    provider, setting = choice.provider, choice.model_setting
    problem = find_missing_key(provider, settings)
    if setting is None or "/" not in setting.value or provider.transport != "http":
        return problem
    name, own = without_suffix(setting.value), own or find_own_servers(settings, catalog)
    # with the log-in of the client, only models that the proxy knows are surely meant
    is_known = not provider.accepts_client_credential or choice.model in provider.known_models
    is_served = settings.keys.get(provider.name) or (not problem and is_known)
    for row in own.servers:
        if is_served and row is not provider:
            continue
        listed = catalog.cached_model_ids(row.name) or catalog.list_reported_models(find_server_name(row, settings))
        if is_served and choice.model in (name, *listed):
            continue
        facts = {
            "host": find_netloc(settings.base_urls.get(row.name, row.base_url)),
            "line": f"{_lead_of(setting)}{row.prefix}/{setting.value}",
        }
        if name in listed:
            facts |= {"named": _name(setting), "model": setting.value, "provider": provider.prefix}
            facts |= {"sent": choice.model, "place": _place_of(setting, settings)}
            kind = ProblemKind.REMOVED_PREFIX if row is provider else ProblemKind.MODEL_OF_OTHER_HOST
            return report_problem(kind, setting.name, **facts)
        if problem and row is own.preferred and not listed and not setting.value.startswith(f"{provider.prefix}/"):
            facts |= {"cause": problem.cause, "remedy": problem.remedy}
            return report_problem(ProblemKind.NO_KEY_HERE, provider.name, **facts)
    return problem


def find_own_servers(settings: EngineOptions, catalog: Catalog) -> OwnServers:
    preferred = find_preferred_provider(settings, catalog)
    rows = [row for row in (preferred, *find_registry(settings)) if row.transport == "http"]
    return OwnServers(
        preferred, [row for row in rows if has_own_list(row, settings) and not find_missing_key(row, settings)]
    )


def _name(setting: ModelSetting) -> str:
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


def find_unknown_prefix(
    name: str, provider: Provider, settings: EngineOptions, *, named: str, lead: str, place: str = ""
) -> Problem | None:
    """Return the problem that `name`, which would be sent to `provider`, begins with the prefix of no provider.

    None: the name has no such prefix, or `provider` may have it. `named` begins the text, `place` follows the
    sentences, and `lead` stands before the name that the user may have meant.
    """
    prefix, slash, model = name.partition("/")
    registry = find_registry(settings)
    if not slash or split_prefix(name, registry)[0] is not None or not has_plain_model_names(provider, settings):
        return None
    facts = {"named": named, "model": name, "prefix": prefix, "provider": provider.prefix}
    prefixes = suggest_prefixes(prefix, model, registry, lead=lead, place=place)
    return report_problem(ProblemKind.UNKNOWN_PREFIX, named, prefixes=prefixes, **facts)


def describe_guess(target: Target, settings: EngineOptions) -> str:
    """Return sentences about a provider that was chosen without a prefix and a model list, for an error of it."""
    prefix, slash, model = target.model.partition("/")
    if not slash:
        return f"The name has no prefix and is in no model list, so it was sent to {target.provider.prefix}."
    cause = f"No provider has the prefix {prefix}/, so the name was sent to {target.provider.prefix}."
    return f"{cause} {suggest_prefixes(prefix, model, find_registry(settings))}"
