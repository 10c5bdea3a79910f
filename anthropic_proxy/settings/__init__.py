"""Settings of the proxy from environment variables, `.env` and the configuration file, with defaults.

The module `fields` defines the settings. `sources` finds the text of each setting, and `values` decodes it. `load`
builds the `Settings` object, and `reader` does so at start and at each reload.
"""

from anthropic_proxy.settings.config_file import CONFIG_FILE, ConfigFile
from anthropic_proxy.settings.environment import (
    copy_environment,
    export_to_litellm,
    find_bound_host,
    restore_import_variable,
    without_current_directory,
)
from anthropic_proxy.settings.error_list import ErrorList
from anthropic_proxy.settings.fields import FIXED_VARIABLES, TIERS, Fidelity, SearchService, Secret, Settings, Timeouts
from anthropic_proxy.settings.file_format import (
    ConfiguredPrice,
    ConfiguredProvider,
    PriceTable,
    TokenPriceFields,
)
from anthropic_proxy.settings.load import list_variables, load_settings
from anthropic_proxy.settings.oidc_variables import OidcSettings
from anthropic_proxy.settings.otel_variables import export_to_otel
from anthropic_proxy.settings.provider_variables import ProviderVariables
from anthropic_proxy.settings.reader import ENV_FILE, SettingsReader, find_changed_variables
from anthropic_proxy.settings.route_format import (
    BALANCE_TEXTS,
    TARGETS_SETTING,
    ConfiguredRoute,
    RouteConditions,
    TimePeriod,
    list_alternatives,
)
from anthropic_proxy.settings.route_tables import DEFAULT_TARGET, load_time_zone
from anthropic_proxy.settings.service_tiers import normalize_tier

__all__ = [
    "BALANCE_TEXTS",
    "CONFIG_FILE",
    "DEFAULT_TARGET",
    "ENV_FILE",
    "FIXED_VARIABLES",
    "TARGETS_SETTING",
    "TIERS",
    "ConfigFile",
    "ConfiguredPrice",
    "ConfiguredProvider",
    "ConfiguredRoute",
    "ErrorList",
    "Fidelity",
    "OidcSettings",
    "PriceTable",
    "ProviderVariables",
    "RouteConditions",
    "SearchService",
    "Secret",
    "Settings",
    "SettingsReader",
    "TimePeriod",
    "Timeouts",
    "TokenPriceFields",
    "copy_environment",
    "export_to_litellm",
    "export_to_otel",
    "find_bound_host",
    "find_changed_variables",
    "list_alternatives",
    "list_variables",
    "load_settings",
    "load_time_zone",
    "normalize_tier",
    "restore_import_variable",
    "without_current_directory",
]
