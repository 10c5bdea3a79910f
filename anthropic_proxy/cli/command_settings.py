"""Settings of a command, from the environment and from the settings files in their one place.

`take_global_options` removes the options that every command accepts from a command line. `load_command_settings`
returns the settings.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from anthropic_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from anthropic_proxy.settings import Settings

_CONFIG = "--config"
_VERBOSE = ("-v", "--verbose")
_STARTERS = ("code", "run")
"""Commands that pass their arguments to another program. Options of the proxy come before these arguments."""
_names_files: ContextVar[bool] = ContextVar("names_files", default=False)
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
                raise ConfigurationError(f"{_CONFIG} has no value. Use the folder with .env and anthropic-proxy.toml.")
            from anthropic_proxy.settings import use_settings_folder  # noqa: PLC0415  # --help needs none of it

            use_settings_folder(folder)
        elif word in _VERBOSE:
            _names_files.set(True)
        else:
            kept.append(word)
    return kept


def load_command_settings(*, resolves_keys: bool = False, of_running_proxy: bool = True) -> "Settings":
    """Return the settings of a command: those of the proxy that runs on PORT, else those of the command itself.

    A folder that the user has named takes precedence over the running proxy. `resolves_keys` is True for a command that
    sends requests to providers itself: key files are read and key commands run. Raises `ConfigurationError` for
    invalid settings.
    """
    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.settings import copy_environment, find_env_file, load_settings  # noqa: PLC0415
    from anthropic_proxy.settings.place import CONFIG_VARIABLE  # noqa: PLC0415

    environ = copy_environment()
    env_file = find_env_file(environ)
    settings = None
    if of_running_proxy and not environ.get(CONFIG_VARIABLE):
        settings = _load_of_running_proxy(environ, env_file, resolves_keys=resolves_keys)
    settings = settings or load_settings(environ, PROVIDERS, env_file=env_file, resolves_keys=resolves_keys)
    if _names_files.get():
        sys.stderr.write(f"  {describe_files(settings)}\n")
    return settings


def _load_of_running_proxy(
    environ: Mapping[str, str], env_file: str | None, *, resolves_keys: bool
) -> "Settings | None":
    """Return the settings of the proxy that runs on PORT, and name their source unless they are those of the command.

    None: there is no such proxy. Settings of the command other than HOST and PORT may be invalid.
    """
    from msgspec import structs  # noqa: PLC0415

    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.running_proxy import describe_source, find_running_proxy, load_settings_of  # noqa: PLC0415
    from anthropic_proxy.settings import find_listen_address, load_settings  # noqa: PLC0415
    from anthropic_proxy.settings.place import find_data_directory  # noqa: PLC0415

    host, port = find_listen_address(environ, env_file)
    proxy = find_running_proxy(find_data_directory(environ), port)
    if proxy is None:
        return None
    settings = load_settings_of(proxy, port, environ, resolves_keys=resolves_keys)
    own = None
    with suppress(ConfigurationError):
        own = describe_source(load_settings(environ, PROVIDERS, env_file=env_file), proxy.changed)
    if own != structs.replace(proxy, files=settings.files):
        names = [*proxy.variables, *proxy.keys]
        listed = [*settings.files, *([f"{', '.join(names)} of its environment"] if names else [])]
        sys.stderr.write(f"  Settings of the running proxy (port {port}): {', '.join(listed) or 'defaults'}\n")
    known = {**proxy.files, **settings.files}
    if changed := [file for file in known if proxy.files.get(file) != settings.files.get(file)]:
        sys.stderr.write(
            f"  ! {' and '.join(changed)} changed since the proxy's start or last reload. This command shows the new "
            f"settings, and the proxy (port {port}) uses the earlier ones.\n"
        )
    if proxy.changed:
        sys.stderr.write(
            f"  ! {' and '.join(proxy.changed)} changed after the start of the proxy (port {port}), which applies the "
            "change at its next start. This command applies it now.\n"
        )
    return structs.replace(settings, host=host, port=port)


def describe_files(settings: "Settings") -> str:
    """Return the settings files that were read, as a line for the user."""
    if settings.files:
        return f"Settings files: {', '.join(settings.files)}"
    if settings.env_file is None:
        return "Settings files: none, because there is no home directory"
    return f"Settings files: none in {Path(settings.env_file).absolute().parent}"
