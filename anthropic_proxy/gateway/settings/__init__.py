"""Settings of the proxy from environment variables, `.env` and the configuration file, with defaults.

The module `fields` defines the settings. `sources` finds the text of each setting, and `values` decodes it. `load`
builds the `Settings` object, and `reader` does so at start and at each reload.
"""

from anthropic_proxy.gateway.settings.config_file import ConfigFile
from anthropic_proxy.gateway.settings.environment import (
    copy_environment,
    export_to_litellm,
    find_listen_host_option,
    find_listen_port_option,
    keep_absolute_folders_of_path,
    python_safe_path_for_workers,
    remove_python_safe_path,
)
from anthropic_proxy.gateway.settings.error_list import ErrorList
from anthropic_proxy.gateway.settings.fields import (
    TIERS,
    Fidelity,
    KeySource,
    SearchService,
    Secret,
    Settings,
    Timeouts,
    UnknownSecret,
)
from anthropic_proxy.gateway.settings.file_format import (
    ConfiguredPrice,
    ConfiguredProvider,
    PriceTable,
    TokenPriceFields,
)
from anthropic_proxy.gateway.settings.load import (
    SettingsReader,
    find_changed_variables,
    find_listen_address,
    is_fixed_variable,
    list_variables,
    load_settings,
)
from anthropic_proxy.gateway.settings.oidc_variables import OidcSettings
from anthropic_proxy.gateway.settings.otel_variables import export_to_otel
from anthropic_proxy.gateway.settings.place import CONFIG_FILE, ENV_FILE, find_env_file, use_settings_folder
from anthropic_proxy.gateway.settings.provider_tables import normalize_service_tier
from anthropic_proxy.gateway.settings.provider_variables import ProviderVariables
from anthropic_proxy.gateway.settings.route_format import (
    BALANCE_TEXTS,
    TARGETS_SETTING,
    ConfiguredRoute,
    RouteConditions,
    TimePeriod,
    list_condition_texts,
)
from anthropic_proxy.gateway.settings.route_tables import DEFAULT_TARGET, load_time_zone

__all__ = [
    "BALANCE_TEXTS",
    "CONFIG_FILE",
    "DEFAULT_TARGET",
    "ENV_FILE",
    "TARGETS_SETTING",
    "TIERS",
    "ConfigFile",
    "ConfiguredPrice",
    "ConfiguredProvider",
    "ConfiguredRoute",
    "ErrorList",
    "Fidelity",
    "KeySource",
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
    "UnknownSecret",
    "copy_environment",
    "export_to_litellm",
    "export_to_otel",
    "find_changed_variables",
    "find_env_file",
    "find_listen_address",
    "find_listen_host_option",
    "find_listen_port_option",
    "is_fixed_variable",
    "keep_absolute_folders_of_path",
    "list_condition_texts",
    "list_variables",
    "load_settings",
    "load_time_zone",
    "normalize_service_tier",
    "python_safe_path_for_workers",
    "remove_python_safe_path",
    "use_settings_folder",
]
