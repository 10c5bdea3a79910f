"""`build_route`: finds the route of a client request, the list of targets for the upstream calls.

A `Target` is a provider, model, wire (API) and base URL. A `Route` has the target to call first, and its fallbacks.
`switch_wire` returns a target with another API. A relayed target receives the client's body with few changes. An
upstream is a provider and host, for which failures are counted. `Target.upstream` has both as one text.

The preferred provider serves Claude models, and unlisted ids without a prefix; `find_preferred_provider` returns it. A
Claude tier is a family of models (haiku, sonnet …). A `TierMapping` has the models that serve requests for one tier.
"""

from collections.abc import Sequence
from datetime import date
from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec import Struct, structs

from anthropic_proxy.errors import ClientError, InvalidRequest, UnknownModel, UnsupportedFeature
from anthropic_proxy.routing.catalog import Catalog, LearnedModel, ModelCapabilities
from anthropic_proxy.routing.providers import AnyWireConfig, Provider, ProviderRegistry, ServerOverride, find_registry
from anthropic_proxy.routing.providers.registry import RetiredModel
from anthropic_proxy.routing.router.model_names import (
    DEFAULT_MODEL_SUFFIX,
    ModelChoice,
    choose_models,
    choose_models_for_rule,
    choose_models_for_tier,
    resolve_model_name_and_tier,
)
from anthropic_proxy.routing.router.provider_setup import (
    build_server_name,
    describe_missing_key,
    find_base_url,
    find_server_override,
    is_preferable,
)
from anthropic_proxy.settings import TARGETS_SETTING, TIERS, ConfiguredRoute, Fidelity, Settings
from anthropic_proxy.settings.values import find_similar_choice, join_with_or
from anthropic_proxy.wire.contract import BaseDialect, RelayWire, Wire


class RoutingQuery(Struct, frozen=True):
    """The properties of a client request from which its route (list of providers and models) is computed."""

    model: str
    """Model id in the client request."""
    server_tools: frozenset[str] = frozenset()
    """Kinds of the server tools in the client request, without version (`web_search`). Empty: none."""
    rule: ConfiguredRoute | None = None
    """Route of the configuration file that matches the request. None: no route matches."""


class Target(Struct, frozen=True, kw_only=True, eq=False):
    """One provider, model, wire (API) and base URL for upstream calls."""

    provider: Provider
    """Registry entry of the provider to call."""
    model: str
    """Model id at the provider, without provider prefix."""
    wire: Wire[BaseDialect]
    """Wire (API) of the call: encoder of the request and decoder of the reply."""
    dialect: BaseDialect
    """Deviations of the provider and model from the API of `wire`, with all model rules and settings applied."""
    capabilities: ModelCapabilities
    """Limits and features of the model, such as its context window."""
    base_url: str
    """URL without a trailing slash. Contains `UNKNOWN_PROJECT` if no setting names the Google Cloud project."""
    model_setting: str = ""
    """Setting that names the model, with its source: `BIG_MODEL, .env line 4`. "": the client named the model."""
    weight: float = 1.0
    """Relative share of requests for this target, in a route with `balance = "weighted"`."""

    @property
    def is_relayed(self) -> bool:
        """True if the client's request and the provider's reply are forwarded without translation to another API.

        Only few fields are changed, such as `model`.
        """
        return isinstance(self.wire, RelayWire)

    @property
    def upstream(self) -> str:
        """Provider and host as one text, such as `openai api.openai.com`. Failures are counted for each such text."""
        return _name_upstream(self.provider.name, self.base_url)


class Route(Struct, frozen=True):
    """The targets (provider and model) of a client request in the order of the calls, with the reason for the log."""

    targets: Sequence[Target]
    """Targets in the order of the attempts: first choice, then fallbacks. Never empty."""
    reason: str
    """Text with the rule and setting that selected the first target, for the log."""
    notes: Sequence[str] = ()
    """Notices that are logged once: unexpected choices, and fallbacks that cannot serve requests."""
    fidelity: Fidelity = "best-effort"
    """`strict`: reject the request if a target can serve it only with losses. `best-effort`: serve it."""
    is_relayed: bool = False
    """True if `Target.is_relayed` is True for every target."""
    rule: ConfiguredRoute | None = None
    """Route of the configuration file that chose the targets. None: the model mapping of the settings."""


class TierMapping(Struct, frozen=True, kw_only=True):
    """The models to which one Claude tier (haiku, sonnet …) is mapped, and the setting that decides this."""

    tier: str
    """Name of the Claude tier: `opus`."""
    target: str
    """Model id with provider prefix: `openai/gpt-4.1`. Anthropic without a setting: `anthropic/claude-opus-…`."""
    reason: str
    """Deciding setting and its source: `BIG_MODEL, .env line 4`, `SMALL_MODEL, default`."""
    fallbacks: Sequence[str] = ()
    """Model ids with prefix, in the order of the attempts after `target`."""
    retirement: RetiredModel | None = None
    """Retirement of the model of `target`. None: not announced."""
    retiring_vendor: str = ""
    """Name of the provider or server that retires the model."""
    problems: Sequence[str] = ()
    """One error text per target or fallback that cannot serve requests, for example without a key."""


def build_route(query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
    """Return the route of a client request: its targets (provider and model) in the order of the calls.

    Raises `ClientError` with a remedy if no target can serve the request.
    """
    preferred_provider = find_preferred_provider(settings, catalog)
    rule = query.rule
    if rule is None:
        choices = choose_models(query.model, preferred_provider, settings, catalog)
        tier = choices[0].tier
    else:
        choices = choose_models_for_rule(rule, query.model, preferred_provider, settings, catalog)
        _, tier = resolve_model_name_and_tier(query.model, preferred_provider, settings)
    targets: list[Target] = []
    notes: list[str] = [choice.note for choice in choices if choice.note]
    refusal: ClientError | None = None
    for choice in choices:
        try:
            target = _build_target(choice, settings, catalog)
            targets.append(
                _prefer_wire_with_tools(target, query.server_tools, settings) if query.server_tools else target
            )
        except ClientError as error:
            refusal = refusal or error
            notes.append(error.message)
    if not targets and refusal is not None:
        raise refusal
    fidelity = settings.tier_fidelities.get(tier, settings.fidelity)
    return Route(targets, choices[0].reason, notes, fidelity, all(target.is_relayed for target in targets), rule)


def choose_preferred_provider_name(settings: Settings, ollama_models: Sequence[str] | None) -> str:
    """Return the name of the preferred provider, which serves Claude ids and unlisted ids without a prefix.

    `ollama_models` is None if Ollama has not replied.
    """
    if settings.preferred_provider is not None:
        return settings.preferred_provider
    registry = find_registry(settings)
    # Anthropic is last, because users of Claude Code often have its key in the environment
    for row in sorted(registry, key=lambda row: row.serves_claude):
        if row.offered_to_users and is_preferable(row, settings):
            return row.name
    if ollama_models is not None:
        return registry.local.name
    return next((row.name for row in registry if row.is_configured), registry.demo.name)


def should_query_ollama(settings: Settings) -> bool:
    """Return True if the proxy must query Ollama at its start: Ollama is, or may become, the preferred provider."""
    return choose_preferred_provider_name(settings, ()) == find_registry(settings).local.name


def find_preferred_provider(settings: Settings, catalog: Catalog) -> Provider:
    """Return the preferred provider, which serves Claude models, and unlisted model ids without a provider prefix.

    An id is unlisted if it is in the model list of no provider.
    """
    registry = find_registry(settings)
    return registry.find(choose_preferred_provider_name(settings, catalog.cached_model_ids(registry.local.name)))


def list_tier_mappings(settings: Settings, catalog: Catalog) -> list[TierMapping]:
    """Return the model mapping of each Claude tier, in the order haiku, sonnet, opus, fable."""
    preferred_provider = find_preferred_provider(settings, catalog)
    rows = []
    for tier in TIERS:
        choices = choose_models_for_tier(tier, f"claude-{tier}-…", preferred_provider, settings, catalog)
        first, *others = choices
        problems = (describe_choice_problem(choice, settings, catalog) for choice in choices)
        rows.append(
            TierMapping(
                tier=tier,
                target=first.prefixed_id,
                reason=first.model_setting,
                fallbacks=tuple(choice.prefixed_id for choice in others),
                retirement=find_retirement(first.provider, first.model, settings),
                retiring_vendor=_name_server(first.provider, settings),
                problems=tuple(filter(None, problems)),
            )
        )
    return rows


def switch_wire(target: Target, wire_name: str, settings: Settings) -> Target | None:
    """Return a copy of a target (provider and model) that uses the wire (API) `wire_name` instead.

    None: the provider does not offer this wire, or a setting fixes another one.
    """
    row, server = target.provider, find_server_override(target.provider, settings)
    if row.name in settings.wires or wire_name not in row.wires:
        return None
    config = _find_wire_config(row, server, wire_name)
    if config.custom_url_only and row.name not in settings.base_urls:
        return None
    dialect = _merge_dialect(config, target.model)
    return structs.replace(
        target,
        wire=config.wire,
        dialect=_apply_settings(dialect, config, settings),
        base_url=find_base_url(row, config, settings),
    )


@lru_cache(maxsize=256)
def _name_upstream(provider: str, base_url: str) -> str:
    return f"{provider} {base_url.partition('//')[2].partition('/')[0]}"


def _prefer_wire_with_tools(target: Target, wanted: frozenset[str], settings: Settings) -> Target:
    """Return the target with the wire (API) on which the provider runs most of the `wanted` server tools.

    The wire is kept if a base URL setting selects another server, because its server tools are unknown.
    """
    if find_server_override(target.provider, settings) is not None:
        return target
    others = (switch_wire(target, name, settings) for name in target.provider.wires)
    candidates = [target, *(other for other in others if other is not None and other.dialect is not target.dialect)]
    return max(candidates, key=lambda candidate: len(wanted.intersection(candidate.dialect.server_tools)))


def find_server_tools(provider: Provider, model: str, settings: Settings) -> frozenset[str]:
    """Return the kinds of the server tools that the provider itself runs for a model, over any of its APIs."""
    server = find_server_override(provider, settings)
    if server is not None or provider.name in settings.wires:
        configs = [_find_wire_config(provider, server, _pick_wire(provider, model, settings))]
    else:
        configs = [config for config in provider.wires.values() if not config.custom_url_only]
    return frozenset(kind for config in configs for kind in _merge_dialect(config, model).server_tools)


def describe_choice_problem(choice: ModelChoice, settings: Settings, catalog: Catalog) -> str:
    """Return the reason why a chosen model cannot serve requests, with a remedy. "": no problem."""
    try:
        _build_target(choice, settings, catalog)
    except ClientError as error:
        return error.message
    return describe_unknown_prefix(choice, settings) or describe_missing_key(choice.provider, settings)


def find_retirement(provider: Provider, model: str, settings: Settings) -> RetiredModel | None:
    """Return the retirement of a model, past or announced, at the server that is called. None: none is known there."""
    server = find_server_override(provider, settings)
    if server is not None and server.wires:
        return server.retired_models.get(model)
    return provider.retired_models.get(model)


def find_successor(target: Target, settings: Settings, catalog: Catalog, today: date) -> Target | None:
    """Return the target with the successor of a retired default model.

    None: the model is in use until after `today`, or a setting or the client names it.
    """
    retirement = find_retirement(target.provider, target.model, settings)
    is_default = target.model_setting.endswith(DEFAULT_MODEL_SUFFIX)
    if not is_default or retirement is None or date.fromisoformat(retirement.retired_on) > today:
        return None
    choice = ModelChoice(
        provider=target.provider,
        model=retirement.successor,
        reason="",
        model_setting=target.model_setting,
        variable=target.model_setting,
        weight=target.weight,
    )
    return _build_target(choice, settings, catalog)


def _name_server(row: Provider, settings: Settings) -> str:
    server = find_server_override(row, settings)
    return server.title if server is not None and server.title else row.title


def _build_target(choice: ModelChoice, settings: Settings, catalog: Catalog) -> Target:
    """Return the target for a chosen model. Raises `ClientError` if the model cannot chat or has no usable wire."""
    row, model = choice.provider, choice.model
    if row.transport == "demo":
        _require_demo(choice, settings, catalog)
    if reason := row.non_chat_models.get(model):
        retired = row.retired_models.get(row.default_big_model or "")
        alternative = f"{row.prefix}/{retired.successor if retired else row.default_big_model}"
        raise InvalidRequest(
            f"{choice.prefixed_id} {reason} and does not support chat. One that does is {alternative}. "
            f"Chat models of {row.prefix}:  anthropic-proxy models {row.prefix}"
        )
    if not model:
        example = f"{row.prefix}/<model>" if row.is_configured else "mistral/mistral-large-latest"
        raise InvalidRequest(
            f"{row.name} has no default models. Set BIG_MODEL and SMALL_MODEL, for example to {example}"
        )
    wire_name, server = _pick_wire(row, model, settings), find_server_override(row, settings)
    config = _find_wire_config(row, server, wire_name)
    if config.custom_url_only and row.name not in settings.base_urls:
        raise UnsupportedFeature(
            f"{choice.prefixed_id} cannot be reached: {row.title} does not support {wire_name}. "
            f"{row.env_prefix}_WIRE={wire_name} is for your own server: set its address in {row.base_url_variable}"
        )
    dialect = _merge_dialect(config, model)
    return Target(
        provider=row,
        model=model,
        wire=config.wire,
        dialect=_apply_settings(dialect, config, settings),
        capabilities=find_capabilities(row, model, settings, catalog),
        base_url=find_base_url(row, config, settings),
        model_setting=choice.model_setting if choice.variable else "",
        weight=choice.weight,
    )


def _require_demo(choice: ModelChoice, settings: Settings, catalog: Catalog) -> None:
    """Raise an error for a model of the demo, unless the demo is preferred or the setting `SERVE_DEMO` is on.

    Raises `InvalidRequest` (400) if a setting names the model, `UnknownModel` (404) if the client names it.
    """
    preferred_provider = find_preferred_provider(settings, catalog)
    if settings.serve_demo or preferred_provider is choice.provider:
        return
    name = preferred_provider.name
    refused = f"{choice.prefixed_id} is not served: the preferred provider is {name}. SERVE_DEMO=true serves both."
    if choice.model_setting:
        raise InvalidRequest(f"{choice.model_setting}: {refused}")
    raise UnknownModel(f"model: {refused}")


def _pick_wire(row: Provider, model: str, settings: Settings) -> str:
    requested = settings.wires.get(row.name)
    if requested is not None:
        return requested
    matching = (wire for pattern, wire in row.wire_rules if fnmatchcase(model.lower(), pattern))
    return next(matching, next(iter(row.wires)))


def _apply_settings(dialect: BaseDialect, config: AnyWireConfig, settings: Settings) -> BaseDialect:
    """Return a copy of the dialect in which settings of the user replace fields.

    `config.setting_overrides` maps a dialect field to a setting. A setting with the value None replaces nothing.
    """
    changes = {
        key: value for key, name in config.setting_overrides.items() if (value := getattr(settings, name)) is not None
    }
    return structs.replace(dialect, **changes) if changes else dialect


def _find_wire_config(row: Provider, server: ServerOverride | None, wire_name: str) -> AnyWireConfig:
    """Return the configuration of the wire `wire_name`, for the server of the base URL setting if one is known."""
    config = server.wires.get(wire_name) if server else None
    return config or row.wires[wire_name]


@lru_cache(maxsize=1024)
def _merge_dialect(config: AnyWireConfig, model: str) -> BaseDialect:
    changes: dict[str, object] = {}
    for rule in config.model_rules:
        if rule.matches_model(model):
            changes.update(rule.dialect_fields)
    dialect: BaseDialect = config.dialect
    return structs.replace(dialect, **changes) if changes else dialect


_MAX_ENTRIES = 1_024
"""Maximum number of cached routes. Further routes are computed for each request."""


class RouteCache:
    """Cache of routes, the lists of targets (provider and model) for requests."""

    def __init__(self) -> None:
        self._cached: tuple[Settings, Catalog, int, dict[RoutingQuery, Route]] | None = None
        """Settings, catalog and its edition, with the routes for them. A change replaces the tuple: a thread that still
        computes a route for the earlier contents adds it to the earlier dict."""
        self.some_relayed = False
        """True if any route returned by this cache is relayed."""

    def find_route(self, query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
        """Return the route of a client request from the cache, or from the function `build_route`.

        Raises the `ClientError` of `build_route`.
        """
        cached = self._cached
        if cached is None or cached[0] is not settings or cached[1] is not catalog or cached[2] != catalog.edition:
            cached = self._cached = settings, catalog, catalog.edition, {}
        routes = cached[3]
        route = routes.get(query)
        if route is None:
            route = build_route(query, settings, catalog)
            self.some_relayed = self.some_relayed or route.is_relayed
            if len(routes) < _MAX_ENTRIES:
                routes[query] = route
        return route


class FixedRouteCache(RouteCache):
    """Route cache that returns one given route for every request."""

    def __init__(self, route: Route) -> None:
        super().__init__()
        self._route = route

    def find_route(self, query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
        """Return the given route, for every query."""
        return self._route


_ANY_MODEL = "claude-sonnet"
"""Model id that stands for the requested one when a route has the target `default` (the model mapping). Problems of
this model are reported with the model mapping."""


def list_rule_choices(settings: Settings, catalog: Catalog) -> list[tuple[ConfiguredRoute, ModelChoice]]:
    """Return the models that routes of the configuration file name by id, each with the first route that names it.

    Targets that are a Claude tier, or `default`, are not included.
    """
    found: dict[str, tuple[ConfiguredRoute, ModelChoice]] = {}
    preferred = find_preferred_provider(settings, catalog)
    for rule in settings.routes:
        for choice in choose_models_for_rule(rule, _ANY_MODEL, preferred, settings, catalog):
            if choice.variable == rule.targets_setting:
                found.setdefault(choice.prefixed_id, (rule, choice))
    return list(found.values())


def list_rule_problems_and_warnings(settings: Settings, catalog: Catalog) -> tuple[list[str], list[str]]:
    """Return two lists of texts about models in routes: problems that prevent replies, and warnings."""
    problems, warnings = [], []
    for rule, choice in list_rule_choices(settings, catalog):
        if problem := describe_choice_problem(choice, settings, catalog):
            problems.append(problem if rule.name in problem else f"The {rule.label}: {problem}")
        elif choice.note:
            warnings.append(
                f'{rule.targets_setting} contains "{choice.model}", which has no prefix and is in no model list, so it '
                f"is sent to {choice.provider.prefix}. Write {choice.prefixed_id}, or the prefix of another provider. "
                f"Set in {rule.origin.replace(' line ', ', line ')}."
            )
    return problems, warnings


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
