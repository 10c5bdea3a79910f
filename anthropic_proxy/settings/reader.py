"""`SettingsReader`: reads the settings at the start and at each reload of the server.

The settings come from the environment, `.env` and the configuration file. `find_changed_variables` compares the
settings before and after a reload.
"""

import os
from collections.abc import Mapping

import msgspec

from anthropic_proxy.settings.fields import FIXED_VARIABLES, Settings
from anthropic_proxy.settings.load import FIELD_VARIABLES, load_settings
from anthropic_proxy.settings.otel_variables import OTEL_PREFIX
from anthropic_proxy.settings.place import find_env_file
from anthropic_proxy.settings.provider_variables import BuiltInProviders


class SettingsReader:
    """Reader of the settings, for start-up and each reload.

    `overrides` are fields of `Settings` from the command line, which take precedence.
    """

    def __init__(self, providers: BuiltInProviders, overrides: Mapping[str, object] | None = None) -> None:
        # a copy: otherwise values that `export_to_litellm` adds would override an edited `.env` at a reload
        self._environ = dict(os.environ)
        self._env_file = find_env_file(self._environ)
        self._providers = providers
        self._overrides = overrides or {}
        self._fixed: Mapping[str, object] | None = None
        """Fields that a reload does not change, as at the start. None: nothing was read."""

    def read(self) -> Settings:
        """Read `.env` and the configuration file again, and return the settings.

        Settings in `FIXED_VARIABLES` keep their values until the next start. Raises `ConfigurationError` for an invalid
        value.
        """
        settings = load_settings(self._environ, self._providers, env_file=self._env_file, resolves_keys=True)
        settings = msgspec.structs.replace(settings, **self._overrides)
        if self._fixed is None:
            fields = msgspec.structs.asdict(settings)
            self._fixed = {
                field: fields[field] for field, _, _, (variable, *_) in FIELD_VARIABLES if variable in FIXED_VARIABLES
            }
        return msgspec.structs.replace(settings, **self._fixed)


def is_fixed_variable(name: str) -> bool:
    """Return True if a change of this variable takes effect at the next start of the server."""
    return name in FIXED_VARIABLES or name.startswith(OTEL_PREFIX)  # the library reads its variables once


def find_changed_variables(before: Settings, after: Settings) -> list[str]:
    """Return the names of variables that a reload changed, added or removed."""
    names = dict.fromkeys((*before.raw_values, *after.raw_values))
    return [name for name in names if before.raw_values.get(name) != after.raw_values.get(name)]
