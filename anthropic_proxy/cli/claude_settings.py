"""Settings files of Claude Code that would send its requests past the proxy.

Claude Code gives the variables of its settings files precedence over the environment. Source: tests with version
2.1.328; its option `--settings` overrides all files except the managed one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from anthropic_proxy.cli.client_variables import conflicting_variables
from anthropic_proxy.platforms.settings_paths import managed_claude_settings


class Override(Struct, frozen=True):
    """A variable that a settings file of Claude Code sets to another value than the command `code`."""

    file: Path
    variable: str
    value: str
    is_managed: bool = False
    """True if the file is the organization's, which no option overrides."""


def find_overrides(variables: Mapping[str, str], environ: Mapping[str, str], directory: Path) -> list[Override]:
    """Return the variables of settings files that would replace `variables` or select another server.

    `directory`: the working directory; its folder `.claude` contains the settings of the project. Missing files and
    files without a JSON object are ignored, because Claude Code reports them itself.
    """
    home = Path(environ.get("CLAUDE_CONFIG_DIR") or Path(environ.get("HOME") or Path.home()) / ".claude")
    project = directory / ".claude"
    files = [home / "settings.json", project / "settings.json", project / "settings.local.json"]
    found = [override for file in files for override in _read_overrides(file, variables)]
    return [*found, *(o for file in managed_claude_settings(environ) for o in _read_overrides(file, variables, True))]


def settings_argument(variables: Mapping[str, str]) -> str:
    """Return the value of `--settings` with which Claude Code uses `variables` instead of its settings files.

    Conflicting variables become empty, which disables them.
    """
    environment = {**dict.fromkeys(conflicting_variables(variables), ""), **variables}
    return json.dumps({"env": environment}, separators=(",", ":"))


def has_settings_argument(arguments: Sequence[str]) -> bool:
    """Return True if the user passes `--settings` to Claude Code, which accepts this option once."""
    return any(argument == "--settings" or argument.startswith("--settings=") for argument in arguments)


def _read_overrides(file: Path, variables: Mapping[str, str], is_managed: bool = False) -> Iterator[Override]:
    try:
        settings: Any = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return
    environment, names = settings.get("env") if isinstance(settings, dict) else None, conflicting_variables(variables)
    for variable, value in environment.items() if isinstance(environment, dict) else ():
        if variable in names and str(value) not in ("", variables.get(variable)):
            yield Override(file, variable, str(value), is_managed)
