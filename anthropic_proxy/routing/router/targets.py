"""Routes of client requests: the ordered targets (provider, model, wire, base URL) for the upstream calls."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from msgspec import Struct, structs

from anthropic_proxy.errors import ClientError, InvalidRequest, UnknownModel, UnsupportedFeature
from anthropic_proxy.routing.catalog import Catalog, ModelCapabilities
from anthropic_proxy.routing.providers import PROVIDERS, AnyWireConfig, Provider, ServerOverride, find_provider
from anthropic_proxy.routing.providers.registry import RetiredModel
from anthropic_proxy.routing.router.model_names import ModelChoice, choose_models, choose_models_for_tier
from anthropic_proxy.routing.router.provider_setup import describe_missing_key, find_base_url, find_server_override
from anthropic_proxy.settings import TIERS, Fidelity, Settings
from anthropic_proxy.wire.contract import BaseDialect, RelayWire, Wire

_PREFERENCE_ORDER = tuple(
    row
    for row in sorted(PROVIDERS, key=lambda row: row.serves_claude)
    if row.offered_to_users and (row.key_required != "never" or row.key_source != "settings")
)
"""Candidates for the preferred provider without `PREFERRED_PROVIDER`. The first one with a key or project is used.

Anthropic is last, because users of Claude Code often have its key in the environment.
"""
_LOCAL_PROVIDER = next(row.name for row in PROVIDERS if row.uses_installed_models)
_DEMO = next(row.name for row in PROVIDERS if row.transport == "demo")


class RoutingQuery(Struct, frozen=True):
    """The properties of a client request that the route depends on. Key of `RouteCache`."""

    model: str
    """Model id in the client request."""
    server_tools: frozenset[str] = frozenset()
    """Kinds of the server tools in the client request, without version (`web_search`). Empty: none."""


class Target(Struct, frozen=True, kw_only=True, eq=False):
    """One provider, model and wire (API) for upstream calls. Compared by identity, for use as a dict key."""

    provider: Provider
    model: str
    """Model id of the provider, without prefix."""
    wire: Wire[BaseDialect]
    dialect: BaseDialect
    """Deviations of the provider and model from the API of `wire`, with all model rules and settings applied."""
    capabilities: ModelCapabilities
    base_url: str
    """URL without a trailing slash. Contains `UNKNOWN_PROJECT` if no setting names the Google Cloud project."""
    model_setting: str = ""
    """Setting that names the model, with its source: `BIG_MODEL, .env line 4`. "": the client named the model."""

    @property
    def is_relayed(self) -> bool:
        """True if `wire` forwards the Messages API request and reply, instead of encoding and decoding."""
        return isinstance(self.wire, RelayWire)

    @property
    def upstream(self) -> str:
        """Provider and host (`openai api.openai.com`). Key of circuit breakers and retry budgets."""
        return _name_upstream(self.provider.name, self.base_url)


class Route(Struct, frozen=True):
    """The ordered targets of a client request, with the reason for the log."""

    targets: Sequence[Target]
    """Targets in the order of the attempts: first choice, then fallbacks. Never empty."""
    reason: str
    """Reason for the first choice, for the log."""
    notes: Sequence[str] = ()
    """Notices to log once: unexpected choices, and fallbacks that cannot serve."""
    fidelity: Fidelity = "best-effort"
    """`strict`: reject the request if a target can serve it only with losses. `best-effort`: serve it."""
    is_relayed: bool = False
    """True if `Target.is_relayed` is True for every target."""


class TierMapping(Struct, frozen=True, kw_only=True):
    """Models that one Claude tier is mapped to, for the start-up summary and `GET /v1/models`."""

    tier: str
    target: str
    """Model id with prefix: `openai/gpt-4.1`. Anthropic without a setting: `anthropic/claude-opus-…`."""
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


def resolve_route(query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
    """Return the route of a client request. Raises `ClientError` with a remedy if no target can serve the request."""
    preferred_provider = find_preferred_provider(settings, catalog)
    choices = choose_models(query.model, preferred_provider, settings, catalog)
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
    first = choices[0]
    fidelity = settings.tier_fidelities.get(first.tier, settings.fidelity)
    return Route(targets, first.reason, notes, fidelity, all(target.is_relayed for target in targets))


def preferred_provider_name(settings: Settings, ollama_models: Sequence[str] | None) -> str:
    """Return the name of the preferred provider, used for Claude tiers and unlisted model ids without a prefix.

    `ollama_models`: installed models of Ollama, a candidate without any key. None: no reply, or not queried.
    """
    if settings.preferred_provider is not None:
        return settings.preferred_provider
    for row in _PREFERENCE_ORDER:
        if settings.keys.get(row.name) or (row.key_source == "google" and settings.vertex_project):
            return row.name
    return _DEMO if ollama_models is None else _LOCAL_PROVIDER


def should_query_ollama(settings: Settings) -> bool:
    """Return True if start-up must query the models of Ollama: it is preferred, or no provider has a key."""
    return preferred_provider_name(settings, ()) == _LOCAL_PROVIDER


def find_preferred_provider(settings: Settings, catalog: Catalog) -> Provider:
    """Return the provider used for Claude tiers and unlisted model ids without a prefix."""
    return find_provider(preferred_provider_name(settings, catalog.cached_model_ids(_LOCAL_PROVIDER)))


def list_tier_mappings(settings: Settings, catalog: Catalog) -> list[TierMapping]:
    """Return the models that each Claude tier is mapped to, in the order haiku, sonnet, opus, fable."""
    preferred_provider = find_preferred_provider(settings, catalog)
    rows = []
    for tier in TIERS:
        choices = choose_models_for_tier(tier, f"claude-{tier}-…", preferred_provider, settings, catalog)
        first, *others = choices
        problems = (_find_problem(choice, settings, catalog) for choice in choices)
        rows.append(
            TierMapping(
                tier=tier,
                target=first.prefixed_id,
                reason=first.model_setting,
                fallbacks=tuple(choice.prefixed_id for choice in others),
                retirement=_find_retired(first, settings),
                retiring_vendor=_name_server(first.provider, settings),
                problems=tuple(filter(None, problems)),
            )
        )
    return rows


def switch_wire(target: Target, wire_name: str, settings: Settings) -> Target | None:
    """Return a copy of the target with another wire (API) of the provider.

    None: the provider does not support the wire, or a setting selects the wire of the provider.
    """
    row, server = target.provider, find_server_override(target.provider, settings)
    if row.name in settings.wires or wire_name not in row.wires:
        return None
    config = _find_wire_config(row, server, wire_name)
    if config.custom_url_only and row.name not in settings.base_urls:
        return None
    dialect = _merge_dialect(row.name, server.name if server else "", wire_name, target.model)
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
    """Return the target with the wire on which the provider runs most of the `wanted` server tools.

    The wire changes only if no server entry applies. The server tools of other servers are unknown.
    """
    if find_server_override(target.provider, settings) is not None:
        return target
    others = (switch_wire(target, name, settings) for name in target.provider.wires)
    candidates = [target, *(other for other in others if other is not None and other.dialect is not target.dialect)]
    return max(candidates, key=lambda candidate: len(wanted.intersection(candidate.dialect.server_tools)))


def _find_problem(choice: ModelChoice, settings: Settings, catalog: Catalog) -> str:
    try:
        _build_target(choice, settings, catalog)
    except ClientError as error:
        return error.message
    return describe_missing_key(choice.provider, settings)


def _find_retired(choice: ModelChoice, settings: Settings) -> RetiredModel | None:
    """Return the retirement of a model at the called server. Another server may continue to serve the model."""
    server = find_server_override(choice.provider, settings)
    if server is not None and server.wires:
        return server.retired_models.get(choice.model)
    return choice.provider.retired_models.get(choice.model)


def _name_server(row: Provider, settings: Settings) -> str:
    server = find_server_override(row, settings)
    return server.title if server is not None and server.title else row.title


def _build_target(choice: ModelChoice, settings: Settings, catalog: Catalog) -> Target:
    """Return the target of a choice. Raises `ClientError` if the model cannot chat or the wire is unavailable."""
    row, model = choice.provider, choice.model
    if row.transport == "demo":
        _require_demo(choice, settings, catalog)
    if reason := row.non_chat_models.get(model):
        retired = row.retired_models.get(row.default_big_model or "")
        alternative = f"{row.prefix}/{retired.successor if retired else row.default_big_model}"
        raise InvalidRequest(
            f"{choice.prefixed_id} {reason} and cannot chat. One that can is {alternative}; "
            "GET /v1/models lists them all."
        )
    if not model:
        raise InvalidRequest(
            f"{row.name} has no default models. Set BIG_MODEL and SMALL_MODEL, for example to "
            "mistral/mistral-large-latest"
        )
    wire_name, server = _pick_wire(row, model, settings), find_server_override(row, settings)
    config = _find_wire_config(row, server, wire_name)
    if config.custom_url_only and row.name not in settings.base_urls:
        raise UnsupportedFeature(
            f"{choice.prefixed_id} cannot be reached: {row.title} does not support {wire_name}. "
            f"{row.env_prefix}_WIRE={wire_name} is for your own server: set its address in {row.base_url_variable}"
        )
    dialect = _merge_dialect(row.name, server.name if server else "", wire_name, model)
    return Target(
        provider=row,
        model=model,
        wire=config.wire,
        dialect=_apply_settings(dialect, config, settings),
        capabilities=find_capabilities(row, model, settings, catalog),
        base_url=find_base_url(row, config, settings),
        model_setting=choice.model_setting if choice.variable else "",
    )


def _require_demo(choice: ModelChoice, settings: Settings, catalog: Catalog) -> None:
    """Raise an error unless the demo is the preferred provider or `SERVE_DEMO` is set.

    Raises `InvalidRequest` (400) for a model named by a setting, `UnknownModel` (404) for one named by the client.
    """
    preferred_provider = find_preferred_provider(settings, catalog)
    if settings.serve_demo or preferred_provider is choice.provider:
        return
    name = preferred_provider.name
    refused = f"{choice.prefixed_id} is not served: the preferred provider is {name}. SERVE_DEMO=true serves both."
    if choice.model_setting:
        raise InvalidRequest(f"{choice.model_setting}: {refused}")
    raise UnknownModel(f"model: {refused}")


def find_capabilities(row: Provider, model: str, settings: Settings, catalog: Catalog) -> ModelCapabilities:
    """Return the capabilities of a model at the server that the base URL setting of the provider selects."""
    server = find_server_override(row, settings)
    if server is None:
        return catalog.cached_capabilities(row.name, model)
    capabilities = catalog.cached_capabilities(server.models_table or row.name, model)
    if not capabilities.known and server.capabilities:
        capabilities = structs.replace(capabilities, **server.capabilities)
    return structs.replace(capabilities, accepts_pdf=True) if server.accepts_pdf else capabilities


def _pick_wire(row: Provider, model: str, settings: Settings) -> str:
    requested = settings.wires.get(row.name)
    if requested is not None:
        return requested
    matching = (wire for pattern, wire in row.wire_rules if fnmatchcase(model.lower(), pattern))
    return next(matching, next(iter(row.wires)))


def _apply_settings(dialect: BaseDialect, config: AnyWireConfig, settings: Settings) -> BaseDialect:
    """Return the dialect with all fields replaced that `config.setting_overrides` maps to a set setting."""
    changes = {
        key: value for key, name in config.setting_overrides.items() if (value := getattr(settings, name)) is not None
    }
    return structs.replace(dialect, **changes) if changes else dialect


def _find_wire_config(row: Provider, server: ServerOverride | None, wire_name: str) -> AnyWireConfig:
    """Return the wire config of the configured server, else of the provider."""
    config = server.wires.get(wire_name) if server else None
    return config or row.wires[wire_name]


@lru_cache(maxsize=1024)
def _merge_dialect(provider: str, server_name: str, wire_name: str, model: str) -> BaseDialect:
    row = find_provider(provider)
    server = next((server for server in row.servers if server.name == server_name), None)
    config = _find_wire_config(row, server, wire_name)
    changes: dict[str, object] = {}
    for rule in config.model_rules:
        if rule.matches_model(model):
            changes.update(rule.dialect_fields)
    dialect: BaseDialect = config.dialect
    return structs.replace(dialect, **changes) if changes else dialect


_MAX_ENTRIES = 1_024
"""Maximum number of cached routes. Further routes are resolved for each request."""


class RouteCache:
    """Cache of routes by `RoutingQuery`, because clients request few models repeatedly."""

    def __init__(self) -> None:
        self._routes: dict[RoutingQuery, Route] = {}
        self._inputs: tuple[Settings, Catalog, int] | None = None
        self.some_relayed = False
        """True if any route returned by this cache is relayed."""

    def find_route(self, query: RoutingQuery, settings: Settings, catalog: Catalog) -> Route:
        """Return the route of a client request, cached or new. Raises `ClientError` as the function `resolve_route`.

        Changed settings or catalog contents clear the cache.
        """
        inputs = self._inputs
        if inputs is None or inputs[0] is not settings or inputs[1] is not catalog or inputs[2] != catalog.edition:
            self._routes.clear()
            self._inputs = settings, catalog, catalog.edition
        route = self._routes.get(query)
        if route is None:
            route = resolve_route(query, settings, catalog)
            self.some_relayed = self.some_relayed or route.is_relayed
            if len(self._routes) < _MAX_ENTRIES:
                self._routes[query] = route
        return route
