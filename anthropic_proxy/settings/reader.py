"""Repeated loading of the settings: at start and at each reload."""

import os
from collections.abc import Mapping, Sequence

import msgspec

from anthropic_proxy.settings.fields import Settings
from anthropic_proxy.settings.load import ProviderVariables, load_settings

ENV_FILE = ".env"


class SettingsReader:
    """Reader of the initial environment and the present `.env` file.

    `overrides`: fields from the command line, which take precedence. The initial environment is copied, because
    variables of `.env` are later exported to `os.environ` and must not override a changed `.env`.
    """

    def __init__(self, providers: Sequence[ProviderVariables], overrides: Mapping[str, object] | None = None) -> None:
        self._environ = dict(os.environ)
        self._providers = providers
        self._overrides = overrides or {}

    def read(self) -> Settings:
        """Return the present settings. Raises `ConfigurationError`."""
        settings = load_settings(self._environ, self._providers, env_file=ENV_FILE)
        return msgspec.structs.replace(settings, **self._overrides)


def changed_variables(before: Settings, after: Settings) -> list[str]:
    """Return the variables that were added, changed or removed."""
    names = dict.fromkeys((*before.raw_values, *after.raw_values))
    return [name for name in names if before.raw_values.get(name) != after.raw_values.get(name)]
