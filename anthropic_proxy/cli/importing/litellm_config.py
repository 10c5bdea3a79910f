"""Reader of `config.yaml` of LiteLLM's proxy (docs.litellm.ai, "Proxy config", read 2026-11).

`read_litellm_config` returns an `ImportPlan` with the settings that this proxy needs for the same models.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy.cli.importing.plan import (
    ImportedServer,
    ImportPlan,
    find_built_in_provider,
    find_built_in_registry,
    find_referenced_variable,
)
from anthropic_proxy.settings import TIERS

_PREFIXES = {"ollama_chat": "ollama", "vertex_ai_beta": "vertex_ai"}
"""Provider prefix in model ids of LiteLLM → prefix of this proxy, for prefixes that differ."""
_COMPATIBLE = frozenset(
    {"openai", "hosted_vllm", "openai_like", "custom_openai", "lm_studio", "text-completion-openai"}
)
"""Prefixes of LiteLLM for any server with the Chat Completions API; the setting `api_base` has its address."""
_VENDOR_URLS = {
    "openrouter": "https://openrouter.ai/api/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "mistral": "https://api.mistral.ai/v1",
}
"""Prefix of LiteLLM → base URL of a vendor with the Chat Completions API."""
_WITHOUT_NOTE = frozenset({"drop_params", "modify_params", "set_verbose", "json_logs", "num_retries_per_request"})
_READ_PARAMETERS = frozenset(
    {"model", "api_base", "base_url", "api_key", "vertex_project", "vertex_location", "max_tokens", "drop_params"}
)
_SERVER_SECTIONS = ("general_settings", "litellm_settings", "router_settings")
_READ_SETTINGS = frozenset(
    {"master_key", "fallbacks", "default_fallbacks", "model_group_alias", "request_timeout", "timeout"}
)
_VERSION = re.compile(r"\d+")


def read_litellm_config(config: Mapping[str, Any]) -> ImportPlan:
    """Return the settings of this proxy for `config`, the configuration of LiteLLM's proxy."""
    plan = ImportPlan("LiteLLM")
    models = _place_models(plan, config.get("model_list") or [])
    sections = [config.get(name) or {} for name in _SERVER_SECTIONS]
    settings: dict[str, Any] = {name: value for section in sections for name, value in section.items()}
    names = {**{name: name for name in models}, **_read_aliases(settings)}
    chosen = _choose_tiers(plan, names, models)
    fallbacks = _read_fallbacks(plan, settings, chosen, models)
    plan.set_tier_models({tier: models[name][0] for tier, name in chosen.items()}, fallbacks)
    plan.set_secret_reference("PROXY_API_KEY", str(settings.get("master_key") or ""), "general_settings.master_key")
    if timeout := settings.get("request_timeout") or settings.get("timeout"):
        plan.variables["UPSTREAM_TIMEOUT"] = f"{timeout:g}" if isinstance(timeout, int | float) else str(timeout)
    _note_others(plan, config)
    return plan


def _place_models(plan: ImportPlan, entries: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Add the servers of all models in `entries` to `plan`.

    Return `model_name` in the file → models with the prefix of this proxy, in the order of the file.
    """
    models: dict[str, list[str]] = {}
    for position, entry in enumerate(entries):
        name, given = str(entry.get("model_name", "")), entry.get("litellm_params") or {}
        setting = f"model_list[{position}]"
        target = _find_target(plan, setting, given)
        for parameter in sorted({*given} - _READ_PARAMETERS):
            plan.add_note(f"{setting}.litellm_params.{parameter}", "the client sets it, or it has no equivalent")
        if name and target:
            models.setdefault(name, []).append(target)
    return models


def _find_target(plan: ImportPlan, setting: str, given: Mapping[str, Any]) -> str:
    """Return the model in `given`, one entry of the file, with the prefix of this proxy. Add its server to `plan`.

    "": the entry cannot be imported. `setting`: path of the entry, for notes.
    """
    prefix, slash, model = str(given.get("model", "")).partition("/")
    if not slash:
        prefix, model = ("anthropic" if prefix.startswith("claude") else "openai"), prefix
    prefix, url = _PREFIXES.get(prefix, prefix), _resolve_url(plan, setting, given)
    if model.endswith("*"):
        if prefix == "anthropic" and not url:
            return "anthropic/*"
        plan.add_note(f"{setting}.model", f"request a model with its prefix, {prefix}/…, instead of the pattern")
        return ""
    if prefix == "vertex_ai" and not model.startswith("claude"):
        _set_vertex(plan, given)
        return f"vertex_ai/{model}"
    built_in = next((row for row in find_built_in_registry() if row.prefix == prefix), None)
    if prefix == "azure" and url:
        host = url.split("/openai")[0].rstrip("/")
        return _place(plan, setting, given, name="azure", url=f"{host}/openai/v1", model=model)
    if prefix in _VENDOR_URLS:
        return _place(plan, setting, given, name=prefix, url=url or _VENDOR_URLS[prefix], model=model)
    if url and prefix in _COMPATIBLE and find_built_in_provider(url) is None:
        return _place(plan, setting, given, name=_name_server(url), url=url, model=model)
    if built_in is not None and built_in.base_url and prefix != "vertex_ai":
        address = url or built_in.base_url
        if find_built_in_provider(address) is built_in:
            return _place(plan, setting, given, name=prefix, url=address, model=model)
        wire = {"anthropic": "messages", "gemini": "gemini", "ollama": "ollama"}.get(prefix, "chat")
        return _place(plan, setting, given, name=_name_server(address), url=address, model=model, wire=wire)
    return _use_litellm(plan, setting, given, prefix, model)


def _place(
    plan: ImportPlan, setting: str, given: Mapping[str, Any], *, name: str, url: str, model: str, wire: str = "chat"
) -> str:
    maximum = given.get("max_tokens")
    limits = {"max_output": maximum} if isinstance(maximum, int) and find_built_in_provider(url) is None else {}
    key_setting = f"{setting}.litellm_params.api_key"
    server = ImportedServer(
        name=name,
        base_url=url,
        key=str(given.get("api_key") or ""),
        key_setting=key_setting,
        wire=wire,
        models={model: limits},
    )
    return f"{plan.add_server(server)}/{model}"


def _use_litellm(plan: ImportPlan, setting: str, given: Mapping[str, Any], prefix: str, model: str) -> str:
    """Return a model id that this proxy calls through LiteLLM as a library, which reads its own variables."""
    library = next(row for row in find_built_in_registry() if row.transport == "litellm")
    plan.add_note(setting, f"{prefix}/… needs the extra litellm and LiteLLM's own variables for this provider")
    for name in ("api_key", "api_base"):
        if given.get(name):
            plan.add_note(f"{setting}.litellm_params.{name}", "set the variable that LiteLLM reads for this provider")
    return f"{prefix}/{model}" if prefix in library.extra_prefixes else f"litellm/{prefix}/{model}"


def _resolve_url(plan: ImportPlan, setting: str, given: Mapping[str, Any]) -> str:
    url = str(given.get("api_base") or given.get("base_url") or "").rstrip("/")
    if find_referenced_variable(url):
        plan.add_note(f"{setting}.litellm_params.api_base", "an address cannot be a reference. Set base_url yourself")
        return ""
    return url


def _set_vertex(plan: ImportPlan, given: Mapping[str, Any]) -> None:
    for parameter, variable in (("vertex_project", "VERTEX_PROJECT"), ("vertex_location", "VERTEX_LOCATION")):
        value = str(given.get(parameter) or "")
        reference = find_referenced_variable(value)
        if value and reference != variable:
            plan.variables[variable] = f"${{{reference}}}" if reference else value


def _name_server(url: str) -> str:
    """Return a name for the configuration table of the server at `url`: a word of its host, or `local`."""
    host = re.sub(r"^\w+://", "", url).partition("/")[0].partition(":")[0]
    words = [word for word in host.split(".") if word not in ("api", "www", "com", "ai", "io", "org", "net", "cn")]
    return "local" if host in ("localhost", "127.0.0.1", "0.0.0.0", "host") or not words else words[-1]


def _read_aliases(settings: Mapping[str, Any]) -> dict[str, str]:
    aliases = settings.get("model_group_alias") or {}
    return {name: str(value.get("model", "") if isinstance(value, dict) else value) for name, value in aliases.items()}


def _choose_tiers(plan: ImportPlan, names: Mapping[str, str], models: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return Claude tier → `model_name` of its model.

    The newest version of the tier is chosen, otherwise the entry for all models (`*`), otherwise that of the nearest
    tier. `names`: name or alias in the file → `model_name`. `models`: `model_name` → models. Models that are left out
    are noted in `plan`.
    """
    chosen: dict[str, str] = {}
    catch_all = next((names[name] for name in ("claude-*", "*") if names.get(name) in models), "")
    for tier in TIERS:
        found = [name for name, meant in names.items() if tier in name.lower() and meant in models]
        found = sorted(found, key=_version_of, reverse=True)
        if found:
            chosen[tier] = names[found[0]]
        elif catch_all:
            chosen[tier] = catch_all
        for other in found[1:]:
            if models[names[other]][0] != models[chosen[tier]][0]:
                plan.add_note(f"model_name {other}", f"one model per tier is set: {models[chosen[tier]][0]} for {tier}")
    for tier in TIERS:  # a tier without its own model gets that of the next one
        if tier not in chosen and (other := next((chosen[name] for name in _NEAREST[tier] if name in chosen), "")):
            chosen[tier] = other
    claude = [name for name in names if any(tier in name.lower() for tier in TIERS) or name in ("claude-*", "*")]
    if not chosen and models:
        first = next(iter(models))
        chosen = dict.fromkeys(TIERS, first)
        plan.add_note("model_list", f"no model_name names a Claude tier, so {models[first][0]} serves all of them")
        claude.append(first)
    for name in names:
        if name not in claude and names[name] in models:
            plan.add_note(f"model_name {name}", f"request it by its own name: {models[names[name]][0]}")
    return {tier: name for tier, name in chosen.items() if models[name][0] != "anthropic/*"}


_NEAREST = {
    "haiku": ("sonnet", "opus", "fable"),
    "sonnet": ("opus", "fable", "haiku"),
    "opus": ("sonnet", "fable", "haiku"),
    "fable": ("opus", "sonnet", "haiku"),
}
"""Claude tier → other tiers, the nearest first. A tier without a model uses the model of the first of them that has
one."""


def _version_of(name: str) -> tuple[int, ...]:
    """Return the version in the Claude id `name` as numbers, without a date: (3, 5) for `claude-3-5-haiku-20241022`."""
    return tuple(int(number) for number in _VERSION.findall(name) if len(number) < 6)


def _read_fallbacks(
    plan: ImportPlan, settings: Mapping[str, Any], chosen: Mapping[str, str], models: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Return Claude tier → fallback models.

    They are the further entries with the same `model_name`, then the fallbacks in `settings`. `chosen`: tier →
    `model_name`.
    """
    chains: dict[str, Sequence[str]] = {}
    for row in settings.get("fallbacks") or []:
        chains |= {str(name): values for name, values in row.items()} if isinstance(row, dict) else {}
    default = settings.get("default_fallbacks") or []
    found: dict[str, list[str]] = {}
    for tier, name in chosen.items():
        others = models[name][1:]
        if others:
            plan.add_note(f"model_name {name}", "the proxy does not balance load: further entries are fallbacks")
        following = [target for other in chains.get(name, default) for target in models.get(other, [])[:1]]
        found[tier] = [target for target in (*others, *following) if "*" not in target]
    return found


def _note_others(plan: ImportPlan, config: Mapping[str, Any]) -> None:
    for name, value in (config.get("environment_variables") or {}).items():
        if not find_referenced_variable(str(value)):
            plan.add_note(f"environment_variables.{name}", f"values are not copied. Set it in .env:  {name}=…")
    for section in _SERVER_SECTIONS:
        for name, value in (config.get(section) or {}).items():
            if name == "set_verbose" and value is True:
                plan.variables["LOG_LEVEL"] = "debug"
            elif name not in _READ_SETTINGS | _WITHOUT_NOTE and value not in (None, False, [], {}, ""):
                plan.add_note(f"{section}.{name}", "the proxy has no such setting")
    for name in config:
        if name not in (*_SERVER_SECTIONS, "model_list", "environment_variables"):
            plan.add_note(name, "the proxy has no such setting")
