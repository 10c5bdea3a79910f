"""All settings with variables, defaults and reasons. The only package that reads environment variables.

`fields` defines the settings, `sources` finds values in the environment and `.env`, `values` decodes them, `load`
combines and reloads these, and `environment` reads and sets the variables of other programs and of LiteLLM.
"""

from anthropic_proxy.settings.environment import export_to_litellm, find_bound_host
from anthropic_proxy.settings.fields import TIERS, Fidelity, Secret, Settings, Timeouts
from anthropic_proxy.settings.load import (
    ENV_FILE,
    ProviderVariables,
    SettingsReader,
    changed_variables,
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
    "changed_variables",
    "export_to_litellm",
    "find_bound_host",
    "list_variables",
    "load_settings",
]
