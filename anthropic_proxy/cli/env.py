"""Command `env`: the variables for a client, as commands of a shell."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from cyclopts import Parameter

Shell = Literal["sh", "fish", "powershell", "cmd"]


def env(
    *, shell: Shell | None = None, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """Print the variables for Claude Code and the Anthropic SDKs, as shell commands.

    Use it in a shell as `eval "$(anthropic-proxy env)"`.

    Parameters
    ----------
    shell
        Shell that reads the commands; the default is the shell of the user.
    as_json
        Print one JSON object instead.
    """
    from anthropic_proxy.cli.client_variables import client_variables  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.cli.local_proxy import LocalProxy, client_token, find_proxy  # noqa: PLC0415
    from anthropic_proxy.cli.output import Output  # noqa: PLC0415
    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415

    settings = load_settings(os.environ, PROVIDERS)
    running = find_proxy(settings)
    proxy = running or LocalProxy("127.0.0.1", settings.port, "", client_token(settings))
    variables, output = client_variables(proxy, os.environ), Output()
    if as_json:
        output.write_json(variables)
        return
    form = _FORMS[shell or find_shell(os.environ)]
    for name, value in variables.items():
        output.write_line(form(name, value))
    if running is None:
        sys.stderr.write(
            f"No proxy responds on port {settings.port} (PORT), so the limits of the model are missing. "
            "Start it:  anthropic-proxy serve\n"
        )


def find_shell(environ: Mapping[str, str]) -> Shell:
    """Return the shell of the user by its variables: `SHELL` on POSIX systems, else PowerShell on Windows."""
    name = environ.get("SHELL", "").rpartition("/")[2]
    if not name and sys.platform == "win32":
        return "powershell"
    return "fish" if name == "fish" else "powershell" if name in {"pwsh", "powershell"} else "sh"


def _quote(value: str, escaped_quote: str) -> str:
    return "'" + value.replace("'", escaped_quote) + "'"


_BACKSLASH = "\\"
_SH_QUOTE = "'\\''"
_FISH_QUOTE = "\\'"
_POWERSHELL_QUOTE = "''"

_FORMS: Mapping[Shell, Callable[[str, str], str]] = {
    "sh": lambda name, value: f"export {name}={_quote(value, _SH_QUOTE)}",
    "fish": lambda name, value: f"set -gx {name} {_quote(value.replace(_BACKSLASH, _BACKSLASH * 2), _FISH_QUOTE)}",
    "powershell": lambda name, value: f"$env:{name} = {_quote(value, _POWERSHELL_QUOTE)}",
    "cmd": lambda name, value: f'set "{name}={value}"',
}
"""Shell → function that returns the command that sets a variable."""
