"""Reader of `config.yaml` of LiteLLM's proxy (docs.litellm.ai, "Proxy config", read 2026-11)."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Meta, Struct, structs

from anthropic_proxy.cli.importing.built_in import find_built_in_provider, find_built_in_registry
from anthropic_proxy.cli.importing.parts import Scalar, accepts, decode_address, decode_part, decode_tokens
from anthropic_proxy.cli.importing.plan import ImportPlan, find_referenced_variable
from anthropic_proxy.cli.importing.rules import EMPTY, FieldRule, load_rules, read_fields
from anthropic_proxy.cli.importing.servers import ImportedServer, ServerTables
from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.lookup import find_vendor_of_litellm
from anthropic_proxy.engine.routing.choices import find_tier
from anthropic_proxy.gateway.settings.values import decode_model, remove_endpoint

_PREFIXES = {"ollama_chat": "ollama", "vertex_ai_beta": "vertex_ai"}
"""Provider prefix in model ids of LiteLLM → prefix of this proxy, for prefixes that differ."""
_COMPATIBLE = frozenset(
    {"openai", "hosted_vllm", "openai_like", "custom_openai", "lm_studio", "text-completion-openai"}
)
"""Prefixes of LiteLLM for any server with the Chat Completions API; the setting `api_base` has its address."""
_VENDOR_URLS = {"volcengine": "https://ark.cn-beijing.volces.com/api/v3"}
"""Vendor → base URL that LiteLLM calls, if it is not that of our entry, here that of the coding plan."""
_ID_STARTS = {"fireworks": "accounts/fireworks/models/"}
"""Vendor → what LiteLLM puts before each model id that begins otherwise (its `transform_request`, read 2026-11-26)."""
_CLOUD_RULES = {
    "vertex_ai": (
        FieldRule("vertex_project", setting="VERTEX_PROJECT"),
        FieldRule("vertex_location", setting="VERTEX_LOCATION"),
    ),
    "bedrock": (FieldRule("aws_region_name", setting="AWS_REGION"),),
}
"""Prefix of a cloud → rules of its parameters."""
_LIMITS = {"max_output_tokens": "max_output", "max_input_tokens": "max_input"}
"""Field of `model_info` → field of a model table in the configuration file."""
_SETTING_RULES = (
    FieldRule("master_key", setting="PROXY_API_KEY"),
    FieldRule("request_timeout", setting="UPSTREAM_TIMEOUT", decode=lambda _plan, _path, text: text.removesuffix(".0")),
    FieldRule("timeout", setting="UPSTREAM_TIMEOUT", decode=lambda _plan, _path, text: text.removesuffix(".0")),
    FieldRule("set_verbose", setting="LOG_LEVEL", decode=lambda _plan, _path, text: "debug" if text == "True" else ""),
    FieldRule("json_logs", setting="LOG_FORMAT", decode=lambda _plan, _path, text: "json" if text == "True" else ""),
)
"""Rules of the entries of all sections that are settings here."""
_SECTIONS = ("general_settings", "litellm_settings", "router_settings")
_BALANCES = {"simple-shuffle": "weighted", "latency-based-routing": "latency"}
"""`routing_strategy` of LiteLLM → `balance` of a route."""
LITELLM_SECTIONS = frozenset({"model_list", *_SECTIONS})
"""Names of sections, at least one of which a configuration file has."""
_RATES = ("weight", "rpm", "tpm")
_WIRES = {"anthropic": "messages", "gemini": "gemini", "ollama": "ollama"}
"""Prefix → API of its servers, apart from that of OpenAI."""
_ANTHROPIC = "anthropic/*"
"""Model that stands for the requested Claude model at Anthropic."""
_NO_ENTRY = "no imported entry of model_list has the model_name"
_CATCH_ALL = ("claude-*", "*")
_VERSION = compile_later(r"\d+")
_NEAREST = {
    "haiku": ("sonnet", "opus", "fable"),
    "sonnet": ("opus", "fable", "haiku"),
    "opus": ("sonnet", "fable", "haiku"),
    "fable": ("opus", "sonnet", "haiku"),
}
"""Claude tier → other tiers, the nearest first. Its model is that of the first with one, if it has none itself."""


_Number = Annotated[float, Meta(ge=0, le=1e12)] | None


class _File(Struct):
    model_list: list[Any] | None = None
    general_settings: dict[str, Any] | None = None
    litellm_settings: dict[str, Any] | None = None
    router_settings: dict[str, Any] | None = None
    environment_variables: dict[str, Any] | None = None


class _Settings(Struct):
    """The fields of the three sections with settings that choose models."""

    fallbacks: list[Any] | None = None
    default_fallbacks: list[str] | None = None
    model_group_alias: dict[str, Any] | None = None
    routing_strategy: Scalar = None


class _Entry(Struct):
    """One entry of `model_list`."""

    model_name: Scalar = None
    litellm_params: dict[str, Any] | None = None
    model_info: dict[str, Any] | None = None
    weight: _Number = None
    rpm: _Number = None
    tpm: _Number = None


class _Parameters(Struct):
    """The imported fields of `litellm_params`."""

    model: Scalar = None
    api_base: Scalar = None
    base_url: Scalar = None
    api_key: Scalar = None
    vertex_project: Scalar = None
    vertex_location: Scalar = None
    aws_region_name: Scalar = None
    max_tokens: Scalar = None
    order: _Number = None
    weight: _Number = None
    rpm: _Number = None
    tpm: _Number = None


class _Deployment(Struct, frozen=True):
    """One entry of `model_list`: a model of one server."""

    target: str
    """Model with the prefix of this proxy."""
    order: int
    """Entries with a lower number are called first."""
    rates: tuple[int, ...]
    """Those of `_RATES`. 0: not set."""


def read_litellm_config(config: Mapping[str, Any]) -> ImportPlan:
    plan = ImportPlan("LiteLLM")
    rules = load_rules("litellm")
    file = decode_part(plan, config, _File)
    groups = _place_models(plan, file.model_list or [])
    models = {name: list(dict.fromkeys(deployment.target for deployment in group)) for name, group in groups.items()}
    sections = {name: getattr(file, name) or {} for name in _SECTIONS}
    settings = decode_part(
        plan, {name: value for section in sections.values() for name, value in section.items()}, _Settings
    )
    names = {name: name for name in models}
    for alias, value in (settings.model_group_alias or {}).items():
        names[alias] = str(value.get("model", "") if isinstance(value, dict) else value)
    every = _choose_tiers(plan, names, models)
    chosen = {tier: name for tier, name in every.items() if models[name][0] != _ANTHROPIC}
    _note_missing_tiers(plan, file.model_list or [], names, models, chosen)
    chains = _read_fallbacks(plan, settings, models)
    following = {tier: [*models[name][1:], *chains[name]] for tier, name in chosen.items()}
    plan.set_tier_models({tier: models[name][0] for tier, name in chosen.items()}, following)
    if len(chosen) < len(every):  # the preferred provider serves the tiers without a model
        plan.variables["PREFERRED_PROVIDER"] = "anthropic"
    strategy = str(settings.routing_strategy or "simple-shuffle")
    _add_routes(plan, groups, names, chosen, chains, strategy=strategy)
    for name, value in (file.environment_variables or {}).items():
        if not find_referenced_variable(str(value)):
            plan.add_note(f"environment_variables.{name}", "values are not copied. Set it in .env", f"{name}=…")
    for section, given in sections.items():
        entries = {name: value for name, value in given.items() if value not in EMPTY}
        read_fields(plan, (*_SETTING_RULES, *rules["all_sections"], *rules[section]), entries, f"{section}.")
    read_fields(plan, rules["file"], config)
    return plan


def _note_missing_tiers(
    plan: ImportPlan,
    entries: Sequence[object],
    names: Mapping[str, str],
    models: Mapping[str, Sequence[str]],
    chosen: Mapping[str, str],
) -> None:
    """Add a note about each name of a Claude model that is not imported, so that its tier has another model."""
    named_tiers = {find_tier(name) for name, meant in names.items() if meant in models}
    for entry in entries:
        name = str(entry.get("model_name")) if isinstance(entry, dict) else ""
        tier = find_tier(name) or ""
        if name not in models and tier in chosen and tier not in named_tiers:
            text = f"no entry with this name is imported, so {tier} uses {models[chosen[tier]][0]}"
            plan.add_note(f"model_name {name}", text, is_error=True)


def _place_models(plan: ImportPlan, entries: Sequence[object]) -> dict[str, list[_Deployment]]:
    """Add the servers of all models in `entries` to `plan`.

    Return `model_name` in the file → its deployments, the first to call first.
    """
    groups: dict[str, list[_Deployment]] = {}
    tables = ServerTables(plan)
    parameter_rules = load_rules("litellm")["parameters"]
    info_rules = load_rules("litellm")["info"]
    for position, part in enumerate(entries):
        setting = f"model_list[{position}]"
        entry = decode_part(plan, part, _Entry, setting)
        if not isinstance(part, dict):
            continue
        given = entry.litellm_params or {}
        info = entry.model_info or {}
        parameters = decode_part(plan, given, _Parameters, f"{setting}.litellm_params")
        if info.get("mode", "chat") not in ("chat", "completion", "responses"):
            plan.add_note(setting, f"the proxy has no endpoint for the mode {info['mode']}")
            continue
        target = _find_target(tables, setting, parameters)
        if target:
            prefix, _, model = target.partition("/")
            limits = [(f"model_info.{name}", limit, info.get(name)) for name, limit in _LIMITS.items()]
            # it replaces `max_output_tokens`
            limits.append(("litellm_params.max_tokens", "max_output", parameters.max_tokens))
            for field, limit, value in limits:
                if value and prefix not in plan.servers:
                    plan.add_note(f"{setting}.{field}", "the limits of a built-in provider come from its list")
                elif value and accepts(plan, f"{setting}.{field}", "value", str(value), decode_tokens):
                    plan.servers[prefix].models.setdefault(model, {})[limit] = int(str(value).replace("_", ""))
        words = {"target": target, "provider": target.partition("/")[0]}
        read_fields(plan, parameter_rules, dict(sorted(given.items())), f"{setting}.litellm_params.", words)
        read_fields(
            plan, (*info_rules, *parameter_rules[1:]), dict(sorted(info.items())), f"{setting}.model_info.", words
        )
        if entry.model_name and target:
            rates = [getattr(parameters, kind) or getattr(entry, kind) or 0 for kind in _RATES]
            row = _Deployment(target, int(parameters.order or 0), tuple(map(int, rates)))
            groups.setdefault(str(entry.model_name), []).append(row)
    return {name: sorted(group, key=lambda row: row.order) for name, group in groups.items()}


def _find_target(tables: ServerTables, setting: str, given: _Parameters) -> str:
    """Return the model of an entry with the prefix of this proxy. Add its server to `plan`.

    "": the entry cannot be imported. `setting`: path of the entry, for notes.
    """
    plan = tables.plan
    prefix, slash, model = str(given.model or "").partition("/")
    if not slash:
        model = prefix
        prefix = "anthropic" if model.startswith("claude") else "openai"
    prefix = _PREFIXES.get(prefix, prefix)
    url = str(given.api_base or given.base_url or "").rstrip("/")
    if find_referenced_variable(url):
        reason = "this model is not imported, because an address cannot be a reference. Write the address itself"
        plan.add_note(f"{setting}.litellm_params.api_base", reason, is_error=True)
        return ""
    field = "api_base" if given.api_base else "base_url"
    if (url and not accepts(plan, setting, field, url, decode_address)) or not accepts(
        plan, setting, "model", model, decode_model
    ):
        return ""
    url = remove_endpoint(url)
    key_setting = f"{setting}.litellm_params.api_key"
    if model.endswith("*"):
        if prefix == "anthropic" and not url:
            plan.set_secret_reference("ANTHROPIC_API_KEY", str(given.api_key or ""), key_setting)
            return _ANTHROPIC
        plan.add_note(f"{setting}.model", f"request a model with its prefix, {prefix}/…, instead of the pattern")
        return ""
    built_in = _find_built_in(prefix, model)
    if built_in is not None and prefix in _CLOUD_RULES and not url:
        parameters = {rule.path: getattr(given, rule.path) for rule in _CLOUD_RULES[prefix]}
        read_fields(plan, _CLOUD_RULES[prefix], parameters, f"{setting}.litellm_params.")
        return f"{prefix}/{model}"
    if (server := _find_server(prefix, url, model, built_in)) is not None:
        server = structs.replace(server, key=str(given.api_key or ""), key_setting=key_setting)
        return f"{tables.add(server)}/{next(iter(server.models))}"
    # the library LiteLLM calls the provider, and reads its own variables
    library = next(row for row in find_built_in_registry() if row.transport == "litellm")
    plan.add_note(setting, f"{prefix}/… needs the extra litellm and LiteLLM's own variables for this provider")
    for name in ("api_key", "api_base"):
        if getattr(given, name):
            plan.add_note(f"{setting}.litellm_params.{name}", "set the variable that LiteLLM reads for this provider")
    return f"{prefix}/{model}" if prefix in library.extra_prefixes else f"litellm/{prefix}/{model}"


def _find_built_in(prefix: str, model: str) -> Provider | None:
    """Return the provider of this proxy with the prefix, unless it means other models by it."""
    provider = next((row for row in find_built_in_registry() if row.prefix == prefix), None)
    patterns = provider.prefix_patterns if provider else ()
    return provider if not patterns or any(fnmatchcase(model, pattern) for pattern in patterns) else None


def _find_server(prefix: str, url: str, model: str, built_in: Provider | None) -> ImportedServer | None:
    """Return the server of a model. None: only the library LiteLLM knows it. `url`: "" for that of the provider."""
    name = ""
    address = url
    wire = "chat"
    if prefix == "azure" and url:
        host = urlsplit(url)
        name = "azure"
        address = f"{host.scheme}://{host.netloc}/openai/v1"
    elif (vendor := find_vendor_of_litellm(prefix, find_built_in_registry())) is not None:
        start = _ID_STARTS.get(vendor.name, "")
        if start and not model.startswith(start.partition("/")[0] + "/"):
            model = start + model
        # LiteLLM names the host first, the router last. Another address gets the id as it is
        if vendor.name == "huggingface" and not url and model.count("/") == 2:
            served_by, _, model = model.partition("/")
            model += f":{served_by}"
        name = vendor.name
        address = url or _VENDOR_URLS.get(vendor.name, vendor.base_url)
    elif url and prefix in _COMPATIBLE and find_built_in_provider(url) is None:
        name = _name_server(url)
    elif built_in is not None and built_in.base_url and prefix != "vertex_ai":
        address = url or built_in.base_url
        is_own = find_built_in_provider(address) is built_in
        name = prefix if is_own else _name_server(address)
        wire = "chat" if is_own else _WIRES.get(prefix, "chat")
    return ImportedServer(name=name, base_url=address, wire=wire, models={model: {}}) if name else None


_SCHEME = compile_later(r"^\w+://")


def _name_server(url: str) -> str:
    """Return a name for the configuration table of the server at `url`: a word of its host, `local` or `server`."""
    host = _SCHEME.sub("", url).partition("/")[0].partition(":")[0]
    words = [word for word in host.split(".") if word not in ("api", "www", "com", "ai", "io", "org", "net", "cn")]
    if host in ("localhost", "127.0.0.1", "0.0.0.0", "host") or not words:
        return "local"
    return "server" if words[-1].isdigit() else words[-1]  # an IP address


def _choose_tiers(plan: ImportPlan, names: Mapping[str, str], models: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return Claude tier → `model_name` of its model.

    The newest version of the tier is chosen, otherwise the longest pattern that fits (`claude-*`, `*`), otherwise that
    of the nearest tier. `names`: name or alias in the file → `model_name`. `models`: `model_name` → models.
    """
    chosen: dict[str, str] = {}
    patterns = [name for name, meant in names.items() if "*" in name and meant in models]
    for tier in TIERS:
        named = [name for name, meant in names.items() if find_tier(name) == tier and meant in models]
        if named:
            # (3, 5) for `claude-3-5-haiku-20241022`: without the date
            versions = {name: [int(part) for part in _VERSION.findall(name) if len(part) < 6] for name in named}
            chosen[tier] = names[max(named, key=lambda name: versions[name])]
        elif fitting := [name for name in patterns if fnmatchcase(f"claude-{tier}-5", name)]:
            chosen[tier] = names[max(fitting, key=len)]
    for tier in TIERS:  # a tier without its own model gets that of the next one
        if tier not in chosen and (other := next((chosen[name] for name in _NEAREST[tier] if name in chosen), "")):
            chosen[tier] = other
    if not chosen and models:
        first = next(iter(models))
        chosen = dict.fromkeys(TIERS, first)
        plan.add_note("model_list", f"no model_name names a Claude tier, so {models[first][0]} serves all of them")
    return chosen


def _read_fallbacks(plan: ImportPlan, settings: _Settings, models: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return `model_name` → models that are called if all models with this name fail."""
    chains: dict[str, Sequence[str]] = {}
    for row in settings.fallbacks or []:
        if not isinstance(row, dict):
            plan.add_note("fallbacks", f"{row} is not imported, because it has no model_name to which it applies")
            continue
        for key, values in row.items():
            name = str(key)
            if name not in models:
                plan.add_note(f"fallbacks of {name}", f"they are not imported, because {_NO_ENTRY} {name}")
                continue
            chains[name] = decode_part(plan, values, list[str], f"fallbacks of {name}")
            _note_missing_targets(plan, f"fallbacks of {name}", chains[name], models)
    default = settings.default_fallbacks or []
    _note_missing_targets(plan, "default_fallbacks", default, models)

    def find_targets(chain: Sequence[str]) -> list[str]:
        targets = [target for name in dict.fromkeys(chain) for target in models.get(name, ())]
        return [target for target in targets if target != _ANTHROPIC]

    targets = find_targets(default)  # one list for all, because its length times their number may be large
    return {name: find_targets(chains[name]) if name in chains else targets for name in models}


def _note_missing_targets(
    plan: ImportPlan, setting: str, values: Sequence[str], models: Mapping[str, Sequence[str]]
) -> None:
    for value in values:
        if value not in models:
            plan.add_note(setting, f"{value} is not imported, because {_NO_ENTRY} {value}")
        elif _ANTHROPIC in models[value]:
            plan.add_note(setting, f"{value} is not imported, because it is a pattern. Write a model")


def _add_routes(
    plan: ImportPlan,
    groups: Mapping[str, Sequence[_Deployment]],
    names: Mapping[str, str],
    chosen: Mapping[str, str],
    chains: Mapping[str, Sequence[str]],
    *,
    strategy: str,
) -> None:
    """Add a route for each `model_name` that the mapping of the Claude tiers does not cover.

    A name for several models gets a route that balances between them. `names`: name or alias in the file →
    `model_name`. `chosen`: tier → `model_name` of its model. `chains`: `model_name` → fallback models.
    """
    balances = [
        name
        for name, group in groups.items()
        if len({row.target for row in group}) > 1 and not any(row.order for row in group)
    ]
    if balances and strategy not in _BALANCES:
        text = (
            'routes balance by weight. With balance = "latency" they prefer the fastest model, with "cost" the cheapest'
        )
        plan.add_note("router_settings.routing_strategy", f"{strategy}: {text}")
    aliases: dict[str, list[str]] = {}
    for alias, meant in names.items():
        aliases.setdefault(meant, []).append(alias)
    for name in sorted(groups, key=lambda name: "*" in name):
        group = groups[name]
        targets = list(dict.fromkeys(row.target for row in group))
        if targets[0] == _ANTHROPIC:
            continue
        if name == "*":
            plan.add_note("model_name *", "it serves Claude models. Other names go to the preferred provider")
        tiers = [tier for tier in TIERS if chosen.get(tier) == name]
        others = [  # the names that the mapping of the Claude tiers does not cover
            alias
            for alias in aliases.get(name, ())
            if alias not in _CATCH_ALL and (find_tier(alias) or "") not in tiers
        ]
        conditions: list[tuple[str, dict[str, object]]] = [(name, {"model": others})] if others else []
        if tiers and name in balances:
            conditions.insert(0, (f"{name} balanced" if others else name, {"tier": tiers}))
        for route, when in conditions:
            if name not in balances:
                plan.add_route(route, when, list(dict.fromkeys((*targets, *chains[name]))))
                continue
            balance = _BALANCES.get(strategy, "weighted")
            weights = _find_weights(plan, name, route, group) if balance == "weighted" else []
            plan.add_route(route, when, targets, balance=balance, weights=weights)
            if further := [target for target in chains[name] if target not in targets]:
                text = f"the route {route} calls its other targets if one fails, not {', '.join(further)}"
                plan.add_note(f"fallbacks of {name}", text)


def _find_weights(plan: ImportPlan, name: str, route: str, group: Sequence[_Deployment]) -> list[int]:
    """Return the share of each target of a route. Empty: they are equal.

    LiteLLM takes the first rate that the first deployment has.
    """
    position = next((index for index, rate in enumerate(group[0].rates) if rate), 0)
    shares = dict.fromkeys((row.target for row in group), 0)
    for row in group:
        shares[row.target] += row.rates[position]
    if all(shares.values()):
        return [*shares.values()]
    given = [kind for index, kind in enumerate(_RATES) if any(row.rates[index] for row in group)]
    if given:
        text = f"only some entries have it, so the route {route} shares equally. Write its weights"
        plan.add_note(f"{given[0]} of {name}", text)
    return []
