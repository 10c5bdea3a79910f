"""Construction of `Settings` from the environment, `.env` and the configuration file, at start and each reload."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec

from anthropic_proxy.engine.options import TIERS, Timeouts
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.providers.lookup import ProviderRegistry
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.errors import ConfigurationError, find_similar_choice, join_with_or
from anthropic_proxy.gateway.settings import provider_tables, values
from anthropic_proxy.gateway.settings.config_file import ConfigFile, resolve_config_file_path
from anthropic_proxy.gateway.settings.environment import (
    find_color_setting,
    find_no_proxy_setting,
    find_proxies,
)
from anthropic_proxy.gateway.settings.fields import FIXED_VARIABLES, Settings
from anthropic_proxy.gateway.settings.oidc_variables import load_oidc
from anthropic_proxy.gateway.settings.otel_variables import OTEL_PREFIX, find_otel_secrets, load_trace_fields
from anthropic_proxy.gateway.settings.place import find_data_directory, find_env_file
from anthropic_proxy.gateway.settings.provider_calls import load_call_options
from anthropic_proxy.gateway.settings.provider_tables import (
    add_configured_providers,
    list_ignored_table_warnings,
    load_prices,
    load_search_service,
)
from anthropic_proxy.gateway.settings.route_tables import load_routes
from anthropic_proxy.gateway.settings.sources import FoundSetting, Sources
from anthropic_proxy.secrets import Secret

SettingT = TypeVar("SettingT")
_KEY_ENDINGS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_CREDENTIALS")
"""Endings of variable names of other programs. The log redacts the values of the variables."""
_PATH_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
"""Variable with the path of a file. A value with `{` is the content of the file, which is a secret."""
_MAX_TOKENS = 100_000_000
_FIDELITIES = ("best-effort", "strict")
_LOG_FORMATS = ("auto", "plain", "json")
_LOG_LEVELS = ("debug", "info", "warning", "error")
_OTHER_LOG_LEVELS = {"warn": "warning", "critical": "error", "fatal": "error"}
_MIN_SIMILARITY = 0.85
_FOREIGN_FROM = 0.9
"""Minimum similarity (0 to 1) of an environment variable to a setting, above which a misspelling is reported."""
_FOREIGN_BEGINNINGS = ("ANTHROPIC_BASE_", "ANTHROPIC_AUTH_", "ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_", "CLAUDE_")
"""Beginnings of the names of Claude Code's own environment variables, which cause no warning about a misspelling."""


def load_settings(
    environ: Mapping[str, str], built_in: ProviderRegistry, *, env_file: str | None = None, resolves_keys: bool = False
) -> Settings:
    """Return the settings from the environment, which takes precedence, `.env` and the configuration file.

    If `env_file` is None, no files are read. If `resolves_keys` is False, key files are not read and key commands not
    run, and their keys cannot be sent. Raises one `ConfigurationError` with all errors.
    """
    config_file = resolve_config_file_path(env_file)
    files = {}
    for path in filter(None, (env_file, config_file)):
        if os.path.isfile(path):
            with suppress(OSError):  # the reader of the file reports the error
                # before the files are read: a change meanwhile is noticed later
                files[os.path.abspath(path)] = hashlib.sha256(read_bounded_file(path)).hexdigest()
    sources = Sources(environ, env_file)
    file = ConfigFile(config_file, sources.errors)
    tables = provider_tables.load_provider_tables(file, sources.errors, built_in)
    providers = add_configured_providers(built_in, tables, file, sources.errors)
    fields = _load_fields(sources, providers, provider_tables.list_provider_table_names(file))
    traces, trace_warnings = load_trace_fields(sources)
    resolves_now = resolves_keys and not sources.errors
    search = load_search_service(file, sources, resolves_keys=resolves_now)
    configured = provider_tables.load_provider_fields(tables, file, sources, resolves_keys=resolves_now)
    call_options = load_call_options(file, tables, built_in, sources)
    own: dict[str, Any] = {
        "call_options": call_options,
        "configured_providers": tables,
        "search": search,
        "prices": load_prices(file, sources),
    }
    own["routes"] = load_routes(file, sources)
    proxies: Mapping[str, Secret] = {}
    with sources.errors.collect():
        proxies = find_proxies(environ)
    with sources.errors.collect():
        for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            given = sources.find_foreign(variable)
            if given is None:
                continue
            paths = given.text.split(os.pathsep) if variable == "SSL_CERT_DIR" else [given.text]
            if not all(os.path.isabs(path) for path in paths if path):
                raise values.invalid_setting_error(
                    given, "Use an absolute path, because TLS libraries begin a relative one at the current directory."
                )
    sources.errors.require_empty()
    fields |= traces | {name: {**fields.get(name, {}), **added} for name, added in configured.items()}
    shared = {name for row in providers for name in (row.key_variable, row.base_url_variable) if name}
    shared |= {"AWS_REGION", "AWS_DEFAULT_REGION"}
    keys = {row.key_variable for row in providers}
    others = {
        name: Secret(
            entry.text.partition(",")[0].strip() if name in keys else entry.text,
            f"{name} in {entry.origin}",
        )
        for name, entry in sources.find_variables_only_in_env_file(set(sources.requested_variables) - shared).items()
    }
    seen = {**others} | {name: Secret(value, name) for name, value in environ.items() if value}
    found = [
        secret
        for name, secret in seen.items()
        if name.upper().endswith(_KEY_ENDINGS) and (name != _PATH_VARIABLE or "{" in secret.reveal())
    ]
    return Settings(
        **fields,
        **own,
        env_file=env_file,
        files=files,
        referenced_variables=sources.referenced_variables,
        color=find_color_setting(environ),
        data_directory=find_data_directory(environ),
        http_proxies=proxies,
        no_proxy_hosts=find_no_proxy_setting(environ),
        litellm_variables=others,
        cloud_variables={name: value for name, value in others.items() if name.startswith(("AWS_", "AZURE_"))},
        other_secrets=(*found, *find_otel_secrets(environ, traces["otel_variables"])),
        origins=sources.origins,
        raw_values=sources.given,
        warnings=(
            *(*file.warnings, *list_ignored_table_warnings(search, file, sources), *sources.list_warnings()),
            *(*_find_misspellings(sources, providers), *trace_warnings),
        ),
    )


def find_listen_address(environ: Mapping[str, str], env_file: str | None) -> tuple[str, int]:
    """Return `HOST` and `PORT`, also if other settings are invalid or `.env` cannot be read.

    Raises `ConfigurationError` if one of the two is invalid.
    """
    sources, default = Sources(environ, env_file), Settings()
    host, port = sources.find_setting("HOST"), sources.find_setting("PORT")
    return default.host if host is None else _host(host), default.port if port is None else _port(port)


def list_variables(providers: Sequence[Provider]) -> tuple[str, ...]:
    """Return the names of all variables that `load_settings` reads, with aliases, in the order of reading."""
    sources = Sources({}, None)
    _load_fields(sources, providers, ())
    load_trace_fields(sources)
    return tuple(dict.fromkeys(sources.requested_variables))


def _load_fields(sources: Sources, providers: Sequence[Provider], table_names: Sequence[str]) -> dict[str, Any]:
    """`table_names` has the names of all tables `[providers.NAME]`, also of invalid ones."""
    fields: dict[str, Any] = {
        "preferred_provider": _find(sources, partial(_preferred, providers, table_names), "PREFERRED_PROVIDER"),
        "tier_models": _find_by_tier(sources, values.decode_model, "MODEL_", is_list=False),
        "fallbacks": _find_by_tier(sources, values.decode_models, "FALLBACK_", is_list=True),
        "tier_fidelities": _find_by_tier(sources, _choice(*_FIDELITIES), "FIDELITY_", is_list=False),
    }
    default = Timeouts()
    common = _find(sources, values.decode_seconds, "UPSTREAM_TIMEOUT")
    connect = _find(sources, values.decode_seconds, "UPSTREAM_CONNECT_TIMEOUT")
    first_byte = _find(sources, values.decode_seconds, "UPSTREAM_FIRST_BYTE_TIMEOUT")
    idle = _find(sources, values.decode_seconds, "UPSTREAM_IDLE_TIMEOUT")
    fields["timeouts"] = Timeouts(
        connect or default.connect_seconds,
        first_byte or common or default.first_byte_seconds,
        idle or common or default.idle_seconds,
    )
    for name, decode, is_list, variables in FIELD_VARIABLES:
        value = _find(sources, decode, *variables, is_list=is_list)
        if value is not None:
            fields[name] = value
    with sources.errors.collect():
        fields["oidc"] = load_oidc(sources)
    with sources.errors.collect():
        others = {"PROXY_API_KEY": fields.get("proxy_api_keys", ()), "ADMIN_API_KEY": fields.get("admin_api_keys", ())}
        monitor = {key.reveal() for key in fields.get("monitor_api_keys", ())}
        for variable, accepted in others.items():
            if not monitor.isdisjoint(key.reveal() for key in accepted):
                raise ConfigurationError(
                    f"MONITOR_API_KEY has a key of {variable}. It only reads /metrics and /api/: choose another key.",
                    code="monitor-key-shared",
                )
    with sources.errors.collect():
        _require_models(fields, sources, providers)
    keys: dict[str, Any] = {}
    base_urls: dict[str, Any] = {}
    wires: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for row in providers:
        if row.key_variable:
            keys[row.name] = _find(sources, values.decode_keys, row.key_variable, is_list=True)
        if row.env_prefix:
            addresses = dict.fromkeys(
                (row.base_url_variable or f"{row.env_prefix}_BASE_URL", f"{row.env_prefix}_BASE_URL")
            )
            addresses.pop("ANTHROPIC_BASE_URL", None)  # Claude Code sets it to the proxy, which would call itself
            base_urls[row.name] = _find(sources, values.decode_url, *addresses)
            wires[row.name] = _find(sources, partial(_wire, row), f"{row.env_prefix}_WIRE")
            models[row.name] = _find(sources, values.decode_models, f"{row.env_prefix}_KNOWN_MODELS", is_list=True)
    for field, by_provider in {"keys": keys, "base_urls": base_urls, "wires": wires, "extra_models": models}.items():
        fields[field] = {name: value for name, value in by_provider.items() if value}
    return fields


def _find(
    sources: Sources, decode: Callable[[FoundSetting], SettingT], *variables: str, is_list: bool = False
) -> SettingT | None:
    """Return the decoded value, or None if it is not set or invalid. The reason is added to the errors of `sources`."""
    found = sources.find_setting(*variables, is_list=is_list)
    if found is not None:
        with sources.errors.collect():
            return decode(found)
    return None


def _find_by_tier(
    sources: Sources, decode: Callable[[FoundSetting], SettingT], start: str, *, is_list: bool
) -> dict[str, SettingT]:
    found = {tier: _find(sources, decode, start + tier.upper(), is_list=is_list) for tier in TIERS}
    return {tier: value for tier, value in found.items() if value is not None}


def _require_models(fields: Mapping[str, Any], sources: Sources, providers: Sequence[Provider]) -> None:
    """The preferred provider must have default models, or a setting must name one."""
    preferred = next((row for row in providers if row.name == fields["preferred_provider"]), None)
    named = fields["tier_models"] or fields.keys() & {"big_model", "middle_model", "small_model"}
    if preferred is None or preferred.has_default_models or named:
        return
    listed = join_with_or([row.name for row in providers if row.offered_to_users])
    found = sources.find_setting("PREFERRED_PROVIDER")
    assert found is not None
    raise values.invalid_setting_error(
        found,
        f"Use {listed}. {preferred.name} has no default models: set BIG_MODEL and SMALL_MODEL too.",
    )


def _preferred(providers: Sequence[Provider], table_names: Sequence[str], found: FoundSetting) -> str:
    choices = {row.prefix: row.name for row in providers} | {row.name: row.name for row in providers}
    listed = dict.fromkeys((*(row.name for row in providers if row.offered_to_users), *table_names))
    return values.decode_choice(found, {name: name for name in table_names} | choices, list(listed))


def _wire(row: Provider, found: FoundSetting) -> str | None:
    wire = _choice("auto", *row.wires)(found)
    return None if wire == "auto" else wire


def _choice(*words: str, **aliases: str) -> Callable[[FoundSetting], str]:
    return lambda found: values.decode_choice(found, {word: word for word in words} | aliases, words)


def _credentials(found: FoundSetting) -> str:
    return found.text if "{" in found.text else values.decode_path(found)  # the file, or its contents


def _location(found: FoundSetting) -> str:
    text = found.text.lower()
    if not text.replace("-", "").isalnum() or not text.isascii():  # it becomes part of a host name
        raise values.invalid_setting_error(found, "Use a region such as us-central1, or global.")
    return text


def _integer(minimum: int, maximum: int, unit: str) -> Callable[[FoundSetting], int]:
    return lambda found: values.decode_integer(found, minimum, maximum, unit)


def _resource(found: FoundSetting) -> str:
    if not found.text.replace("-", "").isalnum() or not found.text.isascii():  # it becomes part of a host name
        raise values.invalid_setting_error(found, "Use the name of a resource: letters, digits and hyphens.")
    return found.text


def _project(found: FoundSetting) -> str:
    if not found.text.isascii() or not found.text.replace("-", "").replace(":", "").replace(".", "").isalnum():
        raise values.invalid_setting_error(found, "Use the id of a project: letters, digits and hyphens.")
    return found.text


def _host(found: FoundSetting) -> str:
    if "/" in found.text or " " in found.text or not found.text.isprintable():
        raise values.invalid_setting_error(found, "Use an address to listen on, such as 127.0.0.1 or 0.0.0.0.")
    return found.text.strip("[]")


_days = _integer(1, 36_500, "days")
_port = _integer(1, 65_535, "")


FIELD_VARIABLES: tuple[tuple[str, Callable[[FoundSetting], object], bool, tuple[str, ...]], ...] = (
    ("big_model", values.decode_model, False, ("BIG_MODEL",)),
    ("middle_model", values.decode_model, False, ("MIDDLE_MODEL",)),
    ("small_model", values.decode_model, False, ("SMALL_MODEL",)),
    ("use_vertex_auth", values.decode_boolean, False, ("USE_VERTEX_AUTH",)),
    ("vertex_project", _project, False, ("VERTEX_PROJECT", "VERTEX_PROJECT_ID")),
    ("vertex_location", _location, False, ("VERTEX_LOCATION",)),
    ("google_credentials_file", _credentials, False, ("GOOGLE_APPLICATION_CREDENTIALS",)),
    ("aws_region", _location, False, ("AWS_REGION", "AWS_DEFAULT_REGION")),
    ("foundry_resource", _resource, False, ("ANTHROPIC_FOUNDRY_RESOURCE",)),
    ("ollama_context_length", _integer(1, _MAX_TOKENS, "tokens"), False, ("OLLAMA_CONTEXT_LENGTH",)),
    ("ollama_keep_alive", values.decode_go_duration, False, ("OLLAMA_KEEP_ALIVE",)),
    ("proxy_api_keys", values.decode_keys, True, ("PROXY_API_KEY",)),
    ("virtual_keys", values.decode_boolean, False, ("VIRTUAL_KEYS",)),
    ("admin_api_keys", values.decode_keys, True, ("ADMIN_API_KEY",)),
    ("monitor_api_keys", values.decode_keys, True, ("MONITOR_API_KEY",)),
    ("allow_unauthenticated", values.decode_boolean, False, ("ALLOW_UNAUTHENTICATED",)),
    ("allowed_hosts", values.decode_hosts, True, ("ALLOWED_HOSTS",)),
    ("serve_demo", values.decode_boolean, False, ("SERVE_DEMO",)),
    ("host", _host, False, ("HOST",)),
    ("port", _port, False, ("PORT",)),
    ("tls_certificate_file", values.decode_path, False, ("TLS_CERT_FILE",)),
    ("tls_key_file", values.decode_path, False, ("TLS_KEY_FILE",)),
    ("fidelity", _choice(*_FIDELITIES), False, ("FIDELITY",)),
    ("check_context_window", values.decode_boolean, False, ("CHECK_WINDOW",)),
    ("search_url", values.decode_url, False, ("SEARCH_URL",)),
    ("fetch_urls", values.decode_boolean, False, ("FETCH_URLS",)),
    ("max_upstream_calls", _integer(1, 1_000_000, "calls"), False, ("MAX_UPSTREAM_CALLS",)),
    ("stop_timeout_seconds", values.decode_seconds, False, ("STOP_TIMEOUT",)),
    ("drain_delay_seconds", _integer(0, 3600, "seconds"), False, ("DRAIN_DELAY",)),
    ("log_format", _choice(*_LOG_FORMATS), False, ("LOG_FORMAT",)),
    ("log_level", _choice(*_LOG_LEVELS, **_OTHER_LOG_LEVELS), False, ("LOG_LEVEL",)),
    ("dashboard_url", values.decode_url_without_path, False, ("DASHBOARD_URL",)),
    ("dashboard_editing", values.decode_boolean, False, ("DASHBOARD_EDITING",)),
    ("plugins", lambda found: found.items, True, ("PLUGINS",)),
    ("database_url", values.decode_database_url, False, ("DATABASE_URL",)),
    ("redis_url", values.decode_redis_url, False, ("REDIS_URL",)),
    ("redis_failure", _choice("open", "closed"), False, ("REDIS_FAILURE",)),
    ("redis_prefix", values.decode_redis_prefix, False, ("REDIS_PREFIX",)),
    ("price_update_days", _integer(0, 365, "days"), False, ("PRICE_UPDATE_DAYS",)),
    ("price_update_url", values.decode_url, False, ("PRICE_UPDATE_URL",)),
    ("ledger_days", _days, False, ("LEDGER_DAYS",)),
    ("ledger_max_mb", _integer(10, 1_000_000, "megabytes"), False, ("LEDGER_MAX_MB",)),
    ("ledger_content", values.decode_boolean, False, ("LEDGER_CONTENT",)),
    ("ledger_content_days", _days, False, ("LEDGER_CONTENT_DAYS",)),
)
"""Rows for fields of `Settings` with one variable each: field, decoder, True for a comma-separated list, variable with
its aliases."""


def _find_misspellings(sources: Sources, providers: Sequence[Provider]) -> Iterator[str]:
    foreign = [prefix for row in providers for prefix in row.extra_prefixes]
    known = {*sources.requested_variables, *sources.referenced_variables}
    words = {variable: {*variable.split("_")} for variable in sources.requested_variables}
    for name, origin in sources.list_variable_sources():
        company = name.lower().partition("_api_")[0]
        if (
            name in known
            or name.startswith(OTEL_PREFIX)
            or (len(company) > 2 and any(prefix.startswith(company) for prefix in foreign))
        ):
            continue
        in_environment = origin == "environment"
        if in_environment and (name.startswith(_FOREIGN_BEGINNINGS) or "_" not in name):
            continue
        min_similarity = _FOREIGN_FROM if in_environment else _MIN_SIMILARITY
        own_words = {*name.upper().split("_")}
        # the comparison is slow; a misspelled name of several words has one that is right
        nearby = [variable for variable, parts in words.items() if len(parts) == 1 or not own_words.isdisjoint(parts)]
        meant = find_similar_choice(name.upper(), nearby, min_similarity)
        if meant and not (in_environment and meant in sources.origins):
            yield f"{origin}: {name} is not a setting. Did you mean {meant}"


class SettingsReader:
    """`overrides` are fields of `Settings` from the command line, which take precedence."""

    def __init__(self, providers: ProviderRegistry, overrides: Mapping[str, object] | None = None) -> None:
        # a copy: otherwise values that `export_to_litellm` adds would override an edited `.env` at a reload
        self._environ = dict(os.environ)
        self._env_file = find_env_file(self._environ)
        self._providers = providers
        self._overrides = overrides or {}
        self._fixed: Mapping[str, object] | None = None
        """Fields that a reload does not change, as at the start. None: nothing was read."""

    def read(self) -> Settings:
        """Read `.env` and the configuration file again, and return the settings.

        Settings in `FIXED_VARIABLES` keep their values until the next start. Raises `ConfigurationError` for an invalid
        value.
        """
        settings = load_settings(self._environ, self._providers, env_file=self._env_file, resolves_keys=True)
        settings = msgspec.structs.replace(settings, **self._overrides)
        if self._fixed is None:
            fields = msgspec.structs.asdict(settings)
            self._fixed = {
                field: fields[field] for field, _, _, (variable, *_) in FIELD_VARIABLES if variable in FIXED_VARIABLES
            }
        return msgspec.structs.replace(settings, **self._fixed)


def is_fixed_variable(name: str) -> bool:
    """Return True if a change takes effect at the next start of the server."""
    return name in FIXED_VARIABLES or name.startswith(OTEL_PREFIX)  # the library reads its variables once


def find_changed_variables(before: Settings, after: Settings) -> list[str]:
    names = dict.fromkeys((*before.raw_values, *after.raw_values))
    return [name for name in names if before.raw_values.get(name) != after.raw_values.get(name)]


_BACKEND_FIELDS = frozenset(
    {
        "big_model",
        "middle_model",
        "small_model",
        "use_vertex_auth",
        "vertex_project",
        "vertex_location",
        "google_credentials_file",
        "aws_region",
        "foundry_resource",
        "ollama_context_length",
        "ollama_keep_alive",
    }
)
"""Fields of `Settings` that select models, or servers and credentials for them."""


def list_backend_variables(providers: Sequence[Provider]) -> frozenset[str]:
    """Variables that select models, their providers, addresses, keys and APIs, with aliases.

    If one changes, results of the command `doctor` may no longer apply.
    """
    of_providers = {*list_variables(providers)} - {*list_variables(())}
    of_tiers = {f"{start}{tier.upper()}" for start in ("MODEL_", "FALLBACK_") for tier in TIERS}
    of_fields = {name for field, _, _, names in FIELD_VARIABLES if field in _BACKEND_FIELDS for name in names}
    return frozenset({"PREFERRED_PROVIDER", *of_providers, *of_tiers, *of_fields})
