"""Commands `code` and `run`: Claude Code, or another client, with the proxy."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from anthropic_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from anthropic_proxy.cli.local_proxy import LocalProxy

_Arguments = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


def code(*arguments: _Arguments) -> None:
    """Run Claude Code with the proxy. Arguments after `--` are passed to Claude Code.

    The proxy on PORT is used if it runs. Otherwise a proxy is started and stopped afterwards. Claude Code gets the
    address, a credential, and the context window and output limit of the mapped model.
    """
    from anthropic_proxy.cli.claude_settings import (  # noqa: PLC0415  # --help needs none of it
        find_overrides,
        has_settings_argument,
        settings_argument,
    )
    from anthropic_proxy.cli.client_variables import client_variables  # noqa: PLC0415
    from anthropic_proxy.cli.output import shorten_home  # noqa: PLC0415
    from anthropic_proxy.settings import user_environment  # noqa: PLC0415

    program = _find_program("claude", "Install Claude Code:  npm install -g @anthropic-ai/claude-code")
    with _open_proxy() as proxy:
        environ = user_environment()
        variables = client_variables(proxy, environ, arguments)
        options: tuple[str, ...] = ()
        if not has_settings_argument(arguments):
            options = ("--settings", settings_argument(variables))
        for override in find_overrides(variables, environ, Path.cwd()):
            file = shorten_home(str(override.file), environ)
            if override.is_managed or not options:
                raise ConfigurationError(
                    f"Claude Code would not use this proxy: {file} sets {override.variable}, which overrides the "
                    "value of this command. Remove that line"
                    + (" or ask its owner." if override.is_managed else ", or omit the option --settings.")
                )
            sys.stderr.write(f"{file} sets {override.variable}. This session uses {proxy.address} instead.\n")
        status = _run((program, *options, *arguments), variables)
    sys.exit(status)


def run(*command: _Arguments) -> None:
    """Run a program with the variables that make Anthropic SDKs and Claude Code use the proxy: `run -- python x.py`.

    The proxy on PORT is used if it runs. Otherwise a proxy is started and stopped afterwards.
    """
    from anthropic_proxy.cli.client_variables import client_variables  # noqa: PLC0415
    from anthropic_proxy.settings import user_environment  # noqa: PLC0415

    if not command:
        raise ConfigurationError("The program is missing. Example:  anthropic-proxy run -- python agent.py")
    program = _find_program(command[0], "")
    with _open_proxy() as proxy:
        status = _run((program, *command[1:]), client_variables(proxy, user_environment()))
    sys.exit(status)


def _find_program(name: str, remedy: str) -> str:
    """Return the path of a program in PATH. Raises `ConfigurationError` with `remedy` if it is missing."""
    program = shutil.which(name)
    if program is None:
        raise ConfigurationError(f'There is no program "{name}" in PATH. {remedy}'.rstrip())
    return program


def _open_proxy() -> AbstractContextManager["LocalProxy"]:
    """Return a context manager that finds or starts the proxy, with the settings of the environment and `.env`."""
    from anthropic_proxy.cli.local_proxy import open_proxy  # noqa: PLC0415
    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415

    return open_proxy(load_settings(os.environ, PROVIDERS))


def _run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a client in the foreground and return its exit status."""
    from anthropic_proxy.cli.client_variables import child_environment  # noqa: PLC0415
    from anthropic_proxy.platforms.child_process import run_in_foreground  # noqa: PLC0415
    from anthropic_proxy.platforms.signals import restore_sighup  # noqa: PLC0415
    from anthropic_proxy.settings import user_environment  # noqa: PLC0415

    restore_sighup()  # a child process inherits the blocked signal
    try:
        return run_in_foreground(command, child_environment(variables, user_environment()))
    except OSError as error:
        raise ConfigurationError(f"{command[0]} cannot be started: {error.strerror}.") from None
