"""Reader of `config.json` of claude-code-router (its README and `config.example.json`, read 2026-11).

`read_router_config` returns an `ImportPlan` with the settings that this proxy needs for the same models.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy.cli.importing.plan import ImportedServer, ImportPlan, find_built_in_provider
from anthropic_proxy.settings import TIERS

_SUFFIXES = (("/chat/completions", "chat"), ("/v1/messages", "messages"), ("/messages", "messages"))
_RESPONSES_SUFFIX = "/responses"
_LOG_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "error": "error",
    "fatal": "error",
}
_BUILT_IN_TRANSFORMERS = frozenset(
    {"anthropic", "deepseek", "gemini", "groq", "openrouter", "cleancache", "reasoning", "tooluse", "enhancetool"}
    | {"openai", "vertex-gemini", "forcereasoning", "streamoptions", "openai-responses"}
)
"""Transformers that need no setting: the proxy applies the same changes by the address of the server, or always."""
_REQUEST_RULES = {
    "think": "requests with thinking",
    "longContext": "long requests",
    "webSearch": "requests with web search",
    "image": "requests with images",
}
"""Rule in the section `Router` → requests that it selects. This proxy selects the model by the requested Claude tier
only."""
_OTHER_SETTINGS = {
    "CUSTOM_ROUTER_PATH": "a script cannot select models. Set one model for each tier",
    "PROXY_URL": "HTTP proxies come from the environment. Set HTTPS_PROXY",
    "transformers": "scripts cannot change requests. The proxy translates them itself",
    "REWRITE_SYSTEM_PROMPT": "the proxy does not replace the system prompt",
    "CLAUDE_PATH": "the command code finds claude by PATH",
    "StatusLine": "it is a setting of Claude Code: statusLine in its settings.json",
    "plugins": "plugins of the other project do not run here",
    "Agents": "the proxy selects the model by the requested tier only",
}
_WITHOUT_EFFECT = frozenset(
    {
        "Providers",
        "providers",
        "Router",
        "router",
        "APIKEY",
        "HOST",
        "PORT",
        "API_TIMEOUT_MS",
        "LOG",
        "LOG_LEVEL",
        "fallback",
    }
    | {"NON_INTERACTIVE_MODE", "tokenStatsConfig"}
)
"""Names of settings that are imported elsewhere, or need no equivalent, so they get no note."""


def read_router_config(config: Mapping[str, Any]) -> ImportPlan:
    """Return the settings of this proxy for `config`, the configuration of claude-code-router."""
    plan = ImportPlan("claude-code-router")
    prefixes = _place_servers(plan, config)
    router = config.get("Router") or config.get("router") or {}
    targets = {rule: _find_target(plan, prefixes, f"Router.{rule}", value) for rule, value in router.items()}
    default = targets.get("default", "")
    if default:
        small = targets.get("background") or default
        tiers = {tier: small if tier == "haiku" else default for tier in TIERS}
        plan.set_tier_models(tiers, _read_fallbacks(plan, prefixes, config.get("fallback") or {}))
    for rule, requests in _REQUEST_RULES.items():
        if targets.get(rule) not in ("", None, default):
            plan.add_note(f"Router.{rule}", f"{requests} have no rule of their own: the model of the tier serves them")
    _read_server_settings(plan, config)
    for name, value in config.items():
        if name not in _WITHOUT_EFFECT and value not in ("", None, [], {}, False):
            plan.add_note(name, _OTHER_SETTINGS.get(name, "the proxy has no such setting"))
    return plan


def _place_servers(plan: ImportPlan, config: Mapping[str, Any]) -> dict[str, str]:
    """Add all servers in `config` to `plan`. Return name of a server in `config` → prefix of its models here."""
    prefixes = {}
    for position, entry in enumerate(config.get("Providers") or config.get("providers") or []):
        name, setting = str(entry.get("name", f"server{position + 1}")), f"Providers[{position}]"
        address, wire = _split_address(str(entry.get("api_base_url") or entry.get("baseUrl") or ""))
        use = entry.get("transformer") or {}
        options = _read_transformers(plan, f"{setting}.transformer", use)
        names = {_name_of(item).lower() for item in use.get("use", [])}
        if "vertex-gemini" in names:
            plan.add_note(f"{setting}.transformer", "set VERTEX_PROJECT and VERTEX_LOCATION for Vertex AI")
            prefixes[name] = "vertex_ai"
            continue
        if find_built_in_provider(address) is None and wire == "chat":
            wire = "messages" if "anthropic" in names else "gemini" if "gemini" in names else wire
        server = ImportedServer(
            name=name,
            base_url=address.removesuffix("/models") if wire == "gemini" else address,
            key=str(entry.get("api_key") or ""),
            key_setting=f"{setting}.api_key",
            wire=wire,
            models={str(model): {**options.get("", {}), **options.get(model, {})} for model in entry.get("models", [])},
        )
        prefixes[name] = plan.add_server(server)
    return prefixes


def _split_address(url: str) -> tuple[str, str]:
    """Return the base URL of a server, and the name of its API, from `url`, the URL of its endpoint."""
    address = url.rstrip("/")
    for suffix, wire in _SUFFIXES:
        if address.endswith(suffix):
            return address.removesuffix(suffix), wire
    if address.endswith(_RESPONSES_SUFFIX):
        return address.removesuffix(_RESPONSES_SUFFIX), "responses"
    return address, "chat"


def _read_transformers(plan: ImportPlan, setting: str, use: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return model → limits that the transformers in `use` set. The key "" has the limits of all models.

    A transformer with another effect and without an equivalent gets a note in `plan`.
    """
    limits: dict[str, dict[str, int]] = {}
    for model, entry in use.items():
        items = entry if model == "use" else entry.get("use", []) if isinstance(entry, dict) else []
        for item in items:
            name, options = _name_of(item), item[1] if isinstance(item, list) and len(item) > 1 else {}
            if name == "maxtoken" and isinstance(options.get("max_tokens"), int):
                limits["" if model == "use" else model] = {"max_output": options["max_tokens"]}
            elif name.lower() not in _BUILT_IN_TRANSFORMERS:
                plan.add_note(setting, f"the transformer {name} has no equivalent")
            elif options.get("provider") or options.get("providerOrder"):
                plan.add_note(setting, f"the options of {name} have no equivalent: select providers in your account")
    return limits


def _name_of(item: object) -> str:
    return str(item[0] if isinstance(item, list) and item else item)


def _find_target(plan: ImportPlan, prefixes: Mapping[str, str], setting: str, value: object) -> str:
    """Return the model in `value`, a text `provider,model`, with the prefix of this proxy. "": not a model.

    `prefixes`: name of a server in the file → prefix of its models. `setting`: path in the file, for notes.
    """
    if not isinstance(value, str) or "," not in value:
        return ""
    name, _, model = value.partition(",")
    if name not in prefixes:
        plan.add_note(setting, f"Providers has no entry {name}")
        return ""
    return f"{prefixes[name]}/{model.strip()}"


def _read_fallbacks(
    plan: ImportPlan, prefixes: Mapping[str, str], fallback: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    chains: dict[str, list[str]] = {}
    for rule, values in fallback.items():
        targets = [_find_target(plan, prefixes, f"fallback.{rule}", value) for value in values]
        tiers = [tier for tier in TIERS if tier != "haiku"] if rule == "default" else ["haiku"]
        if rule not in ("default", "background"):
            plan.add_note(f"fallback.{rule}", "fallbacks are set for each tier, not for each kind of request")
            continue
        chains |= {tier: [target for target in targets if target] for tier in tiers}
    return chains


def _read_server_settings(plan: ImportPlan, config: Mapping[str, Any]) -> None:
    """Add address, port, client key, timeout and log level in `config` to `plan`."""
    for name in ("HOST", "PORT"):
        if config.get(name):
            plan.variables[name] = str(config[name])
    plan.set_secret_reference("PROXY_API_KEY", str(config.get("APIKEY") or ""), "APIKEY")
    timeout = str(config.get("API_TIMEOUT_MS") or "")
    if timeout.isdigit() and int(timeout) >= 1000:
        plan.variables["UPSTREAM_TIMEOUT"] = str(int(timeout) // 1000)
    if level := _LOG_LEVELS.get(str(config.get("LOG_LEVEL") or "").lower()):
        plan.variables["LOG_LEVEL"] = level
