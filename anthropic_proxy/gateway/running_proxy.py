"""Record of a running proxy, from which commands learn where its settings come from.

A server writes the record by `ServerRecord`, and `find_running_proxy` reads it. `load_settings_of` loads the settings.
The record has the listen address, the folder of the settings files, digests of these files, and the settings of the
environment, without credentials. It is in the data directory of the user, one folder per port, or if that cannot be
written (full disk, read-only home directory) in a folder in memory. The server holds the lock of this folder, so that
the record of a server that has ended is not used.
"""

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.platforms.files import (
    find_volatile_folder,
    is_folder_locked,
    is_written_by_user_only,
    locked_folder,
    repeat_while_read,
)
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.routing.choices import choose_preferred_provider_name
from anthropic_proxy.gateway.platforms.signals import RELOAD_SIGNAL
from anthropic_proxy.gateway.platforms.sockets import format_url, list_called_hosts
from anthropic_proxy.gateway.settings import (
    ErrorList,
    Settings,
    find_changed_variables,
    is_fixed_variable,
    list_known_variables,
    load_settings,
)
from anthropic_proxy.gateway.settings.files import exchange_file
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.gateway.settings.table import list_backend_variables
from anthropic_proxy.gateway.settings.values import is_secret_variable, mask_setting
from anthropic_proxy.secrets import Secret, UnknownSecret

_SERVERS, _FILE_NAME = "servers", "settings.json"
_LOCK_SECONDS = 1.0
"""Maximum seconds for which a server waits for the lock. A command that checks for a server may delay it."""
_NOT_HERE = "set in the server's environment only"
"""Source of a setting, for `config show`."""
_UNKNOWN_FIELDS = {"DATABASE_URL": "database_url", "REDIS_URL": "redis_url"}
"""Variable → field with a `Secret`. Only a command that uses the value needs it."""
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
    files: Mapping[str, str]
    """Path → digest, for the settings files as it has read them."""
    changed: Sequence[str]
    """Variables that a reload found changed, and that take effect at its next start."""
    process: int = 0
    """Process that reloads the settings at `RELOAD_SIGNAL`. 0: none does, as under another server."""
    session_command: str = ""
    """Command, such as `code`, that has started it for its session, on any free port. "": none."""
    host: str = ""
    """Address on which it listens. "": unknown, or that of an earlier version."""
    certificate_file: str = ""
    """`TLS_CERT_FILE` with which it was started. "": it uses no TLS."""
    port: int = 0

    @property
    def address(self) -> str:
        """Base URL for programs on this machine, without a path."""
        return format_url(next(iter(list_called_hosts(self.host))), self.port, uses_tls=bool(self.certificate_file))


def name_reload_command(proxy: RunningProxy) -> str:
    """Return the command by which `proxy` reads its settings files again. "": it has to be started again."""
    return f"kill -HUP {proxy.process}" if proxy.process else ""


def describe_source(settings: Settings, changed: Sequence[str] = (), process: int = 0) -> RunningProxy:
    """`changed`: variables whose change takes effect at the next start of the server."""
    env_file = None if settings.env_file is None else str(Path(settings.env_file).absolute())
    given = {
        name: text.reveal()
        for name, text in settings.raw_values.items()
        if settings.origins.get(name) == "environment" and name not in _OF_EACH_PROCESS
    }
    plain = {name: text for name, text in given.items() if mask_setting(name, text) == text}
    referenced = [name for name, one in settings.referenced_variables.items() if one.origin == "environment"]
    names = [*(name for name in given if name not in plain), *referenced]
    return RunningProxy(env_file, plain, names, settings.files, changed, process)


class ServerRecord:
    """The record of this server. `port`: port on which it listens; None: unknown, so that there is no record. `host`:
    its listen address; "": unknown.

    `handles_signals`: this process reloads the settings at `RELOAD_SIGNAL`.
    `session_command`: it has started the server on any free port. No other server will use that one, so the folder is
    removed.
    """

    def __init__(
        self, port: int | None, *, host: str = "", handles_signals: bool = False, session_command: str = ""
    ) -> None:
        self._port = port
        self._host = host
        self._session_command = session_command
        self._process = os.getpid() if handles_signals and RELOAD_SIGNAL is not None else 0
        self._held = ExitStack()
        """Owner of the lock."""
        self._file: Path | None = None
        """None: there is no record."""
        self._usual_folder: Path | None = None
        """Folder of the record if the data directory can be written."""
        self._started: Settings | None = None
        """Settings at the start of the server."""

    def open(self, settings: Settings, *, waits: bool = True) -> str:
        """Write the record. There is none if no folder can be written, or another process has the lock.

        `waits`: wait for a command that checks the lock, at most `_LOCK_SECONDS`. The result is a warning: the data
        directory cannot be written. "": it can be.
        """
        warning, folders = "", _list_folders(settings.data_directory, self._port)
        self._usual_folder = next(iter(folders), None)
        for folder in folders:
            try:
                with ExitStack() as stack:
                    # a folder in memory is used only if no other user can write to it, and a mode is not for parents
                    with suppress(FileExistsError):
                        folder.parent.parent.mkdir(mode=0o700, parents=True)
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    stack.enter_context(locked_folder(folder, _LOCK_SECONDS if waits else 0.0))
                    file = folder / _FILE_NAME
                    repeat_while_read(partial(file.unlink, missing_ok=True))
                    self._write(file, settings)
                    self._file, self._started = file, settings
                    self._held = stack.pop_all()
            except TimeoutError:
                break
            except OSError as error:
                warning = warning or _describe_unwritable(settings.data_directory, error)
            else:
                break
        return warning

    def update(self, settings: Settings) -> None:
        if self._file is not None and self._started is not None:
            changed = [name for name in find_changed_variables(self._started, settings) if is_fixed_variable(name)]
            with suppress(OSError):
                self._write(self._file, settings, changed)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                repeat_while_read(partial(file.unlink, missing_ok=True))  # a command may read it at this moment
        self._held.close()
        if file is not None and (self._session_command or file.parent != self._usual_folder):
            with suppress(OSError):
                file.parent.rmdir()

    def _write(self, file: Path, settings: Settings, changed: Sequence[str] = ()) -> None:
        described = describe_source(settings, changed, self._process)
        proxy = structs.replace(
            described,
            session_command=self._session_command,
            host=self._host,
            certificate_file=settings.tls_certificate_file or "",
        )
        exchange_file(file, msgspec.json.encode(proxy).decode(), has_keys=True)  # a command may read it at this moment


def find_running_proxy(data_directory: Path | None, port: int) -> RunningProxy | None:
    for folder in _list_folders(data_directory, port):
        if not is_written_by_user_only(file := folder / _FILE_NAME):
            continue
        with suppress(OSError, msgspec.MsgspecError):
            if is_folder_locked(folder):  # else the server has ended
                return structs.replace(msgspec.json.decode(file.read_bytes(), type=RunningProxy), port=port)
    return None


def list_running_proxies(
    data_directory: Path | None, env_file: str | None
) -> tuple[list[RunningProxy], list[RunningProxy]]:
    """Return the proxies that run with this `.env`, in the order of their ports: those that `serve` has started, and
    those of sessions of commands such as `code`.
    """
    wanted, names = None if env_file is None else str(Path(env_file).absolute()), set[str]()
    for folder in _list_places(data_directory):
        with suppress(OSError):
            names.update(os.listdir(folder))
    found = [find_running_proxy(data_directory, port) for port in sorted(int(one) for one in names if one.isdecimal())]
    own = [proxy for proxy in found if proxy is not None and proxy.env_file == wanted]
    return [one for one in own if not one.session_command], [one for one in own if one.session_command]


def load_settings_of(proxy: RunningProxy, environ: Mapping[str, str], *, resolves_keys: bool) -> Settings:
    """Return the settings of a running proxy, as far as they are known here.

    A key that only its environment has is replaced by `UNRESOLVED_KEY`. If the command sends requests
    (`resolves_keys`), such a provider has no key, with the reason. Another setting whose value is not in the record has
    no substitute. `ConfigurationError` is raised if the command uses it: at once for a setting of providers and
    `resolves_keys`, and when an `UnknownSecret` is revealed.
    """
    variables = list_known_variables(PROVIDERS)
    own = {*variables, *proxy.variables, *proxy.keys} - {*_OF_EACH_PROCESS}
    kept = {name: text for name, text in environ.items() if name not in own}
    here = {name: environ[name] for name in proxy.keys if environ.get(name)}
    missing = [name for name in proxy.keys if name not in here]
    # a variable that is no setting is one to which a key of the configuration file refers
    unknown = {name: UNRESOLVED_KEY for name in missing if is_secret_variable(name) or name not in variables}
    unknown_secrets = {name: UnknownSecret(name, proxy.port) for name in {*missing} - {*unknown}}
    errors = ErrorList()
    for name in sorted(unknown_secrets.keys() & list_backend_variables(PROVIDERS)) if resolves_keys else ():
        with errors.collect():
            unknown_secrets[name].reveal()
    errors.require_empty()
    given = {**kept, **proxy.variables, **here, **unknown}
    settings = load_settings(given, PROVIDERS, env_file=proxy.env_file, resolves_keys=resolves_keys)
    fields: dict[str, object] = {
        field: unknown_secrets[name] for name, field in _UNKNOWN_FIELDS.items() if name in unknown_secrets
    }
    if "GOOGLE_APPLICATION_CREDENTIALS" in unknown_secrets:
        fields["google_credentials_file"] = UNRESOLVED_KEY
    settings = structs.replace(
        settings,
        **fields,
        raw_values={**settings.raw_values, **dict.fromkeys(unknown_secrets, Secret("…"))},
        origins={**settings.origins, **dict.fromkeys(unknown_secrets, _NOT_HERE)},
    )
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


def _list_folders(data_directory: Path | None, port: int | None) -> list[Path]:
    return [place / str(port) for place in _list_places(data_directory)] if port else []


def _list_places(data_directory: Path | None) -> list[Path]:
    """Return the folders that may have the folders of servers, the usual one first."""
    roots = () if data_directory is None else (data_directory, find_volatile_folder())
    return [root / _SERVERS for root in roots if root is not None]


def _describe_unwritable(folder: Path | None, error: OSError) -> str:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    variable = {"win32": "LOCALAPPDATA", "darwin": "HOME"}.get(sys.platform, "XDG_DATA_HOME")
    remedy = "Free space on its disk." if is_full else f"Set {variable} to a folder that can be written."
    reason = "disk full" if is_full else describe_os_error(error)
    return f"The data folder {shorten_home(str(folder))} cannot be written: {reason}. {remedy}"
