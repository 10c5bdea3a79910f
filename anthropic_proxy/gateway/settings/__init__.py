"""Settings of the proxy from environment variables, `.env` and the configuration file, with defaults."""

from anthropic_proxy.engine.providers.price_fields import PriceFields, PriceTable, TokenPriceFields
from anthropic_proxy.gateway.settings.config_file import ConfigFile
from anthropic_proxy.gateway.settings.environment import (
    copy_environment,
    export_no_proxy,
    export_to_otel,
    find_listen_host_option,
    find_listen_port_option,
    keep_absolute_folders_of_path,
    python_safe_path_for_workers,
    remove_python_safe_path,
)
from anthropic_proxy.gateway.settings.fields import (
    MAX_SIGN_IN_SECRETS,
    OidcSettings,
    Settings,
    SignInGroup,
    SignInSettings,
    TokenIssuer,
)
from anthropic_proxy.gateway.settings.load import (
    SettingsReader,
    digest_files,
    find_changed_variables,
    find_listen_address,
    load_settings,
)
from anthropic_proxy.gateway.settings.place import CONFIG_FILE, ENV_FILE, find_env_file, use_settings_folder
from anthropic_proxy.gateway.settings.sources import ErrorList
from anthropic_proxy.gateway.settings.table import is_fixed_variable, list_known_variables, list_variables

__all__ = [
    "CONFIG_FILE",
    "ENV_FILE",
    "MAX_SIGN_IN_SECRETS",
    "ConfigFile",
    "ErrorList",
    "OidcSettings",
    "PriceFields",
    "PriceTable",
    "Settings",
    "SettingsReader",
    "SignInGroup",
    "SignInSettings",
    "TokenIssuer",
    "TokenPriceFields",
    "copy_environment",
    "digest_files",
    "export_no_proxy",
    "export_to_otel",
    "find_changed_variables",
    "find_env_file",
    "find_listen_address",
    "find_listen_host_option",
    "find_listen_port_option",
    "is_fixed_variable",
    "keep_absolute_folders_of_path",
    "list_known_variables",
    "list_variables",
    "load_settings",
    "python_safe_path_for_workers",
    "remove_python_safe_path",
    "use_settings_folder",
]
