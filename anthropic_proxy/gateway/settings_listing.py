"""List of all settings with value, default and source, for the command `config show` and the page Settings."""

from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.choices import find_preferred_provider
from anthropic_proxy.engine.routing.model_listing import list_tier_mappings
from anthropic_proxy.gateway.money import format_price
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.config_file import format_key_path
from anthropic_proxy.gateway.settings.file_format import DEFAULT_WIRE
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.gateway.settings.managed_settings import format_group_setting
from anthropic_proxy.gateway.settings.provider_tables import format_price_setting, format_vendor_setting
from anthropic_proxy.gateway.settings.push_tables import format_collector_setting, format_siem_setting
from anthropic_proxy.gateway.settings.table import list_setting_groups
from anthropic_proxy.gateway.settings.table_fields import list_table_fields, read_field_help
from anthropic_proxy.gateway.settings.values import mask_setting
from anthropic_proxy.secrets import Secret

_MODEL_VARIABLES = {"BIG_MODEL": "sonnet", "SMALL_MODEL": "haiku"}
"""Variable → Claude tier. The default of the variable is the provider's default model for the tier."""


TABLES_GROUP = "Tables of anthropic-proxy.toml"


class SettingRow(Struct, frozen=True):
    name: str
    """Name of the environment variable, or `mode of [auto_mode]`."""
    value: str
    """Text of the value in use. A key is masked. "": none."""
    source: str
    """Source of the value: `environment`, `.env line 4`, or `default`."""
    default: str
    """Value that applies if the setting is not set. "": no default."""
    help: str = ""
    """What the setting does. "": a value of a model or of the protocol in the configuration file."""
    group: str = ""
    """Title of the group of the setting. "": the configuration file, or the environment."""
    is_editable: bool = False
    """True if the page Settings may change it."""


def list_settings(settings: Settings, catalog: Catalog) -> list[SettingRow]:
    """In the order of `.env.example`, followed by the configuration file and HTTP proxies."""
    providers = find_registry(settings)
    registry = tuple(row for row in providers if not row.is_configured)
    own_prefixes = {row.prefix for row in providers if row.is_configured}
    # the provider without the setting for it, and the models that the preferred one has for the tiers
    without_provider = structs.replace(settings, preferred_provider=None)
    derived = {"PREFERRED_PROVIDER": find_preferred_provider(without_provider, catalog).name}
    without_models = structs.replace(settings, big_model=None, middle_model=None, small_model=None, tier_models={})
    targets = {mapping.tier: mapping.target for mapping in list_tier_mappings(without_models, catalog)}
    derived |= {variable: targets[tier] for variable, tier in _MODEL_VARIABLES.items()}
    rows = []
    for group in list_setting_groups(registry):
        for setting in group.settings:
            for name in setting.names:
                text = settings.raw_values[name].reveal() if name in settings.raw_values else None
                # only the main name has the default
                default = "" if name != setting.name else derived.get(name) or setting.find_default()
                shown = default if text is None else mask_setting(name, text)
                if text is not None and default.partition("/")[0] in own_prefixes:
                    default = ""  # it would be the user's own value of the configuration file
                source = settings.origins.get(name, "default")
                rows.append(SettingRow(name, shown, source, default, setting.help, group.title, setting.editable))
    proxies = {}
    for proxy in settings.http_proxies.values():
        variable, _, _ = proxy.origin.partition(" in ")
        url = urlsplit(proxy.reveal())
        address = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
        help_text = "HTTP proxy for requests to providers, as for other programs."
        proxies[variable] = SettingRow(variable, address, "environment", "", help_text)
    return [*rows, *_list_plain_fields(settings), *_list_tables(settings), *proxies.values()]


def _list_plain_fields(settings: Settings) -> list[SettingRow]:
    texts, helps = settings.raw_values, read_field_help()
    return [
        SettingRow(
            field.name,
            mask_setting(field.name, texts[field.name].reveal()) if field.name in texts else field.default,
            settings.origins.get(field.name, "default"),
            field.default,
            helps[field.name],
            TABLES_GROUP,
            field.is_editable,
        )
        for field in list_table_fields()
    ]


def _list_tables(settings: Settings) -> list[SettingRow]:
    rows: list[SettingRow] = []

    def add(name: str, text: str, help_text: str, source: str = "", default: str = "") -> None:
        rows.append(SettingRow(name, text, source or settings.origins.get(name, "default"), default, help_text))

    for table in settings.configured_providers:
        add(
            table.base_url_setting, table.base_url, f"Address of the server whose models have the prefix {table.name}/."
        )
        if table.has_key:
            keys = ", ".join(map(_show_key, settings.keys.get(table.name, ())))
            add(table.api_key_setting, keys, "Key that is sent to this server.")
        if table.known_models:
            name, models = table.format_setting_name("models"), ", ".join(table.known_models)
            add(name, models, "Models of this server that the proxy offers by name.")
        for keys_below, value in table.collect_wire_and_model_values().items():
            name, shown = table.format_setting_name(format_key_path(keys_below)), _show_value(value)
            if keys_below == ("wire",):
                add(name, shown, "API of this server.", default=DEFAULT_WIRE)
            else:
                add(name, shown, "Property of this server or of its models, in place of what the proxy assumes.")
    for options in settings.call_options.values():
        for name, text in options.shown.items():
            add(name, text, "What is sent with each request to this provider, or how it is sent.")
    for name, variable in settings.referenced_variables.items():
        help_text = "Variable that anthropic-proxy.toml names for a key or a header."
        add(name, ", ".join(map(str, variable.keys)), help_text, variable.origin)
    if settings.search is not None:
        help_text, key = "Service for web searches of models whose provider has none.", settings.search.key
        add("service of [search]", settings.search.service, help_text)
        if key:
            add("api_key of [search]", _show_key(key), help_text)
    if settings.alerts is not None:
        parts = urlsplit(settings.alerts.url.reveal())  # a path can be a secret
        text = ", ".join((f"{parts.scheme}://{parts.netloc}", *(f"{one} %" for one in settings.alerts.thresholds)))
        help_text = "Webhook for reports about budgets, and the used shares at which they are sent."
        add("url of [alerts]", text, help_text)
    for collector in settings.collectors:
        if collector.name:
            endpoint = next(iter(collector.urls.values())).rpartition("/v1/")[0]
            text = f"{endpoint}, {', '.join(collector.urls)}"
            add(format_collector_setting(collector.name), text, "Collector for telemetry, and what it gets.")
    for siem in settings.siem:
        parts = urlsplit(siem.url.reveal())
        text = f"{parts.scheme}://{parts.netloc}, {siem.type}, {', '.join(siem.events)}"
        add(format_siem_setting(siem.name), text, "Destination of the audit log and of verdicts.")
    for route in settings.routes:
        help_text = "Models for the requests of this route, the first one preferred."
        add(route.targets_setting, ", ".join(route.targets), help_text)
    for pattern, price in settings.prices.items():
        text = f"{format_price(price.input)} in, {format_price(price.output)} out, per million tokens"
        add(format_price_setting(pattern), text, "Prices of a model, in place of those of the price list.")
    for provider, vendor in settings.price_vendors.items():
        add(format_vendor_setting(provider), vendor, "Vendor whose list prices the models of this provider have.")
    for group, managed in settings.managed_settings.items():
        add(format_group_setting(group), ", ".join(managed), "Settings of Claude Code that are sent to these people.")
    return rows


def _show_key(key: Secret) -> str:
    return UNRESOLVED_KEY if key.reveal() == UNRESOLVED_KEY else str(key)


def _show_value(value: object) -> str:
    """`true`, `low, high`, `1000`"""
    if isinstance(value, list | tuple):
        return ", ".join(_show_value(item) for item in value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
