"""Every setting: its variable, its default and the reason. The only room that knows variables of the environment.

`fields` says what there is, `sources` where a value comes from, `values` what it may be, `load` puts them together,
`lending` what another library finds of it, `surroundings` what the system says to every program.
"""

from anthropic_proxy.settings.fields import TIERS, Secret, Settings, Timeouts
from anthropic_proxy.settings.lending import lend_to_litellm
from anthropic_proxy.settings.load import ProviderNames, list_variables, load_settings

__all__ = [
    "TIERS",
    "ProviderNames",
    "Secret",
    "Settings",
    "Timeouts",
    "lend_to_litellm",
    "list_variables",
    "load_settings",
]
