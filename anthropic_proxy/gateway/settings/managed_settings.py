"""The tables `[managed_settings.NAME]` of the configuration file: settings of Claude Code that the proxy sends.

They are sent as JSON. Names and types are compared with those that a version of Claude Code knows
(`claude_code_settings.toml`). A difference is a warning only, because a newer version may know more.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anthropic_proxy.errors import find_similar_choice
from anthropic_proxy.gateway.settings.config_file import ConfigFile, format_key_path
from anthropic_proxy.gateway.settings.file_format import KeyPath
from anthropic_proxy.gateway.settings.files import format_toml_value
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.secrets import Secret

_KNOWN_FILE = Path(__file__).with_name("claude_code_settings.toml")
_TABLES = ("managed_settings",)
_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "boolean": (bool, "true or false"),
    "number": ((int, float), "a number"),
    "text": (str, "a text in quotes"),
    "list": (list, "a list"),
    "table": (dict, "a table"),
    "any": (object, ""),
}
"""List of `claude_code_settings.toml` → type of a value, and its description for users."""
_WITHOUT_EFFECT = frozenset({"forceLoginMethod", "forceLoginGatewayUrl", "forceLoginOrgUUID"})
"""Settings that Claude Code reads only from the machine, because they decide where it signs in."""
_JSON_TYPES = (bool, int, float, str)


def load_managed_settings(file: ConfigFile, sources: Sources) -> Mapping[str, Mapping[str, Any]]:
    """Return the tables in the order of the file. Values that JSON lacks are added to the errors of `sources`, unknown
    settings and other types to `file.warnings`.
    """
    tables = file.tables.managed_settings
    if not tables:
        return {}
    sources.given["managed_settings"] = Secret(str(tables))
    known = {
        name: kind for kind, names in tomllib.loads(_KNOWN_FILE.read_text(encoding="utf-8")).items() for name in names
    }
    for group, settings in tables.items():
        sources.origins[format_group_setting(group)] = file.describe_origin((*_TABLES, group))
        for name, value in settings.items():
            path = (*_TABLES, group, name)
            with sources.errors.collect():
                _require_json(file, path, value)
            file.warnings += _find_warnings(file, path, value, known)
    return tables


def format_group_setting(group: str) -> str:
    """Heading of a table, which is also its name in `Settings.origins` and in lists of settings."""
    return f"[managed_settings.{format_toml_value(group)}]"


def _require_json(file: ConfigFile, path: KeyPath, value: object) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _require_json(file, (*path, key), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_json(file, (*path[:-1], f"{path[-1]}[{index}]"), item)
    elif not isinstance(value, _JSON_TYPES) or (isinstance(value, float) and not math.isfinite(value)):
        raise file.invalid_value_error(path, str(value), "Use a text, number, true, false, list or table.")


def _find_warnings(file: ConfigFile, path: KeyPath, value: object, known: Mapping[str, str]) -> Iterator[str]:
    name = path[-1]
    place = f"{file.describe_origin(path)}: {format_key_path(path)}"
    if name in _WITHOUT_EFFECT:
        yield f"{place} has no effect, because Claude Code reads it only from the machine."
    elif name not in known:
        similar = find_similar_choice(name, list(known))
        hint = f" Did you mean:  {similar}" if similar else ""
        yield f"{place} is no known setting of Claude Code. It is sent nevertheless.{hint}"
    else:
        expected, description = _TYPES[known[name]]
        if not isinstance(value, expected) or (expected is not bool and isinstance(value, bool) and description):
            yield f"{place} has the wrong type, so Claude Code will ignore it. Use {description}."
        elif name == "env" and isinstance(value, dict):
            for variable in (variable for variable, text in value.items() if not isinstance(text, str)):
                yield f"{place}.{variable} has the wrong type, so Claude Code will ignore it. Use a text in quotes."
