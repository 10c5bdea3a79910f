"""Every setting: its variable, its default and the reason. The only room that knows variables of the environment.

`fields` says what there is, `sources` where a value comes from, `values` what it may be, `load` puts them together,
`reading` does it again and again, `lending` says what another library finds of it, `surroundings` what the system says
to every program.
"""

from anthropic_proxy.settings.fields import TIERS, Fidelity, Secret, Settings, Timeouts
from anthropic_proxy.settings.lending import lend_to_litellm
from anthropic_proxy.settings.load import ProviderNames, list_variables, load_settings
from anthropic_proxy.settings.reading import ENV_FILE, SettingsReader, list_changes
from anthropic_proxy.settings.surroundings import find_bound_host

__all__ = [
    "ENV_FILE",
    "TIERS",
    "Fidelity",
    "ProviderNames",
    "Secret",
    "Settings",
    "SettingsReader",
    "Timeouts",
    "find_bound_host",
    "lend_to_litellm",
    "list_changes",
    "list_variables",
    "load_settings",
]
