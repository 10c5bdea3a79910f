"""Command `health`: checks if a proxy runs on this machine, for containers and scripts."""

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.local_proxy import LocalProxy, find_any_proxy, follow_session, require_proxy
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console import formats
from anthropic_proxy.gateway.running_proxy import find_running_proxy
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, Settings, copy_environment, find_env_file
from anthropic_proxy.gateway.settings.place import CONFIG_VARIABLE


def health(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Parameters
    ----------
    as_json
        Print the address, version and start time of the proxy as JSON.
    """
    settings = follow_session(load_command_settings())
    proxy = find_any_proxy(settings) or require_proxy(settings)
    if warning := _describe_difference(proxy, settings):
        Output().write_notice(warning, "!", "warn")
    if as_json:
        Output().write_json({"address": proxy.address, "version": proxy.version, "started_at": proxy.started_at})
        return
    started = ""
    if proxy.started_at:
        seconds = datetime.fromisoformat(proxy.started_at).timestamp()
        started = f", started {formats.long_time(seconds)} ({formats.ago(time.time() - seconds)})"
    Output().write_line(f"anthropic-proxy {proxy.version} responds at {proxy.address}{started}.")


def _describe_difference(proxy: LocalProxy, settings: Settings) -> str:
    """Return a warning if the proxy is not the one that the settings files of this command describe, or ""."""
    if proxy.foreign_user:
        return f"This proxy belongs to another user of this machine, {proxy.foreign_user}. Commands send nothing to it."
    environ = copy_environment()
    own, record = find_env_file(environ), find_running_proxy(settings.data_directory, proxy.port)
    if record is None or record.env_file is None or own is None:
        return ""
    folder, used = Path(own).absolute().parent, Path(record.env_file).parent
    has_settings = environ.get(CONFIG_VARIABLE) or any((folder / name).exists() for name in (ENV_FILE, CONFIG_FILE))
    if folder == used or not has_settings:
        return ""
    return f"Its settings folder is {used}. The one of this command is {folder}, where init writes settings."
