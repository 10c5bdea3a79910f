"""Reads the settings more than once: at the start, and again when somebody asks for it."""

import os
from collections.abc import Mapping, Sequence

import msgspec

from anthropic_proxy.settings.fields import Settings
from anthropic_proxy.settings.load import ProviderNames, load_settings

ENV_FILE = ".env"


class SettingsReader:
    """Reads the environment as the process was given it, and `.env` as it is by then.

    `overrides` are fields from the command line, which beat both. The environment is remembered, because libraries are
    lent variables of `.env` there, which must not win over later ones of `.env`.
    """

    def __init__(self, providers: Sequence[ProviderNames], overrides: Mapping[str, object] | None = None) -> None:
        self._environ = dict(os.environ)
        self._providers = providers
        self._overrides = overrides or {}

    def read(self) -> Settings:
        """Return what holds now. Raises `ConfigurationError`."""
        settings = load_settings(self._environ, self._providers, env_file=ENV_FILE)
        return msgspec.structs.replace(settings, **self._overrides)


def list_changes(before: Settings, after: Settings) -> list[str]:
    """Return the variables that were set, changed or taken away between two readings."""
    names = dict.fromkeys((*before.given, *after.given))
    return [name for name in names if before.given.get(name) != after.given.get(name)]
