"""Command `env`: prints shell commands that set the environment variables for a client of the proxy.

`find_shell` returns the shell of the user, and `format_set_command` the command that sets one variable.
"""

import shlex
import sys
from collections.abc import Mapping
from typing import Annotated, Literal

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings

Shell = Literal["sh", "fish", "powershell", "cmd"]
"""Family of shells with the same syntax. `sh` includes bash and zsh."""
_QUOTE = "'"


def env(*, shell: Shell | None = None, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Print the variables for Claude Code and the Anthropic SDKs, as shell commands.

    Use it in a shell as `eval "$(anthropic-proxy env)"`.

    Parameters
    ----------
    shell
        Shell that reads the commands; the default is the shell of the user.
    as_json
        Print one JSON object instead.
    """
    from anthropic_proxy.cli.code import client_variables  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.cli.local_proxy import LocalProxy, client_token, find_proxy, require_accepted_credential  # noqa: PLC0415
    from anthropic_proxy.cli.output import Output  # noqa: PLC0415
    from anthropic_proxy.settings import copy_environment  # noqa: PLC0415

    settings = load_command_settings()
    running = find_proxy(settings)
    if running is not None:
        require_accepted_credential(running)
    proxy = running or LocalProxy("127.0.0.1", settings.port, "", client_token(settings))
    variables, output = client_variables(proxy, copy_environment()), Output()
    if as_json:
        output.write_json(variables)
        return
    for name, value in variables.items():
        output.write_line(format_set_command(shell or find_shell(copy_environment()), name, value))
    if running is None:
        sys.stderr.write(
            f"No proxy responds on port {settings.port} (PORT), so the limits of the model are missing. "
            "Start it:  anthropic-proxy serve\n"
        )


def find_shell(environ: Mapping[str, str]) -> Shell:
    """Return the shell of the user, from the variable `SHELL` in `environ`.

    Without the variable: PowerShell on Windows, otherwise `sh`.
    """
    name = environ.get("SHELL", "").rpartition("/")[2]
    if not name and sys.platform == "win32":
        return "powershell"
    return "fish" if name == "fish" else "powershell" if name in {"pwsh", "powershell"} else "sh"


def format_set_command(shell: Shell, name: str, value: str) -> str:
    """Return the command of `shell` that sets the environment variable `name` to `value`.

    Programs that the shell starts afterwards receive the variable.
    """
    if shell == "powershell":
        return f"$env:{name} = '{value.replace(_QUOTE, _QUOTE * 2)}'"
    if shell == "cmd":
        return f'set "{name}={value}"'
    if shell == "fish":
        escaped = value.replace("\\", "\\\\").replace(_QUOTE, f"\\{_QUOTE}")
        return f"set -gx {name} '{escaped}'"
    return f"export {name}={shlex.quote(value)}"
