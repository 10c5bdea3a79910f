"""Record of a running proxy, from which commands learn where its settings come from.

`recorded` writes the record while a server runs, and `find_running_proxy` reads it. `load_settings_of` loads the
settings. The record has the folder of the settings files and the settings of the environment, without keys. It is in
the data directory of the user, one folder per port. The server holds the lock of this folder, so that the record of a
server that has ended is not used.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.file_lock import is_folder_locked, locked_folder
from anthropic_proxy.platforms.user_account import is_written_by_user_only
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.routing.router import choose_preferred_provider_name
from anthropic_proxy.settings import ErrorList, Settings, list_variables, load_settings
from anthropic_proxy.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.settings.masking import is_secret_variable, mask_setting

_FILE_NAME = "settings.json"
_LOCK_SECONDS = 1.0
"""Maximum seconds for which a server waits for the lock. A command that checks for a server may delay it."""
_OF_EACH_PROCESS = ("HOST", "PORT")
"""Settings that a command has for itself: it has found the proxy by them."""


class RunningProxy(Struct, frozen=True):
    """Source of the settings of a proxy that runs on this machine."""

    env_file: str | None
    """Absolute path of its `.env`, which may not exist. None: it reads no files."""
    variables: Mapping[str, str]
    """Settings in its environment whose values have no credential."""
    keys: Sequence[str]
    """Names of the other settings in its environment, and of variables to which the configuration file refers."""


def describe_source(settings: Settings) -> RunningProxy:
    """Return where settings come from, in the form of the record."""
    env_file = None if settings.env_file is None else str(Path(settings.env_file).absolute())
    given = {name: text.reveal() for name, text in settings.raw_values.items() if _is_of_environment(settings, name)}
    plain = {name: text for name, text in given.items() if mask_setting(name, text) == text}
    referenced = [name for name, one in settings.referenced_variables.items() if one.origin == "environment"]
    return RunningProxy(env_file, plain, [*(name for name in given if name not in plain), *referenced])


def _is_of_environment(settings: Settings, name: str) -> bool:
    return settings.origins.get(name) == "environment" and name not in _OF_EACH_PROCESS


@contextmanager
def recorded(settings: Settings) -> Iterator[None]:
    """Write the record of a server with these settings, and remove it afterwards.

    There is no record if the data directory cannot be written, or if another server on this port has one.
    """
    folder = _find_folder(settings)
    with ExitStack() as stack:
        with suppress(OSError, TimeoutError):
            if folder is not None:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(locked_folder(folder, _LOCK_SECONDS))
                file = folder / _FILE_NAME
                file.unlink(missing_ok=True)
                file.touch(mode=0o600)
                stack.callback(file.unlink, missing_ok=True)
                file.write_bytes(msgspec.json.encode(describe_source(settings)))
        yield


def find_running_proxy(settings: Settings) -> RunningProxy | None:
    """Return the record of the proxy that runs on the PORT of `settings`. None: there is none."""
    folder = _find_folder(settings)
    if folder is None or not is_written_by_user_only(file := folder / _FILE_NAME):
        return None
    with suppress(OSError, msgspec.MsgspecError):
        if is_folder_locked(folder):  # else the server has ended
            return msgspec.json.decode(file.read_bytes(), type=RunningProxy)
    return None


def load_settings_of(
    proxy: RunningProxy, port: int, environ: Mapping[str, str], *, resolves_keys: bool, needs_all: bool
) -> Settings:
    """Return the settings of the running proxy on `port`, as far as they are known here.

    A key that only its environment has is replaced by `UNRESOLVED_KEY`. If the command sends requests
    (`resolves_keys`), such a provider has no key, with the reason. Another setting whose value is not in the record has
    no substitute: unless `needs_all` is False, `ConfigurationError` is raised.
    """
    variables = list_variables(PROVIDERS)
    own = {*variables, *proxy.variables, *proxy.keys} - {*_OF_EACH_PROCESS}
    kept = {name: text for name, text in environ.items() if name not in own}
    here = {name: environ[name] for name in proxy.keys if environ.get(name)}
    missing = [name for name in proxy.keys if name not in here]
    # a variable that is no setting is one to which a key of the configuration file refers
    unknown = {name: UNRESOLVED_KEY for name in missing if is_secret_variable(name) or name not in variables}
    errors = ErrorList()
    for name in sorted({*missing} - {*unknown}) if needs_all else ():
        with errors.collect():
            raise ConfigurationError(
                f"{name} is set in the environment of the running proxy (port {port}) only. Commands do not know its "
                "value, because it contains a credential. Set it in the environment of this command too."
            )
    errors.require_empty()
    given = {**kept, **proxy.variables, **here, **unknown}
    settings = load_settings(given, PROVIDERS, env_file=proxy.env_file, resolves_keys=resolves_keys)
    problems = {
        provider: f"{keys[0].origin.partition(' ')[0]} is set in the environment of the running proxy only. "
        "Set it here too."
        for provider, keys in settings.keys.items()
        if keys[0].reveal() == UNRESOLVED_KEY
    }
    if not resolves_keys or not problems:
        return settings
    return structs.replace(
        settings,
        preferred_provider=choose_preferred_provider_name(settings, None),
        keys={name: keys for name, keys in settings.keys.items() if name not in problems},
        key_problems={**settings.key_problems, **problems},
    )


def _find_folder(settings: Settings) -> Path | None:
    directory = settings.data_directory
    return None if directory is None or not settings.port else directory / "servers" / str(settings.port)
