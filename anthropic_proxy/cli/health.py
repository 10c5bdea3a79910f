"""Command `health`: checks if a proxy runs on this machine, for containers and scripts."""

import time
from datetime import date
from pathlib import Path

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.local_proxy import (
    describe_unused_proxy,
    find_any_proxy,
    follow_session,
    require_proxy,
)
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console import formats
from anthropic_proxy.console.doctor.stored_runs import list_known_fixes
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.gateway.readiness import find_readiness
from anthropic_proxy.gateway.running_proxy import find_running_proxy
from anthropic_proxy.gateway.telemetry.log.lines import format_utc_time

_LABEL_COLUMNS = 10


def health(*, as_json: bool = False) -> None:
    """Parameters
    ----------
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
        if record is not None and proxy.is_used:  # else these settings may be those of another proxy
            readiness = find_readiness(settings, Catalog(), date.today())
            names = [provider.name for provider in readiness.ready]
            # keys in the environment of the server only, which these settings do not have
            unseen = [provider for provider in find_registry(settings) if provider.key_variable in record.keys]
            known = {provider.name for provider in unseen}
            problems = [problem.text for problem in readiness.problems if problem.subject not in known]
            problems += [f"{fix.name}: {fix.problem}" for fix in list_known_fixes(settings)]
            ready = list(dict.fromkeys([*names, *(provider.prefix for provider in unseen)]))
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
    if ready:  # key or address are set. None of them was called
        providers = f"{formats.plural(len(ready), 'provider')}: {', '.join(ready)}"
    found = f"{formats.plural(len(problems), 'problem')}. List them:  anthropic-proxy doctor" if problems else ""
    for label, text in (("settings", used), ("ledger", ledger), ("ready", providers), ("problems", found)):
        if text:
            Output().write_labeled(label, text, _LABEL_COLUMNS)
