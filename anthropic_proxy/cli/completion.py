"""Command `completion`: prints the script by which a shell completes commands, options and names of providers."""

import sys
from collections.abc import Sequence
from typing import Literal

from cyclopts.completion import CompletionContext

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.commands import commands
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings

Shell = Literal["bash", "zsh", "fish", "powershell"]
"""Shell with a completion script."""


def completion(shell: Shell, /) -> None:
    """Parameters
    ----------
    shell
        Shell that reads the script.
    """
    sys.stdout.write(commands.generate_completion(prog_name="anthropic-proxy", shell=shell))


def complete_providers(_context: CompletionContext) -> Sequence[str]:
    """Return the model prefixes of all providers, such as `openai`, as words that a shell can complete.

    They include the providers of the configuration file if the settings are valid.
    """
    try:
        settings = load_command_settings(of_running_proxy=False)
    except ConfigurationError:
        settings = Settings()
    return [row.prefix for row in find_registry(settings)]
