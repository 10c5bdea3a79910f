"""Command `health`: checks if a proxy runs on this machine, for containers and scripts."""

import time
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.local_proxy import follow_session, require_proxy
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console import formats


def health(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Parameters
    ----------
    as_json
        Print the address, version and start time of the proxy as JSON.
    """
    proxy = require_proxy(follow_session(load_command_settings()))
    if as_json:
        Output().write_json({"address": proxy.address, "version": proxy.version, "started_at": proxy.started_at})
        return
    started = ""
    if proxy.started_at:
        seconds = datetime.fromisoformat(proxy.started_at).timestamp()
        started = f", started {formats.long_time(seconds)} ({formats.ago(time.time() - seconds)})"
    Output().write_line(f"anthropic-proxy {proxy.version} responds at {proxy.address}{started}.")
