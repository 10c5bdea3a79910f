"""Command `health`: checks if a proxy runs on this machine, for containers and scripts."""

from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings


def health(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Check whether a proxy responds on port PORT of this machine. Exit status 0: yes; 2: no. For containers.

    Parameters
    ----------
    as_json
        Print the address, version and start time of the proxy as JSON.
    """
    from anthropic_proxy.cli.local_proxy import require_proxy  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.cli.output import Output  # noqa: PLC0415

    settings = load_command_settings()
    proxy = require_proxy(settings)
    if as_json:
        Output().write_json({"address": proxy.address, "version": proxy.version, "started_at": proxy.started_at})
        return
    started = (
        f", started {datetime.fromisoformat(proxy.started_at).astimezone():%Y-%m-%d %H:%M %Z}"
        if proxy.started_at
        else ""
    )
    Output().write_line(f"anthropic-proxy {proxy.version} responds at {proxy.address}{started}.")
