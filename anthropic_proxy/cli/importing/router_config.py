"""Reader of the configuration of claude-code-router (its README and source, read 2026-11).

Versions 1 and 2 have `config.json`. Version 3 has the same object in the database `config.sqlite`, with the models for
Claude Code in profiles instead of rules of `Router`.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from anthropic_proxy.cli.importing.plan import (
    UNKNOWN_ENTRY,
    ImportedServer,
    ImportPlan,
    find_built_in_provider,
    find_referenced_variable,
)
from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.errors import ConfigurationError

_SUFFIXES = (
    *(("/chat/completions", "chat"), ("/v1/messages", "messages"), ("/messages", "messages")),
    ("/responses", "responses"),
)
"""End of the URL of an endpoint, and the name of its API."""
_LOG_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "error": "error",
    "fatal": "error",
}
_ADAPTED = frozenset(
    {"anthropic", "deepseek", "gemini", "groq", "openrouter", "cerebras", "vercel", "openai", "openai-responses"}
    | {"cleancache", "reasoning", "enhancetool", "streamoptions", "maxcompletiontokens"}
)
"""Transformers whose changes the proxy makes itself, by the address of the server or for all servers."""
_TRANSFORMERS = {
    "tooluse": "the proxy does not force a tool call",
    "forcereasoning": "the proxy adds no prompt that asks for reasoning",
    "vertex-gemini": "set VERTEX_PROJECT and VERTEX_LOCATION. Models of Vertex AI have the prefix vertex_ai/",
    "vertex-claude": "set VERTEX_PROJECT and VERTEX_LOCATION. Models of Vertex AI have the prefix vertex_ai/",
}
"""Transformer → what the proxy does instead."""
_VERTEX_PREFIXES = {"vertex-gemini": "vertex_ai", "vertex-claude": "vertex_ai"}
"""Transformer of Vertex AI → prefix of its models here."""
_WIRES = {"anthropic": "messages", "gemini": "gemini", "openai-responses": "responses"}
"""Transformer → API of a server whose address does not end with the path of an API."""
_PROTOCOLS = {
    "anthropic_messages": "messages",
    "gemini_generate_content": "gemini",
    "openai_responses": "responses",
    "openai_chat_completions": "chat",
}
"""Field `type` of a server in version 3 → its API."""
_SERVER_FIELDS = frozenset(
    {"name", "api_base_url", "baseUrl", "baseurl", "api_key", "apiKey", "apikey", "models", "transformer"}
    | {"id", "icon", "enabled", "type", "provider", "account", "billing", "capabilities", "protocolDetectionMode"}
    | {"autoFetchModels", "autoFetchKnownModels", "modelDescriptions", "modelDisplayNames", "modelMetadata"}
)
_SERVER_REASONS = {
    "extraHeaders": "the proxy sends no other headers to providers",
    "extraBody": "the proxy adds no fields to requests",
    "tokenizer": "the proxy estimates tokens itself",
    "credentials": "one variable may contain several keys, separated by commas. They are used in turn",
}
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
_ROUTER_REASONS = {
    "rules": "rules of version 3 are not imported. Write them as [[routes]] of anthropic-proxy.toml",
    "fallback": "the proxy retries a request once by itself",
    "builtInRules": "the proxy needs no rules for Claude Code",
}
_OTHER_SETTINGS = {
    "CUSTOM_ROUTER_PATH": "scripts do not run here. Write its rules as [[routes]] of anthropic-proxy.toml",
    "PROXY_URL": "HTTP proxies come from the environment. Set HTTPS_PROXY",
    "transformers": "scripts do not run here. The proxy translates requests itself",
    "REWRITE_SYSTEM_PROMPT": "the proxy does not replace the system prompt",
    "CLAUDE_PATH": "the command code finds claude by PATH",
    "StatusLine": "it is a setting of Claude Code: statusLine in its settings.json",
    "plugins": "plugins of the other project do not run here. The dashboard shows the speed of models",
    "Plugins": "plugins of the other project do not run here. The dashboard shows the speed of models",
    "forceUseImageAgent": "requests with images go to the route images, and the model gets the images themselves",
    "LOG": "the log is standard error. LOG_LEVEL sets its level",
    "NON_INTERACTIVE_MODE": "it is not needed: the proxy reads no input",
    "tokenStatsConfig": "it is not needed: the log and the dashboard show tokens",
    "APIKEYS": "for several clients, use virtual keys: VIRTUAL_KEYS=true and anthropic-proxy keys create",
}
_DATABASE_MARK = b"SQLite format 3\0"
_PROFILE_FIELDS = {
    "haiku": ("haikuModel", "smallFastModel", "model"),
    "sonnet": ("sonnetModel", "model"),
    "opus": ("opusModel", "model"),
    "fable": ("fableModel", "opusModel", "model"),
}
"""Claude tier → fields of a profile of version 3, the first one that is set counts."""
_EMPTY: tuple[object, ...] = ("", None, [], {}, False)
_READ = frozenset(
    {"Providers", "providers", "Router", "router", "APIKEY", "HOST", "PORT", "API_TIMEOUT_MS", "LOG_LEVEL", "fallback"}
)
"""Entries at the top of the file that are imported, or get their notes elsewhere."""


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
    prefixes = _place_servers(plan, config)
    router = config.get("Router") or config.get("router") or {}
    rules = ("default", "background", *(rule for rule, _, _ in _ROUTES))
    targets = {rule: _find_target(plan, prefixes, f"Router.{rule}", router.get(rule)) for rule in rules}
    chains = _read_fallbacks(plan, prefixes, config.get("fallback") or {}, targets)
    if profile := _find_profile(config):
        _read_profile(plan, prefixes, profile, router.get("fallback"))
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
            threshold = router.get("longContextThreshold") or _DEFAULT_THRESHOLD
            if not str(threshold).isdigit():
                text = f"it is no number of tokens, so {_DEFAULT_THRESHOLD} is used"
                plan.add_note("Router.longContextThreshold", text)
                threshold = _DEFAULT_THRESHOLD
            when["input_above"] = int(str(threshold))
        plan.add_route(route_name, when, list(dict.fromkeys((targets[rule], *chains.get(rule, ())))))
    for name, value in router.items():
        if name == "fallback" and isinstance(value, dict) and value.get("mode") in ("off", "model-chain"):
            continue
        if name not in (*rules, "longContextThreshold") and value not in _EMPTY:
            plan.add_note(f"Router.{name}", _ROUTER_REASONS.get(name, UNKNOWN_ENTRY))
    _read_server_settings(plan, config)
    if "profile" in config:  # version 3, whose other entries are about its own program
        return plan
    for name, value in config.items():
        if name not in _READ and value not in _EMPTY:
            plan.add_note(name, _OTHER_SETTINGS.get(name, UNKNOWN_ENTRY))
    return plan


def _place_servers(plan: ImportPlan, config: Mapping[str, Any]) -> dict[str, str]:
    """Add all servers in `config` to `plan`. Return name of a server in `config` → prefix of its models here.

    The prefix of a server that is not imported is "".
    """
    prefixes = {}
    for position, entry in enumerate(config.get("Providers") or config.get("providers") or []):
        name, setting = str(entry.get("name", f"server{position + 1}")), f"Providers.{entry.get('name', position)}"
        prefixes[name] = ""
        url = str(entry.get("api_base_url") or entry.get("baseUrl") or entry.get("baseurl") or "")
        for field in entry:
            if field not in _SERVER_FIELDS and entry[field] not in _EMPTY:
                plan.add_note(f"{setting}.{field}", _SERVER_REASONS.get(field, UNKNOWN_ENTRY))
        if entry.get("enabled") is False:
            plan.add_note(setting, "it is switched off by enabled, so it is not imported")
            continue
        use = entry.get("transformer") or {}
        options = _read_transformers(plan, f"{setting}.transformer", use)
        names = {_name_of(item).lower() for item in use.get("use", [])}
        if vertex := names & _VERTEX_PREFIXES.keys():
            prefixes[name] = _VERTEX_PREFIXES[vertex.pop()]
            continue
        if "$" in url:
            plan.add_note(f"{setting}.api_base_url", "an address with a variable is not imported. Write the address")
            continue
        address = url.rstrip("/")
        suffix, wire = next((row for row in _SUFFIXES if address.endswith(row[0])), ("", "chat"))
        address = address.removesuffix(suffix)
        if find_built_in_provider(address) is None and wire == "chat":
            wire = next((wire for transformer, wire in _WIRES.items() if transformer in names), wire)
        if not suffix and entry.get("type") in _PROTOCOLS:
            wire = _PROTOCOLS[entry["type"]]
            address = address.removesuffix("/v1") if wire == "messages" else address
        key_field = next((field for field in ("api_key", "apiKey", "apikey") if entry.get(field)), "api_key")
        server = ImportedServer(
            name=name,
            base_url=address.removesuffix("/models") if wire == "gemini" else address,
            key=str(entry.get(key_field) or ""),
            key_setting=f"{setting}.{key_field}",
            wire=wire,
            models={str(model): {**options.get("", {}), **options.get(model, {})} for model in entry.get("models", [])},
        )
        prefixes[name] = plan.add_server(server)
    return prefixes


def _read_transformers(plan: ImportPlan, setting: str, use: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return model → limits that the transformers in `use` set. The key "" has the limits of all models.

    Every transformer gets a note in `plan`, except those that only set limits.
    """
    limits: dict[str, dict[str, int]] = {}
    adapted: list[str] = []
    for model, entry in use.items():
        items = entry if model == "use" else entry.get("use", []) if isinstance(entry, dict) else []
        for item in items:
            name, options = _name_of(item), item[1] if isinstance(item, list) and len(item) > 1 else {}
            maximum = options.get("max_tokens")
            if name in ("maxtoken", "sampling") and isinstance(maximum, int):
                limits["" if model == "use" else model] = {"max_output": maximum}
            others = ", ".join(option for option in options if option != "max_tokens")
            if name.lower() in _TRANSFORMERS:
                plan.add_note(setting, f"{name}: {_TRANSFORMERS[name.lower()]}")
            elif name == "sampling":
                unset = f"no {others}" if others else "none"
                plan.add_note(setting, f"{name}: the proxy sends the values of the client and sets {unset}")
            elif name == "customparams":
                plan.add_note(setting, f"{name}: the proxy adds no fields to requests: {others}")
            elif name.lower() in _ADAPTED and name.lower() != "anthropic" and others:
                plan.add_note(setting, f"{name}: its options are not sent: {others}. Set them in your account there")
            elif name.lower() in _ADAPTED:
                adapted.append(name)
            elif name != "maxtoken":
                plan.add_note(setting, f"{name}: scripts do not run here. The proxy translates requests itself")
    if adapted:
        names = ", ".join(dict.fromkeys(adapted))
        plan.add_note(setting, f"{names}: not needed, the proxy adapts requests to the server itself")
    return limits


def _name_of(item: object) -> str:
    return str(item[0] if isinstance(item, list) and item else item)


def _find_target(plan: ImportPlan, prefixes: Mapping[str, str], setting: str, value: object) -> str:
    """Return the model in `value`, a text `provider,model`, with the prefix of this proxy. "": it is not imported.

    `prefixes`: name of a server in the file → prefix of its models. `setting`: path in the file, for notes.
    """
    if value in _EMPTY:
        return ""
    name, comma, model = str(value).partition(",")
    if not comma and (named := [name for name in prefixes if str(value).startswith(f"{name}/")]):  # version 3
        name, comma = max(named, key=len), "/"
        model = str(value)[len(name) + 1 :]
    if not comma or not model.strip():
        plan.add_note(setting, f'"{value}" is not imported, because it is not of the form provider,model')
        return ""
    if name not in prefixes:
        plan.add_note(setting, f"it is not imported, because Providers has no entry {name}")
    elif not prefixes[name]:
        plan.add_note(setting, f"it is not imported, because the entry {name} of Providers is not")
    else:
        return f"{prefixes[name]}/{model.strip()}"
    return ""


def _find_profile(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the models that Claude Code uses in version 3: the first enabled profile, else the older single one.

    Empty: there is none.
    """
    found = config.get("profile") or {}
    profiles = [one for one in found.get("profiles") or [] if one.get("agent") == "claude-code" and one.get("enabled")]
    profiles.append(found.get("claudeCode") or {})
    return next((one for one in profiles if any(one.get(name) for name in _PROFILE_FIELDS["haiku"])), {})


def _read_profile(plan: ImportPlan, prefixes: Mapping[str, str], profile: Mapping[str, Any], fallback: Any) -> None:
    """Add the models of the tiers in `profile`, and those of the chain in `fallback`, to `plan`."""
    models: dict[str, str] = {}
    for tier, fields in _PROFILE_FIELDS.items():
        name = next((name for name in fields if profile.get(name)), "model")
        if target := _find_target(plan, prefixes, f"profile.{name}", profile.get(name)):
            models[tier] = target
    chain: list[str] = []
    if isinstance(fallback, dict) and fallback.get("mode") == "model-chain":
        found = (_find_target(plan, prefixes, "Router.fallback", value) for value in fallback.get("models") or [])
        chain = [target for target in found if target]
    plan.set_tier_models(models, dict.fromkeys(models, chain))


def _read_fallbacks(
    plan: ImportPlan,
    prefixes: Mapping[str, str],
    fallback: Mapping[str, Sequence[str]],
    targets: Mapping[str, str],
) -> dict[str, list[str]]:
    """Return rule of `Router` → models that are called if its model fails."""
    chains: dict[str, list[str]] = {}
    for rule, values in fallback.items():
        if not targets.get(rule):
            plan.add_note(f"fallback.{rule}", f"it is not imported, because Router has no model for {rule}")
            continue
        found = [_find_target(plan, prefixes, f"fallback.{rule}", value) for value in values]
        chains[rule] = [target for target in found if target]
    return chains


def _read_server_settings(plan: ImportPlan, config: Mapping[str, Any]) -> None:
    """Add address, port, client key, timeout and log level in `config` to `plan`."""
    for name in ("HOST", "PORT"):
        value = str(config.get(name) or "")
        reference = find_referenced_variable(value)
        if value and reference != name:
            plan.variables[name] = f"${{{reference}}}" if reference else value
    plan.set_secret_reference("PROXY_API_KEY", str(config.get("APIKEY") or ""), "APIKEY")
    timeout = str(config.get("API_TIMEOUT_MS") or "")
    if timeout.isdigit() and int(timeout) >= 1000:
        plan.variables["UPSTREAM_TIMEOUT"] = str(int(timeout) // 1000)
    elif timeout:
        plan.add_note("API_TIMEOUT_MS", "set UPSTREAM_TIMEOUT, in seconds")
    given = str(config.get("LOG_LEVEL") or "")
    if level := _LOG_LEVELS.get(given.lower()):
        plan.variables["LOG_LEVEL"] = level
    elif given:
        plan.add_note("LOG_LEVEL", f'"{given}" is not imported. Set LOG_LEVEL to debug, info, warning or error')
