"""The one folder with the settings files `.env` and `anthropic-proxy.toml`.

`find_settings_folder` returns it: the folder in the variable `ANTHROPIC_PROXY_CONFIG`, which the option `--config`
sets, else the checkout from which the program runs, else the configuration folder of the user. The current directory is
not searched, because a stranger may have written its files.
"""

import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.program import add_folder_to_commands, shorten_home
from anthropic_proxy.errors import ConfigurationError

CONFIG_VARIABLE = "ANTHROPIC_PROXY_CONFIG"
"""Environment variable with the folder of the settings files."""
_OPTION_VARIABLE = "ANTHROPIC_PROXY_CONFIG_OPTION"
"""Environment variable with the folder of the option `--config`. The shell of the user does not know it, so that texts
name it in each command, also those of child processes.
"""
ENV_FILE = ".env"
CONFIG_FILE = "anthropic-proxy.toml"
_PACKAGE_PARENT = Path(__file__).resolve().parents[3]
_PROJECT = compile_later(r'^name = "anthropic-proxy"$', re.MULTILINE)
_NAME = "anthropic-proxy"
_ASSIGNED = compile_later(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*=", re.MULTILINE)
_MAX_EXAMINED_BYTES = 65_536
if _OPTION_VARIABLE in os.environ:  # the parent process has the option
    add_folder_to_commands(os.environ[_OPTION_VARIABLE])


def use_settings_folder(folder: str) -> None:
    """Set the folder of the settings files for this process and its child processes: the option `--config`.

    Raises `ConfigurationError` if there is no such folder.
    """
    os.environ[CONFIG_VARIABLE] = os.environ[_OPTION_VARIABLE] = absolute_path = str(
        _require_folder("--config", folder)
    )
    add_folder_to_commands(absolute_path)


def find_settings_folder(environ: Mapping[str, str]) -> Path | None:
    """The folder need not exist. None: the environment names no home directory.

    Raises `ConfigurationError` if `ANTHROPIC_PROXY_CONFIG` names no folder.
    """
    if named := environ.get(CONFIG_VARIABLE, "").strip():
        if not os.path.isabs(os.path.expanduser(named)):  # the current directory would decide
            raise ConfigurationError(
                f'{CONFIG_VARIABLE} is "{named}". Use an absolute path, or one that begins with ~/. '
                "The option --config accepts a relative path.",
                code="settings-folder",
            )
        return _require_folder(CONFIG_VARIABLE, named)
    return find_checkout() or find_user_folder(environ)


def require_settings_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the settings files, for a command that writes them. It is created with its first file.

    Raises `ConfigurationError` if there is none.
    """
    if (folder := find_settings_folder(environ)) is None:
        raise ConfigurationError(
            "There is no folder for the settings files, because the environment names no home directory. "
            "Use --config with a folder.",
            code="settings-folder",
        )
    return folder


def find_env_file(environ: Mapping[str, str]) -> str | None:
    """Return the path of the `.env` file, for `load_settings` and for messages. None: there is no place for files.

    It is relative if the folder is the current directory.
    """
    folder = find_settings_folder(environ)
    if folder is None:
        return None
    return ENV_FILE if folder == _find_current_directory() else str(folder / ENV_FILE)


def find_checkout() -> Path | None:
    """Return the folder of the checkout from which the program runs, or None if it is installed."""
    try:
        text = (_PACKAGE_PARENT / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return None
    return _PACKAGE_PARENT if _PROJECT.search(text) else None


def find_user_folder(environ: Mapping[str, str]) -> Path | None:
    return _find_folder_of_user(environ, "XDG_CONFIG_HOME", ".config")


def find_data_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory for data of this user, such as learned limits of models. None: no home directory."""
    return _find_folder_of_user(environ, "XDG_DATA_HOME", ".local/share")


def _find_folder_of_user(environ: Mapping[str, str], variable: str, default: str) -> Path | None:
    # equals `platformdirs.user_config_path` and `user_data_path`, which would delay each start by about 10 ms
    if sys.platform == "win32":
        local = environ.get("LOCALAPPDATA", "")
        return Path(local, _NAME) if os.path.isabs(local) else None
    home = environ.get("HOME", "")
    chosen = environ.get(variable, "").strip()
    if sys.platform != "darwin" and os.path.isabs(chosen):  # the XDG specification ignores a relative path
        return Path(chosen, _NAME)
    if not os.path.isabs(home):
        return None
    return Path(home, "Library/Application Support" if sys.platform == "darwin" else default, _NAME)


def _require_folder(name: str, given: str) -> Path:
    folder = Path(os.path.abspath(os.path.expanduser(given)))
    if not folder.is_dir():
        raise ConfigurationError(
            f'{name} is "{given}", but there is no folder {folder}. Create it, or name another.', code="settings-folder"
        )
    return folder


def _find_current_directory() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was deleted
        return None


def describe_unread_files(env_file: str | None, names: Collection[str]) -> str:
    """Return a sentence about settings files in the current directory that are not read. "": there are none.

    A `.env` counts only if it sets one of `names`, the variables of all settings. `env_file` is the one that is read.
    """
    current = _find_current_directory()
    place = None if env_file is None else Path(os.path.abspath(env_file)).parent
    if current is None or current == place:
        return ""
    unread = [path for path in (current / ENV_FILE, current / CONFIG_FILE) if path.is_file()]
    if current / ENV_FILE in unread:
        try:
            with (current / ENV_FILE).open("rb") as file:
                text = file.read(_MAX_EXAMINED_BYTES).decode("utf-8", "replace")
        except OSError:
            text = ""
        if not any(name in names for name in _ASSIGNED.findall(text)):
            unread.remove(current / ENV_FILE)
    if not unread:
        return ""
    verb, it = ("is", "it") if len(unread) == 1 else ("are", "them")
    where = "" if place is None else f", because settings files belong in {shorten_home(place)}"
    move = ""
    if place is not None and not any((place / path.name).exists() for path in unread):
        move = f"; move {it} there only if you wrote {it}"
    return (
        f"{' and '.join(map(shorten_home, unread))} {verb} not read{where}. Use  --config .  if you trust {it}{move}."
    )
