"""Command `completion`: prints the script by which a shell completes commands and options.

`complete_providers` returns the model prefixes of providers, which are completed too.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from anthropic_proxy.cli.command_settings import load_command_settings

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

Shell = Literal["bash", "zsh", "fish", "powershell"]
"""Shell with a completion script."""


def completion(shell: Shell, /) -> None:
    """Print the completion script of a shell. `anthropic-proxy --install-completion` installs it for your shell.

    Parameters
    ----------
    shell
        Shell that reads the script.
    """
    from anthropic_proxy.cli import commands  # noqa: PLC0415  # it contains this command

    sys.stdout.write(commands.generate_completion(prog_name="anthropic-proxy", shell=shell))


def complete_providers(_context: "CompletionContext") -> Sequence[str]:
    """Return the model prefixes of all providers, such as `openai`, as words that a shell can complete.

    They include the providers of the configuration file if the settings are valid.
    """
    from anthropic_proxy.errors import ConfigurationError  # noqa: PLC0415
    from anthropic_proxy.routing.providers import find_registry  # noqa: PLC0415
    from anthropic_proxy.settings import Settings  # noqa: PLC0415

    try:
        settings = load_command_settings(of_running_proxy=False)
    except ConfigurationError:
        settings = Settings()
    return [row.prefix for row in find_registry(settings)]
