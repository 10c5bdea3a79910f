"""Settings of Claude Code that would send its requests past the proxy, or that choose another model.

`ClaudeSettings` is one level of settings: a file, or the value of the option `--settings`. Claude Code gives variables
in its settings precedence over the environment. `find_overrides` returns the settings of a level that would replace
the variables of the proxy. `merge_settings` returns a value of `--settings` with the variables of the proxy, which then
have precedence over those of the files. `list_model_selectors` returns the settings that choose a model. Source: tests
with version 2.1.328; `--settings` overrides all files except the managed ones, and the last `--settings` counts.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from anthropic_proxy.cli.client_variables import (
    CREDENTIAL_HEADERS,
    MODEL_VARIABLES,
    conflicting_variables,
    has_credential_header,
    has_model_option,
)
from anthropic_proxy.cli.output import shorten_home
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.settings_paths import managed_claude_settings

_OPTION = "--settings"
_CREDENTIAL_COMMAND = "apiKeyHelper"
"""Name of the setting with a shell command that prints a credential. Claude Code sends this credential in addition to
the credential in the variables."""
_UNPROXIED = "NO_PROXY"


class ClaudeSettings(Struct, frozen=True):
    """Settings in one settings file of Claude Code, or in its option `--settings`."""

    source: str
    """Path of the file, with `~` for the home directory, or `--settings`."""
    content: Mapping[str, Any]
    is_managed: bool = False
    """True if the file is managed by the organization. No option overrides such a file."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that these settings set for Claude Code: name → value."""
        variables = self.content.get("env")
        return {name: str(value) for name, value in variables.items()} if isinstance(variables, dict) else {}


def read_claude_settings(environ: Mapping[str, str], directory: Path, option: str | None) -> list[ClaudeSettings]:
    """Return all settings of Claude Code, those with the lowest precedence first.

    `directory`: the working directory, where the folder `.claude` contains the settings of the project. `option`: value
    of the option `--settings`, JSON or the path of a file. Missing files and files without a JSON object are ignored,
    because Claude Code reports them itself. Raises `ConfigurationError` if `option` has no JSON object.
    """
    home = Path(environ.get("CLAUDE_CONFIG_DIR") or Path(environ.get("HOME") or Path.home()) / ".claude")
    project = directory / ".claude"
    files = [home / "settings.json", project / "settings.json", project / "settings.local.json"]
    found = [(file, False) for file in files] + [(file, True) for file in managed_claude_settings(environ)]
    levels = [
        ClaudeSettings(shorten_home(str(file), environ), content, is_managed)
        for file, is_managed in found
        if (content := _read_object(file)) is not None
    ]
    if option is not None:
        levels.append(ClaudeSettings(_OPTION, _read_option(option, directory)))
    return sorted(levels, key=lambda level: level.is_managed)


def separate_settings_option(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of the last option `--settings` in `arguments` of Claude Code, and the other arguments.

    None: the option is missing.
    """
    value: str | None = None
    others: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            return value, [*others, argument, *remaining]
        if argument == _OPTION and remaining:
            value = remaining.pop(0)
        elif argument.startswith(f"{_OPTION}="):
            value = argument.partition("=")[2]
        else:
            others.append(argument)
    return value, others


def effective_environment(levels: Sequence[ClaudeSettings], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that Claude Code uses: those of the environment, replaced by those of its settings.

    `levels`: settings files, those with the lowest precedence first.
    """
    merged = dict(environ)
    for level in levels:
        merged |= level.environment
    return merged


def find_model_setting(levels: Sequence[ClaudeSettings]) -> str:
    """Return the value of the setting `model` in `levels` with the highest precedence. "": no level has it."""
    models = [model for level in levels if isinstance(model := level.content.get("model"), str)]
    return models[-1] if models else ""


def find_overrides(level: ClaudeSettings, variables: Mapping[str, str]) -> list[str]:
    """Return the names of settings in `level` that would make Claude Code use another server or credential.

    `variables`: the variables of the proxy; settings that replace them are included.
    """
    conflicts = conflicting_variables(variables)
    found = [
        name
        for name, value in level.environment.items()
        if name in conflicts and value not in ("", variables.get(name))
    ]
    has_token = "ANTHROPIC_AUTH_TOKEN" in variables
    if has_token and has_credential_header(level.environment.get(CREDENTIAL_HEADERS, "")):
        found.append(CREDENTIAL_HEADERS)
    if has_token and level.content.get(_CREDENTIAL_COMMAND):
        found.append(_CREDENTIAL_COMMAND)
    if level.is_managed and level.environment.get(_UNPROXIED, variables.get(_UNPROXIED)) != variables.get(_UNPROXIED):
        found.append(_UNPROXIED)
    return found


def list_model_selectors(level: ClaudeSettings, arguments: Sequence[str]) -> dict[str, str]:
    """Return the settings of `level` that choose a model: name → value.

    `arguments`: arguments of Claude Code; `--model` replaces some settings, which are then not returned. The result is
    empty for the option `--settings`, because the user has just written it.
    """
    if level.source == _OPTION:
        return {}
    ignored = ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_MODEL") if has_model_option(arguments) else ()
    environment = level.environment
    found = {name: environment[name] for name in MODEL_VARIABLES if environment.get(name) and name not in ignored}
    model = level.content.get("model")
    return found | ({"model": model} if isinstance(model, str) and model and not ignored else {})


def merge_settings(levels: Sequence[ClaudeSettings], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return a value of Claude Code's option `--settings` that sets `variables`, the variables of the proxy.

    The result has the user's own `--settings` too, because Claude Code uses only the last option. Variables that select
    another server or credential are set to "", which disables them. `levels`: all settings of Claude Code.
    """
    own = next((level for level in levels if level.source == _OPTION), ClaudeSettings(_OPTION, {}))
    disabled = dict.fromkeys(conflicting_variables(variables), "")
    merged = {**own.content, "env": {**own.environment, **disabled, **variables}}
    if any(_CREDENTIAL_COMMAND in find_overrides(level, variables) for level in levels):
        merged[_CREDENTIAL_COMMAND] = ""
    return merged


def _read_object(file: Path) -> dict[str, Any] | None:
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _read_option(value: str, directory: Path) -> dict[str, Any]:
    if value.lstrip().startswith("{"):
        try:
            content: Any = json.loads(value)
        except (ValueError, RecursionError):
            content = None
        name = "Its value"
    else:
        name, content = value, _read_object(directory / value)
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"--settings of Claude Code cannot be used: {name} contains no JSON object. "
            "Pass the path of a JSON file, or a JSON object."
        )
    return content
