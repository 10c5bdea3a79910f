"""Writing of the files for the command `import`: lines in `.env`, and tables in `anthropic-proxy.toml`.

`prepare_files` checks the settings and returns the additions (`FilesToWrite`). `FilesToWrite.write` appends them.
Existing lines are never changed.
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.settings import CONFIG_FILE, ENV_FILE, Settings, load_settings
from anthropic_proxy.settings.env_writer import decode_env_text
from anthropic_proxy.settings.text_file import decode_toml, read_settings_file

_PLAIN = re.compile(r"[\w./:@+,?=%{}$-]*")


class FileAddition(Struct):
    """Text to append to one file, and names of settings that the file already sets to another value."""

    path: Path
    added: str
    """Text to append to the file. "": nothing is appended."""
    kept_names: list[str]
    """Names of settings that the file already has with another value. They are not changed."""


class FilesToWrite(Struct):
    """Text to append to `.env` and `anthropic-proxy.toml`, and the settings that a proxy would read afterwards."""

    additions: Sequence[FileAddition]
    settings: Settings

    def write(self) -> None:
        """Append the additions to the files. Only the owner can read a new file, because it may contain keys."""
        for addition in self.additions:
            if addition.added:
                _append(addition.path, addition.added)


def prepare_files(plan: ImportPlan, folder: Path) -> FilesToWrite:
    """Return the text that the command `import` would add to `.env` and `anthropic-proxy.toml` in `folder`.

    Raises `ConfigurationError` if the proxy could not start with the result.
    """
    env, config = folder / ENV_FILE, folder / CONFIG_FILE
    env_text, config_text = _read(env), _read(config)
    env_addition = _add_variables(env, env_text, plan.variables)
    config_addition = _add_tables(config, config_text, plan)
    with tempfile.TemporaryDirectory() as name:
        checked = Path(name)
        (checked / ENV_FILE).write_text(env_text + env_addition.added, "utf-8")
        (checked / CONFIG_FILE).write_text(config_text + config_addition.added, "utf-8")
        settings = load_settings({}, PROVIDERS, env_file=str(checked / ENV_FILE))
    return FilesToWrite((env_addition, config_addition), settings)


def _add_variables(path: Path, text: str, variables: Mapping[str, str]) -> FileAddition:
    present = decode_env_text(text)
    kept = [f"{name}" for name, value in variables.items() if present.get(name) and present[name] != value]
    lines = [f"{name}={_quote(value)}\n" for name, value in variables.items() if not present.get(name)]
    return FileAddition(path, _separate(text, "".join(lines)), kept)


def _add_tables(path: Path, text: str, plan: ImportPlan) -> FileAddition:
    present = decode_toml(text, path.name)
    providers = present.get("providers", {})
    routes = {route.get("name"): route for route in present.get("routes", [])}
    tables = [
        (f"[providers.{name}]", each.encode_toml(name), providers.get(name)) for name, each in plan.servers.items()
    ]
    tables += [(f'[[routes]] "{each.name}"', each.encode_toml(), routes.get(each.name)) for each in plan.routes]
    kept = [label for label, table, old in tables if old is not None and old != _decode_table(table)]
    added = "\n".join(table for _, table, old in tables if old is None)
    return FileAddition(path, _separate(text, added), kept)


def _decode_table(text: str) -> object:
    """Return the contents of the only table in `text`, `[providers.NAME]` or `[[routes]]`."""
    import tomllib  # noqa: PLC0415  # needed by this command alone

    contents = tomllib.loads(text)
    return contents["routes"][0] if "routes" in contents else next(iter(contents["providers"].values()))


def _separate(text: str, added: str) -> str:
    """Return `added` for appending to `text`: a line break is put before it if `text` does not end with one."""
    return f"\n{added}" if added and text and not text.endswith("\n") else added


def _quote(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _read(path: Path) -> str:
    return read_settings_file(str(path), [])


def _append(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigurationError(f"{path.name} cannot be written: {describe_os_error(error)}.") from None
