"""Invented work of people, as the metrics of Claude Code state it."""

import time
from collections.abc import Mapping
from pathlib import Path

from anthropic_proxy.console.ledger.activity import Measurement, Sender
from anthropic_proxy.console.ledger.activity_store import ActivityStore
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings

_HOUR: Mapping[str, int] = {
    "lines_added": 120,
    "lines_removed": 45,
    "edits_accepted": 18,
    "edits_rejected": 2,
    "commits": 3,
    "pull_requests": 1,
    "user_microseconds": 1_700 * MICROSECONDS,
}


def write_sample_activity(directory: Path, settings: Mapping[str, str], people: Mapping[str, tuple[str, str]]) -> None:
    """Store some hours of work until now. `people`: label of a key → its owner and team."""
    loaded = load_settings(settings, PROVIDERS, env_file=str(directory / ".env"))
    for number, (label, (owner, team)) in enumerate(people.items()):
        sender = Sender(id=label, key_label=label, owner=owner, team=team)
        for hour in range(0, 20, 1 + number):
            then = time.time() - hour * HOUR_SECONDS
            store = ActivityStore(loaded, lambda then=then: then)
            amount = 1 + (hour * 7 + number * 3) % 5
            store.add(
                sender,
                [
                    Measurement(series=name, place=1 + hour, grows=False, name=name, value=value * amount)
                    for name, value in _HOUR.items()
                ],
            )
            store.close()
