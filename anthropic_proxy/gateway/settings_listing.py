"""List of all settings with value, default and source, for the command `config show` and the page Settings."""

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.options import Timeouts
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.engine.routing.router import choose_preferred_provider_name, list_tier_mappings
from anthropic_proxy.gateway.money import format_price
from anthropic_proxy.gateway.settings import Settings, list_variables
from anthropic_proxy.gateway.settings.config_file import format_key_path
from anthropic_proxy.gateway.settings.file_format import DEFAULT_WIRE
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.gateway.settings.load import FIELD_VARIABLES
from anthropic_proxy.gateway.settings.values import mask_setting
from anthropic_proxy.secrets import Secret

_MODEL_VARIABLES = {"BIG_MODEL": "sonnet", "SMALL_MODEL": "haiku"}
"""Variable → Claude tier. The default of the variable is the provider's default model for the tier."""


class SettingRow(Struct, frozen=True):
    name: str
    """Name of the environment variable."""
    value: str
    """Text of the value in use. A key is masked. "": none."""
    source: str
    """Source of the value: `environment`, `.env line 4`, or `default`."""
    default: str
    """Value that applies if the setting is not set. "": no default."""


def list_settings(settings: Settings) -> list[SettingRow]:
    """In the order of `.env.example`, followed by the configuration file and HTTP proxies."""
    registry = [row for row in find_registry(settings) if not row.is_configured]
    defaults = {**_list_defaults(registry), **_derived_defaults(settings)}
    rows = []
    for name in list_variables(registry):
        text = settings.raw_values[name].reveal() if name in settings.raw_values else None
        default = defaults.get(name, "")
        shown = default if text is None else mask_setting(name, text)
        rows.append(SettingRow(name, shown, settings.origins.get(name, "default"), default))
    proxies = {}
    for proxy in settings.http_proxies.values():
        variable, _, _ = proxy.origin.partition(" in ")
        url = urlsplit(proxy.reveal())
        address = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
        proxies[variable] = SettingRow(variable, address, "environment", "")
    return [*rows, *_list_tables(settings), *proxies.values()]


def _derived_defaults(settings: Settings) -> dict[str, str]:
    """Base URLs of providers, and tier models of the preferred provider."""
    registry = [row for row in find_registry(settings) if not row.is_configured]
    derived = {row.base_url_variable: row.base_url for row in registry if row.base_url_variable}
    derived["PREFERRED_PROVIDER"] = choose_preferred_provider_name(settings, None)
    without_models = structs.replace(settings, big_model=None, middle_model=None, small_model=None, tier_models={})
    targets = {mapping.tier: mapping.target for mapping in list_tier_mappings(without_models, Catalog())}
    return derived | {variable: targets[tier] for variable, tier in _MODEL_VARIABLES.items()}


def _list_tables(settings: Settings) -> list[SettingRow]:
    rows = []
    for table in settings.configured_providers:
        source = settings.origins[table.base_url_setting]
        rows.append(SettingRow(table.base_url_setting, table.base_url, source, ""))
        if table.has_key:
            keys = ", ".join(map(_show_key, settings.keys.get(table.name, ())))
            rows.append(SettingRow(table.api_key_setting, keys, settings.origins[table.api_key_setting], ""))
        if table.known_models:
            name = table.format_setting_name("models")
            rows.append(SettingRow(name, ", ".join(table.known_models), settings.origins[name], ""))
        for keys_below, value in table.collect_wire_and_model_values().items():
            name = table.format_setting_name(format_key_path(keys_below))
            default = DEFAULT_WIRE if keys_below == ("wire",) else ""
            rows.append(SettingRow(name, _show_value(value), settings.origins.get(name, "default"), default))
    for options in settings.call_options.values():
        rows += [SettingRow(name, text, settings.origins[name], "") for name, text in options.shown.items()]
    for name, variable in settings.referenced_variables.items():
        rows.append(SettingRow(name, ", ".join(map(str, variable.keys)), variable.origin, ""))
    if settings.search is not None:
        texts = {
            "service": settings.search.service,
            "api_key": _show_key(settings.search.key) if settings.search.key else "",
        }
        names = {f"{field} of [search]": text for field, text in texts.items()}
        rows += [SettingRow(name, text, settings.origins[name], "") for name, text in names.items() if text]
    for route in settings.routes:
        rows.append(SettingRow(route.targets_setting, ", ".join(route.targets), route.origin, ""))
    for price in settings.prices:
        text = f"{format_price(price.table.input)} in, {format_price(price.table.output)} out, per million tokens"
        rows.append(SettingRow(f'[prices."{price.pattern}"]', text, price.origin, ""))
    return rows


def _show_key(key: Secret) -> str:
    return UNRESOLVED_KEY if key.reveal() == UNRESOLVED_KEY else str(key)


def _show_value(value: object) -> str:
    """`true`, `low, high`, `1000`"""
    if isinstance(value, list | tuple):
        return ", ".join(_show_value(item) for item in value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _list_defaults(providers: Sequence[Provider]) -> dict[str, str]:
    """Return variable → default. Default models and base URLs are absent, because they depend on other settings."""
    plain, timeouts = Settings(), Timeouts()
    defaults = {
        variables[0]: _show_default(getattr(plain, field))
        for field, _, _, variables in FIELD_VARIABLES
        if getattr(plain, field) not in (None, ())
    }
    defaults |= {
        "UPSTREAM_CONNECT_TIMEOUT": _show_default(timeouts.connect_seconds),
        "UPSTREAM_FIRST_BYTE_TIMEOUT": _show_default(timeouts.first_byte_seconds),
        "UPSTREAM_IDLE_TIMEOUT": _show_default(timeouts.idle_seconds),
    }
    return defaults | {f"{row.env_prefix}_WIRE": "auto" for row in providers if row.env_prefix}


def _show_default(value: object) -> str:
    """Return a default value as the text that a user would set: `true`, `25`, `127.0.0.1`."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
