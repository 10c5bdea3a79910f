"""Commands `code` and `run`, which start Claude Code or another client so that it uses the proxy.

They use the proxy that runs on this machine. If there is none, they start a proxy, and stop it when the client ends.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from anthropic_proxy.cli.local_proxy import LocalProxy
from collections.abc import Iterable
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
from anthropic_proxy.platforms.settings_paths import managed_claude_settings_paths
from anthropic_proxy.settings.text_file import read_bounded_file

OLDEST_TESTED_VERSION = (2, 1, 197)
"""Oldest version of Claude Code that was tested with the proxy."""
_VERSION = re.compile(rb"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")
_VERSION_SECONDS = 5.0
"""Maximum time in seconds for Claude Code to print its version."""
_Arguments = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def code(*arguments: _Arguments) -> None:
    """Run Claude Code with the proxy. Arguments after `--` are passed to Claude Code.

    The proxy on PORT is used if it runs. Otherwise a proxy is started and stopped afterwards. Claude Code gets the
    address, a credential, and the context window and output limit of the mapped model.
    """
    import tempfile  # noqa: PLC0415  # --help and `serve` need none of it

    from anthropic_proxy.cli.client_variables import client_variables  # noqa: PLC0415
    from anthropic_proxy.cli.code import (  # noqa: PLC0415
        effective_environment,
        find_selected_model,
        merge_settings,
        read_claude_settings,
        separate_settings_option,
    )
    from anthropic_proxy.settings import copy_environment  # noqa: PLC0415

    program = _find_program("claude", "Install Claude Code:  npm install -g @anthropic-ai/claude-code")
    _report_outdated(program)
    option, others = separate_settings_option(arguments)
    environ = copy_environment()
    levels = read_claude_settings(environ, Path.cwd(), option)
    with _open_proxy() as proxy, tempfile.TemporaryDirectory(prefix="anthropic-proxy-") as folder:
        own = effective_environment([level for level in levels if not level.is_of_project], environ)
        effective = effective_environment(levels, environ)
        variables = client_variables(proxy, own, others, find_selected_model(levels), effective)
        for level in levels:
            _report(level, variables, others, proxy.address)
        settings = Path(folder) / "settings.json"  # no text of the command line: other users can read that
        settings.write_text(json.dumps(merge_settings(levels, variables), indent=2), encoding="utf-8")
        status = _run((program, "--settings", str(settings), *others), variables)
    sys.exit(status)


def run(*command: _Arguments) -> None:
    """Run a program with the variables that make Anthropic SDKs and Claude Code use the proxy: `run -- python x.py`.

    The proxy on PORT is used if it runs. Otherwise a proxy is started and stopped afterwards.
    """
    from anthropic_proxy.cli.client_variables import client_variables  # noqa: PLC0415
    from anthropic_proxy.settings import copy_environment  # noqa: PLC0415

    if not command:
        raise ConfigurationError("The program is missing. Example:  anthropic-proxy run -- python agent.py")
    program = _find_program(command[0], "")
    with _open_proxy() as proxy:
        status = _run((program, *command[1:]), client_variables(proxy, copy_environment()))
    sys.exit(status)


def _report(level: "ClaudeSettings", variables: Mapping[str, str], arguments: Sequence[str], address: str) -> None:
    """Write one line to stderr for each setting of Claude Code that this session overrides or that chooses a model.

    `level`: settings of one file. `variables`: variables of the proxy. `address`: address of the proxy. Raises
    `ConfigurationError` for a setting that cannot be overridden.
    """
    from anthropic_proxy.cli.output import Output  # noqa: PLC0415
    from anthropic_proxy.log import escape_unprintable  # noqa: PLC0415

    notices = Output(sys.stderr)
    for name in find_overrides(level, variables):
        if level.is_managed:
            raise ConfigurationError(
                f"Claude Code would not use this proxy: {level.source} sets {name}, which overrides the value of "
                "this command. Remove that line or ask its owner."
            )
        notices.write_line(f"{level.source} sets {name}. This session uses {address} instead.")
    for name, model in list_model_settings(level, arguments).items():
        notices.write_line(escape_unprintable(f"{level.source} sets {name}: this session requests the model {model}."))


def _report_outdated(program: str) -> None:
    """Write one line if the installed Claude Code is older than `OLDEST_TESTED_VERSION`. `program`: its path."""
    try:
        ended = subprocess.run([program, "--version"], capture_output=True, timeout=_VERSION_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return  # the start of the program reports it
    found = _VERSION.match(ended.stdout)
    if found is not None and tuple(map(int, found.groups())) < OLDEST_TESTED_VERSION:
        version, oldest = found[0].decode(), ".".join(map(str, OLDEST_TESTED_VERSION))
        sys.stderr.write(
            f"Claude Code {version} is older than {oldest}, the oldest release that was tested with this proxy. "
            "Update it:  claude update\n"
        )


def _find_program(name: str, remedy: str) -> str:
    """Return the path of the program `name` in PATH.

    Raises `ConfigurationError` with the text `remedy` if the program is missing.
    """
    from anthropic_proxy.platforms.programs import describe_missing_program, find_program  # noqa: PLC0415
    from anthropic_proxy.settings import copy_environment  # noqa: PLC0415

    environ = copy_environment()
    program = find_program(name, environ)
    if program is None:
        if problem := describe_missing_program(name, environ):
            raise ConfigurationError(f'There is no program "{name}" in PATH: {problem}.')
        raise ConfigurationError(f'There is no program "{name}" in PATH. {remedy}'.rstrip())
    return program


def _open_proxy() -> AbstractContextManager["LocalProxy"]:
    """Return a context manager that finds or starts the proxy, and yields it.

    The settings are those of the environment and `.env`.
    """
    from anthropic_proxy.cli.local_proxy import open_proxy  # noqa: PLC0415

    return open_proxy(load_command_settings())


def _run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run `command`, a client of the proxy, in the foreground and return its exit status.

    `variables`: environment variables for the client, which replace those of the user.
    """
    from anthropic_proxy.cli.client_variables import child_environment  # noqa: PLC0415
    from anthropic_proxy.platforms.child_process import run_in_foreground  # noqa: PLC0415
    from anthropic_proxy.platforms.signals import restore_sighup  # noqa: PLC0415
    from anthropic_proxy.settings import copy_environment  # noqa: PLC0415

    restore_sighup()  # a child process inherits the blocked signal
    try:
        return run_in_foreground(command, child_environment(variables, copy_environment()))
    except OSError as error:
        raise ConfigurationError(f"{command[0]} cannot be started: {error.strerror}.") from None


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
