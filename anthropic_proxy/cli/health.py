"""Command `health`: checks if a proxy runs on this machine, for containers and scripts."""

import time
from pathlib import Path

from msgspec import Struct

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.local_proxy import (
    LocalProxy,
    administrator_token,
    describe_unused_proxy,
    find_any_proxy,
    follow_session,
    require_proxy,
)
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console import formats
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.gateway.running_proxy import find_running_proxy
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.lines import format_utc_time

_LABEL_COLUMNS = 10
_PROVIDERS = "/dashboard/providers?table=providers&format=json"
_PROBLEMS = "/dashboard?table=problems&format=json"


class _ProviderRow(Struct):
    prefix: str
    state: str


class _ProblemRow(Struct):
    problem: str


def health(*, alive: bool = False, as_json: bool = False) -> None:
    """Parameters
    ----------
    alive
        Do not ask for the state of the providers, for which the proxy loads its dashboard. For containers.
    as_json
        Print what is known about the proxy as one JSON object.
    """
    settings = follow_session(load_command_settings(is_client=True))
    proxy = find_any_proxy(settings) or require_proxy(settings)
    if not proxy.is_used:
        Output().write_notice(describe_unused_proxy(proxy), "!")
    # None: unknown
    folder: str | None = None
    ledger: str | None = None  # `ok`, `off`, or the kind of failure
    ready: list[str] | None = None
    problems: list[str] | None = None
    if not proxy.foreign_user:
        reply = proxy.get_health()
        if reply is not None:
            ledger = "off" if reply.ledger is None else reply.ledger.condition
        record = find_running_proxy(settings.data_directory, proxy.port)
        if record is not None:
            folder = None if record.env_file is None else str(Path(record.env_file).parent)
        if record is not None and proxy.is_used and not alive:  # a stranger gets no key
            ready, problems = _ask_for_state(settings, proxy)
    if as_json:
        started_at = format_utc_time(proxy.started_at) if proxy.started_at else ""
        described = {"address": proxy.address, "version": proxy.version, "started_at": started_at}
        Output().write_json(
            {**described, "settings_folder": folder, "ledger": ledger, "ready_providers": ready, "problems": problems}
        )
        return
    started = ""
    if proxy.started_at:
        age = formats.ago(time.time() - proxy.started_at)
        started = f", started {formats.long_time(proxy.started_at)} ({age})"
    Output().write_line(f"anthropic-proxy {proxy.version} responds at {proxy.address}{started}.")
    used = shorten_home(folder or "") or (proxy.other_settings.text if proxy.other_settings else "")
    providers = "" if ready is None else "no provider"
    if ready:
        providers = f"{formats.plural(len(ready), 'provider')}: {', '.join(ready)}"
    found = "".join(problems or ())
    if problems and len(problems) > 1:
        found = f"{len(problems)} open problems, listed at {proxy.address}/dashboard"
    for label, text in (("settings", used), ("ledger", ledger), ("ready", providers), ("problems", found)):
        if text:
            Output().write_labeled(label, text, _LABEL_COLUMNS)


def _ask_for_state(settings: Settings, proxy: LocalProxy) -> tuple[list[str] | None, list[str] | None]:
    """Return the providers that are ready and the open problems, as the pages of the proxy show them. None: unknown,
    because the proxy has no dashboard, or the settings have no key that may read it.
    """
    token = administrator_token(settings, proxy)
    providers = proxy.get_as(list[_ProviderRow], _PROVIDERS, token)
    problems = None if providers is None else proxy.get_as(list[_ProblemRow], _PROBLEMS, token)
    ready = None if providers is None else [row.prefix for row in providers if row.state == "ready"]
    return ready, None if problems is None else [row.problem for row in problems]
