"""Options that every command accepts: `--config DIR` and `-v`."""

from collections.abc import Sequence
from contextvars import ContextVar

from anthropic_proxy.errors import ConfigurationError

_CONFIG = "--config"
_VERBOSE = ("-v", "--verbose")
_STARTERS = ("code", "run")
"""Commands that pass their arguments to another program. Options of the proxy come before these arguments."""
names_files: ContextVar[bool] = ContextVar("names_files", default=False)
"""True if the user wants the names of the files that were read (`-v`)."""


def take_global_options(words: Sequence[str]) -> list[str]:
    """Return the command line without `--config DIR` and `-v`, which apply to this process.

    They may be before or after the name of the command, but not after `--`. Raises `ConfigurationError` if the folder
    is missing.
    """
    kept: list[str] = []
    remaining = iter(words)
    for word in remaining:
        name, joined, value = word.partition("=")
        if word == "--" or (kept and kept[0] in _STARTERS and (name != _CONFIG or len(kept) > 1)):
            return [*kept, word, *remaining]
        if name == _CONFIG:
            folder = value if joined else next(remaining, "")
            if not folder:
                raise ConfigurationError(
                    f"{_CONFIG} has no value. Use the folder with .env and anthropic-proxy.toml.",
                    code="settings-folder",
                )
            from anthropic_proxy.gateway.settings import use_settings_folder  # noqa: PLC0415  # --help needs none of it

            use_settings_folder(folder)
        elif word in _VERBOSE:
            names_files.set(True)
        else:
            kept.append(word)
    return kept
