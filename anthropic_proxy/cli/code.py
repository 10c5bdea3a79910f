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
    from anthropic_proxy.cli.claude_settings import ClaudeSettings
    from anthropic_proxy.cli.local_proxy import LocalProxy

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

    from anthropic_proxy.cli.claude_settings import (  # noqa: PLC0415
        effective_environment,
        find_selected_model,
        merge_settings,
        read_claude_settings,
        separate_settings_option,
    )
    from anthropic_proxy.cli.client_variables import client_variables  # noqa: PLC0415
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
    from anthropic_proxy.cli.claude_settings import find_overrides, list_model_settings  # noqa: PLC0415
    from anthropic_proxy.cli.output import Output  # noqa: PLC0415
    from anthropic_proxy.log import escape_unprintable  # noqa: PLC0415

    notices = Output(sys.stderr)
    for name in find_overrides(level, variables):
        if level.is_managed:
            raise ConfigurationError(
                f"Claude Code would not use this proxy: {level.source} sets {name}, which overrides the value of "
                "this command. Remove that line or ask its owner."
            )
        notices.write_line(escape_unprintable(f"{level.source} sets {name}. This session uses {address} instead."))
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
