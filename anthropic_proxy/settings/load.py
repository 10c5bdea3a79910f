"""Construction of `Settings` from the environment, `.env` and the command line, at start-up and at each reload."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from anthropic_proxy.settings import values
from anthropic_proxy.settings.environment import find_color_setting, find_no_proxy, find_proxies
from anthropic_proxy.settings.fields import TIERS, Secret, Settings, Timeouts
from anthropic_proxy.settings.sources import FoundSetting, Sources

SettingT = TypeVar("SettingT")
_KEY_ENDINGS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_CREDENTIALS")
"""Endings of variable names of other programs. The log redacts the values of the variables."""
_PATH_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
"""Variable with a file path, which is no secret. A value with `{` is pasted JSON of the file, which is a secret."""
_MAX_TOKENS = 100_000_000
_FIDELITIES = ("best-effort", "strict")
_LOG_FORMATS = ("auto", "plain", "json")
_LOG_LEVELS = ("debug", "info", "warning", "error")
_OTHER_LOG_LEVELS = {"warn": "warning", "critical": "error", "fatal": "error"}
_MIN_SIMILARITY = 0.85
_FOREIGN_FROM = 0.9
"""Minimum similarity (0 to 1) of an environment variable to a setting for a warning about a misspelling.

Higher than `_MIN_SIMILARITY` for `.env`, because the environment contains variables of other programs.
"""
_FOREIGN_BEGINNINGS = ("ANTHROPIC_BASE_", "ANTHROPIC_AUTH_", "ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_", "CLAUDE_")
"""Beginnings of Claude Code's own environment variables. They cause no warning about a misspelling."""


class ProviderVariables(Struct, frozen=True, kw_only=True):
    """Names and defaults of a provider (`google`) for its settings. `routing.providers` adds all other fields."""

    name: str
    """Name of the provider in the setting `PREFERRED_PROVIDER` and as key of mappings: `google`."""
    prefix: str
    """Prefix of model ids, without the slash: `gemini` in `gemini/gemini-pro-latest`. Also a `PREFERRED_PROVIDER`."""
    extra_prefixes: Collection[str] = ()
    """Further prefixes that select the provider and stay in the model id: `bedrock` of `bedrock/…` for LiteLLM.

    Key variables of companies with one of the prefixes are never reported as misspelled.
    """
    env_prefix: str = ""
    """Beginning of the provider's variables: `GEMINI` of `GEMINI_WIRE`, `GEMINI_KNOWN_MODELS`. "": no variables."""
    base_url_variable: str | None = None
    """Variable of the base URL. It takes precedence over `<env_prefix>_BASE_URL`. None: only the latter exists."""
    key_variable: str | None = None
    """Variable of the API keys: `GEMINI_API_KEY`. None: the provider has no key setting."""
    offered_to_users: bool = True
    """True if error texts list the provider as a choice for a setting. False: demo and LiteLLM."""
    wires: Mapping[str, object]
    """Names of the supported wires (APIs) as keys: `chat`, `responses`. `<env_prefix>_WIRE` accepts the same names."""
    default_big_model: str | None = None
    """Default model for sonnet, opus and fable, without prefix. None: no default."""
    default_small_model: str | None = None
    """Default model for haiku, without prefix. None: no default."""
    serves_claude: bool = False
    """True if the provider serves Claude models. Claude ids stay unchanged; BIG_MODEL and SMALL_MODEL are ignored."""

    @property
    def has_default_models(self) -> bool:
        """True if requests for all Claude tiers have a model without BIG_MODEL and SMALL_MODEL."""
        return self.serves_claude or (self.default_big_model is not None and self.default_small_model is not None)


def load_settings(
    environ: Mapping[str, str], providers: Sequence[ProviderVariables], *, env_file: str | None = ".env"
) -> Settings:
    """Return the settings from the environment and the `.env` file. The environment takes precedence.

    `env_file`: path; a missing file is ignored. None: read no file.
    Raises `ConfigurationError` with the variable, the redacted value and the allowed values.
    """
    sources = Sources(environ, env_file)
    fields = _load_fields(sources, providers)
    proxies, left_out = find_proxies(environ)
    others = _load_others(sources, providers)
    return Settings(
        **fields,
        color=find_color_setting(environ),
        http_proxies=proxies,
        no_proxy_hosts=find_no_proxy(environ),
        litellm_variables=others,
        other_secrets=_find_other_secrets(environ, others),
        origins=sources.origins,
        raw_values=sources.given,
        warnings=(*sources.list_warnings(), *_find_misspellings(sources, providers), *left_out),
    )


def _find_other_secrets(environ: Mapping[str, str], others: Mapping[str, Secret]) -> tuple[Secret, ...]:
    seen = {**others} | {name: Secret(value, name) for name, value in environ.items() if value}
    return tuple(
        secret
        for name, secret in seen.items()
        if name.upper().endswith(_KEY_ENDINGS) and (name != _PATH_VARIABLE or "{" in secret.reveal())
    )


def list_variables(providers: Sequence[ProviderVariables]) -> tuple[str, ...]:
    """Return the names of all variables that `load_settings` reads, with aliases, in the order of reading."""
    sources = Sources({}, None)
    _load_fields(sources, providers)
    return tuple(dict.fromkeys(sources.requested_variables))


def _load_fields(sources: Sources, providers: Sequence[ProviderVariables]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "preferred_provider": _find(sources, partial(_preferred, providers), "PREFERRED_PROVIDER"),
        "tier_models": _find_by_tier(sources, values.decode_model, "MODEL_", several=False),
        "fallbacks": _find_by_tier(sources, values.decode_models, "FALLBACK_", several=True),
        "tier_fidelities": _find_by_tier(sources, _choice(*_FIDELITIES), "FIDELITY_", several=False),
        "timeouts": _load_timeouts(sources),
    }
    for name, decode, several, variables in _SIMPLE:
        value = _find(sources, decode, *variables, several=several)
        if value is not None:
            fields[name] = value
    _require_models(fields, sources, providers)
    return {**fields, **_load_of_providers(sources, providers)}


def _find(
    sources: Sources, decode: Callable[[FoundSetting], SettingT], *variables: str, several: bool = False
) -> SettingT | None:
    found = sources.find_setting(*variables, several=several)
    return None if found is None else decode(found)


def _find_by_tier(
    sources: Sources, decode: Callable[[FoundSetting], SettingT], start: str, *, several: bool
) -> dict[str, SettingT]:
    found = {tier: _find(sources, decode, start + tier.upper(), several=several) for tier in TIERS}
    return {tier: value for tier, value in found.items() if value is not None}


def _load_timeouts(sources: Sources) -> Timeouts:
    default = Timeouts()
    common = _find(sources, values.decode_seconds, "UPSTREAM_TIMEOUT")
    connect = _find(sources, values.decode_seconds, "UPSTREAM_CONNECT_TIMEOUT")
    first_byte = _find(sources, values.decode_seconds, "UPSTREAM_FIRST_BYTE_TIMEOUT")
    idle = _find(sources, values.decode_seconds, "UPSTREAM_IDLE_TIMEOUT")
    return Timeouts(
        connect or default.connect_seconds,
        first_byte or common or default.first_byte_seconds,
        idle or common or default.idle_seconds,
    )


def _load_of_providers(sources: Sources, providers: Sequence[ProviderVariables]) -> dict[str, dict[str, Any]]:
    keys: dict[str, Any] = {}
    base_urls: dict[str, Any] = {}
    wires: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for row in providers:
        if row.key_variable:
            keys[row.name] = _find(sources, values.decode_keys, row.key_variable, several=True)
        if row.env_prefix:
            addresses = dict.fromkeys(
                (row.base_url_variable or f"{row.env_prefix}_BASE_URL", f"{row.env_prefix}_BASE_URL")
            )
            addresses.pop("ANTHROPIC_BASE_URL", None)  # Claude Code sets it to the proxy, which would call itself
            base_urls[row.name] = _find(sources, values.decode_url, *addresses)
            wires[row.name] = _find(sources, partial(_wire, row), f"{row.env_prefix}_WIRE")
            models[row.name] = _find(sources, values.decode_models, f"{row.env_prefix}_KNOWN_MODELS", several=True)
    by_field = {"keys": keys, "base_urls": base_urls, "wires": wires, "extra_models": models}
    return {
        field: {name: value for name, value in by_provider.items() if value} for field, by_provider in by_field.items()
    }


def _load_others(sources: Sources, providers: Sequence[ProviderVariables]) -> dict[str, Secret]:
    """Return the variables of `.env` for LiteLLM: unknown variables, and keys and base URLs of providers.

    Of several comma-separated keys, only the first is returned.
    """
    shared = {name for row in providers for name in (row.key_variable, row.base_url_variable) if name}
    keys = {row.key_variable for row in providers}
    return {
        name: Secret(
            entry.text.partition(",")[0].strip() if name in keys else entry.text,
            f"{name} in {entry.origin}",
        )
        for name, entry in sources.find_litellm_variables(set(sources.requested_variables) - shared).items()
    }


def _require_models(fields: Mapping[str, Any], sources: Sources, providers: Sequence[ProviderVariables]) -> None:
    """Raise `ConfigurationError` if the preferred provider has no default models and no setting names one."""
    preferred = next((row for row in providers if row.name == fields["preferred_provider"]), None)
    named = fields["tier_models"] or fields.keys() & {"big_model", "middle_model", "small_model"}
    if preferred is None or preferred.has_default_models or named:
        return
    listed = values.join_with_or([row.name for row in providers if row.offered_to_users])
    found = sources.find_setting("PREFERRED_PROVIDER")
    assert found is not None
    raise values.invalid_setting_error(
        found,
        f"Use {listed}. {preferred.name} has no default models: set BIG_MODEL and SMALL_MODEL too.",
    )


def _preferred(providers: Sequence[ProviderVariables], found: FoundSetting) -> str:
    choices = {row.prefix: row.name for row in providers} | {row.name: row.name for row in providers}
    return values.decode_choice(found, choices, [row.name for row in providers if row.offered_to_users])


def _wire(row: ProviderVariables, found: FoundSetting) -> str | None:
    words = ("auto", *row.wires)
    wire = values.decode_choice(found, {word: word for word in words}, words)
    return None if wire == "auto" else wire


def _choice(*words: str) -> Callable[[FoundSetting], str]:
    return lambda found: values.decode_choice(found, {word: word for word in words}, words)


def _log_level(found: FoundSetting) -> str:
    return values.decode_choice(found, {**{word: word for word in _LOG_LEVELS}, **_OTHER_LOG_LEVELS}, _LOG_LEVELS)


def _text(found: FoundSetting) -> str:
    return found.text


def _location(found: FoundSetting) -> str:
    text = found.text.lower()
    if not text.replace("-", "").isalnum() or not text.isascii():  # it becomes part of a host name
        raise values.invalid_setting_error(found, "Use a region such as us-central1, or global.")
    return text


def _project(found: FoundSetting) -> str:
    if not found.text.isascii() or not found.text.replace("-", "").replace(":", "").replace(".", "").isalnum():
        raise values.invalid_setting_error(found, "Use the id of a project: letters, digits and hyphens.")
    return found.text


def _host(found: FoundSetting) -> str:
    if "/" in found.text or " " in found.text or not found.text.isprintable():
        raise values.invalid_setting_error(found, "Use an address to listen on, such as 127.0.0.1 or 0.0.0.0.")
    return found.text.strip("[]")


_SIMPLE: tuple[tuple[str, Callable[[FoundSetting], object], bool, tuple[str, ...]], ...] = (
    ("big_model", values.decode_model, False, ("BIG_MODEL",)),
    ("middle_model", values.decode_model, False, ("MIDDLE_MODEL",)),
    ("small_model", values.decode_model, False, ("SMALL_MODEL",)),
    ("use_vertex_auth", values.decode_boolean, False, ("USE_VERTEX_AUTH",)),
    ("vertex_project", _project, False, ("VERTEX_PROJECT", "VERTEX_PROJECT_ID")),
    ("vertex_location", _location, False, ("VERTEX_LOCATION",)),
    ("google_credentials_file", _text, False, ("GOOGLE_APPLICATION_CREDENTIALS",)),
    (
        "ollama_context_length",
        lambda found: values.decode_integer(found, 1, _MAX_TOKENS, "tokens"),
        False,
        ("OLLAMA_CONTEXT_LENGTH",),
    ),
    ("ollama_keep_alive", values.decode_duration, False, ("OLLAMA_KEEP_ALIVE",)),
    ("proxy_api_keys", values.decode_keys, True, ("PROXY_API_KEY",)),
    ("allow_unauthenticated", values.decode_boolean, False, ("ALLOW_UNAUTHENTICATED",)),
    ("allowed_hosts", values.decode_hosts, True, ("ALLOWED_HOSTS",)),
    ("serve_demo", values.decode_boolean, False, ("SERVE_DEMO",)),
    ("host", _host, False, ("HOST",)),
    ("port", lambda found: values.decode_integer(found, 1, 65_535, ""), False, ("PORT",)),
    ("fidelity", _choice(*_FIDELITIES), False, ("FIDELITY",)),
    ("check_context_window", values.decode_boolean, False, ("CHECK_WINDOW",)),
    ("search_url", values.decode_url, False, ("SEARCH_URL",)),
    ("fetch_urls", values.decode_boolean, False, ("FETCH_URLS",)),
    (
        "max_upstream_calls",
        lambda found: values.decode_integer(found, 1, 1_000_000, "calls"),
        False,
        ("MAX_UPSTREAM_CALLS",),
    ),
    ("stop_timeout_seconds", values.decode_seconds, False, ("STOP_TIMEOUT",)),
    ("log_format", _choice(*_LOG_FORMATS), False, ("LOG_FORMAT",)),
    ("log_level", _log_level, False, ("LOG_LEVEL",)),
)
"""Fields of `Settings` with one variable each: field, decoder, True for a list, variable and its aliases."""


def _find_misspellings(sources: Sources, providers: Sequence[ProviderVariables]) -> Iterator[str]:
    foreign = [prefix for row in providers for prefix in row.extra_prefixes]
    known = dict.fromkeys(sources.requested_variables)
    for name, origin in sources.list_names():
        company = name.lower().partition("_api_")[0]
        if name in known or (len(company) > 2 and any(prefix.startswith(company) for prefix in foreign)):
            continue
        in_environment = origin == "environment"
        if in_environment and (name.startswith(_FOREIGN_BEGINNINGS) or "_" not in name):
            continue
        min_similarity = _FOREIGN_FROM if in_environment else _MIN_SIMILARITY
        meant = values.find_similar_choice(name.upper(), sources.requested_variables, min_similarity)
        if meant and not (in_environment and meant in sources.origins):
            yield f"{origin}: {name} is not a setting. Did you mean {meant}"


ENV_FILE = ".env"
"""Path of the settings file, relative to the working directory."""


class SettingsReader:
    """Reader of the settings, for start-up and each reload.

    `overrides`: `Settings` fields from the command line, which take precedence. The constructor copies the
    environment. `export_to_litellm` later adds old values of `.env`, which must not override an edited `.env`.
    """

    def __init__(self, providers: Sequence[ProviderVariables], overrides: Mapping[str, object] | None = None) -> None:
        self._environ = dict(os.environ)
        self._providers = providers
        self._overrides = overrides or {}

    def read(self) -> Settings:
        """Read `.env` again and return the resulting settings. Raises `ConfigurationError` for an invalid value."""
        settings = load_settings(self._environ, self._providers, env_file=ENV_FILE)
        return msgspec.structs.replace(settings, **self._overrides)


def find_changed_variables(before: Settings, after: Settings) -> list[str]:
    """Return the names of variables with different texts before and after a reload, set or removed ones included."""
    names = dict.fromkeys((*before.raw_values, *after.raw_values))
    return [name for name in names if before.raw_values.get(name) != after.raw_values.get(name)]
