"""Settings of Claude Code that would send its requests to another server than the proxy, or that choose a model.

`read_claude_settings` returns a `ClaudeSettings` for each settings file and for the command line option `--settings`.
`find_overrides` returns the settings that would replace the address or credential of the proxy. `merge_settings`
returns a value of `--settings` by which Claude Code uses the proxy.

The precedence of the settings was tested with version 2.1.328. `--settings` overrides all files except those managed by
the organization. If the option is repeated, only the last one has an effect.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
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
from anthropic_proxy.platforms.settings_paths import managed_claude_settings_paths
from anthropic_proxy.settings.text_file import read_bounded_file

# Tests with version 2.1.328: `--settings` overrides all files except those managed by the organization.
# If `--settings` is repeated, the last one counts.
_OPTION = "--settings"
_CREDENTIAL_COMMAND = "apiKeyHelper"
"""Setting with a shell command that prints a credential.

Claude Code sends this credential in addition to the one in the variables.
"""
_UNPROXIED = "NO_PROXY"


class ClaudeSettings(Struct, frozen=True):
    """Settings in one settings file of Claude Code, or in its option `--settings`."""

    source: str
    """Path of the file, with `~` for the home directory, or `--settings`."""
    content: Mapping[str, Any]
    is_managed: bool = False
    """True if the file is managed by the organization. No option overrides such a file."""
    is_of_project: bool = False
    """True if the file is in the current directory, where a stranger may have written it."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that these settings set for Claude Code: name → value."""
        variables = self.content.get("env")
        return {name: str(value) for name, value in variables.items()} if isinstance(variables, dict) else {}


def read_claude_settings(environ: Mapping[str, str], directory: Path, option: str | None) -> list[ClaudeSettings]:
    """Return the settings of Claude Code from its files and its option `--settings`, the lowest precedence first.

    Raises `ConfigurationError` for an invalid `option`, but ignores invalid files.
    """
    home = Path(environ.get("CLAUDE_CONFIG_DIR") or Path(environ.get("HOME") or Path.home()) / ".claude")
    user_file = home / "settings.json"
    project_files = [directory / ".claude" / name for name in ("settings.json", "settings.local.json")]

    def read(files: Iterable[Path], *, is_managed: bool = False, is_of_project: bool = False) -> list[ClaudeSettings]:
        return [
            ClaudeSettings(shorten_home(str(file), environ), content, is_managed, is_of_project)
            for file in files
            if (content := _read_object(file)) is not None
        ]

    return [
        *read([user_file]),
        *read([file for file in project_files if file != user_file], is_of_project=True),
        *([] if option is None else [ClaudeSettings(_OPTION, _read_option(option, directory))]),
        *read(managed_claude_settings_paths(environ), is_managed=True),
    ]


def separate_settings_option(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of the option `--settings` in `arguments` of Claude Code, and the other arguments.

    None means that the option is missing.
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
    """Return the environment variables that Claude Code uses: those in `environ`, overridden by its own settings.

    `levels` contains the settings of Claude Code, those with the lowest precedence first.
    """
    merged = dict(environ)
    for level in levels:
        merged |= level.environment
    return merged


def find_selected_model(levels: Sequence[ClaudeSettings]) -> str:
    """Return the model that the settings of Claude Code select. "": they select no model.

    If several of `levels` name a model, the last one is returned, because it has the highest precedence.
    """
    models = [model for level in levels if isinstance(model := level.content.get("model"), str)]
    return models[-1] if models else ""


def find_overrides(level: ClaudeSettings, variables: Mapping[str, str]) -> list[str]:
    """Return the names of settings by which Claude Code would use another server or credential than the proxy.

    `variables` are the environment variables by which a client uses the proxy, from `client_variables`.
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


def list_model_settings(level: ClaudeSettings, arguments: Sequence[str]) -> dict[str, str]:
    """Return the settings in `level`, such as a settings file of Claude Code, that choose a model: name → value.

    Settings that the option `--model` in `arguments` overrides are left out. If `level` is the option `--settings`, the
    result is empty, because the user chose its values for this run.
    """
    if level.source == _OPTION:
        return {}
    ignored = ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_MODEL") if has_model_option(arguments) else ()
    environment = level.environment
    found = {name: environment[name] for name in MODEL_VARIABLES if environment.get(name) and name not in ignored}
    model = level.content.get("model")
    return found | ({"model": model} if isinstance(model, str) and model and not ignored else {})


def merge_settings(levels: Sequence[ClaudeSettings], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return a value (JSON object) for the option `--settings` that makes Claude Code use the proxy.

    The result contains the user's own `--settings`, except for those that select another server or credential.
    """
    own = next((level for level in levels if level.source == _OPTION), ClaudeSettings(_OPTION, {}))
    disabled = dict.fromkeys(conflicting_variables(variables), "")
    merged = {**own.content, "env": {**own.environment, **disabled, **variables}}
    if any(_CREDENTIAL_COMMAND in find_overrides(level, variables) for level in levels):
        merged[_CREDENTIAL_COMMAND] = ""
    return merged


def _read_object(file: Path) -> dict[str, Any] | None:
    try:
        content: Any = json.loads(read_bounded_file(file).decode("utf-8-sig"))
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
