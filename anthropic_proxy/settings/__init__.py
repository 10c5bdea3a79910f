"""All settings with variables, defaults and reasons. The only package that reads environment variables.

`fields` defines the settings, `sources` finds values in the environment and `.env`, `values` decodes them, `load`
combines these, `reader` reloads, `litellm_environment` exports settings to LiteLLM, and `system_environment` reads
variables shared by all programs.
"""

from anthropic_proxy.settings.fields import TIERS, Fidelity, Secret, Settings, Timeouts
from anthropic_proxy.settings.litellm_environment import export_to_litellm
from anthropic_proxy.settings.load import ProviderVariables, list_variables, load_settings
from anthropic_proxy.settings.reader import ENV_FILE, SettingsReader, changed_variables
from anthropic_proxy.settings.system_environment import find_bound_host

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
