"""Construction of `Settings` from the environment, `.env` and the configuration file, at start and each reload."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from anthropic_proxy.engine.options import AutoMode, ConfiguredRoute, ImageDescriptions, Timeouts
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.providers.lookup import ProviderRegistry
from anthropic_proxy.engine.providers.model_facts import FACTS, load_built_in_facts
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.errors import ConfigurationError, find_similar_choice, join_with_or
from anthropic_proxy.gateway.settings import values
from anthropic_proxy.gateway.settings.config_file import ConfigFile, resolve_config_file_path
from anthropic_proxy.gateway.settings.environment import (
    OTEL_PREFIX,
    find_aws_files,
    find_color_setting,
    find_no_proxy_setting,
    find_otel_secrets,
    find_proxies,
    find_region_of_aws_profile,
    list_missing_files,
    load_trace_fields,
)
from anthropic_proxy.gateway.settings.facts_file import describe_facts, find_installed_facts
from anthropic_proxy.gateway.settings.fields import OidcSettings, Settings
from anthropic_proxy.gateway.settings.file_format import ImagesTable, KeyPath
from anthropic_proxy.gateway.settings.inspector_tables import load_inspectors
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.gateway.settings.managed_settings import load_managed_settings
from anthropic_proxy.gateway.settings.old_names import OLD_NAMES, find_moved_settings
from anthropic_proxy.gateway.settings.place import find_data_directory, find_env_file
from anthropic_proxy.gateway.settings.provider_calls import load_call_options
from anthropic_proxy.gateway.settings.provider_tables import (
    list_ignored_table_warnings,
    load_price_vendors,
    load_prices,
    load_provider_fields,
    load_provider_tables,
    load_search_service,
)
from anthropic_proxy.gateway.settings.push_tables import load_alerts, load_collectors, load_siem
from anthropic_proxy.gateway.settings.route_tables import load_routes
from anthropic_proxy.gateway.settings.sign_in_tables import (
    load_authorization,
    load_identity_fields,
    load_people_fields,
    load_sign_in,
    load_token_issuers,
    warn_about_ignored_fields,
)
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.table import Setting, list_all_settings, list_fixed_fields
from anthropic_proxy.gateway.settings.table_fields import record_plain_fields
from anthropic_proxy.secrets import Secret

_KEY_ENDINGS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_CREDENTIALS")
"""Endings of variable names of other programs. The log redacts the values of the variables."""
_PATH_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
"""Variable with the path of a file. A value with `{` is the content of the file, which is a secret."""
_MIN_SIMILARITY = 0.85
_FOREIGN_FROM = 0.9
"""Minimum similarity (0 to 1) of an environment variable to a setting, above which a misspelling is reported."""
_FOREIGN_BEGINNINGS = ("ANTHROPIC_BASE_", "ANTHROPIC_AUTH_", "ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_", "CLAUDE_")
"""Beginnings of the names of Claude Code's own environment variables, which cause no warning about a misspelling."""


def load_settings(
    environ: Mapping[str, str],
    built_in: ProviderRegistry,
    *,
    env_file: str | None = None,
    resolves_keys: bool = False,
    env_draft: str | None = None,
    config_draft: str | None = None,
) -> Settings:
    """Return the settings from the environment, which takes precedence, `.env` and the configuration file.

    If `env_file` is None, no files are read. If `resolves_keys` is False, key files are not read and key commands not
    run, and their keys cannot be sent. `env_draft` and `config_draft`: texts that are used instead of the contents of
    `.env` and of the configuration file, to check a change before it is written. Raises one `ConfigurationError` with
    all errors.
    """
    data_directory = find_data_directory(environ)
    facts, warnings = (load_built_in_facts(), ()) if env_file is None else find_installed_facts(data_directory)
    with FACTS.trying(facts):  # tables of the settings name models
        settings = _load(environ, built_in, env_file, env_draft, config_draft, resolves_keys=resolves_keys)
    return msgspec.structs.replace(
        settings, data_directory=data_directory, facts=facts, warnings=(*settings.warnings, *warnings)
    )


def _load(
    environ: Mapping[str, str],
    built_in: ProviderRegistry,
    env_file: str | None,
    env_draft: str | None,
    config_draft: str | None,
    *,
    resolves_keys: bool,
) -> Settings:
    """Return the settings without the facts about models."""
    config_file = resolve_config_file_path(env_file)
    files = digest_files(env_file)  # before they are read: a change meanwhile is noticed later
    sources = Sources(environ, env_file, env_draft)
    moved = find_moved_settings(sources)
    file = ConfigFile(config_file, sources, config_draft, moved)
    tables = load_provider_tables(file, sources.errors, built_in)
    providers = built_in.resolve(tables)
    written = file.find_value(("providers",))
    table = list_all_settings(providers, tuple(written) if isinstance(written, dict) else ())
    if not file.is_readable:  # it may have the table of the provider
        table = [setting for setting in table if setting.field != "preferred_provider"]
    fields = _read_table(table, sources)
    if "aws_region" not in fields and env_file is not None and (region := find_region_of_aws_profile(sources)):
        fields["aws_region"] = region
    timeouts = fields.pop("timeouts", {})
    if common := timeouts.pop("common", None):
        timeouts = {"first_byte_seconds": common, "idle_seconds": common, **timeouts}
    fields["timeouts"] = Timeouts(**timeouts)
    traces, trace_warnings = load_trace_fields(fields.pop("traces", {}), sources)
    has_own_traces = traces.pop("has_own_traces")
    fields |= traces
    with sources.errors.collect():
        fields["oidc"] = _build_oidc(fields.get("oidc", {}), file, sources)
    with sources.errors.collect():
        _require_different_keys(fields)
    if fields.get("scim_tokens") and not fields.get("virtual_keys"):
        file.warnings.append("SCIM_TOKEN is ignored, because VIRTUAL_KEYS is not true.")
    with sources.errors.collect():
        _require_model_settings(fields, table, providers, sources)
    resolves_now = resolves_keys and not sources.errors
    search = load_search_service(file, sources, resolves_keys=resolves_now)
    fields["alerts"] = load_alerts(file, sources, resolves_keys=resolves_now)
    collectors = load_collectors(file, sources)
    fields["collectors"] = (*fields["collectors"], *collectors)
    if has_own_traces:
        fields["trace_exporters"] += tuple(one.name for one in collectors if "traces" in one.urls)
    fields["siem"] = load_siem(file, sources, resolves_keys=resolves_now)
    configured = load_provider_fields(tables, file, sources, resolves_keys=resolves_now)
    fields |= {name: {**fields.get(name, {}), **added} for name, added in configured.items()}
    fields["call_options"] = load_call_options(file, tables, built_in, sources)
    fields["auto_mode"] = _build_auto_mode(file, sources)
    fields |= _read_price_list(file, sources)
    fields |= load_people_fields(file, sources)
    record_plain_fields(file, sources)
    fields["prices"] = load_prices(file, sources)
    fields["price_vendors"] = load_price_vendors(file, built_in, sources)
    fields["routes"] = load_routes(file, sources)
    fields["images"] = _build_images(file, fields["routes"], sources)
    fields["managed_settings"] = load_managed_settings(file, sources)
    fields["inspectors"] = load_inspectors(file, sources, resolves_keys=resolves_now)
    fields["token_issuers"] = load_token_issuers(fields, file, sources)
    fields["sign_in"] = load_sign_in(fields, file, fields["routes"], sources)
    warn_about_ignored_fields(file, sources)
    proxies: Mapping[str, Secret] = {}
    with sources.errors.collect():
        proxies = find_proxies(environ)
    missing: list[str] = []
    with sources.errors.collect():
        missing = _find_missing_authorities(sources)
    sources.errors.require_empty()
    names = [*(name for setting in table for name in setting.names), *OLD_NAMES]
    others_of_file = _find_other_variables(names, providers, sources)
    seen = {**others_of_file} | {name: Secret(value, name) for name, value in environ.items() if value}
    key_texts = [
        secret
        for name, secret in seen.items()
        if name.upper().endswith(_KEY_ENDINGS) and (name != _PATH_VARIABLE or "{" in secret.reveal())
    ]
    return Settings(
        **fields,
        configured_providers=tables,
        search=search,
        env_file=env_file,
        files=files,
        referenced_variables=sources.referenced_variables,
        color=find_color_setting(environ),
        http_proxies=proxies,
        no_proxy_hosts=find_no_proxy_setting(environ),
        litellm_variables=others_of_file,
        cloud_variables={name: value for name, value in others_of_file.items() if name.startswith(("AWS_", "AZURE_"))}
        | {name: Secret(path) for name, path in find_aws_files(sources).items()},
        other_secrets=(*key_texts, *find_otel_secrets(environ, traces["otel_variables"])),
        origins=sources.origins,
        raw_values=sources.given,
        placeholders=sources.placeholders,
        warnings=(
            *(*file.warnings, *list_ignored_table_warnings(search, file, sources), *sources.list_warnings()),
            *(*_find_misspellings(sources, names, providers), *trace_warnings, *missing),
        ),
    )


def _read_table(table: Sequence[Setting], sources: Sources) -> dict[str, Any]:
    """Return field of `Settings` → value, or → key → value. Errors are added to those of `sources`."""
    fields: dict[str, Any] = {}
    for setting in table:
        given = setting.find_text(sources)
        if given is None:
            continue
        with sources.errors.collect():
            value = setting.decode(given)
            field, _, key = setting.field.partition(".")
            if key and value is not None:
                fields.setdefault(field, {})[key] = value
            elif value is not None:
                fields[field] = value
    return fields


def digest_files(env_file: str | None) -> dict[str, str]:
    """Return absolute path → digest of the content, for the settings files that can be read now. The reader of a file
    reports an error. `env_file` None: no files are read.
    """
    digests = {}
    for path in filter(None, (env_file, resolve_config_file_path(env_file))):
        if os.path.isfile(path):
            with suppress(OSError):
                digests[os.path.abspath(path)] = hashlib.sha256(read_bounded_file(path)).hexdigest()
    return digests


def _require_different_keys(fields: Mapping[str, Any]) -> None:
    def reveal(field: str) -> set[str]:
        return {key.reveal() for key in fields.get(field, ())} - {UNRESOLVED_KEY}

    monitor = reveal("monitor_api_keys")
    admin = reveal("admin_api_keys")
    proxy = reveal("proxy_api_keys")
    for variable, accepted in (("PROXY_API_KEY", proxy), ("ADMIN_API_KEY", admin)):
        if not monitor.isdisjoint(accepted):
            raise ConfigurationError(
                f"MONITOR_API_KEY has a key of {variable}. It only reads /metrics and /api/: choose another key.",
                code="role-key-shared",
            )
    others = {"PROXY_API_KEY": proxy, "ADMIN_API_KEY": admin, "MONITOR_API_KEY": monitor}
    scim = reveal("scim_tokens")
    for variable, accepted in others.items():
        if not scim.isdisjoint(accepted):
            raise ConfigurationError(
                f"SCIM_TOKEN has a key of {variable}. It only creates and removes people: choose another one.",
                code="role-key-shared",
            )
    if fields.get("virtual_keys") and not admin.isdisjoint(proxy):
        raise ConfigurationError(
            "ADMIN_API_KEY has a key of PROXY_API_KEY. It is for the administration only: choose another key.",
            code="role-key-shared",
        )


def _require_model_settings(
    fields: Mapping[str, Any], table: Sequence[Setting], providers: ProviderRegistry, sources: Sources
) -> None:
    """The preferred provider must have default models, or a setting must name one."""
    preferred = next((row for row in providers if row.name == fields.get("preferred_provider")), None)
    models = {"tier_models", "big_model", "middle_model", "small_model"}
    variables = {name for setting in table if setting.field.partition(".")[0] in models for name in setting.names}
    is_named = not sources.is_readable or not variables.isdisjoint(sources.origins)
    if preferred is not None and not preferred.has_default_models and not is_named:
        listed = join_with_or([row.name for row in providers if row.offered_to_users])
        given = sources.find_setting("PREFERRED_PROVIDER")
        assert given is not None
        raise values.invalid_setting_error(
            given, f"Use {listed}. {preferred.name} has no default models: set BIG_MODEL and SMALL_MODEL too."
        )


def _find_missing_authorities(sources: Sources) -> list[str]:
    """Return a warning for each file of certificates that does not exist. A folder of several may be missing."""
    missing: list[str] = []
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        given = sources.find_foreign(variable)
        if given is None:
            continue
        paths = given.text.split(os.pathsep) if variable == "SSL_CERT_DIR" else [given.text]
        if not all(os.path.isabs(path) for path in paths if path):
            raise values.invalid_setting_error(
                given, "Use an absolute path, because TLS libraries begin a relative one at the current directory."
            )
        if variable == "SSL_CERT_FILE":
            missing += list_missing_files(given, paths)
    return missing


def _find_other_variables(names: Collection[str], providers: ProviderRegistry, sources: Sources) -> dict[str, Secret]:
    """Return the variables of `.env` that are no settings, and those of providers that libraries read too."""
    keys = {row.key_variable for row in providers}
    shared = {name for row in providers for name in (row.key_variable, row.base_url_variable) if name}
    shared |= {"AWS_REGION", "AWS_DEFAULT_REGION"}
    return {
        name: Secret(entry.text.partition(",")[0].strip() if name in keys else entry.text, f"{name} in {entry.origin}")
        for name, entry in sources.find_variables_only_in_env_file({*names} - shared).items()
    }


def _build_auto_mode(file: ConfigFile, sources: Sources) -> AutoMode:
    if (table := file.tables.auto_mode) is None:
        return AutoMode()

    return AutoMode(
        mode=table.mode,
        model=_decode_model(file, ("auto_mode", "model"), table.model, sources),
        timeout_seconds=table.timeout,
        deny=tuple(table.deny),
        allow=tuple(table.allow),
        environment=tuple(table.environment),
        confirm_with=_decode_model(file, ("auto_mode", "confirm_with"), table.confirm_with, sources),
    )


def _build_images(file: ConfigFile, routes: Sequence[ConfiguredRoute], sources: Sources) -> ImageDescriptions | None:
    table = file.tables.images or ImagesTable()
    model = _decode_model(file, ("images", "model"), table.model, sources)
    if model is None and not any(route.image_model for route in routes):
        return None
    return ImageDescriptions(model=model, timeout_seconds=table.timeout, max_per_request=table.max_per_request)


def _decode_model(file: ConfigFile, path: KeyPath, text: str | None, sources: Sources) -> str | None:
    with sources.errors.collect():
        return None if text is None else values.decode_model(file.build_setting(path, text))
    return None


def _read_price_list(file: ConfigFile, sources: Sources) -> Mapping[str, Any]:
    """Return field of `Settings` → value."""
    if (table := file.tables.price_list) is None:
        return {}
    fields: dict[str, Any] = {"price_update_days": table.update_days}
    with sources.errors.collect():
        if table.url is not None:
            fields["price_update_url"] = values.decode_url(file.build_setting(("price_list", "url"), table.url))
    return fields


_CLIENT_PROOFS = {
    "OIDC_CLIENT_KEY_FILE": "client_key_file",
    "OIDC_CLIENT_KEY": "client_key",
    "OIDC_CLIENT_SECRET": "client_secret",
}
"""Variables with which the proxy proves at the identity provider who it is. The first one that is set is used."""


def _build_oidc(fields: Mapping[str, Any], file: ConfigFile, sources: Sources) -> OidcSettings | None:
    """Return None if `OIDC_ISSUER` is not set."""
    authorization = load_authorization(file, sources)
    has_issuer = "OIDC_ISSUER" in sources.origins
    has_client = "OIDC_CLIENT_ID" in sources.origins
    if not sources.is_readable:  # it may have the other one
        return None
    if has_client and not has_issuer:
        raise ConfigurationError(
            "OIDC_CLIENT_ID is set, but OIDC_ISSUER is not. Set OIDC_ISSUER to the https:// URL of the identity "
            "provider, or remove OIDC_CLIENT_ID.",
            code="identity-provider",
        )
    if has_issuer and not has_client:
        raise ConfigurationError(
            "OIDC_ISSUER is set, but OIDC_CLIENT_ID is not. Register the proxy at the identity provider, and set "
            "OIDC_CLIENT_ID to the id of the client.",
            code="identity-provider",
        )
    used, *ignored = [name for name in _CLIENT_PROOFS if name in sources.origins] or [""]
    file.warnings += [f"{name} is ignored, because {used} is set." for name in ignored]
    fields = {
        name: value for name, value in fields.items() if name not in {_CLIENT_PROOFS[variable] for variable in ignored}
    }
    if authorization and not has_issuer:
        file.warnings.append("[sign_in.authorization] is ignored, because OIDC_ISSUER is not set.")
    if "issuer" not in fields:
        return None
    return OidcSettings(**fields, **load_identity_fields(file), authorization=authorization)


def find_listen_address(environ: Mapping[str, str], env_file: str | None) -> tuple[str, int]:
    """Return `HOST` and `PORT`, also if other settings are invalid or `.env` cannot be read.

    Raises `ConfigurationError` if one of the two is invalid.
    """
    sources = Sources(environ, env_file)
    default = Settings()
    host = sources.find_setting("HOST")
    port = sources.find_setting("PORT")
    return (
        default.host if host is None else values.decode_listen_host(host),
        default.port if port is None else values.decode_port(port),
    )


def _find_misspellings(sources: Sources, names: Sequence[str], providers: Sequence[Provider]) -> Iterator[str]:
    foreign = [prefix for row in providers for prefix in row.extra_prefixes]
    known = {*names, *sources.referenced_variables}
    words = {variable: {*variable.split("_")} for variable in names}
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
        if not meant and not in_environment:  # `PROVIDER` for PREFERRED_PROVIDER
            longer = [variable for variable, parts in words.items() if own_words < parts]
            meant = longer[0] if len(longer) == 1 else ""
        if meant and not (in_environment and meant in sources.origins):
            yield f"{origin}: {name} is not a setting. Did you mean:  {meant}"


class SettingsReader:
    """Reader of all settings, at the start and for each reload.

    `overrides` are fields of `Settings` from the command line, which take precedence.
    """

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

        Settings that are not `reloadable` keep their values until the next start. Raises `ConfigurationError` for an
        invalid value.
        """
        settings = load_settings(self._environ, self._providers, env_file=self._env_file, resolves_keys=True)
        settings = msgspec.structs.replace(settings, **self._overrides)
        if self._fixed is None:
            self._fixed = {field: getattr(settings, field) for field in list_fixed_fields()}
        return msgspec.structs.replace(settings, **self._fixed)


def find_changed_variables(before: Settings, after: Settings) -> list[str]:
    names = dict.fromkeys((*before.raw_values, *after.raw_values))
    changed = [name for name in names if before.raw_values.get(name) != after.raw_values.get(name)]
    if before.facts is not after.facts:
        changed.append(describe_facts(after.facts) if after.facts.origin else "facts of the release")
    return changed
