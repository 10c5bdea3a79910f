"""Cost of an optional feature: the proxy with it beside the proxy without, everything else the same."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from bench.subjects import Subject, start_proxy
from bench.wires import CHAT

TITLE = "Features"
STEPS = ("1 KB", "120 KB", "burst", "paced")
"""Steps in which each feature is measured, as `bench.measures` names it."""
ANY_MODEL = "openai/{}"
"""A model of an unknown vendor: typical errors of such servers are searched for."""


def _subject(
    name: str,
    settings: Mapping[str, str] | None = None,
    *,
    model: str = CHAT.model,
    options: tuple[str, ...] = (),
    module: str = "anthropic_proxy",
    reply_kind: str = "text",
    **changes: Any,
) -> Subject:
    return Subject(
        name=name,
        start=partial(start_proxy, settings={**CHAT.settings, **(settings or {})}, options=options, module=module),
        translates=True,
        model=model,
        separates=True,
        reply_kind=reply_kind,
        changes=tuple(changes.items()),
    )


BASE = _subject("default settings")
FEATURES = (
    _subject("no change (measured again, as a baseline for the other rows)"),
    _subject("two `stop_sequences`", stop_sequences=["\n\nHuman:", "</answer>"]),
    _subject("a server with unknown models: text is searched for calls and reasoning", model=ANY_MODEL),
    _subject("the same, with thinking events", model=ANY_MODEL, reply_kind="think"),
    _subject("without the counters of `/metrics`, which are on by default", module="bench.without_metrics"),
    _subject("`DATABASE_URL=off`: no ledger, which is on by default", {"DATABASE_URL": "off"}),
    _subject("`PROXY_API_KEY`, two keys", {"PROXY_API_KEY": "another,bench"}),
    _subject("`FIDELITY=strict`", {"FIDELITY": "strict"}),
    _subject("`CHECK_WINDOW=true`", {"CHECK_WINDOW": "true"}),
    _subject("`MAX_UPSTREAM_CALLS=100`", {"MAX_UPSTREAM_CALLS": "100"}),
    _subject("`LOG_FORMAT=json`", {"LOG_FORMAT": "json"}),
    _subject("`LOG_LEVEL=error`: no request lines", {"LOG_LEVEL": "error"}),
    _subject("`--workers 2`", options=("--workers", "2")),
)
"""A room that comes later adds its line here."""
