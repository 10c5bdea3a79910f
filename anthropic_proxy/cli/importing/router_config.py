"""Reader of the configuration of claude-code-router (its README and source, read 2026-11).

Versions 1 and 2 have `config.json`. Version 3 has the same object in the database `config.sqlite`, with the models for
Claude Code in profiles instead of rules of `Router`.
"""

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct, field, to_builtins

from anthropic_proxy.cli.importing.built_in import find_built_in_provider
from anthropic_proxy.cli.importing.parts import Scalar, accepts, decode_address, decode_part, decode_tokens
from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.cli.importing.router_rules import RouterRule, RouterRules, find_route_conditions
from anthropic_proxy.cli.importing.rules import EMPTY, FieldRule, load_rules, read_fields
from anthropic_proxy.cli.importing.servers import ImportedServer, ServerTables
from anthropic_proxy.cli.importing.tables import ServerTable, format_call_field
from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.routing.choices import MAX_NAME_LENGTH
from anthropic_proxy.errors import ConfigurationError, join_with_or
from anthropic_proxy.gateway.settings.values import decode_integer, decode_model, redact_and_shorten, remove_endpoint

_SUFFIXES = (
    ("/chat/completions", "chat"),
    ("/v1/messages", "messages"),
    ("/messages", "messages"),
    ("/responses", "responses"),
)
"""End of the URL of an endpoint, and the name of its API."""
_ADAPTED = frozenset(
    {"anthropic", "deepseek", "gemini", "groq", "cerebras", "openai", "openai-responses"}
    | {"cleancache", "reasoning", "enhancetool", "streamoptions", "maxcompletiontokens"}
)
"""Transformers whose changes the proxy makes itself, by the address of the server or for all servers."""
_TRANSFORMERS = {
    "tooluse": "the proxy does not force a tool call",
    "forcereasoning": "the proxy adds no prompt that asks for reasoning",
}
"""Transformer → what the proxy does instead."""
_NO_SCRIPTS = "scripts do not run here. The proxy translates requests itself"
_LOGIN = compile_later(r"(?:^|[-_])(?:cli|oauth|codex|copilot)(?:$|[-_])")
"""Matches a transformer that uses the login of another program, with an API that is not public."""
_HEADER_OPTIONS = {"referer": "HTTP-Referer", "title": "X-Title"}
"""Option of the transformers in `_BODY_TRANSFORMERS` → its header (https://openrouter.ai/docs/app-attribution)."""
_BODY_TRANSFORMERS = ("openrouter", "vercel", "customparams", "sampling")
"""Transformers whose other options are fields of the body."""
_WIRES = {"anthropic": "messages", "gemini": "gemini", "openai-responses": "responses"}
"""Transformer → API of a server whose address does not end with the path of an API."""
_PROTOCOLS = {
    "anthropic_messages": "messages",
    "gemini_generate_content": "gemini",
    "openai_responses": "responses",
    "openai_chat_completions": "chat",
}
"""Field `type` of a server in version 3 → its API."""
_ADDRESSES = ("api_base_url", "baseUrl", "baseurl")
_KEYS = ("api_key", "apiKey", "apikey")
_DEFAULT_THRESHOLD = 60_000
_ROUTES: tuple[tuple[str, str, Mapping[str, object]], ...] = (
    ("image", "images", {"images": True}),
    ("longContext", "long context", {}),
    ("webSearch", "web search", {"web_search": True}),
    ("think", "thinking", {"thinking": True}),
)
"""Rule of `Router`, name of its route here, and condition, in the order in which claude-code-router checks them.

Requests for haiku have the rule `background`, which comes after `longContext`.
"""
_BEFORE_BACKGROUND = ("image", "longContext")
_LOG_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "error": "error",
    "fatal": "error",
}


def _decode_timeout(plan: ImportPlan, path: str, text: str) -> str:
    decode = partial(decode_integer, minimum=1000, maximum=1_000_000_000, unit="milliseconds")
    return str(int(text) // 1000) if accepts(plan, path, "value", text, decode) else ""


def _decode_level(plan: ImportPlan, path: str, text: str) -> str:
    if level := _LOG_LEVELS.get(text.lower()):
        return level
    shown = redact_and_shorten(text)
    allowed = join_with_or([*_LOG_LEVELS])
    note = f'it is not imported, because its value is "{shown}". Use {allowed}'
    plan.add_note(path, note, is_error=True)
    return ""


_SETTING_RULES = (
    FieldRule("HOST", setting="HOST"),
    FieldRule("PORT", setting="PORT"),
    FieldRule("APIKEY", setting="PROXY_API_KEY"),
    FieldRule("API_TIMEOUT_MS", setting="UPSTREAM_TIMEOUT", decode=_decode_timeout),
    FieldRule("LOG_LEVEL", setting="LOG_LEVEL", decode=_decode_level),
)
"""Rules of the entries of the file that are settings here."""
_DATABASE_MARK = b"SQLite format 3\0"
_PROFILE_FIELDS = {
    "haiku": ("haikuModel", "smallFastModel", "model"),
    "sonnet": ("sonnetModel", "model"),
    "opus": ("opusModel", "model"),
    "fable": ("fableModel", "opusModel", "model"),
}
"""Claude tier → fields of a profile of version 3, the first one that is set counts."""
_UNSET: tuple[object, ...] = ("", None, [], {})
_Transformer = str | list[Any]
"""Name, or a list of name and options."""


class _Profiles(Struct):
    profiles: list[dict[str, Any]] | None = None
    single: dict[str, Any] | None = field(default=None, name="claudeCode")


class _File(Struct):
    servers: list[Any] | None = field(default=None, name="Providers")
    servers_of_version_3: list[Any] | None = field(default=None, name="providers")
    rules: dict[str, Any] | None = field(default=None, name="Router")
    rules_of_version_3: dict[str, Any] | None = field(default=None, name="router")
    fallback: dict[str, Any] | None = None
    profile: _Profiles | None = None


class _Server(Struct):
    name: Scalar = None
    enabled: bool | None = None
    type: Scalar = None
    api_base_url: Scalar = None
    base_url: Scalar = field(default=None, name="baseUrl")
    lower_case_base_url: Scalar = field(default=None, name="baseurl")
    api_key: Scalar = None
    camel_case_api_key: Scalar = field(default=None, name="apiKey")
    lower_case_api_key: Scalar = field(default=None, name="apikey")
    models: list[Scalar] | None = None
    transformer: dict[str, Any] | None = None
    headers: dict[str, Any] | None = field(default=None, name="extraHeaders")
    body: dict[str, Any] | None = field(default=None, name="extraBody")


class _PlacedServer(Struct):
    """Where the models of a server of the file are in this proxy."""

    prefix: str
    """"": the server is not imported."""
    models: Mapping[str, None] = {}
    """Empty: the file does not list them."""


class _Options(Struct):
    """What the transformers of a server, or of one of its models, set."""

    limits: dict[str, int] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


class _ModelTransformers(Struct):
    use: list[_Transformer] | None = None


class _Chain(Struct):
    """`fallback` of version 3."""

    mode: Scalar = None
    models: list[Scalar] | None = None


def is_router_database(file: Path) -> bool:
    with suppress(OSError), file.open("rb") as stream:
        return stream.read(len(_DATABASE_MARK)) == _DATABASE_MARK
    return False


def read_router_database(file: Path, max_bytes: int) -> dict[str, Any]:
    """Return the configuration in `config.sqlite` of version 3.

    Raises `ConfigurationError` if the database has none, or one with more than `max_bytes`.
    """
    address = file.absolute().as_uri()
    problem = "it has no configuration"
    for options in ("mode=ro", "immutable=1"):  # the second one needs no files beside it, which may be read-only
        try:
            with closing(sqlite3.connect(f"{address}?{options}", uri=True)) as connection:
                row = connection.execute("SELECT value_json FROM app_config WHERE key = 'default'").fetchone()
        except sqlite3.Error as error:
            problem = str(error)
            continue
        if row is None or not isinstance(row[0], str) or len(row[0]) > max_bytes:
            break
        with suppress(ValueError, RecursionError):
            config = json.loads(row[0])
            if isinstance(config, dict):
                return config
        break
    raise ConfigurationError(
        f"{file} is no config.sqlite of claude-code-router: {problem}. Its version 2 has a config.json.",
        code="import-file",
    )


def read_router_config(config: Mapping[str, Any]) -> ImportPlan:
    plan = ImportPlan("claude-code-router")
    file = decode_part(plan, config, _File)
    servers = _place_servers(plan, file.servers or file.servers_of_version_3 or [])
    router = file.rules or file.rules_of_version_3 or {}
    rules = ("default", "background", *(rule for rule, _, _ in _ROUTES))
    targets = {rule: _find_target(plan, servers, f"Router.{rule}", router.get(rule)) for rule in rules}
    chains: dict[str, list[str]] = {}  # rule → models that are called if its model fails
    for rule, values in (file.fallback or {}).items():
        if not targets.get(rule):
            plan.add_note(f"fallback.{rule}", f"it is not imported, because Router has no model for {rule}")
            continue
        given = decode_part(plan, values, list[Scalar], f"fallback.{rule}")
        fallbacks = [_find_target(plan, servers, f"fallback.{rule}", value) for value in given]
        chains[rule] = [target for target in fallbacks if target]
    fallback = router.get("fallback")
    following = _read_chain(plan, servers, "Router.fallback", fallback)
    profile = _read_profile(plan, servers, file.profile or _Profiles(), following)
    routing = decode_part(plan, profile.get("routing") or {}, RouterRules, "profile.routing")
    if routing.enabled:
        _read_rules(plan, servers, "profile.routing.rules", routing.rules, following)
    _read_rules(plan, servers, "Router.rules", router.get("rules"), following)
    _add_targets(plan, router, targets, chains)
    is_chain = isinstance(fallback, dict) and fallback.get("mode") in ("off", "model-chain")
    entries = {name: value for name, value in router.items() if not (name == "fallback" and is_chain)}
    read_fields(plan, load_rules("router")["rules"], _drop_empty(entries), "Router.")
    read_fields(plan, _SETTING_RULES, {rule.path: config.get(rule.path) for rule in _SETTING_RULES})
    if "profile" not in config:  # the other entries of version 3 are about its own program
        read_fields(plan, load_rules("router")["file"], _drop_empty(config))
    return plan


def _add_targets(
    plan: ImportPlan, router: Mapping[str, Any], targets: Mapping[str, str], chains: Mapping[str, Sequence[str]]
) -> None:
    """Add the models of the rules of `Router` to `plan`. `targets`, `chains`: rule → its model, and the fallbacks."""
    if default := targets["default"]:
        small = "background" if targets["background"] else "default"
        rule_by_tier = {tier: small if tier == "haiku" else "default" for tier in TIERS}
        models = {tier: targets[rule] or default for tier, rule in rule_by_tier.items()}
        plan.set_tier_models(models, {tier: chains.get(rule, []) for tier, rule in rule_by_tier.items()})
    for rule, route_name, condition in _ROUTES:
        if not targets[rule]:
            continue
        # the condition tier keeps the model that a user selects by its prefix
        tiers = [tier for tier in TIERS if tier != "haiku" or rule in _BEFORE_BACKGROUND or not targets["background"]]
        when = {"tier": tiers, **condition}
        if rule == "longContext":
            threshold = str(router.get("longContextThreshold") or _DEFAULT_THRESHOLD)
            instead = f"The route has {_DEFAULT_THRESHOLD}, the default of claude-code-router"
            if not accepts(plan, "Router.longContextThreshold", "value", threshold, decode_tokens, instead=instead):
                threshold = str(_DEFAULT_THRESHOLD)
            when["input_above"] = int(threshold)
        plan.add_route(route_name, when, list(dict.fromkeys((targets[rule], *chains.get(rule, ())))))


def _drop_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in EMPTY}


def _place_servers(plan: ImportPlan, servers: Sequence[Any]) -> dict[str, _PlacedServer]:
    """Add `servers`, those of the file, to `plan`. Return name of a server there → its place here."""
    tables = ServerTables(plan)
    placed = {}
    for position, part in enumerate(servers):
        entry = decode_part(plan, part, _Server, f"Providers[{position}]")
        if isinstance(part, dict):
            name = str(entry.name or f"server{position + 1}")
            setting = f"Providers.{entry.name or position}"
            read_fields(plan, load_rules("router")["server"], _drop_empty(part), f"{setting}.")
            use: Mapping[str, Sequence[_Transformer]] = {}
            if entry.enabled is not False:
                use = _decode_transformers(plan, entry.transformer or {}, f"Providers[{position}].transformer")
            placed[name] = _place_server(tables, name, setting, entry, use)
            if part.get("autoFetchModels"):
                placed[name].models = {}
    return placed


def _place_server(
    tables: ServerTables, name: str, setting: str, entry: _Server, use: Mapping[str, Sequence[_Transformer]]
) -> _PlacedServer:
    """`use`: model → its transformers. The key "" has those of all models."""
    plan = tables.plan
    given = to_builtins(entry)
    address_field = next((name for name in _ADDRESSES if given[name]), _ADDRESSES[0])
    url = str(given[address_field] or "")
    names = {_name_of(item).lower() for item in use.get("", ())}
    if obstacle := _find_obstacle(entry, names):
        plan.add_note(setting, *obstacle, is_error=entry.enabled is not False)
        return _PlacedServer("")
    options = _read_transformers(plan, f"{setting}.transformer", use)
    for model in [model for model in options if model not in ("", *map(str, entry.models or []))]:
        text = "its options are not imported, because models lacks this model"
        plan.add_note(f"{setting}.transformer.{model}", text)
    if "$" in url:
        text = "an address with a variable is not imported. Write the address"
        plan.add_note(f"{setting}.{address_field}", text, is_error=True)
        return _PlacedServer("")
    if not accepts(plan, setting, address_field, url, decode_address):
        return _PlacedServer("")
    address, wire = _find_wire(url, str(entry.type), names)
    models = [
        str(model)
        for index, model in enumerate(entry.models or [])
        if accepts(plan, f"{setting}.models[{index}]", "value", str(model), decode_model)
    ]
    key_field = next((name for name in _KEYS if given[name]), _KEYS[0])
    of_all = options.get("", _Options())
    server = ImportedServer(
        name=name,
        is_named_by_user=True,
        base_url=address,
        key=str(given[key_field] or ""),
        key_setting=f"{setting}.{key_field}",
        wire=wire,
        headers=_drop_unset(entry.headers or {}) | of_all.headers,
        body=_drop_unset(entry.body or {}) | of_all.body,
        models={model: {**of_all.limits, **options.get(model, _Options()).limits} for model in models},
    )
    prefix = tables.add(server)
    for model in filter(options.__contains__, models):
        _note_model_options(plan, f"{setting}.transformer.{model}", prefix, options[model])
    return _PlacedServer(prefix, dict.fromkeys(models))


def _find_obstacle(entry: _Server, names: Collection[str]) -> tuple[str, str] | None:
    """Return why a server is not imported, and a line to paste. `names`: its transformers. None: it can be."""
    if entry.enabled is False:
        return "it is switched off by enabled, so it is not imported", ""
    if vertex := next((name for name in names if name.startswith("vertex-")), ""):
        text = f"it is not imported, because {vertex} calls Vertex AI with a login of Google. Set VERTEX_PROJECT and "
        text += "VERTEX_LOCATION, use its models with the prefix vertex_ai/, and install"
        return text, "anthropic-proxy add vertex"
    if login := next(filter(_LOGIN.search, names), ""):
        text = f"it is not imported, because {login} uses the login of another program. Use one with an API key"
        return text, ""
    return None


def _find_wire(url: str, kind: str, names: Collection[str]) -> tuple[str, str]:
    """Return the base URL of a server, and its API. `kind`: its field `type`. `names`: its transformers."""
    path = url.partition("?")[0].rstrip("/")
    suffix, wire = next((row for row in _SUFFIXES if path.endswith(row[0])), ("", "chat"))
    address = remove_endpoint(url.rstrip("/")).removesuffix("/messages")
    if find_built_in_provider(address) is None and wire == "chat":
        wire = next((wire for transformer, wire in _WIRES.items() if transformer in names), wire)
    if not suffix and kind in _PROTOCOLS:
        wire = _PROTOCOLS[kind]
        address = address.removesuffix("/v1") if wire == "messages" else address
    return address.removesuffix("/models") if wire == "gemini" else address, wire


def _note_model_options(plan: ImportPlan, setting: str, prefix: str, options: _Options) -> None:
    """Add a note about each header and field of the body that is for one model only."""
    table = plan.servers.get(prefix, ServerTable())
    for kind in ("headers", "body"):
        present = getattr(table, kind)
        for key, value in getattr(options, kind).items():
            is_merged = isinstance(present.get(key), dict) and isinstance(value, dict)
            line = format_call_field(kind, key, {**present[key], **value} if is_merged else value)
            where = f"{'replace in' if key in present else 'add to'} [providers.{prefix}]"
            text = f"it is for this model only, so it is not imported. For all models, {where}"
            plan.add_note(setting, text, line)


def _drop_unset(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in _UNSET}


def _decode_transformers(plan: ImportPlan, given: Mapping[str, Any], place: str) -> dict[str, Sequence[_Transformer]]:
    """Return model → its transformers. The key "" has those of all models."""
    use: dict[str, Sequence[_Transformer]] = {"": decode_part(plan, given, _ModelTransformers, place).use or []}
    for model, entry in given.items():
        if model != "use":
            use[model] = decode_part(plan, entry, _ModelTransformers, f"{place}.{model}").use or []
    return use


def _read_transformers(
    plan: ImportPlan, setting: str, use: Mapping[str, Sequence[_Transformer]]
) -> dict[str, _Options]:
    """Return model → what its transformers in `use` set. The key "" has what is set for all models.

    A transformer that does more gets a note in `plan`, unless the proxy adapts requests itself.
    """
    options_by_model: dict[str, _Options] = {}
    for model, items in use.items():
        for item in items:
            name = _name_of(item)
            kind = name.lower()
            given = item[1] if isinstance(item, list) and len(item) > 1 and isinstance(item[1], dict) else {}
            options = _drop_unset(given)
            maximum = options.pop("max_tokens", None) if kind in ("maxtoken", "sampling") else None
            place = f"{setting}.{model}" if model else setting
            if isinstance(maximum, int) and accepts(plan, place, f"{name} max_tokens", str(maximum), decode_tokens):
                options_by_model.setdefault(model, _Options()).limits["max_output"] = maximum
            elif kind == "maxtoken" and not isinstance(maximum, int):
                plan.add_note(place, f"{name}: it has no number max_tokens, so there is no limit to import")
            if kind in _BODY_TRANSFORMERS and options:
                target = options_by_model.setdefault(model, _Options())
                headers = {option: options.pop(option) for option in _HEADER_OPTIONS if option in options}
                target.headers |= {_HEADER_OPTIONS[option]: value for option, value in headers.items()}
                if order := options.pop("providerOrder", None):
                    options["provider"] = {"order": order, **options.get("provider", {})}
                target.body |= options
            elif kind in _TRANSFORMERS:
                plan.add_note(place, f"{name}: {_TRANSFORMERS[kind]}")
            elif kind in _ADAPTED and kind != "anthropic" and options:
                plan.add_note(place, f"{name}: its options are not imported: {', '.join(options)}")
            elif kind not in ("maxtoken", *_BODY_TRANSFORMERS, *_ADAPTED):
                plan.add_note(place, f"{name}: {_NO_SCRIPTS}")
    return options_by_model


def _name_of(item: object) -> str:
    return str(item[0] if isinstance(item, list) and item else item)


def _find_target(plan: ImportPlan, servers: Mapping[str, _PlacedServer], setting: str, value: object) -> str:
    """Return the model in `value`, a text `provider,model`, with the prefix of this proxy. "": it is not imported.

    `servers`: name of a server in the file → its place here. `setting`: path in the file, for notes.
    """
    if value in EMPTY:
        return ""
    name, comma, model = str(value).partition(",")
    if not comma and (named := _find_named_server(str(value), servers)):  # version 3
        name = named
        comma = "/"
        model = str(value)[len(name) + 1 :]
    if not comma and str(value).count("/"):
        name, comma, model = str(value).partition("/")
    model = model.strip()
    if not comma or not model:
        text = f'"{value}" is not imported, because it is not of the form provider,model'
        plan.add_note(setting, text, is_error=True)
    elif name not in servers:
        plan.add_note(setting, f"it is not imported, because Providers has no entry {name}", is_error=True)
    elif not servers[name].prefix:
        plan.add_note(setting, f"it is not imported, because the entry {name} of Providers is not", is_error=True)
    elif accepts(plan, setting, "model", model, decode_model):
        listed = servers[name].models
        if listed and model not in listed:
            similar = plan.suggest_model(model, listed)
            hint = ". Did you mean" if similar else ""
            text = f"it is imported, but the models of Providers.{name} do not include {model}{hint}"
            plan.add_note(setting, text, similar or "")
        return f"{servers[name].prefix}/{model}"
    return ""


def _find_named_server(value: str, servers: Mapping[str, _PlacedServer]) -> str:
    """Return the longest name of a server with which `value`, a text `provider/model`, begins. "": none."""
    start = value[:MAX_NAME_LENGTH]
    while start:
        start, _, _ = start.rpartition("/")
        if start in servers:
            return start
    return ""


def _read_profile(
    plan: ImportPlan, servers: Mapping[str, _PlacedServer], given: _Profiles, chain: Sequence[str]
) -> Mapping[str, Any]:
    """Add the models of Claude Code, followed by those of `chain`, to `plan`. Return their profile, or an empty one.

    It is the first enabled profile, else the older single one.
    """
    profiles = [
        profile for profile in given.profiles or [] if profile.get("agent") == "claude-code" and profile.get("enabled")
    ]
    profiles.append(given.single or {})
    profile = next((profile for profile in profiles if any(profile.get(name) for name in _PROFILE_FIELDS["haiku"])), {})
    models: dict[str, str] = {}
    for tier, fields in _PROFILE_FIELDS.items() if profile else ():
        name = next((name for name in fields if profile.get(name)), "model")
        if target := _find_target(plan, servers, f"profile.{name}", profile.get(name)):
            models[tier] = target
    if profile:
        plan.set_tier_models(models, dict.fromkeys(models, chain))
    return profile


def _read_chain(
    plan: ImportPlan, servers: Mapping[str, _PlacedServer], setting: str, fallback: object
) -> Sequence[str]:
    """Return the models that version 3 calls after a failure, with the prefixes of this proxy."""
    if not isinstance(fallback, dict) or fallback.get("mode") != "model-chain":
        return ()
    following = decode_part(plan, fallback, _Chain, setting).models or []
    targets = (_find_target(plan, servers, setting, value) for value in following)
    return [target for target in targets if target]


def _read_rules(
    plan: ImportPlan, servers: Mapping[str, _PlacedServer], place: str, given: object, chain: Sequence[str]
) -> None:
    """Add a route for each rule of version 3 whose condition a route can have, and a note for each other one."""
    for position, entry in enumerate(given if isinstance(given, list) else []):
        rule = decode_part(plan, entry, RouterRule, f"{place}[{position}]")
        setting = f"{place}.{rule.title}" if rule.title else f"{place}[{position}]"
        if not rule.enabled:
            plan.add_note(setting, "it is switched off by enabled, so it is not imported")
            continue
        when = find_route_conditions(rule)
        model, others = rule.find_changes()
        if rule.type == "script":
            plan.add_note(setting, "it is not imported, because scripts do not run here")
        elif when is None:
            shown = redact_and_shorten(rule.describe_condition())
            reason = f"no route has the condition {shown}" if shown else "it has no condition"
            plan.add_note(setting, f"it is not imported, because {reason}")
        elif model is None:
            plan.add_note(setting, "it is not imported, because it chooses no model")
        elif target := _find_target(plan, servers, setting, model):
            rule_fallback = None if rule.fallback is None else to_builtins(rule.fallback)
            following = (
                chain if rule_fallback is None else _read_chain(plan, servers, f"{setting}.fallback", rule_fallback)
            )
            plan.add_route(rule.title or "rule", when, list(dict.fromkeys((target, *following))))
            if others:
                text = f"its route does not change {', '.join(others)}. A field for all requests is set by body"
                plan.add_note(setting, f"{text} in [providers.NAME]")
