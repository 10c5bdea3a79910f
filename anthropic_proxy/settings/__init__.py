"""Settings of the proxy from environment variables and `.env`, with defaults.

`fields` defines the settings, `sources` finds the texts of variables, `values` decodes the texts, and `load` builds
`Settings` at start and reload. `environment` handles variables that belong to other programs and LiteLLM.
"""

from anthropic_proxy.settings.environment import export_to_litellm, find_bound_host, user_environment
from anthropic_proxy.settings.fields import TIERS, Fidelity, Secret, Settings, Timeouts
from anthropic_proxy.settings.load import (
    ENV_FILE,
    ProviderVariables,
    SettingsReader,
    find_changed_variables,
    list_variables,
    load_settings,
)

__all__ = [
    "ENV_FILE",
    "TIERS",
    "Fidelity",
    "ProviderVariables",
    "Secret",
    "Settings",
    "SettingsReader",
    "Timeouts",
    "export_to_litellm",
    "find_bound_host",
    "find_changed_variables",
    "list_variables",
    "load_settings",
    "user_environment",
]
