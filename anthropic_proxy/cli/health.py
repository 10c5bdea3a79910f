"""Command `health`: checks if a proxy runs on this machine, for containers and scripts."""

import time
from datetime import date, datetime
from pathlib import Path

from msgspec import Struct, structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.local_proxy import (
    LocalProxy,
    describe_unused_proxy,
    find_any_proxy,
    follow_session,
    require_proxy,
)
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console import formats
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.gateway.readiness import find_readiness
from anthropic_proxy.gateway.running_proxy import find_running_proxy
from anthropic_proxy.gateway.settings import Settings

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
    found = _find_facts(proxy, settings)
    if as_json:
        described = {"address": proxy.address, "version": proxy.version, "started_at": proxy.started_at}
        Output().write_json({**described, **structs.asdict(found)})
        return
    started = ""
    if proxy.started_at:
        seconds = datetime.fromisoformat(proxy.started_at).timestamp()
        started = f", started {formats.long_time(seconds)} ({formats.ago(time.time() - seconds)})"
    Output().write_line(f"anthropic-proxy {proxy.version} responds at {proxy.address}{started}.")
    rows = {
        "settings": shorten_home(found.settings_folder or "")
        or (proxy.other_settings.text if proxy.other_settings else ""),
        "ledger": found.ledger,
    }
    if found.ready_providers is not None:
        names = found.ready_providers
        rows["ready"] = f"{formats.plural(len(names), 'provider')}: {', '.join(names)}" if names else "no provider"
    for label, text in rows.items():
        if text:
            Output().write_labeled(label, text, _LABEL_COLUMNS)


class _Facts(Struct):
    settings_folder: str | None = None
    """Folder of the settings files. None: unknown, here and in the next fields."""
    ledger: str | None = None
    """State of the ledger: `ok`, `off`, or the kind of failure."""
    ready_providers: list[str] | None = None
    """Providers that can be called: key or address are set. None of them was called."""


def _find_facts(proxy: LocalProxy, settings: Settings) -> _Facts:
    facts = _Facts()
    if proxy.foreign_user:
        return facts
    reply = proxy.get_json("/health")
    if isinstance(reply, dict):
        ledger = reply.get("ledger")
        facts.ledger = str(ledger.get("condition")) if isinstance(ledger, dict) else "off"
    record = find_running_proxy(settings.data_directory, proxy.port)
    if record is not None:
        facts.settings_folder = None if record.env_file is None else str(Path(record.env_file).parent)
    if record is not None and proxy.is_used:  # else these settings may be those of another proxy
        ready = [one.name for one in find_readiness(settings, Catalog(), date.today()).ready]
        # keys in the environment of the server only, which these settings do not have
        unseen = [one.prefix for one in find_registry(settings) if one.key_variable in record.keys]
        facts.ready_providers = list(dict.fromkeys([*ready, *unseen]))
    return facts
